//! How every reply of a request is drawn, and how the answer is delivered.

use std::ops::RangeInclusive;

use super::bounds::Bounds;
use super::draws::{logit_bias, stop};
use super::fine;
use super::ranges::{size, within};
use crate::engine::{Sampling, TokenRules, WireSeed};
use crate::http::door::chosen::resolve;
use crate::http::door::keys::checked_salt;
use crate::http::error::ApiError;
use crate::openai::{DrawingFields, FineFields};

/// How an answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One body with the whole answer.
    Whole,
    /// A stream of events.
    Stream,
    /// A stream of events that ends with one that has `usage`.
    StreamWithUsage,
}

/// How every reply of a request is drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// The model as it was asked for.
    pub model: String,
    /// Whether that name was a `:search` alias.
    pub alias: bool,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Answers per prompt.
    pub choices: usize,
    /// Where an answer ends.
    pub stop: Vec<String>,
    /// How the answer is delivered.
    pub delivery: Delivery,
    /// What keeps its prefixes apart from those of the same caller's other requests.
    pub salt: Option<String>,
    /// The end of the answer's id, where the caller chose it.
    pub id: Option<String>,
    /// Alternatives for each of the prompt's tokens, where they are asked for.
    pub prompt_logprobs: Option<usize>,
    /// The place among the waiting requests of its caller.
    pub priority: i64,
}

impl Drawing {
    pub(in crate::http) fn from_wire(fields: &DrawingFields, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let (model, alias) = resolve(fields.model.as_deref(), bounds.name)?;
        let http = &bounds.settings.http;
        let most = i64::try_from(http.max_choices).unwrap_or(i64::MAX);
        if fields.stream != Some(true) && fields.stream_options.is_some() {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream: true`"));
        }
        let delivery = match (fields.stream, fields.stream_options.as_ref().and_then(|o| o.include_usage)) {
            (Some(true), Some(true)) => Delivery::StreamWithUsage,
            (Some(true), _) => Delivery::Stream,
            _ => Delivery::Whole,
        };
        let d = bounds.model.default_sampling();
        let sampling = Sampling {
            temperature: ranged("temperature", fields.temperature, 0.0..=2.0, d.temperature)?,
            // The likeliest token alone has at least this mass, so 0 leaves it and nothing else.
            top_p: ranged("top_p", fields.top_p, 0.0..=1.0, d.top_p)?.max(f32::MIN_POSITIVE),
            top_k: fields.top_k.map_or(Ok(d.top_k), top_k)?,
            min_p: ranged("min_p", fields.min_p, 0.0..=1.0, d.min_p)?,
            frequency_penalty: ranged("frequency_penalty", fields.frequency_penalty, -2.0..=2.0, d.frequency_penalty)?,
            presence_penalty: ranged("presence_penalty", fields.presence_penalty, -2.0..=2.0, d.presence_penalty)?,
            repetition_penalty: ranged(
                "repetition_penalty",
                fields.repetition_penalty,
                Sampling::REPETITION_PENALTY,
                d.repetition_penalty,
            )?,
            logit_bias: logit_bias(fields, bounds.model.vocabulary)?,
            seed: fields.seed.map_or_else(rand::random, i64::cast_unsigned),
            wire_seed: fields.seed.map_or(WireSeed::Absent, WireSeed::Given),
            ignore_eos: fields.ignore_eos.unwrap_or(d.ignore_eos),
            rules: TokenRules::default(),
        };
        Ok(Self {
            model,
            alias,
            sampling,
            choices: size(within("n", fields.n.unwrap_or(1), 1..=most)?),
            stop: stop(fields.stop.as_ref())?,
            delivery,
            salt: fields.cache_salt.as_deref().map(checked_salt).transpose()?,
            id: None,
            prompt_logprobs: None,
            priority: 0,
        })
    }

    /// Adds vLLM's fields for single tokens and for prompts. A reply has at most `max_tokens` tokens.
    pub(in crate::http) fn ruled(
        mut self,
        fields: &FineFields,
        bounds: &Bounds<'_>,
        max_tokens: Option<i64>,
    ) -> Result<Self, ApiError> {
        self.sampling.rules = fine::token_rules(fields, bounds, max_tokens)?;
        self.prompt_logprobs = fine::prompt_logprobs(fields, bounds, self.delivery != Delivery::Whole)?;
        self.id = fine::request_id(fields)?;
        self.priority = fields.priority.unwrap_or(0);
        Ok(self)
    }
}

fn ranged(param: &str, value: Option<f64>, range: RangeInclusive<f64>, default: f32) -> Result<f32, ApiError> {
    value.map_or(Ok(default), |value| Ok(within(param, value, range)? as f32))
}

fn top_k(value: i64) -> Result<Option<usize>, ApiError> {
    match value {
        -1 | 0 => Ok(None),
        k if k > 0 => Ok(Some(size(k))),
        k => Err(ApiError::invalid("top_k", format!("`top_k` must be at least 1, or -1 or 0 for all tokens, got {k}"))),
    }
}
