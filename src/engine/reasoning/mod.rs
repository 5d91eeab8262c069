//! Reasoning that a model writes before its answer, and how it is separated from the answer.
//!
//! A reply is reasoning up to one place and the answer from there on. Only a reply that begins with an opening mark, or whose
//! prompt ends with one, has reasoning: a mark within an answer is part of the answer.

mod stream;

pub use self::stream::{Chunks, split_chunks};

/// How a family of models marks its reasoning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `<think>…</think>`: DeepSeek R1, Qwen 3, QwQ, SmolLM 3, GLM 4.5, Phi 4 and others.
    Think,
    /// Magistral's form, `[THINK]…[/THINK]`.
    Magistral,
    /// `Here is my thought process:` and `Here is my response:`: Granite 3.2.
    Granite,
}

impl Form {
    const ALL: [Self; 3] = [Self::Think, Self::Magistral, Self::Granite];

    /// The texts that begin reasoning; the first is the usual one.
    fn openings(self) -> &'static [&'static str] {
        match self {
            Self::Think => &["<think>"],
            Self::Magistral => &["[THINK]"],
            Self::Granite => &["Here is my thought process:", "Here's my thought process:"],
        }
    }

    /// The texts that end it; the first is the usual one.
    fn closings(self) -> &'static [&'static str] {
        match self {
            Self::Think => &["</think>"],
            Self::Magistral => &["[/THINK]"],
            Self::Granite => &["Here is my response:", "Here's my response:"],
        }
    }

    /// The form whose usual marks are mentioned, by a chat template or as tokens.
    pub fn find(mentioned: impl Fn(&str) -> bool) -> Option<Self> {
        Self::ALL.into_iter().find(|form| mentioned(form.openings()[0]) || mentioned(form.closings()[0]))
    }

    /// Whether a token of this name is a mark. Tokenizers may call it special, but it must not be missing in the text.
    pub fn is_mark(token: &str) -> bool {
        Self::ALL.iter().any(|form| form.openings().contains(&token) || form.closings().contains(&token))
    }

    /// The splitter for a reply to `prompt`. The prompt's end is enough; the template may have begun the reasoning there.
    pub fn after(self, prompt: &str) -> Splitter {
        let opened = self.ends_open(prompt);
        Splitter { form: self, state: State::Start { opened }, held: String::new(), seen: 0, answer: None }
    }

    /// Ends the reasoning that `prompt` begins at its end, if it begins any.
    pub fn close(self, mut prompt: String) -> String {
        if self.ends_open(&prompt) {
            prompt.truncate(prompt.trim_end().len());
            prompt = prompt + "\n\n" + self.closings()[0] + "\n\n";
        }
        prompt
    }

    fn ends_open(self, prompt: &str) -> bool {
        let prompt = prompt.trim_end();
        self.openings().iter().any(|opening| prompt.ends_with(opening))
    }
}

/// The reasoning of a reply, or of a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reasoning {
    /// Its text, without the marks and the white space at its ends.
    pub text: String,
    /// Its tokens with those of its marks. They are among the reply's tokens.
    pub tokens: usize,
}

impl Reasoning {
    /// Adds what comes next.
    pub fn add(&mut self, more: &Self) {
        self.text.push_str(&more.text);
        self.tokens += more.tokens;
    }
}

/// What a piece of a reply adds to its two parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// New text of the reasoning.
    pub reasoning: String,
    /// New text of the answer.
    pub content: String,
}

impl Parts {
    fn add(&mut self, more: Self) {
        self.reasoning.push_str(&more.reasoning);
        self.content.push_str(&more.content);
    }
}

/// Splits a whole reply to a prompt that does not begin the reasoning itself.
pub fn split(form: Form, reply: &str) -> Parts {
    let mut splitter = form.after("");
    let mut parts = splitter.push(reply);
    parts.add(splitter.finish());
    parts
}

/// Splits a reply that comes in pieces. The two parts do not depend on how the pieces are cut.
#[derive(Clone, Debug)]
pub struct Splitter {
    form: Form,
    state: State,
    /// The end of the reply so far that is in neither part yet: a mark may begin there, or white space end a part.
    held: String,
    /// Bytes of the reply so far.
    seen: usize,
    /// Where the answer begins in the reply, in bytes.
    answer: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space and a part of an opening mark has come.
    Start {
        /// The prompt ends with the opening mark; some models repeat it.
        opened: bool,
    },
    /// Within the reasoning.
    Reasoning {
        /// Text of it has been given out.
        begun: bool,
    },
    /// The reasoning is closed, and nothing but white space has come since.
    Closed,
    /// Within the answer.
    Answer,
}

impl Splitter {
    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Parts {
        self.seen += piece.len();
        self.held.push_str(piece);
        let mut parts = Parts::default();
        loop {
            let before = self.state;
            match before {
                State::Start { opened } => self.start(opened),
                State::Reasoning { begun } => self.reason(begun, &mut parts.reasoning),
                State::Closed => {
                    self.held.drain(..self.held.len() - self.held.trim_start().len());
                    if !self.held.is_empty() {
                        self.begin_answer();
                    }
                }
                State::Answer => parts.content.push_str(&std::mem::take(&mut self.held)),
            }
            if self.state == before {
                return parts;
            }
        }
    }

    /// The rest, where the reply ends.
    pub fn finish(&mut self) -> Parts {
        let held = std::mem::take(&mut self.held);
        match self.state {
            State::Start { opened: false } => {
                self.answer = Some(0);
                self.state = State::Answer;
                Parts { content: held, ..Parts::default() }
            }
            State::Start { opened: true } => Parts { reasoning: held.trim().into(), ..Parts::default() },
            State::Reasoning { begun } => {
                let rest = if begun { held.trim_end() } else { held.trim() };
                Parts { reasoning: rest.into(), ..Parts::default() }
            }
            State::Closed | State::Answer => Parts::default(),
        }
    }

    fn start(&mut self, opened: bool) {
        let text = self.held.trim_start();
        if let Some(opening) = self.form.openings().iter().find(|opening| text.starts_with(**opening)) {
            self.held = text[opening.len()..].to_owned();
            self.state = State::Reasoning { begun: false };
        } else if !self.form.openings().iter().any(|opening| opening.starts_with(text)) {
            self.state = if opened { State::Reasoning { begun: false } } else { State::Answer };
            self.answer = (!opened).then_some(0);
        }
    }

    fn reason(&mut self, begun: bool, reasoning: &mut String) {
        let closings = self.form.closings();
        let closed = closings.iter().filter_map(|mark| Some((self.held.find(mark)?, mark.len()))).min();
        let end = closed.map_or_else(|| self.held.len() - begins_a_mark(&self.held, closings), |(at, _)| at);
        // White space before the mark, or before what may become one, is given out only if more reasoning follows.
        let text = self.held[..end].trim_end();
        let kept = text.len();
        let text = if begun { text } else { text.trim_start() };
        if !text.is_empty() {
            reasoning.push_str(text);
            self.state = State::Reasoning { begun: true };
        }
        match closed {
            Some((at, length)) => {
                self.held.drain(..at + length);
                self.state = State::Closed;
            }
            None => drop(self.held.drain(..kept)),
        }
    }

    fn begin_answer(&mut self) {
        self.state = State::Answer;
        self.answer = Some(self.seen - self.held.len());
    }
}

/// Bytes at the end of `text` that may begin one of `marks`.
fn begins_a_mark(text: &str, marks: &[&str]) -> usize {
    let longest = |mark: &&str| {
        let most = text.len().min(mark.len() - 1);
        (1..=most).rev().find(|&n| text.as_bytes().ends_with(&mark.as_bytes()[..n])).unwrap_or(0)
    };
    marks.iter().map(longest).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The form, the end of the prompt, the reply, its reasoning and its answer.
    const TABLE: &[(Form, &str, &str, &str, &str)] = &[
        (Form::Think, "", "<think>\nFirst.\n\nThen.\n</think>\n\nThe answer.\n", "First.\n\nThen.", "The answer.\n"),
        (Form::Think, "", "\n <think>a</think>b", "a", "b"),
        (Form::Think, "", "no reasoning", "", "no reasoning"),
        (Form::Think, "", "\n\n  indented", "", "\n\n  indented"),
        (Form::Think, "", "", "", ""),
        (Form::Think, "", "<think>\n\n</think>\n\nempty", "", "empty"),
        (Form::Think, "", "<think></think>", "", ""),
        (Form::Think, "", "<think>cut in the mid", "cut in the mid", ""),
        (Form::Think, "", "<think>cut in the mark \n</thi", "cut in the mark \n</thi", ""),
        (Form::Think, "", "<thi", "", "<thi"),
        (Form::Think, "", "<thinking> is a tag of others</thinking>", "", "<thinking> is a tag of others</thinking>"),
        (
            Form::Think,
            "",
            "The tag <think> begins it, </think> ends it.",
            "",
            "The tag <think> begins it, </think> ends it.",
        ),
        (Form::Think, "", "<think>a < b </ c <//think></think>d", "a < b </ c <//think>", "d"),
        (Form::Think, "", "<think>one</think>two<think>three</think>", "one", "two<think>three</think>"),
        (Form::Think, "", "<think>Größe 東京</think> \u{3000}🦀 é", "Größe 東京", "🦀 é"),
        (Form::Think, "", "<think> a  \n b </think> \n", "a  \n b", ""),
        (Form::Think, "assistant\n<think>\n", "inside</think>out", "inside", "out"),
        (Form::Think, "<think>", "never closed ", "never closed", ""),
        (Form::Think, "<think>\n", "<think>\nagain</think>b", "again", "b"),
        (Form::Think, "<think>\n", "<thi", "<thi", ""),
        (Form::Think, "<think>\n", "</think>b", "", "b"),
        (Form::Think, "<think>\n\n</think>\n\n", "closed before", "", "closed before"),
        (Form::Magistral, "", "[THINK]So [/THIN] so.[/THINK]Yes.", "So [/THIN] so.", "Yes."),
        (Form::Magistral, "", "<think>a</think>b", "", "<think>a</think>b"),
        (
            Form::Granite,
            "",
            "Here is my thought process:\n\nIt is here: Here's mine.\n\nHere is my response:\n\nYes.",
            "It is here: Here's mine.",
            "Yes.",
        ),
        (Form::Granite, "", "Here's my thought process: a Here's my response: b", "a", "b"),
        (Form::Granite, "", "Here is my recipe: b", "", "Here is my recipe: b"),
    ];

    fn split_at(form: Form, prompt: &str, pieces: &[&str]) -> (Parts, Option<usize>) {
        let mut splitter = form.after(prompt);
        let mut parts = Parts::default();
        for piece in pieces {
            parts.add(splitter.push(piece));
        }
        parts.add(splitter.finish());
        (parts, splitter.answer)
    }

    #[test]
    fn a_reply_is_split_the_same_wherever_it_is_cut() {
        for &(form, prompt, reply, reasoning, content) in TABLE {
            let expected = Parts { reasoning: reasoning.into(), content: content.into() };
            let (whole, answer) = split_at(form, prompt, &[reply]);
            assert_eq!(whole, expected, "{reply:?}");
            if prompt.is_empty() {
                assert_eq!(split(form, reply), expected, "{reply:?}");
            }
            if let Some(at) = answer {
                assert_eq!(&reply[at..], content, "{reply:?}");
            }
            let cuts: Vec<usize> = reply.char_indices().map(|(at, _)| at).chain([reply.len()]).collect();
            for &one in &cuts {
                for &other in cuts.iter().filter(|other| **other >= one) {
                    let pieces = [&reply[..one], &reply[one..other], &reply[other..]];
                    assert_eq!(split_at(form, prompt, &pieces), (expected.clone(), answer), "{pieces:?}");
                }
            }
            let letters: Vec<&str> = cuts.windows(2).map(|cut| &reply[cut[0]..cut[1]]).collect();
            assert_eq!(split_at(form, prompt, &letters), (expected, answer), "{reply:?} letter by letter");
        }
    }

    #[test]
    fn text_is_given_out_as_soon_as_it_is_decided() {
        let mut splitter = Form::Think.after("");
        let table = [
            ("<th", "", ""),
            ("ink>\n", "", ""),
            ("one ", "one", ""),
            ("two", " two", ""),
            ("\n</", "", ""),
            ("b>", "\n</b>", ""),
            ("</think>", "", ""),
            ("\n\n", "", ""),
            ("yes ", "", "yes "),
            ("</think>", "", "</think>"),
        ];
        for (piece, reasoning, content) in table {
            let parts = splitter.push(piece);
            assert_eq!((parts.reasoning.as_str(), parts.content.as_str()), (reasoning, content), "{piece:?}");
        }
    }

    #[test]
    fn the_form_is_found_by_its_marks() {
        let table = [
            ("{% if '</think>' in content %}", Some(Form::Think)),
            ("{{ '<think>\\n' }}", Some(Form::Think)),
            ("[THINK]{{ thinking }}[/THINK]", Some(Form::Magistral)),
            ("Write them after 'Here is my thought process:'", Some(Form::Granite)),
            ("{{ messages }}", None),
            ("<thinking>", None),
        ];
        for (template, form) in table {
            assert_eq!(Form::find(|mark| template.contains(mark)), form, "{template}");
        }
    }

    #[test]
    fn reasoning_that_a_prompt_begins_can_be_closed() {
        let close = |prompt: &str| Form::Think.close(prompt.into());
        assert_eq!(close("assistant\n<think>\n"), "assistant\n<think>\n\n</think>\n\n");
        assert_eq!(close("assistant\n"), "assistant\n");
        assert_eq!(close("<think>\n\n</think>\n\n"), "<think>\n\n</think>\n\n");
    }
}
