//! A wire request becomes a job: defaults filled in, every value checked against its range. Nothing is checked after this.

use std::ops::RangeInclusive;

use std::sync::Arc;

use crate::chat::{Effort, Message, RESERVED, Role, TemplateKwargs, TemplateOptions, ToolCall};
use crate::config::Settings;
use crate::engine::tools::{self, Offer, Tool};
use crate::engine::{Engine, ModelInfo, Sampling};
use crate::http::error::ApiError;
use crate::openai::{ChatMessage, ChatRequest, CompletionRequest, Content, DrawingFields, JudgeState, Prompt};

use super::constraint;
use super::draws::{logit_bias, stop};
use super::echo::Echo;
use super::keys::checked_salt;
use super::plan::{Asked, SearchPlan};
use super::rules::Rules;

/// What a request is checked against.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// The model that answers.
    pub model: &'a ModelInfo,
    /// The name that clients use for it.
    pub name: &'a str,
    /// Which constraints it honours.
    pub constrains: Constrains,
    /// Whether it gives log-probabilities of a given text.
    pub scores: bool,
    /// How tokens are drawn where a request does not say.
    pub sampling: &'a Sampling,
    /// How the model writes calls of functions.
    pub tool_format: tools::Format,
    /// What is known of the judge.
    pub judge: JudgeState,
    /// The server's defaults and caps.
    pub settings: &'a Settings,
}

/// Which constraints a model honours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constrains {
    /// No constraint is honoured.
    Nothing,
    /// JSON schemas are honoured.
    Json,
    /// Every kind of constraint is honoured.
    Everything,
}

impl Constrains {
    /// What `engine` says.
    pub fn of(engine: &dyn Engine) -> Self {
        match (engine.constrains(), engine.constrains_json()) {
            (true, _) => Self::Everything,
            (false, true) => Self::Json,
            (false, false) => Self::Nothing,
        }
    }
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
    /// The texts to continue.
    pub prompts: Vec<String>,
    /// How replies are drawn.
    pub drawing: Drawing,
    /// Tokens of a continuation at most.
    pub max_tokens: usize,
    /// Alternatives per token, where logprobs are asked for.
    pub logprobs: Option<usize>,
    /// Where each text is shown in front of its continuations.
    pub echo: Option<Echo>,
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
        let offer = super::tools::from_wire(&body, limits.tool_format)?;
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
        let constraint = constraint::from_wire(&body, limits.constrains)?;
        let matched = constraint.as_ref().map(|asked| &asked.constraint);
        let asked = Asked { rules, drawing: &drawing, constraint: matched };
        let search = SearchPlan::from_wire(&body, asked, limits)?;
        let answered = |last: &Message| matches!(last.role, Role::User | Role::Tool);
        if search.is_some() && !messages.last().is_some_and(answered) {
            let message = "a search needs a conversation that ends in a `user` or `tool` message";
            return Err(ApiError::invalid("messages", message));
        }
        let constraint = match &offer {
            Some(offer) if limits.constrains == Constrains::Everything => {
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
        let texts = match body.prompt {
            Prompt::One(text) => vec![text],
            Prompt::Many(texts) => texts,
        };
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
        // Absent: OpenAI's default, and vLLM's.
        let max_tokens = match body.max_tokens {
            Some(max) if !matches!(echo, Some(Echo::Alone(_))) => count("max_tokens", max)?,
            Some(_) => 0,
            None => 16,
        };
        let answers = texts.len().saturating_mul(drawing.choices);
        let most = limits.settings.http.max_choices;
        if texts.is_empty() || answers > most {
            let message = format!("`prompt` times `n` must be between 1 and {most} answers, got {answers}");
            return Err(ApiError::invalid("prompt", message));
        }
        Ok(Self { prompts: texts, drawing, max_tokens, logprobs, echo })
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
        let d = limits.sampling;
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
            ignore_eos: fields.ignore_eos.unwrap_or(d.ignore_eos),
        };
        Ok(Self {
            model,
            alias,
            sampling,
            choices: size(within("n", fields.n.unwrap_or(1), 1..=most)?),
            stop: stop(fields.stop.as_ref())?,
            delivery,
            salt: fields.cache_salt.as_deref().map(checked_salt).transpose()?,
        })
    }
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

/// The variables of a chat's template, from the request's fields.
pub(super) fn template(kwargs: Option<&TemplateKwargs>, effort: Option<&str>) -> Result<TemplateOptions, ApiError> {
    let kwargs = kwargs.cloned().unwrap_or_default();
    if let Some(name) = kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
        let param = format!("chat_template_kwargs.{name}");
        let message = format!("`{param}` is set by the server for every chat; leave it out");
        return Err(ApiError::invalid(&param, message));
    }
    let known = |word: &str| Effort::ALL.into_iter().find(|effort| effort.name() == word);
    let effort = effort.map(|word| {
        known(word).ok_or_else(|| {
            let words = Effort::ALL.map(Effort::name).join(", ");
            let message = format!("`reasoning_effort` must be one of {words}, got {word:?}");
            ApiError::invalid("reasoning_effort", message)
        })
    });
    Ok(TemplateOptions::new(kwargs, effort.transpose()?))
}

pub(super) fn conversation(messages: &[ChatMessage]) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must hold at least one message"));
    }
    messages.iter().enumerate().map(|(index, message)| turn(index, message)).collect()
}

fn turn(index: usize, message: &ChatMessage) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        other => {
            let param = format!("messages[{index}].role");
            let text = format!("`{param}` must be system, developer, user, assistant or tool, got {other:?}");
            return Err(ApiError::invalid(param, text));
        }
    };
    let content = match &message.content {
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => {
            let mut texts = Vec::with_capacity(parts.len());
            for (at, part) in parts.iter().enumerate() {
                let param = format!("messages[{index}].content[{at}]");
                match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => texts.push(text.as_str()),
                    ("text", None) => return Err(ApiError::invalid(&param, format!("`{param}.text` is missing"))),
                    (kind, _) => {
                        let text = format!("`{param}` is of type {kind:?}; only text is served here");
                        return Err(ApiError::invalid(&param, text));
                    }
                }
            }
            texts.join("\n")
        }
        None if role == Role::Assistant && message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) => {
            String::new()
        }
        None => {
            let param = format!("messages[{index}].content");
            return Err(ApiError::invalid(&param, format!("`{param}` must be a string or a list of text parts")));
        }
    };
    let reasoning = message.reasoning_content.clone().filter(|_| role == Role::Assistant);
    let calls = message.tool_calls.iter().flatten().map(ToolCall::from);
    Ok(Message {
        reasoning,
        tool_calls: calls.filter(|_| role == Role::Assistant).collect(),
        tool_call_id: message.tool_call_id.clone().filter(|_| role == Role::Tool),
        name: message.name.clone().filter(|_| role == Role::Tool),
        ..Message::new(role, content)
    })
}
