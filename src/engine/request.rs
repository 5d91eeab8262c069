//! What a model is asked for: a prompt, how tokens are drawn, and what the replies must match.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::origin::Origin;
use super::token_rules::{TokenRules, WireSeed};
use crate::chat::{Message, Thinking};
use crate::constraint::Constraint;
use crate::question::Input;

/// What a call is for; engines schedule by it, metrics label by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A draft or a plain answer.
    Answer,
    /// A critique that ends in a verdict.
    Judge,
    /// A rewrite of a response that was judged wrong.
    Refine,
}

/// How tokens are drawn. Every field is set; `Sampling::default()` is the model's plain distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// The k likeliest tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Tokens with at least this share of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// Subtracted once per earlier occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurs in the reply.
    pub presence_penalty: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens in prompt and reply; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens before everything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Fixes the draw: sibling `i` uses stream `i` of it.
    pub seed: u64,
    /// The seed that another server is given, where one draws the reply.
    pub wire_seed: WireSeed,
    /// Keep going after the end-of-sequence token.
    pub ignore_eos: bool,
    /// Rules on single tokens.
    pub rules: TokenRules,
}

impl Sampling {
    /// What the penalty on repetition may be: beyond these numbers it leaves nothing of the model's own scores, or makes them
    /// infinite.
    pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            wire_seed: WireSeed::Derived,
            ignore_eos: false,
            rules: TokenRules::default(),
        }
    }
}

/// One prompt and how many sibling replies to it are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the call is for.
    pub purpose: Purpose,
    /// What the model is given.
    pub input: Input,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Sibling replies, at least 1. Sibling `i` of a seeded request is always the same text.
    pub samples: usize,
    /// Tokens per reply at most; `None` is what is left of the context.
    pub max_tokens: Option<usize>,
    /// A reply ends before the first of these strings; they are never part of its text.
    pub stop: Vec<String>,
    /// `Some(n)`: every token carries its natural-log probability and the `n` likeliest alternatives.
    pub logprobs: Option<usize>,
    /// What the text must match.
    pub constraint: Option<Constraint>,
    /// The client on whose behalf the call is made.
    pub origin: Origin,
}

impl Request {
    /// One reply to `messages` with the model's plain distribution. A judge and a refiner do not think: what they write is
    /// read for its form, and a critique is reasoning already.
    pub fn chat(purpose: Purpose, messages: Vec<Message>) -> Self {
        let input = match purpose {
            Purpose::Answer => Input::chat(messages),
            Purpose::Judge | Purpose::Refine => Input::chat_without_thinking(messages),
        };
        Self {
            purpose,
            input,
            sampling: Sampling::default(),
            samples: 1,
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            constraint: None,
            origin: Origin::default(),
        }
    }

    /// Whether a grammar holds the reply from its first token on.
    pub(crate) fn leaves_no_room_for_reasoning(&self) -> bool {
        self.constraint.as_ref().is_some_and(|wanted| !matches!(wanted, Constraint::Calls { optional: true, .. }))
    }

    /// The input as an engine should render it whose grammars hold from a reply's first token on. They leave no room for
    /// reasoning, so the prompt must not begin any.
    pub fn constrained_input(&self) -> Cow<'_, Input> {
        match &self.input {
            Input::Chat(chat) if self.leaves_no_room_for_reasoning() && chat.options.thinking != Thinking::Off => {
                let mut chat = chat.clone();
                chat.options.thinking = Thinking::Off;
                Cow::Owned(Input::Chat(chat))
            }
            input => Cow::Borrowed(input),
        }
    }
}

/// Stream `index` of `seed`: how siblings, votes and branches get seeds of their own (SplitMix64's finalizer).
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
