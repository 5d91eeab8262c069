//! `POST /v1/completions`: text continued, whole or as events.

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};

use crate::engine::{Engine, Input, Origin, Purpose, Request, ScoredToken, TokenLogprobs};
use crate::http::answer;
use crate::http::answer::echo::{self, Echo};
use crate::http::answer::hold::Hold;
use crate::http::answer::part::Part;
use crate::http::answer::sse::{event, events};
use crate::http::door::admit::fits;
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::door::limits::Ask;
use crate::http::error::ApiError;
use crate::http::job::CompletionJob;
use crate::http::job::drawing::Delivery;
use crate::http::served;
use crate::openai::{
    CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, ErrorBody, StopCause, Usage,
    prompt_logprobs,
};

/// Continues a text.
#[utoipa::path(
    post, path = "/v1/completions", tag = "completions", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations; with `stream` as server-sent events", content(
            (CompletionResponse = "application/json"), (CompletionResponse = "text/event-stream"),
        )),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn complete(call: Call) -> Result<Response, ApiError> {
    let make = {
        let state = Arc::clone(&call.state);
        move |asked, chosen: &Chosen| {
            let job = CompletionJob::from_wire(asked, &state.bounds(chosen))?;
            let engine = chosen.pinned.actor.engine.as_ref();
            if job.drawing.sampling.rules.prompt_tail.is_none() {
                let fit = |prompt: &Input| match prompt {
                    Input::Text(text) => fits(engine, text.len()),
                    Input::Chat(_) | Input::Tokens(_) => Ok(()),
                };
                job.prompts.iter().try_for_each(fit).map_err(|error| error.about("prompt"))?;
            }
            let texts: Vec<String> = match job.echo {
                Some(_) => job.prompts.iter().map(|prompt| text_of(prompt, engine)).collect::<Result<_, _>>()?,
                None => vec![String::new(); job.prompts.len()],
            };
            let ask = Ask::plain(job.prompts.len() * job.drawing.choices).at(job.drawing.priority);
            let bytes = job.prompts.iter().map(Input::bytes).sum();
            Ok(Made { job: (job, texts), ask, bytes })
        }
    };
    let entered = enter(call, make).await?;
    let behalf = entered.behalf(entered.job.0.drawing.salt.as_deref());
    let Entered { job: (job, texts), state, chosen, clock, permit, .. } = entered;
    let generations = served::ids(&chosen.pinned);
    let hold = Hold { permit, pinned: chosen.pinned, behalf, clock, abort: state.abort.clone() };
    let delivery = job.drawing.delivery;
    let count = job.prompts.len() * job.drawing.choices;
    let mut growing = Growing {
        head: Head {
            id: served::answer_id("cmpl", job.drawing.id.as_deref()),
            created: crate::http::served::now(),
            model: job.drawing.model.clone(),
            fingerprint: crate::http::served::fingerprint(&hold.pinned),
        },
        offsets: vec![0; count],
        prompts: texts,
        stop: job.drawing.stop.clone(),
        echo: job.echo,
        prompt_logprobs: job.drawing.prompt_logprobs,
    };
    let scoring = echo::scoring(job.echo, job.drawing.prompt_logprobs);
    let constrained_by = job.constraint.as_ref().map_or("structured_outputs", |asked| asked.param);
    let blamed = move |error: ApiError| error.about("prompt").of_constraint(constrained_by);
    let parts = answer::plain(hold, requests(job), scoring).map_err(blamed);
    if delivery != Delivery::Whole {
        let mut response = events(parts, move |part| growing.show(part, delivery)).await?;
        served::show_generations(&mut response, &generations);
        return Ok(response);
    }
    let mut choices: Vec<CompletionChoice> = (0..count).map(|index| growing.step(index, String::new(), &[])).collect();
    let mut used = Usage::default();
    let mut parts = Box::pin(parts);
    while let Some(part) = parts.next().await {
        match part? {
            Part::Echo { choice, tokens } => extend(&mut choices[choice], growing.echo(choice, &tokens)),
            Part::Delta { choice, text, logprobs, .. } => {
                extend(&mut choices[choice], growing.step(choice, text, &logprobs))
            }
            Part::Finished { choice, reason } => {
                choices[choice].finish_reason = Some(reason.into());
                choices[choice].stop_reason = StopCause::of(reason, &growing.stop);
            }
            Part::Done { usage, .. } => used = usage,
            Part::Alive | Part::Progress(_) => {}
        }
    }
    let mut response = Json(growing.response(choices, Some(used))).into_response();
    served::show_generations(&mut response, &generations);
    Ok(response)
}

fn requests(job: CompletionJob) -> Vec<Request> {
    let constraint = job.constraint.map(|asked| asked.constraint);
    let request = |input| Request {
        purpose: Purpose::Answer,
        input,
        sampling: job.drawing.sampling.clone(),
        samples: job.drawing.choices,
        max_tokens: Some(job.max_tokens),
        stop: job.drawing.stop.clone(),
        logprobs: job.logprobs,
        constraint: constraint.clone(),
        origin: Origin::default(),
    };
    job.prompts.into_iter().map(request).collect()
}

/// A prompt as an echo shows it.
fn text_of(prompt: &Input, engine: &dyn Engine) -> Result<String, ApiError> {
    let ids = match prompt {
        Input::Text(text) => return Ok(text.clone()),
        Input::Tokens(ids) => ids,
        Input::Chat(_) => return Ok(String::new()),
    };
    let refuse = |reason: &str| ApiError::invalid("echo", format!("`echo` cannot show these token ids: {reason}"));
    let tokenizer = engine.info().tokenizer().cloned().ok_or_else(|| refuse("this model's engine has no tokenizer"))?;
    tokenizer.decode(ids, false).map_err(|error| refuse(&error.to_string()))
}

struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
}

/// Continuations while they grow: parts become choices.
struct Growing {
    head: Head,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
    /// The texts that are continued, each by as many choices as the others; empty where none is shown.
    prompts: Vec<String>,
    /// The strings that end a continuation.
    stop: Vec<String>,
    /// How they are shown.
    echo: Option<Echo>,
    /// Alternatives for each of their tokens, where they are asked for.
    prompt_logprobs: Option<usize>,
}

impl Growing {
    fn show(&mut self, part: Part, delivery: Delivery) -> String {
        match part {
            Part::Echo { choice, tokens } => {
                let echo = self.echo(choice, &tokens);
                event(&self.response(vec![echo], None))
            }
            Part::Delta { choice, text, logprobs, .. } => {
                let step = self.step(choice, text, &logprobs);
                event(&self.response(vec![step], None))
            }
            Part::Finished { choice, reason } => {
                let last = CompletionChoice {
                    finish_reason: Some(reason.into()),
                    stop_reason: StopCause::of(reason, &self.stop),
                    ..self.step(choice, String::new(), &[])
                };
                event(&self.response(vec![last], None))
            }
            Part::Done { usage, .. } if delivery == Delivery::StreamWithUsage => {
                event(&self.response(Vec::new(), Some(usage)))
            }
            Part::Done { .. } | Part::Alive | Part::Progress(_) => String::new(),
        }
    }

    /// The prompt of a choice.
    fn echo(&mut self, index: usize, tokens: &[ScoredToken]) -> CompletionChoice {
        let prompt = &self.prompts[index * self.prompts.len() / self.offsets.len()];
        self.offsets[index] = prompt.chars().count();
        let logprobs = match self.echo {
            Some(Echo::Scored(top) | Echo::Alone(top)) => echo::logprobs(prompt, tokens, top),
            Some(Echo::Text) | None => None,
        };
        let prompt_logprobs = self.prompt_logprobs.map(|top| prompt_logprobs(tokens, top));
        CompletionChoice {
            index,
            text: prompt.clone(),
            logprobs,
            finish_reason: None,
            stop_reason: None,
            prompt_logprobs,
        }
    }

    fn step(&mut self, index: usize, text: String, tokens: &[TokenLogprobs]) -> CompletionChoice {
        let mut offset = self.offsets[index];
        self.offsets[index] += text.chars().count();
        let mut logprobs = CompletionLogprobs::default();
        for token in tokens {
            logprobs.push(&token.token.bytes, Some(token), offset);
            offset += String::from_utf8_lossy(&token.token.bytes).chars().count();
        }
        let logprobs = (!tokens.is_empty()).then_some(logprobs);
        CompletionChoice { index, text, logprobs, finish_reason: None, stop_reason: None, prompt_logprobs: None }
    }

    fn response(&self, choices: Vec<CompletionChoice>, usage: Option<Usage>) -> CompletionResponse {
        CompletionResponse {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.fingerprint.clone(),
            choices,
            usage,
        }
    }
}

fn extend(choice: &mut CompletionChoice, step: CompletionChoice) {
    choice.text.push_str(&step.text);
    choice.prompt_logprobs = choice.prompt_logprobs.take().or(step.prompt_logprobs);
    match (&mut choice.logprobs, step.logprobs) {
        (Some(all), Some(new)) => {
            all.tokens.extend(new.tokens);
            all.token_logprobs.extend(new.token_logprobs);
            all.top_logprobs.extend(new.top_logprobs);
            all.text_offset.extend(new.text_offset);
        }
        (all @ None, new) => *all = new,
        (Some(_), None) => {}
    }
}
