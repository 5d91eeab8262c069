//! Grammars over tokens: which tokens may come next so that the text can still match, and when it is complete.

use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{ParserFactory, earley::SlicedBiasComputer};

use super::text::Pieces;
use super::{Constraint, EngineError};

/// Compiled constraints that are kept; the least recently used go first.
const KEPT: usize = 64;

/// Matchers of one constraint that are kept for later replies.
const IDLE: usize = 128;

/// Whether all of `text` matches `constraint`; nothing matches one that does not compile.
pub fn matches(constraint: &Constraint, text: &str) -> bool {
    const END: u32 = 256;
    static BYTES: LazyLock<Grammars> = LazyLock::new(|| {
        let bytes = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
        let vocabulary = bytes.chain([TokenText::Special("<end>".into())]);
        Grammars::new(vocabulary, &[END]).expect("bytes and an end are a vocabulary")
    });
    let Ok(mut matcher) = BYTES.matcher(constraint) else { return false };
    let mut complete = false;
    for byte in text.bytes() {
        match matcher.accept(byte.into()) {
            Ok(Some(is_last)) => complete = is_last,
            Ok(None) | Err(_) => return false,
        }
    }
    complete || matches!(matcher.accept(END), Ok(Some(_)))
}

/// The grammars of a model, made when the first constraint comes.
#[derive(Clone)]
pub struct ModelGrammars(Arc<Lazy>);

struct Lazy {
    pieces: Arc<Pieces>,
    ends: Vec<u32>,
    grammars: OnceLock<Result<Grammars, EngineError>>,
}

impl ModelGrammars {
    /// For a model whose replies end at `ends`.
    pub fn new(pieces: Arc<Pieces>, ends: Vec<u32>) -> Self {
        Self(Arc::new(Lazy { pieces, ends, grammars: OnceLock::new() }))
    }

    /// A matcher for each of `count` siblings. A constraint that was seen lately costs nothing; compiling one may take
    /// long, so it has a thread for that.
    ///
    /// # Errors
    /// The constraint does not compile, or the vocabulary allows none.
    pub async fn matchers(&self, constraint: &Constraint, count: usize) -> Result<Vec<Matcher>, EngineError> {
        let known = self.0.grammars.get().and_then(|grammars| grammars.as_ref().ok()?.known(constraint));
        let compiled = match known {
            Some(compiled) => compiled,
            None => {
                let (lazy, constraint) = (Arc::clone(&self.0), constraint.clone());
                let compile = tokio::task::spawn_blocking(move || lazy.compile(&constraint));
                compile.await.map_err(|_| EngineError::Invalid("the constraint cannot be compiled".into()))??
            }
        };
        Ok((0..count).map(|_| Matcher::new(&compiled)).collect())
    }
}

impl Lazy {
    fn compile(&self, constraint: &Constraint) -> Result<Arc<Compiled>, EngineError> {
        let token = |id| match self.pieces.is_special(id) {
            true => TokenText::Special(String::from_utf8_lossy(self.pieces.bytes(id)).into_owned()),
            false => TokenText::Bytes(self.pieces.bytes(id).to_vec()),
        };
        let make = || Grammars::new((0..self.pieces.len() as u32).map(token), &self.ends);
        self.grammars.get_or_init(make).as_ref().map_err(EngineError::clone)?.compile(constraint)
    }
}

/// Compiles constraints for one vocabulary.
pub struct Grammars {
    factory: ParserFactory,
    tokens: u32,
    /// The most recently used last.
    compiled: Mutex<Vec<Arc<Compiled>>>,
}

/// A constraint with its matchers at the start of the text.
struct Compiled {
    constraint: Constraint,
    tokens: u32,
    fresh: llguidance::Matcher,
    /// Used before: what they have learned of the vocabulary makes them faster than fresh ones.
    idle: Mutex<Vec<llguidance::Matcher>>,
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
        let tokens = words.len() as u32;
        let trie = TokTrie::from(&TokRxInfo::new(tokens, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices)
            .map_err(|error| EngineError::Unsupported(format!("no constraints with this vocabulary: {error}")))?;
        factory.quiet();
        Ok(Self { factory, tokens, compiled: Mutex::default() })
    }

    /// A matcher at the start of the text.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when the constraint does not compile.
    pub fn matcher(&self, constraint: &Constraint) -> Result<Matcher, EngineError> {
        Ok(Matcher::new(&self.compile(constraint)?))
    }

    fn known(&self, constraint: &Constraint) -> Option<Arc<Compiled>> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let index = compiled.iter().position(|compiled| compiled.constraint == *constraint)?;
        let found = compiled.remove(index);
        compiled.push(found.clone());
        Some(found)
    }

    fn compile(&self, constraint: &Constraint) -> Result<Arc<Compiled>, EngineError> {
        if let Some(known) = self.known(constraint) {
            return Ok(known);
        }
        let grammar = match constraint {
            Constraint::Regex(regex) => TopLevelGrammar::from_regex(regex),
            Constraint::JsonSchema(schema) => TopLevelGrammar::from_json_schema(schema.clone()),
            Constraint::Lark(lark) | Constraint::Calls { lark, .. } => TopLevelGrammar::from_lark(lark.clone()),
        };
        let fresh = llguidance::Matcher::new(self.factory.create_parser(grammar));
        if let Some(error) = fresh.get_error() {
            return Err(EngineError::Invalid(format!("the constraint cannot be used: {}", first_line(&error))));
        }
        let (constraint, tokens, idle) = (constraint.clone(), self.tokens, Mutex::default());
        let fresh = Arc::new(Compiled { constraint, tokens, fresh, idle });
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.push(fresh.clone());
        if compiled.len() > KEPT {
            compiled.remove(0);
        }
        Ok(fresh)
    }
}

/// Follows one reply through a grammar.
pub struct Matcher {
    /// `None` only while it is dropped.
    state: Option<llguidance::Matcher>,
    compiled: Arc<Compiled>,
}

impl Clone for Matcher {
    /// An independent matcher in the same state.
    fn clone(&self) -> Self {
        Self { state: self.state.as_ref().map(llguidance::Matcher::deep_clone), compiled: self.compiled.clone() }
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        let Some(mut state) = self.state.take() else { return };
        let mut idle = self.compiled.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE && state.reset().is_ok() && !state.is_stopped() {
            idle.push(state);
        }
    }
}

impl Matcher {
    fn new(compiled: &Arc<Compiled>) -> Self {
        let used = compiled.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let state = used.unwrap_or_else(|| compiled.fresh.deep_clone());
        Self { state: Some(state), compiled: compiled.clone() }
    }

    fn state(&mut self) -> &mut llguidance::Matcher {
        self.state.as_mut().expect("a matcher has its state until it is dropped")
    }

    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`. An end token is among them where the text
    /// may end.
    ///
    /// # Errors
    /// When the grammar is too costly to follow.
    pub fn allowed(&mut self) -> Result<Vec<u32>, EngineError> {
        self.state().compute_mask_or_eos().map(|mask| mask.as_slice().to_vec()).map_err(|error| costly(&error))
    }

    /// Goes on by `token` if it is allowed, which costs much less than asking for all that are. Then whether the text is
    /// complete, so that nothing can follow; `None` when the token is not allowed.
    ///
    /// # Errors
    /// When the grammar is too costly to follow.
    pub fn accept(&mut self, token: u32) -> Result<Option<bool>, EngineError> {
        if token >= self.compiled.tokens || self.state().is_stopped() {
            return Ok(None);
        }
        let state = self.state();
        let taken = state.try_consume_tokens(&[token]).map_err(|error| costly(&error))?;
        Ok((taken == 1).then(|| state.is_stopped()))
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
            complete = matcher.accept(byte.into()).unwrap().unwrap();
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
    fn whole_texts_match_or_do_not() {
        let schema = Constraint::JsonSchema(serde_json::json!({"type": "object", "required": ["a"]}));
        for (constraint, text, expected) in [
            (&schema, r#"{"a": [1, 2]}"#, true),
            (&schema, r#"{"b": 1}"#, false),
            (&schema, r#"{"a": 1"#, false),
            (&schema, "so: {\"a\": 1}", false),
            (&Constraint::Regex("[0-9]+".into()), "12", true),
            (&Constraint::Regex("[0-9]+".into()), "", false),
            (&Constraint::Regex("(".into()), "(", false),
        ] {
            assert_eq!(matches(constraint, text), expected, "{constraint:?} {text:?}");
        }
    }

    #[test]
    fn clones_go_their_own_ways() {
        let mut first = bytes().matcher(&Constraint::Regex("ab|cd".into())).unwrap();
        let mut second = first.clone();
        assert_eq!(first.accept(b'a'.into()).unwrap(), Some(false));
        assert_eq!(second.accept(b'c'.into()).unwrap(), Some(false));
        assert_eq!(first.accept(b'b'.into()).unwrap(), Some(true));
        assert_eq!(second.accept(b'd'.into()).unwrap(), Some(true));
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
        for token in [b'b'.into(), END, 999] {
            assert_eq!(matcher.accept(token).unwrap(), None);
        }
        assert_eq!(matcher.accept(b'a'.into()).unwrap(), Some(true));
    }

    /// The tokens that are accepted at every point of a random walk are those of the mask; and a matcher that was used
    /// before allows the same as a fresh one.
    #[test]
    fn what_is_accepted_is_what_the_mask_says() {
        let words = ["a", "b", "ab", "ba", "\"", "{\"a\":", "1", "}", " ", "Final", " Judgement:", " Yes", "No", "\n"];
        let vocabulary = || {
            let words = words.iter().map(|word| TokenText::Bytes(word.as_bytes().to_vec()));
            let bytes = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
            bytes.chain(words).chain([TokenText::Special("<end>".into()), TokenText::Special("<user>".into())])
        };
        let (end, count) = (256 + words.len() as u32, 258 + words.len() as u32);
        let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        for constraint in [
            Constraint::Regex("(ab|ba)*".into()),
            Constraint::JsonSchema(schema),
            crate::prompts::Templates::general().verdict_constraint(),
        ] {
            let grammars = Grammars::new(vocabulary(), &[end]).unwrap();
            for round in 0..6u64 {
                let mut matcher = grammars.matcher(&constraint).unwrap();
                let mut taken = Vec::new();
                for step in 0..40 {
                    let fresh = Grammars::new(vocabulary(), &[end]).unwrap();
                    let mut fresh = fresh.matcher(&constraint).unwrap();
                    assert!(taken.iter().all(|&token| fresh.accept(token).unwrap() == Some(false)));
                    let allowed = matcher.allowed().unwrap();
                    assert_eq!(allowed, fresh.allowed().unwrap(), "{constraint:?} after {taken:?}");
                    let can = |id: &u32| matcher.clone().accept(*id).unwrap().is_some();
                    let accepted: Vec<u32> = (0..count).filter(can).collect();
                    let masked: Vec<u32> = (0..count).filter(|&id| allows(&allowed, id)).collect();
                    assert_eq!(accepted, masked, "{constraint:?} after {taken:?}");
                    let draw = crate::engine::derive_seed(round, step) as usize;
                    let next = accepted[draw % accepted.len()];
                    if matcher.accept(next).unwrap() == Some(true) || next == end {
                        break;
                    }
                    taken.push(next);
                }
            }
        }
    }
}
