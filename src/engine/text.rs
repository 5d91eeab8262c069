//! Tokens become text: whole characters only, no special tokens, and stop strings that never leak.

use std::sync::Arc;

use super::drawn::Drawn;
use super::pieces::Pieces;
use super::{Chunk, FinishReason, Request, TokenLogprobs, TokenProb, TokenRules};

/// What ends a reply, and how its text begins.
#[derive(Clone, Debug, Default)]
pub struct ReplyRules {
    /// End-of-sequence tokens; empty to continue after them.
    pub eos: Vec<u32>,
    /// Strings before which the text ends; empty ones are passed over.
    pub stop: Vec<String>,
    /// Further tokens that end the reply.
    pub stop_tokens: Vec<u32>,
    /// Whether what ends the reply, a stop string or one of `stop_tokens`, is a part of its text.
    pub stop_shown: bool,
    /// Tokens before which no stop string ends the reply; its sampler keeps it from ending by a token.
    pub min_tokens: usize,
    /// Tokens at most, at least 1.
    pub max_tokens: usize,
    /// The text continues raw text, so a first space belongs to it.
    pub continues_text: bool,
}

impl ReplyRules {
    /// What `request` asks for, of a model whose replies end by the tokens `eos`.
    pub fn of(request: &Request, eos: &[u32], max_tokens: usize) -> Self {
        let TokenRules { stop_tokens, min_tokens, stop_shown, .. } = &request.sampling.rules;
        Self {
            eos: if request.sampling.ignore_eos { Vec::new() } else { eos.to_vec() },
            stop: request.stop.clone(),
            stop_tokens: stop_tokens.clone(),
            stop_shown: *stop_shown,
            min_tokens: *min_tokens,
            max_tokens,
            continues_text: request.input.is_continued(),
        }
    }

    /// All tokens that end the reply.
    pub fn ends(&self) -> Vec<u32> {
        [self.eos.as_slice(), &self.stop_tokens].concat()
    }
}

/// A stop string within the text that is held.
struct FoundStop {
    /// The byte after it.
    end: usize,
    /// Its first byte.
    at: usize,
    /// Its place in the list of stop strings.
    index: usize,
}

/// Turns one reply's tokens into chunks.
pub struct ReplyText {
    pieces: Arc<Pieces>,
    rules: ReplyRules,
    tokens: usize,
    at_start: bool,
    /// The end of the text so far, if it is a part of a character.
    partial: Vec<u8>,
    /// Text that may turn out to begin a stop string.
    held: String,
}

impl ReplyText {
    /// A reply without tokens yet.
    pub fn new(pieces: Arc<Pieces>, rules: ReplyRules) -> Self {
        let at_start = pieces.strips_first_space && !rules.continues_text;
        Self { pieces, rules, tokens: 0, at_start, partial: Vec::new(), held: String::new() }
    }

    /// Takes the next token. The reply is over when the chunk has `finish`; nothing may be pushed after it.
    pub fn push(&mut self, drawn: Drawn) -> Chunk {
        self.tokens += 1;
        let logprobs = self.named(&drawn).into_iter().collect();
        let mut chunk = Chunk { tokens: 1, logprobs, ..Chunk::default() };
        if self.rules.eos.contains(&drawn.id) {
            self.end(&mut chunk, FinishReason::Stop);
            return chunk;
        }
        let stops = self.rules.stop_tokens.contains(&drawn.id);
        if !self.pieces.is_special(drawn.id) && (!stops || self.rules.stop_shown) {
            self.append(drawn.id);
        }
        if stops {
            self.end(&mut chunk, FinishReason::StopToken(drawn.id));
        } else if let Some(found) = self.find_stop() {
            self.held.truncate(if self.rules.stop_shown { found.end } else { found.at });
            self.partial.clear();
            self.end(&mut chunk, FinishReason::StopString(found.index));
        } else if self.tokens >= self.rules.max_tokens {
            self.end(&mut chunk, FinishReason::Length);
        } else {
            chunk.text = self.held.drain(..self.held.len() - self.undecided()).collect();
        }
        chunk
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.rules.max_tokens.saturating_sub(self.tokens)
    }

    /// Ends the reply for a reason that only the caller knows, such as a complete grammar: the text that was held back.
    pub fn finish(&mut self, reason: FinishReason) -> Chunk {
        let mut chunk = Chunk::default();
        self.end(&mut chunk, reason);
        chunk
    }

    fn end(&mut self, chunk: &mut Chunk, reason: FinishReason) {
        self.held.push_str(&String::from_utf8_lossy(&std::mem::take(&mut self.partial)));
        chunk.text = std::mem::take(&mut self.held);
        chunk.finish = Some(reason);
    }

    /// Moves the whole characters of the token from bytes to text.
    fn append(&mut self, id: u32) {
        let mut bytes = self.pieces.bytes(id);
        if self.at_start && !bytes.is_empty() {
            self.at_start = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        self.partial.extend_from_slice(bytes);
        let mut whole = 0;
        for part in self.partial.utf8_chunks() {
            self.held.push_str(part.valid());
            whole += part.valid().len();
            let rest = &self.partial[whole..];
            if part.invalid().len() == rest.len() && may_become_character(rest) {
                break;
            }
            if !part.invalid().is_empty() {
                self.held.push(char::REPLACEMENT_CHARACTER);
                whole += part.invalid().len();
            }
        }
        self.partial.drain(..whole);
    }

    /// The stop string that is complete first; of those that end together, the longest. None ends a reply that is too short.
    fn find_stop(&self) -> Option<FoundStop> {
        let find = |(index, stop): (usize, &String)| {
            let at = self.held.find(stop)?;
            Some(FoundStop { end: at + stop.len(), at, index })
        };
        self.stops().filter_map(find).min_by_key(|found| (found.end, found.at))
    }

    /// The stop strings with their indices, but for empty ones; none while the reply may not end at any of them.
    fn stops(&self) -> impl Iterator<Item = (usize, &String)> {
        let too_short = self.rules.min_tokens > 0 && self.tokens <= self.rules.min_tokens;
        self.rules.stop.iter().enumerate().filter(move |(_, stop)| !too_short && !stop.is_empty())
    }

    /// Bytes at the end of the held text that may begin a stop string.
    fn undecided(&self) -> usize {
        let longest = |(_, stop): (usize, &String)| {
            let most = self.held.len().min(stop.len() - 1);
            (1..=most).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
        };
        self.stops().map(longest).max().unwrap_or(0)
    }

    fn named(&self, drawn: &Drawn) -> Option<TokenLogprobs> {
        let logprobs = drawn.logprobs.as_ref()?;
        let named = |id, logprob| TokenProb { id, bytes: self.pieces.bytes(id).to_vec(), logprob };
        let top = logprobs.top.iter().map(|&(id, logprob)| named(id, logprob)).collect();
        Some(TokenLogprobs { token: named(drawn.id, logprobs.drawn), top })
    }
}

/// Whether more bytes could complete `bytes`, which are not a character yet.
fn may_become_character(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use tokenizers::Tokenizer;

    use super::*;
    use crate::testing;

    fn reply(tokenizer: &Tokenizer, stop: &[&str], max_tokens: usize) -> ReplyText {
        let stop = stop.iter().map(|s| (*s).into()).collect();
        let pieces = Arc::new(Pieces::new(tokenizer).unwrap());
        ReplyText::new(pieces, ReplyRules { eos: vec![testing::EOS], stop, max_tokens, ..ReplyRules::default() })
    }

    fn chunks(mut reply: ReplyText, ids: &[u32]) -> Vec<Chunk> {
        let mut out = Vec::new();
        for &id in ids {
            out.push(reply.push(Drawn { id, logprobs: None }));
            if out.last().unwrap().finish.is_some() {
                break;
            }
        }
        out
    }

    fn texts(chunks: &[Chunk]) -> Vec<&str> {
        chunks.iter().map(|c| c.text.as_str()).collect()
    }

    /// One id per byte: the test tokenizer holds every byte.
    fn bytes(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let pieces = Pieces::new(tokenizer).unwrap();
        let id =
            |byte| (0..pieces.len() as u32).find(|&id| !pieces.is_special(id) && pieces.bytes(id) == [byte]).unwrap();
        text.bytes().map(id).collect()
    }

    #[test]
    fn the_pieces_of_a_text_are_its_bytes() {
        let texts = ["plain text", "  two  spaces\n\ttab", "Größe 東京 🦀🇩🇪", "\u{0}\u{7f}\u{ad}ÿĀ"];
        for tokenizer in [testing::tokenizer(), testing::metaspace_tokenizer()] {
            let pieces = Pieces::new(&tokenizer).unwrap();
            for text in texts {
                let encoding = tokenizer.encode_fast(text, false).unwrap();
                let bytes: Vec<u8> = encoding.get_ids().iter().flat_map(|&id| pieces.bytes(id).to_vec()).collect();
                let bytes = bytes.strip_prefix(if pieces.strips_first_space { b" ".as_slice() } else { b"" }).unwrap();
                assert_eq!(bytes, text.as_bytes());
            }
        }
    }

    #[test]
    fn chunks_hold_whole_characters_and_add_up_to_the_decoded_text() {
        let texts = ["hello world and more", "Größe 東京 🦀🇩🇪 end", " leading", "a\u{fffd}b"];
        for tokenizer in [testing::tokenizer(), testing::metaspace_tokenizer()] {
            for text in texts {
                let encoding = tokenizer.encode_fast(text, false).unwrap();
                let out = chunks(reply(&tokenizer, &[], usize::MAX), encoding.get_ids());
                let joined: String = out.iter().map(|c| c.text.as_str()).collect();
                assert_eq!(joined, tokenizer.decode(encoding.get_ids(), true).unwrap());
            }
        }
        let tokenizer = testing::tokenizer();
        assert_eq!(texts_of_bytes(&tokenizer, "é🦀"), ["", "é", "", "", "", "🦀"]);
    }

    fn texts_of_bytes(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
        let out = chunks(reply(tokenizer, &[], usize::MAX), &bytes(tokenizer, text));
        texts(&out).into_iter().map(Into::into).collect()
    }

    #[test]
    fn broken_bytes_become_replacement_characters_once_they_are_certain() {
        let tokenizer = testing::tokenizer();
        let crab = bytes(&tokenizer, "🦀");
        let a = bytes(&tokenizer, "a")[0];
        let out = chunks(reply(&tokenizer, &[], usize::MAX), &[crab[1], a, crab[0], crab[1], a, crab[0], testing::EOS]);
        assert_eq!(texts(&out), ["\u{fffd}", "a", "", "", "\u{fffd}a", "", "\u{fffd}"]);
        let out = chunks(reply(&tokenizer, &[], 2), &crab);
        assert_eq!((texts(&out), out[1].finish), (vec!["", "\u{fffd}"], Some(FinishReason::Length)));
    }

    #[test]
    fn stop_strings_never_leak() {
        let tokenizer = testing::tokenizer();
        type Row<'a> = (&'a [&'a str], &'a str, &'a [&'a str], Option<usize>);
        let table: [Row<'_>; 8] = [
            (&["END"], "aENDb", &["a", "", "", ""], Some(0)),
            (&["END"], "aENeb", &["a", "", "", "ENe", "b"], None),
            (&["aab"], "aaab", &["", "", "a", ""], Some(0)),
            (&["b", "abc"], "abc", &["", "a"], Some(0)),
            (&["bc", "xabc"], "xabc", &["", "", "", ""], Some(1)),
            (&["", "é"], "aé", &["a", "", ""], Some(1)),
            (&["ab"], "a", &["", "a"], None),
            (&["\n\n"], "x\ny\n\nz", &["x", "", "\ny", "", ""], Some(0)),
        ];
        for (stop, text, expected, stopped) in table {
            let mut ids = bytes(&tokenizer, text);
            ids.push(testing::EOS);
            let out = chunks(reply(&tokenizer, stop, usize::MAX), &ids);
            let mut seen = texts(&out);
            if stopped.is_none() && seen.len() > expected.len() {
                assert_eq!(seen.pop(), Some(""));
            }
            assert_eq!(seen, expected, "{stop:?} {text}");
            let finish = stopped.map_or(FinishReason::Stop, FinishReason::StopString);
            assert_eq!(out.last().unwrap().finish, Some(finish), "{stop:?} {text}");
        }
    }

    #[test]
    fn special_tokens_are_no_text_and_ends_are_counted() {
        let tokenizer = testing::tokenizer();
        let a = bytes(&tokenizer, "a")[0];
        let out = chunks(reply(&tokenizer, &[], 9), &[a, testing::BOS, a, testing::EOS]);
        assert_eq!(texts(&out), ["a", "", "a", ""]);
        assert_eq!(out.iter().map(|c| c.tokens).sum::<usize>(), 4);
        let mut endless = reply(&tokenizer, &[], 3);
        endless.rules.eos.clear();
        let out = chunks(endless, &[testing::EOS, a, a, a]);
        assert_eq!((texts(&out), out[2].finish), (vec!["", "a", "a"], Some(FinishReason::Length)));
    }

    #[test]
    fn logprobs_carry_bytes() {
        let tokenizer = testing::tokenizer();
        let crab = bytes(&tokenizer, "🦀")[0];
        let logprobs =
            Some(crate::engine::drawn::DrawnLogprobs { drawn: -0.5, top: vec![(testing::EOS, -0.25)], rank: 2 });
        let chunk = reply(&tokenizer, &[], 9).push(Drawn { id: crab, logprobs });
        assert_eq!(chunk.logprobs[0].token, TokenProb { id: crab, bytes: vec![0xF0], logprob: -0.5 });
        assert_eq!(chunk.logprobs[0].top[0].bytes, b"<|end|>");
    }

    #[test]
    fn a_decoder_without_bytes_is_refused() {
        let mut tokenizer = testing::tokenizer();
        tokenizer.with_decoder(None::<tokenizers::DecoderWrapper>);
        assert!(Pieces::new(&tokenizer).is_err());
    }
}
