//! A prompt in front of its continuations, with what the model expected in place of each of its tokens.

use std::sync::Arc;

use futures::future;

use crate::engine::{Engine, Request, ScoredToken};
use crate::http::error::ApiError;
use crate::openai::CompletionLogprobs;

/// How a prompt is shown in front of its continuations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// The text as it is.
    Text,
    /// The text with its tokens' log-probabilities, and this many alternatives for each.
    Scored(usize),
    /// The scored text alone, without a continuation.
    Alone(usize),
}

/// A prompt's tokens; none where they are not scored.
pub type PromptTokens = Arc<[ScoredToken]>;

impl Echo {
    /// The tokens of each request's prompt.
    ///
    /// # Errors
    /// The error of the first prompt that cannot be scored.
    pub async fn tokens(self, engine: &dyn Engine, requests: &[Request]) -> Result<Vec<PromptTokens>, ApiError> {
        let (Self::Scored(top) | Self::Alone(top)) = self else { return Ok(vec![Arc::default(); requests.len()]) };
        let scored =
            requests.iter().map(|request| engine.score(request.constrained_input().into_owned(), top, request.origin));
        Ok(future::try_join_all(scored).await?.into_iter().map(Arc::from).collect())
    }
}

/// What a prompt is scored for: its echo, and `prompt_logprobs` with this many alternatives for each token.
pub fn scoring(echo: Option<Echo>, prompt_logprobs: Option<usize>) -> Option<Echo> {
    let Some(top) = prompt_logprobs else { return echo };
    Some(match echo {
        None | Some(Echo::Text) => Echo::Scored(top),
        Some(Echo::Scored(shown)) => Echo::Scored(shown.max(top)),
        Some(Echo::Alone(shown)) => Echo::Alone(shown.max(top)),
    })
}

/// The logprobs of a prompt's tokens with the `top` likeliest alternatives, and with offsets into its text; `None` where they
/// are not scored.
pub fn logprobs(prompt: &str, tokens: &[ScoredToken], top: usize) -> Option<CompletionLogprobs> {
    let mut shown = CompletionLogprobs::default();
    let mut rest = prompt.as_bytes();
    let mut offset = 0;
    for token in tokens {
        let logprobs = token.logprobs.clone().map(|mut logprobs| {
            logprobs.top.truncate(top);
            logprobs
        });
        shown.push(&token.bytes, logprobs.as_ref(), offset);
        let length = length_in(rest, &token.bytes);
        let (passed, left) = rest.split_at(length);
        offset += passed.iter().filter(|&&byte| begins_a_character(byte)).count();
        rest = left;
    }
    (!tokens.is_empty()).then_some(shown)
}

/// Bytes of the text that a token stands for. What only the tokenizer adds is not in the text: tokens around it, and a first space.
fn length_in(text: &[u8], token: &[u8]) -> usize {
    match token {
        _ if text.starts_with(token) => token.len(),
        [b' ', token @ ..] if text.starts_with(token) => token.len(),
        _ => 0,
    }
}

fn begins_a_character(byte: u8) -> bool {
    byte & 0b1100_0000 != 0b1000_0000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_characters_of_the_text() {
        let offsets = |prompt: &str, tokens: &[&[u8]]| {
            let token = |bytes: &&[u8]| ScoredToken { id: 0, bytes: bytes.to_vec(), rank: None, logprobs: None };
            logprobs(prompt, &tokens.iter().map(token).collect::<Vec<_>>(), 0).map(|shown| shown.text_offset)
        };
        type Case<'a> = (&'a str, &'a [&'a [u8]], &'a [usize]);
        let table: [Case<'_>; 5] = [
            ("hi you", &[b"hi", b" you"], &[0, 2]),
            ("hi you", &[b"<s>", b" hi", b" you", b"</s>"], &[0, 0, 2, 6]),
            ("<s>hi", &[b"<s>", b"hi"], &[0, 3]),
            ("öß!", &["ö".as_bytes(), &[0xC3], &[0x9F], b"!"], &[0, 1, 2, 2]),
            ("", &[b"<s>"], &[0]),
        ];
        for (prompt, tokens, expected) in table {
            assert_eq!(offsets(prompt, tokens).as_deref(), Some(expected), "{prompt}");
        }
        assert_eq!(offsets("not scored", &[]), None);
    }
}
