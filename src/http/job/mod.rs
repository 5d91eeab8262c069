//! A wire request becomes a job: defaults filled in, every value checked against its range. Nothing is checked after this.

pub mod bounds;
pub mod constraint;
pub mod drawing;
pub mod draws;
pub mod fine;
pub mod metadata;
pub mod names;
pub mod plan;
pub mod ranges;
pub mod rules;
pub mod strict;
pub mod tools;
pub mod turns;

use std::sync::Arc;

use crate::chat::{Message, Role, TemplateOptions};
use crate::engine::tools::{Offer, Tool};
use crate::engine::{ConstraintSupport, Input};
use crate::http::error::ApiError;
use crate::openai::{ChatRequest, CompletionRequest};

use self::bounds::Bounds;
use self::drawing::Drawing;
use self::plan::{Asked, SearchPlan};
use self::ranges::{count, size, within};
use self::rules::Rules;
use self::turns::{conversation, template};
use crate::http::answer::echo::Echo;

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
    pub fn from_wire(body: ChatRequest, rules: Rules, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let drawing = Drawing::from_wire(&body.drawing, bounds)?;
        let messages = conversation(&body.messages)?;
        let mut template = template(body.chat_template_kwargs.as_ref(), body.reasoning_effort.as_deref())?;
        let (add_generation_prompt, continue_final_message) = (body.add_generation_prompt, body.continue_final_message);
        let end = fine::PromptEnd { add_generation_prompt, continue_final_message };
        template.ending = fine::ending(end, bounds.token_rules)?;
        let offer = crate::http::job::tools::from_wire(&body, bounds.model.tool_format())?;
        if let Some(offer) = &offer {
            template.tools = offer.tools.iter().map(Tool::to_wire).collect();
            template.tool_fields = crate::http::job::tools::upstream_fields(&body);
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
        let drawing = drawing.ruled(&body.fine, bounds, max_tokens.and_then(|most| i64::try_from(most).ok()))?;
        let constraint = constraint::from_wire(&body, bounds.constraints)?;
        let matched = constraint.as_ref().map(|asked| &asked.constraint);
        let asked = Asked { rules, drawing: &drawing, constraint: matched };
        let search = SearchPlan::from_wire(&body, asked, bounds)?;
        let answered = |last: &Message| matches!(last.role, Role::User | Role::Tool);
        if search.is_some() && !messages.last().is_some_and(answered) {
            let message = "a search needs a conversation that ends in a `user` or `tool` message";
            return Err(ApiError::invalid("messages", message));
        }
        if search.is_some() {
            fine::refuse_in_search(&body)?;
        }
        let constraint = match &offer {
            Some(offer) if bounds.constraints == ConstraintSupport::Everything => {
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
    pub fn from_wire(body: CompletionRequest, bounds: &Bounds<'_>) -> Result<Self, ApiError> {
        let drawing = Drawing::from_wire(&body.drawing, bounds)?;
        if drawing.alias {
            return Err(ApiError::invalid(
                "model",
                "text completions are never searched; use the name without `:search`",
            ));
        }
        let drawing = drawing.ruled(&body.fine, bounds, body.max_tokens)?;
        // OpenAI's text completions know no constraint, so only servers that know vLLM's fields are sent one.
        let honoured = match bounds.constraints {
            ConstraintSupport::Json if !bounds.token_rules => ConstraintSupport::Nothing,
            honoured => honoured,
        };
        let constraint = constraint::from_wire(&body, honoured)?;
        let prompts = Vec::from(body.prompt);
        fine::check_prompts(&prompts, "prompt", &drawing.sampling.rules, bounds.model)?;
        let logprobs = body.logprobs.map(|top| within("logprobs", top, 0..=20)).transpose()?.map(size);
        let echo = match (body.echo.unwrap_or(false), body.max_tokens) {
            (true, Some(0)) => Some(Echo::Alone(logprobs.unwrap_or(0))),
            (true, _) => Some(logprobs.map_or(Echo::Text, Echo::Scored)),
            (false, Some(0)) => {
                return Err(ApiError::invalid("max_tokens", "`max_tokens` may be 0 with `echo: true` only"));
            }
            (false, _) => None,
        };
        if !bounds.scores && echo.is_some_and(|echo| echo != Echo::Text) {
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
        let most = bounds.settings.http.max_choices;
        if prompts.is_empty() || answers > most {
            let message = format!("`prompt` times `n` must be between 1 and {most} answers, got {answers}");
            return Err(ApiError::invalid("prompt", message));
        }
        Ok(Self { prompts, drawing, max_tokens, logprobs, echo, constraint })
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
