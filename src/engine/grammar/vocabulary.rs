//! A model's tokens as grammars see them, and the compiler for them.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use super::compiled::{Compiled, Matcher, Memory, shared_memory};
use super::follower::Follower;
use super::message::gist;
use super::source::Source;
use crate::constraint::Spaces;
use crate::engine::pieces::Pieces;
use crate::engine::{Constraint, EngineError, Namespace};

/// States of a matcher at most, each of about 1 to 2 kB.
const STATES: usize = 50_000;

/// A token as grammars see it.
pub enum TokenText {
    /// Bytes of text.
    Bytes(Vec<u8>),
    /// A special token with this name: part of no text.
    Special(String),
}

/// The tokens that texts are made of.
pub enum Vocabulary {
    /// A model's vocabulary.
    Model {
        /// The model's tokens.
        pieces: Arc<Pieces>,
        /// Those that end a reply.
        ends: Vec<u32>,
    },
    /// Every byte is a token of that number.
    Bytes,
}

/// The token that ends a text of bytes.
const END_OF_BYTES: u32 = 256;

impl Vocabulary {
    /// The compiler for it.
    ///
    /// # Errors
    /// Fails as [`Grammars::new`] does.
    pub fn grammars(&self) -> Result<Grammars, EngineError> {
        match self {
            Self::Model { pieces, ends } => {
                let token = |id| match pieces.is_special(id) {
                    true => TokenText::Special(String::from_utf8_lossy(pieces.bytes(id)).into_owned()),
                    false => TokenText::Bytes(pieces.bytes(id).to_vec()),
                };
                Grammars::new((0..pieces.len() as u32).map(token), ends)
            }
            Self::Bytes => {
                let bytes = (0..=u8::MAX).map(|byte| TokenText::Bytes(vec![byte]));
                Grammars::new(bytes.chain([TokenText::Special("<end>".into())]), &[END_OF_BYTES])
            }
        }
    }
}

impl Matcher {
    /// Whether it matches all of `text`, where every byte is a token.
    pub(super) fn matches(&mut self, text: &[u8]) -> bool {
        let mut complete = false;
        for &byte in text {
            match self.accept(byte.into()) {
                Ok(Some(is_last)) => complete = is_last,
                Ok(None) | Err(_) => return false,
            }
        }
        complete || matches!(self.accept(END_OF_BYTES), Ok(Some(_)))
    }
}

/// Compiles constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    tokens: u32,
}

impl Grammars {
    /// For a vocabulary that gives every id its text, and the tokens that end a reply.
    ///
    /// # Errors
    /// A vocabulary that llguidance refuses, or no ends.
    pub fn new(vocabulary: impl Iterator<Item = TokenText>, ends: &[u32]) -> Result<Self, EngineError> {
        let words: Vec<Vec<u8>> = vocabulary
            .map(|token| match token {
                TokenText::Bytes(bytes) => bytes,
                TokenText::Special(name) => [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat(),
            })
            .collect();
        let known = |id: &&u32| (**id as usize) < words.len();
        let ends: Vec<u32> = ends.iter().filter(known).copied().collect();
        let Some(&first) = ends.first() else {
            return Err(EngineError::Unsupported("constraints need a model with an end-of-sequence token".into()));
        };
        let tokens = words.len() as u32;
        let trie = TokTrie::from(&TokRxInfo::new(tokens, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| EngineError::Unsupported(format!("no constraints with this vocabulary: {error}")))?;
        factory.quiet();
        factory.limits_mut().max_lexer_states = STATES;
        factory.limits_mut().verbose_errors = false;
        Ok(Self { factory, tokens })
    }

    /// Compiles on this thread; `owner` distinguishes this vocabulary's grammars from other ones.
    pub(super) fn compile(&self, source: &Source, owner: u64, memory: &Arc<Memory>) -> Result<Compiled, EngineError> {
        let unusable = |reason: String| {
            // A compiler that panics says where in its own words, which helps no client.
            let reason = if reason.starts_with("panic") { "the compiler failed" } else { gist(&reason) };
            EngineError::Constraint(format!("it cannot be used: {reason}"))
        };
        let grammar = source.grammar().map_err(|error| unusable(error.to_string()))?;
        let parser = self.factory.create_parser(grammar).map_err(|error| unusable(error.to_string()))?;
        Ok(Compiled::new(source.clone(), owner, self.tokens, Follower::start(parser)?, memory))
    }

    /// A matcher at the start of the text, compiled on this thread without limits: for constraints that are known to be
    /// small.
    ///
    /// # Errors
    /// [`EngineError::Constraint`] when the constraint does not compile.
    pub fn matcher(&self, constraint: &Constraint) -> Result<Matcher, EngineError> {
        let source = Source::new(constraint, Spaces::Bounded, Namespace::SHARED);
        Ok(Arc::new(self.compile(&source, u64::MAX, shared_memory())?).matcher())
    }
}
