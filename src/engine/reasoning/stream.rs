//! Chunks of a reply whose reasoning is moved out of their text, token by token.

use std::collections::VecDeque;
use std::pin::Pin;

use futures::{Stream, StreamExt};

use super::{Parts, Splitter, State};
use crate::engine::{Chunk, EngineError, TokenLogprobs};

/// The chunks of a reply.
pub type Chunks = Pin<Box<dyn Stream<Item = Result<Chunk, EngineError>> + Send>>;

/// Moves the reasoning that `splitter` finds from the text of the chunks to their [`Chunk::reasoning`], and leaves out its
/// logprobs. Without a splitter the chunks stay as they are.
pub fn split_chunks(chunks: Chunks, splitter: Option<Splitter>) -> Chunks {
    let Some(splitter) = splitter else { return chunks };
    let fresh = move || Sorter { splitter: splitter.clone(), undecided: VecDeque::new() };
    let mut sorter = fresh();
    let mut sort = move |chunk: Chunk| {
        if chunk.restarts {
            sorter = fresh();
        }
        sorter.sort(chunk)
    };
    Box::pin(chunks.map(move |chunk| chunk.map(&mut sort)))
}

struct Sorter {
    splitter: Splitter,
    /// Steps of which it is not known yet to which part they belong.
    undecided: VecDeque<Step>,
}

/// The tokens of one chunk.
struct Step {
    /// Where their text begins and ends in the reply, in bytes. A step that only begins a character has none.
    start: usize,
    end: usize,
    tokens: usize,
    logprobs: Vec<TokenLogprobs>,
}

impl Sorter {
    fn sort(&mut self, mut chunk: Chunk) -> Chunk {
        let start = self.splitter.seen;
        let mut parts = self.splitter.push(&chunk.text);
        let (end, tokens) = (self.splitter.seen, chunk.tokens);
        self.undecided.push_back(Step { start, end, tokens, logprobs: std::mem::take(&mut chunk.logprobs) });
        if chunk.finish.is_some() {
            parts.add(self.splitter.finish());
        }
        while let Some(in_answer) = self.undecided.front().and_then(|step| self.in_answer(step, chunk.finish.is_some()))
        {
            let Some(step) = self.undecided.pop_front() else { break };
            if in_answer {
                chunk.logprobs.extend(step.logprobs);
            } else {
                chunk.reasoning.tokens += step.tokens;
            }
        }
        let Parts { reasoning, content } = parts;
        chunk.reasoning.text.push_str(&reasoning);
        chunk.text = content;
        chunk
    }

    /// Whether any text of the step is in the answer; `None` while that is open. A step without text belongs to the text that
    /// follows it.
    fn in_answer(&self, step: &Step, last: bool) -> Option<bool> {
        let empty = step.start == step.end;
        match (self.splitter.state, self.splitter.answer) {
            (_, Some(answer)) => Some(if empty { step.end >= answer } else { step.end > answer }),
            (State::Start { opened: false }, None) => None,
            (State::Closed, None) if empty && step.end == self.splitter.seen && !last => None,
            (_, None) => Some(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};

    use super::super::{Form, Reasoning};
    use super::*;
    use crate::engine::{FinishReason, Reply, TokenProb};

    /// One chunk with one token per piece; an empty piece is a token that only begins a character, or is special.
    fn reply(form: Option<Form>, prompt: &str, pieces: &[&str]) -> Reply {
        let token = |text: &str| TokenLogprobs {
            token: TokenProb { id: 0, bytes: text.into(), logprob: -1.0 },
            top: Vec::new(),
        };
        let chunk =
            |text: &&str| Chunk { text: (*text).into(), tokens: 1, logprobs: vec![token(text)], ..Chunk::default() };
        let mut chunks: Vec<Chunk> = pieces.iter().map(chunk).collect();
        chunks.last_mut().unwrap().finish = Some(FinishReason::Stop);
        let chunks =
            split_chunks(Box::pin(stream::iter(chunks.into_iter().map(Ok))), form.map(|form| form.after(prompt)));
        Reply { prompt_tokens: 1, cached_tokens: 0, chunks }
    }

    #[test]
    fn every_token_is_counted_once_and_logprobs_are_the_answers() {
        type Case<'a> = (&'a str, &'a [&'a str], &'a str, &'a str, usize, &'a [&'a str]);
        let table: [Case<'_>; 9] = [
            ("", &["<think>", "\n", "a", "</think>", "\n\n", "b", " c", ""], "a", "b c", 5, &["b", " c", ""]),
            ("", &["<", "think", ">", "a", "</", "think", ">\n\n", "b"], "a", "b", 7, &["b"]),
            ("", &["<", "b", ">"], "", "<b>", 0, &["<", "b", ">"]),
            ("", &["\n", "", "é", ""], "", "\né", 0, &["\n", "", "é", ""]),
            ("", &["<think>", "a", "</think>", "", "é", ""], "a", "é", 3, &["", "é", ""]),
            ("", &["<think>", "a", "</think>", "", "\n\n", "b"], "a", "b", 5, &["b"]),
            ("", &["<think>", "a", "", "é"], "aé", "", 4, &[]),
            ("<think>\n", &["a", "</think>b", "c"], "a", "bc", 1, &["</think>b", "c"]),
            ("<think>\n", &["a", "</think>", ""], "a", "", 3, &[]),
        ];
        for (prompt, pieces, reasoning, content, tokens, logprobs) in table {
            let done = reply(Some(Form::Think), prompt, pieces).complete().now_or_never().unwrap().unwrap();
            let expected = Reasoning { text: reasoning.into(), tokens };
            assert_eq!((done.reasoning, done.text.as_str()), (expected, content), "{pieces:?}");
            assert_eq!((done.tokens, done.finish), (pieces.len(), FinishReason::Stop), "{pieces:?}");
            let kept: Vec<_> = done.logprobs.iter().map(|entry| String::from_utf8_lossy(&entry.token.bytes)).collect();
            assert_eq!(kept, logprobs, "{pieces:?}");
        }
    }

    #[test]
    fn without_a_form_a_reply_stays_as_it_is() {
        let pieces = ["<think>", "a", "</think>", "b"];
        let done = reply(None, "<think>", &pieces).complete().now_or_never().unwrap().unwrap();
        assert_eq!((done.text.as_str(), done.reasoning), ("<think>a</think>b", Reasoning::default()));
        assert_eq!(done.logprobs.len(), 4);
    }
}
