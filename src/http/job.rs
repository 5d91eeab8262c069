//! A wire request becomes a job: defaults filled in, every value checked against its range. Nothing is checked after this.

use std::ops::RangeInclusive;

use std::sync::Arc;

use crate::chat::{Message, Role, TemplateOptions};
use crate::config::Settings;
use crate::engine::tools::{Offer, Tool};
use crate::engine::{ConstraintSupport, EngineError, Input, ModelInfo, Sampling, TokenRules, WireSeed};
use crate::http::error::ApiError;
use crate::openai::{ChatRequest, CompletionRequest, DrawingFields, FineFields, JudgeState};

use super::constraint;
use super::draws::{logit_bias, stop};
use super::echo::Echo;
use super::fine;
use super::keys::checked_salt;
use super::plan::{Asked, SearchPlan};
use super::rules::Rules;
pub(super) use super::turns::{conversation, template};

/// What a request is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The model that answers.
    pub model: &'a ModelInfo,
    /// The name that clients use for it.
    pub name: &'a str,
    /// Which constraints it honours.
    pub constraints: ConstraintSupport,
    /// Whether it gives log-probabilities of a given text.
    pub scores: bool,
    /// Whether the models of both roles keep rules on tokens.
    pub token_rules: bool,
    /// What is known of the judge.
    pub judge: JudgeState,
    /// The server's defaults and caps.
    pub settings: &'a Settings,
}

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

/// A checked chat completion.
#[derive(Clone, Debug)]
pub struct ChatJob {
    /// The conversation to answer.
    pub messages: Vec<Message>,
    /// Variables of its chat template.
    pub template: TemplateOptions,
    /// How replies are drawn.
    pub drawing: Drawing,
    /// Tokens of an answer at most.
    pub max_tokens: Option<usize>,
    /// Alternatives per token, where logprobs are asked for.
    pub logprobs: Option<usize>,
    /// What the answer must match, and which field says so.
    pub constraint: Option<constraint::Asked>,
    /// The search; `None` is plain decoding.
    pub search: Option<SearchPlan>,
    /// The functions that the model may call.
    pub offer: Option<Arc<Offer>>,
}

/// A checked text completion.
#[derive(Clone, Debug)]
pub struct CompletionJob {
    /// What is continued: texts, or token ids.
    pub prompts: Vec<Input>,
    /// How replies are drawn.
    pub drawing: Drawing,
    /// Tokens of a continuation at most.
    pub max_tokens: usize,
    /// Alternatives per token, where logprobs are asked for.
    pub logprobs: Option<usize>,
    /// Where each text is shown in front of its continuations.
    pub echo: Option<Echo>,
    /// What the continuations must match, and which field says so.
    pub constraint: Option<constraint::Asked>,
}

impl ChatJob {
    /// Checks the body of a chat completion, whose search is checked by `rules`.
    ///
    /// # Errors
    /// Names the field and its allowed range.
    pub fn from_wire(body: ChatRequest, rules: Rules, limits: &Limits<'_>) -> Result<Self, ApiError> {
        let drawing = Drawing::from_wire(&body.drawing, limits)?;
        let messages = conversation(&body.messages)?;
        let mut template = template(body.chat_template_kwargs.as_ref(), body.reasoning_effort.as_deref())?;
        let (add_generation_prompt, continue_final_message) = (body.add_generation_prompt, body.continue_final_message);
        let end = fine::PromptEnd { add_generation_prompt, continue_final_message };
        template.ending = fine::ending(end, limits.token_rules)?;
        let offer = super::tools::from_wire(&body, limits.model.tool_format())?;
        if let Some(offer) = &offer {
            template.tools = offer.tools.iter().map(Tool::to_wire).collect();
            template.tool_fields = super::tools::upstream_fields(&body);
        }
        let max_tokens = match (body.max_tokens, body.max_completion_tokens) {
            (Some(old), Some(new)) if old != new => {
                let message =
                    format!("`max_tokens` ({old}) and `max_completion_tokens` ({new}) differ; send one of them");
                return Err(ApiError::invalid("max_tokens", message));
            }
            (_, Some(new)) => Some(count("max_completion_tokens", new)?),
            (Some(old), None) => Some(count("max_tokens", old)?),
            (None, None) => None,
        };
        let drawing = drawing.ruled(&body.fine, limits, max_tokens.and_then(|most| i64::try_from(most).ok()))?;
        let constraint = constraint::from_wire(&body, limits.constraints)?;
        let matched = constraint.as_ref().map(|asked| &asked.constraint);
        let asked = Asked { rules, drawing: &drawing, constraint: matched };
        let search = SearchPlan::from_wire(&body, asked, limits)?;
        let answered = |last: &Message| matches!(last.role, Role::User | Role::Tool);
        if search.is_some() && !messages.last().is_some_and(answered) {
            let message = "a search needs a conversation that ends in a `user` or `tool` message";
            return Err(ApiError::invalid("messages", message));
        }
        if search.is_some() {
            fine::refuse_in_search(&body)?;
        }
        let constraint = match &offer {
            Some(offer) if limits.constraints == ConstraintSupport::Everything => {
                let answer = constraint.map(|asked| asked.constraint);
                Some(constraint::Asked { param: "tools", constraint: offer.constraint(answer.as_ref()) })
            }
            _ => constraint,
        };
        let logprobs = logprobs(&body)?;
        Ok(Self { messages, template, max_tokens, logprobs, constraint, offer, search, drawing })
    }
}

impl CompletionJob {
    /// Checks the body of a text completion.
    ///
    /// # Errors
    /// Names the field and its allowed range.
    pub fn from_wire(body: CompletionRequest, limits: &Limits<'_>) -> Result<Self, ApiError> {
        let drawing = Drawing::from_wire(&body.drawing, limits)?;
        if drawing.alias {
            return Err(ApiError::invalid(
                "model",
                "text completions are never searched; use the name without `:search`",
            ));
        }
        let drawing = drawing.ruled(&body.fine, limits, body.max_tokens)?;
        // OpenAI's text completions know no constraint, so only servers that know vLLM's fields are sent one.
        let honoured = match limits.constraints {
            ConstraintSupport::Json if !limits.token_rules => ConstraintSupport::Nothing,
            honoured => honoured,
        };
        let constraint = constraint::from_wire(&body, honoured)?;
        let prompts = Vec::from(body.prompt);
        check_prompts(&prompts, "prompt", &drawing.sampling.rules, limits.model)?;
        let logprobs = body.logprobs.map(|top| within("logprobs", top, 0..=20)).transpose()?.map(size);
        let echo = match (body.echo.unwrap_or(false), body.max_tokens) {
            (true, Some(0)) => Some(Echo::Alone(logprobs.unwrap_or(0))),
            (true, _) => Some(logprobs.map_or(Echo::Text, Echo::Scored)),
            (false, Some(0)) => {
                return Err(ApiError::invalid("max_tokens", "`max_tokens` may be 0 with `echo: true` only"));
            }
            (false, _) => None,
        };
        if !limits.scores && echo.is_some_and(|echo| echo != Echo::Text) {
            let message = "`echo` with `logprobs` or `max_tokens: 0` needs an engine that scores a given text, which this \
                           model's does not; serve it with `--engine native`, or leave them out";
            return Err(ApiError::invalid("echo", message));
        }
        if drawing.sampling.rules.prompt_tail.is_some() && echo.is_some() {
            let message = "`echo` shows a whole prompt; leave out `truncate_prompt_tokens`, or `echo`";
            return Err(ApiError::invalid("truncate_prompt_tokens", message));
        }
        // Absent: OpenAI's default, and vLLM's.
        let max_tokens = match body.max_tokens {
            Some(max) if !matches!(echo, Some(Echo::Alone(_))) => count("max_tokens", max)?,
            Some(_) => 0,
            None => 16,
        };
        let answers = prompts.len().saturating_mul(drawing.choices);
        let most = limits.settings.http.max_choices;
        if prompts.is_empty() || answers > most {
            let message = format!("`prompt` times `n` must be between 1 and {most} answers, got {answers}");
            return Err(ApiError::invalid("prompt", message));
        }
        Ok(Self { prompts, drawing, max_tokens, logprobs, echo, constraint })
    }
}

impl Drawing {
    fn from_wire(fields: &DrawingFields, limits: &Limits<'_>) -> Result<Self, ApiError> {
        let (model, alias) = resolve(fields.model.as_deref(), limits.name)?;
        let http = &limits.settings.http;
        let most = i64::try_from(http.max_choices).unwrap_or(i64::MAX);
        if fields.stream != Some(true) && fields.stream_options.is_some() {
            return Err(ApiError::invalid("stream_options", "`stream_options` needs `stream: true`"));
        }
        let delivery = match (fields.stream, fields.stream_options.as_ref().and_then(|o| o.include_usage)) {
            (Some(true), Some(true)) => Delivery::StreamWithUsage,
            (Some(true), _) => Delivery::Stream,
            _ => Delivery::Whole,
        };
        let d = limits.model.default_sampling();
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
            logit_bias: logit_bias(fields, limits.model.vocabulary)?,
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
    fn ruled(mut self, fields: &FineFields, limits: &Limits<'_>, max_tokens: Option<i64>) -> Result<Self, ApiError> {
        self.sampling.rules = fine::token_rules(fields, limits, max_tokens)?;
        self.prompt_logprobs = fine::prompt_logprobs(fields, limits, self.delivery != Delivery::Whole)?;
        self.id = fine::request_id(fields)?;
        self.priority = fields.priority.unwrap_or(0);
        Ok(self)
    }
}

/// Refuses token ids of the field `param` that are not in the vocabulary, and more of them than leave room in the context.
///
/// # Errors
/// Names the field.
pub(super) fn check_prompts(
    prompts: &[Input],
    param: &'static str,
    rules: &TokenRules,
    model: &ModelInfo,
) -> Result<(), ApiError> {
    let lists = prompts.iter().filter_map(|prompt| match prompt {
        Input::Tokens(ids) => Some(ids),
        Input::Chat(_) | Input::Text(_) => None,
    });
    for ids in lists {
        fine::known_ids(param, ids, model.vocabulary)?;
        let (tokens, limit) = (ids.len(), model.context);
        if tokens >= limit && rules.prompt_tail.is_none() {
            return Err(ApiError::from(EngineError::PromptTooLong { tokens, limit }).about(param));
        }
    }
    Ok(())
}

/// The name to answer with, and whether it is the search alias.
///
/// # Errors
/// [`ApiError::UnknownModel`].
pub fn resolve(asked: Option<&str>, served: &str) -> Result<(String, bool), ApiError> {
    match asked {
        None => Ok((served.to_owned(), false)),
        Some(name) if name == served => Ok((name.to_owned(), false)),
        Some(name) if name.strip_suffix(":search") == Some(served) => Ok((name.to_owned(), true)),
        Some(name) => Err(ApiError::UnknownModel(name.to_owned())),
    }
}

/// `value`, if it is in `range`.
pub(super) fn within<T: PartialOrd + std::fmt::Display + Copy>(
    param: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<T, ApiError> {
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("`{param}` must be between {} and {}, got {value}", range.start(), range.end());
    Err(ApiError::invalid(param, message))
}

/// A whole number of at least 1.
pub(super) fn count(param: &str, value: i64) -> Result<usize, ApiError> {
    if value < 1 {
        return Err(ApiError::invalid(param, format!("`{param}` must be at least 1, got {value}")));
    }
    Ok(size(value))
}

/// A checked number as a size.
pub(super) fn size(value: i64) -> usize {
    usize::try_from(value).unwrap_or(0)
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

fn logprobs(body: &ChatRequest) -> Result<Option<usize>, ApiError> {
    let top = body.top_logprobs.map(|top| within("top_logprobs", top, 0..=20)).transpose()?.map(size);
    match (body.logprobs.unwrap_or(false), top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, Some(1..)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` needs `logprobs: true`")),
        (false, _) => Ok(None),
    }
}
