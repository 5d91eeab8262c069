//! Grammars over tokens: which tokens may come next so that the text can still match, and when it is complete.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, earley::SlicedBiasComputer};

use super::{Constraint, EngineError};

/// Compiles constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
}

/// A token as grammars see it.
pub enum TokenText {
    /// Bytes of text.
    Bytes(Vec<u8>),
    /// A special token with this name: part of no text.
    Special(String),
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
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| EngineError::Unsupported(format!("no constraints with this vocabulary: {error}")))?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// A matcher at the start of the text.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when the constraint does not compile.
    pub fn matcher(&self, constraint: &Constraint) -> Result<Matcher, EngineError> {
        let grammar = match constraint {
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Constraint::Lark(grammar) => TopLevelGrammar::from_lark(grammar.clone()),
        };
        let matcher = llguidance::Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            None => Ok(Matcher(matcher)),
            Some(error) => Err(EngineError::Invalid(format!("the constraint cannot be used: {}", first_line(&error)))),
        }
    }
}

/// Follows one reply through a grammar.
pub struct Matcher(llguidance::Matcher);

impl Clone for Matcher {
    /// An independent matcher in the same state.
    fn clone(&self) -> Self {
        Self(self.0.deep_clone())
    }
}

impl Matcher {
    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`. An end token is among them where the text
    /// may end.
    ///
    /// # Errors
    /// When the grammar is too costly to follow.
    pub fn allowed(&mut self) -> Result<Vec<u32>, EngineError> {
        self.0.compute_mask_or_eos().map(|mask| mask.as_slice().to_vec()).map_err(|error| costly(&error))
    }

    /// Goes on by `token`, one of the allowed. True when nothing can follow: the text is complete.
    ///
    /// # Errors
    /// A token that was not allowed, or a grammar that is too costly to follow.
    pub fn accept(&mut self, token: u32) -> Result<bool, EngineError> {
        self.0.consume_token(token).map_err(|error| costly(&error))?;
        Ok(self.0.is_stopped())
    }
}

fn costly(error: &impl std::fmt::Display) -> EngineError {
    EngineError::Invalid(format!("the constraint cannot be followed: {}", first_line(&error.to_string())))
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: u32 = 256;

    fn bytes() -> Grammars {
        let vocabulary = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
        Grammars::new(vocabulary.chain([TokenText::Special("<end>".into())]), &[END]).unwrap()
    }

    fn allows(allowed: &[u32], token: u32) -> bool {
        allowed[token as usize / 32] >> (token % 32) & 1 == 1
    }

    /// Feeds `text` as long as it is allowed: how much was, whether the text may end there, whether it must.
    fn check(constraint: &Constraint, text: &str, expected: (usize, bool, bool)) {
        let mut matcher = bytes().matcher(constraint).unwrap();
        let (mut taken, mut complete) = (0, false);
        for byte in text.bytes() {
            if complete || !allows(&matcher.allowed().unwrap(), byte.into()) {
                break;
            }
            complete = matcher.accept(byte.into()).unwrap();
            taken += 1;
        }
        let may_end = allows(&matcher.allowed().unwrap(), END);
        assert_eq!((taken, may_end, complete), expected, "{constraint:?} {text:?}");
    }

    #[test]
    fn text_matches_from_its_first_to_its_last_character() {
        let regex = |r: &str| Constraint::Regex(r.into());
        check(&regex("[0-9]{3}"), "1234", (3, true, true));
        check(&regex("[0-9]{3}"), "12", (2, false, false));
        check(&regex("[0-9]+"), "12a", (2, true, false));
        check(&regex("yes|no"), "xyes", (0, false, false));
        check(&regex("é"), "é", (2, true, true));
        let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
            "additionalProperties": false});
        check(&Constraint::JsonSchema(schema), r#"{"a":12}x"#, (8, true, true));
        check(&Constraint::Lark("start: \"a\" start | \"b\"".into()), "aaab", (4, true, true));
    }

    #[test]
    fn clones_go_their_own_ways() {
        let mut first = bytes().matcher(&Constraint::Regex("ab|cd".into())).unwrap();
        let mut second = first.clone();
        assert!(!first.accept(b'a'.into()).unwrap());
        assert!(!second.accept(b'c'.into()).unwrap());
        assert!(first.accept(b'b'.into()).unwrap());
        assert!(second.accept(b'd'.into()).unwrap());
    }

    #[test]
    fn bad_constraints_are_refused() {
        for constraint in [
            Constraint::Regex("(".into()),
            Constraint::Lark("start: other".into()),
            Constraint::JsonSchema(serde_json::json!({"type": "nothing"})),
        ] {
            assert!(matches!(bytes().matcher(&constraint), Err(EngineError::Invalid(_))), "{constraint:?}");
        }
        let mut matcher = bytes().matcher(&Constraint::Regex("a".into())).unwrap();
        assert!(matcher.accept(b'b'.into()).is_err());
    }
}
