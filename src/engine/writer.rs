//! One reply as it is written: draws a token, follows the grammar, turns it into text, and knows when the reply is over.

use super::grammar::Matcher;
use super::sampling::Sampler;
use super::text::ReplyText;
use super::{Chunk, EngineError, FinishReason};

/// The state of a reply between two tokens.
pub struct Writer {
    sampler: Sampler,
    text: ReplyText,
    grammar: Option<Matcher>,
}

impl Writer {
    /// A reply without tokens yet.
    pub fn new(sampler: Sampler, text: ReplyText, grammar: Option<Matcher>) -> Self {
        Self { sampler, text, grammar }
    }

    /// Tokens that may still be drawn.
    pub fn left(&self) -> usize {
        self.text.left()
    }

    /// Draws the next token from `logits` (vocabulary), which are scratch afterwards. The reply is over when the chunk has
    /// `finish`, or after an error.
    ///
    /// # Errors
    /// No token that may come next has a finite score, or the grammar is too costly.
    pub fn next(&mut self, logits: &mut [f32]) -> Result<(u32, Chunk), EngineError> {
        let drawn = match &mut self.grammar {
            None => self.sampler.sample(logits).map(|drawn| (drawn, false)),
            Some(grammar) => self.sampler.sample_matching(logits, grammar)?,
        };
        let (drawn, complete) = drawn.ok_or_else(|| self.nothing_left())?;
        let id = drawn.id;
        let mut chunk = self.text.push(drawn);
        if complete && chunk.finish.is_none() {
            let rest = self.text.finish(FinishReason::Stop);
            chunk.text.push_str(&rest.text);
            chunk.finish = rest.finish;
        }
        Ok((id, chunk))
    }

    /// Why no token may come next.
    fn nothing_left(&self) -> EngineError {
        if self.sampler.is_ruled() {
            let rules = "`allowed_token_ids`, `bad_words` and `min_tokens`";
            return EngineError::Invalid(format!("{rules} leave no token that may come next; ask for less"));
        }
        EngineError::Crashed("no token that may come next has a finite score; the checkpoint may be damaged".into())
    }
}
