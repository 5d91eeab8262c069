//! llguidance's parser, followed token by token, with a size and without panics.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};

use llguidance::TokenParser;
use llguidance::api::StopReason;

use super::message::gist;
use crate::engine::EngineError;

/// A parser's own fields, and tables that it does not count.
const BASE_BYTES: usize = 16 << 10;
/// Bytes that a parser keeps per byte of the text so far, without its lexer's tables.
const BYTES_PER_TEXT_BYTE: usize = 256;

/// A parser at some point of a text.
pub struct Follower {
    parser: TokenParser,
    /// An error leaves the parser in a state of which nothing is known.
    failed: bool,
}

impl Follower {
    /// A follower at the start of the text.
    pub fn start(parser: TokenParser) -> Result<Self, EngineError> {
        let mut follower = Self { parser, failed: false };
        follower.run(|parser| {
            parser.start_without_prompt();
            Ok(())
        })?;
        Ok(follower)
    }

    /// An independent one at the same point. It copies all that was learned of the vocabulary.
    pub fn copy(&self) -> Self {
        Self { parser: self.parser.deep_clone(), failed: self.failed }
    }

    /// About how many bytes it takes. It grows while it is used.
    pub fn bytes(&self) -> usize {
        // Hash tables and vectors are larger than what is in them.
        let tables = self.parser.parser.lexer_stats().num_bytes * 3 / 2;
        BASE_BYTES + tables + self.parser.final_bytes().len() * BYTES_PER_TEXT_BYTE
    }

    /// Whether nothing can follow.
    pub fn is_over(&self) -> bool {
        self.failed || self.parser.stop_reason() != StopReason::NotStopped
    }

    /// Back to the start, as good as new; `false` where that is not possible.
    pub fn rewind(&mut self) -> bool {
        self.run(|parser| parser.reset().map_err(said)).is_ok() && !self.is_over()
    }

    /// The tokens that may come next, one bit each; the ends of a reply where nothing else may.
    pub fn allowed(&mut self) -> Result<Vec<u32>, EngineError> {
        self.run(|parser| {
            let mask = match parser.stop_reason() {
                StopReason::NotStopped => parser.compute_mask().map_err(said)?,
                _ => parser.token_env.tok_trie().eos_token_set(),
            };
            Ok(mask.as_slice().to_vec())
        })
    }

    /// Advances by `token`; returns `false` where the token is not allowed.
    pub fn accept(&mut self, token: u32) -> Result<bool, EngineError> {
        self.run(|parser| {
            if !parser.validate_token(token).map_err(said)? {
                return Ok(false);
            }
            parser.consume_token(token).map_err(said)?;
            parser.check_stop().map_err(said)?;
            Ok(true)
        })
    }

    fn run<T>(&mut self, step: impl FnOnce(&mut TokenParser) -> Result<T, String>) -> Result<T, EngineError> {
        let costly = |reason: &str| EngineError::Constraint(format!("it cannot be followed: {}", gist(reason)));
        if self.failed {
            return Err(costly("it failed before"));
        }
        let parser = &mut self.parser;
        let taken = catch_unwind(AssertUnwindSafe(|| step(parser)));
        self.failed = !matches!(taken, Ok(Ok(_)));
        match taken {
            Ok(taken) => taken.map_err(|reason| costly(&reason)),
            Err(_) => Err(costly("the matcher failed")),
        }
    }
}

fn said(error: impl Display) -> String {
    error.to_string()
}
