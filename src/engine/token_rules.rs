//! Rules on single tokens of a prompt and of a reply, which OpenAI's own fields do not have.

mod bad_words;

use std::sync::Arc;

use super::pieces::Pieces;
pub(super) use bad_words::BadWords;

/// What a request asks of single tokens. The default asks for nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TokenRules {
    /// Tokens that end a reply, in addition to the end-of-sequence tokens.
    pub stop_tokens: Vec<u32>,
    /// Tokens that a reply has at least before it may end by a token or at a stop string.
    pub min_tokens: usize,
    /// Texts that never occur in a reply.
    pub bad_words: Vec<String>,
    /// The only tokens that may be drawn.
    pub allowed: Option<Arc<[u32]>>,
    /// Whether the stop string or the stop token that ends a reply is a part of its text.
    pub stop_shown: bool,
    /// How many of the prompt's last tokens the model is given; `None` is all of them.
    pub prompt_tail: Option<usize>,
}

/// The seed that another server is given where it draws a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireSeed {
    /// One that follows from the request's seed.
    #[default]
    Derived,
    /// None, because the client gave none.
    Absent,
    /// The client's own.
    Given(i64),
}

/// The rules on drawn tokens, ready to be applied to the scores of a reply's next token.
#[derive(Clone, Debug)]
pub(super) struct Ban {
    /// One bit per token that may be drawn: token `t` is bit `t % 32` of word `t / 32`.
    allowed: Option<Arc<[u32]>>,
    min_tokens: usize,
    /// Tokens that end a reply.
    ends: Arc<[u32]>,
    bad_words: Option<BadWords>,
    drawn: usize,
}

impl Ban {
    /// The rules for a reply that ends by the tokens `ends`; `None` where nothing is banned.
    pub(super) fn new(rules: &TokenRules, ends: &[u32], pieces: &Arc<Pieces>) -> Option<Self> {
        let bad_words = (!rules.bad_words.is_empty()).then(|| BadWords::new(&rules.bad_words, pieces));
        if rules.allowed.is_none() && rules.min_tokens == 0 && bad_words.is_none() {
            return None;
        }
        let allowed = rules.allowed.as_deref().map(bits);
        Some(Self { allowed, min_tokens: rules.min_tokens, ends: ends.into(), bad_words, drawn: 0 })
    }

    /// Takes the tokens away that must not come next.
    pub(super) fn apply(&self, logits: &mut [f32]) {
        if let Some(allowed) = &self.allowed {
            keep(logits, allowed);
        }
        let mut ban = |id: u32| {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit = f32::NEG_INFINITY;
            }
        };
        if self.drawn < self.min_tokens {
            self.ends.iter().copied().for_each(&mut ban);
        }
        if let Some(words) = &self.bad_words {
            words.completing().for_each(ban);
        }
    }

    /// Notes that `id` was drawn.
    pub(super) fn take(&mut self, id: u32) {
        self.drawn += 1;
        if let Some(words) = &mut self.bad_words {
            words.take(id);
        }
    }
}

/// Takes away what is not allowed: token `t` is bit `t % 32` of word `t / 32`.
pub(super) fn keep(logits: &mut [f32], allowed: &[u32]) {
    for (id, logit) in logits.iter_mut().enumerate() {
        if allowed.get(id / 32).is_none_or(|word| word >> (id % 32) & 1 == 0) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

/// One bit per token of a list.
fn bits(ids: &[u32]) -> Arc<[u32]> {
    let words = ids.iter().max().map_or(0, |most| *most as usize / 32 + 1);
    let mut bits = vec![0; words];
    for id in ids {
        bits[*id as usize / 32] |= 1 << (id % 32);
    }
    bits.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn left(ban: &Ban, vocabulary: usize) -> Vec<u32> {
        let mut logits = vec![0.0; vocabulary];
        ban.apply(&mut logits);
        (0..vocabulary as u32).filter(|&id| logits[id as usize].is_finite()).collect()
    }

    #[test]
    fn what_may_be_drawn_is_what_the_rules_leave() {
        let pieces = Arc::new(Pieces::new(&testing::tokenizer()).unwrap());
        let rules = TokenRules { allowed: Some([70, 3, 40].into()), ..TokenRules::default() };
        assert_eq!(left(&Ban::new(&rules, &[], &pieces).unwrap(), 60), [3, 40]);
        let rules = TokenRules { min_tokens: 2, ..TokenRules::default() };
        let mut ban = Ban::new(&rules, &[1, 5, 900], &pieces).unwrap();
        for expected in [[0, 2, 3, 4].as_slice(), &[0, 2, 3, 4], &[0, 1, 2, 3, 4, 5]] {
            assert_eq!(left(&ban, 6), expected);
            ban.take(0);
        }
        assert!(Ban::new(&TokenRules { stop_tokens: vec![3], ..TokenRules::default() }, &[3], &pieces).is_none());
    }
}
