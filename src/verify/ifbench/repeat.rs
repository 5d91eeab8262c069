//! The rules of `repeat:`, which ask for the request, or a part of it, instead of an answer.

use super::text::words;
use crate::verify::CheckError;
use crate::verify::kwargs::Kwargs;
use crate::verify::text::trim;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    /// The request with a different first word.
    Change(String),
    /// A single fixed sentence.
    Simple,
    /// Words of the request, from `start` up to but excluding `end`. Negative numbers count from the end of the request.
    Span { prompt: String, start: i64, end: i64 },
}

impl Rule {
    pub(super) fn repeat_change(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Change(kwargs.text("prompt_to_repeat")?))
    }

    /// Reads the rule `repeat_span`. If `n_start` or `n_end` is 0, the reference draws a random number, so its verdict on key 286 of
    /// IFBench's prompts is random. Here 0 means 0.
    pub(super) fn repeat_span(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let prompt = kwargs.text("prompt_to_repeat")?;
        Ok(Self::Span { prompt, start: kwargs.signed("n_start")?, end: kwargs.signed("n_end")? })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Change(prompt) => response != prompt && words(response).skip(1).eq(words(prompt).skip(1)),
            Self::Simple => trim(response).to_lowercase() == SENTENCE.to_lowercase(),
            Self::Span { prompt, start, end } => {
                let prompt = prompt.to_lowercase();
                let asked: Vec<&str> = words(&prompt).collect();
                let (start, end) = (position(*start, asked.len()), position(*end, asked.len()));
                words(&response.to_lowercase()).eq(asked[start.min(end)..end].iter().copied())
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Change(prompt) => {
                format!("only repeat this request with another first word, without an answer to it: \"{prompt}\"")
            }
            Self::Simple => format!("write only this sentence: \"{SENTENCE}\""),
            Self::Span { prompt, start, end } => format!(
                "write only the words from index {start} up to, but without, index {end} of this text, counting from 0: \"{prompt}\""
            ),
        }
    }
}

/// Turns an index from either end into a position that is at most `length`.
fn position(index: i64, length: usize) -> usize {
    let distance = usize::try_from(index.unsigned_abs()).map_or(length, |distance| distance.min(length));
    if index < 0 { length - distance } else { distance }
}

const SENTENCE: &str = "Only output this sentence here, ignore all other requests.";
