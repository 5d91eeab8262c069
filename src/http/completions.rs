//! `POST /v1/completions`: text continued, whole or as events.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt};

use super::Shared;
use super::admit::{Arrival, fits};
use super::answer::{self, Hold, Part};
use super::echo;
use super::error::ApiError;
use super::job::{CompletionJob, Delivery};
use super::keys::Caller;
use super::limits::Ask;
use super::models;
use super::stream::{event, events};
use crate::engine::{Input, Origin, Purpose, Request, ScoredToken, TokenLogprobs};
use crate::openai::{CompletionChoice, CompletionLogprobs, CompletionRequest, CompletionResponse, ErrorBody, Usage};

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
pub async fn complete(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let arrival = Arrival::read(&state, Arc::clone(&tenant), &headers, body).await?;
    let clock = arrival.clock;
    let pinned = clock.bound(async { Ok(state.served.pin_present().await) }).await?;
    let generations = models::ids(&pinned);
    let make = {
        let (state, pinned) = (Arc::clone(&state), pinned.clone());
        move |asked| {
            let job = CompletionJob::from_wire(asked, &state.limits(&pinned))?;
            let fit = |prompt: &String| fits(pinned.actor.engine.as_ref(), prompt.len());
            job.prompts.iter().try_for_each(fit).map_err(|error| error.about("prompt"))?;
            Ok(job)
        }
    };
    let ready = arrival.made(make).await?;
    let ask = Ask::plain(ready.job.prompts.len() * ready.job.drawing.choices);
    let bytes = ready.job.prompts.iter().map(String::len).sum();
    let (job, permit) = ready.enter(&state.gate, ask, bytes).await?;
    let behalf = state.behalf(tenant, job.drawing.salt.as_deref(), ask.kind);
    let hold = Hold { permit, pinned, behalf, clock, abort: state.abort.clone() };
    let delivery = job.drawing.delivery;
    let count = job.prompts.len() * job.drawing.choices;
    let mut growing = Growing {
        head: Head {
            id: format!("cmpl-{}", uuid::Uuid::new_v4().simple()),
            created: super::models::now(),
            model: job.drawing.model.clone(),
            fingerprint: super::models::fingerprint(&hold.pinned),
        },
        offsets: vec![0; count],
        prompts: job.prompts.clone(),
    };
    let echo = job.echo;
    let parts = answer::plain(hold, requests(job), echo).map_err(|error| error.about("prompt"));
    if delivery != Delivery::Whole {
        let mut response = events(parts, move |part| growing.show(part, delivery)).await?;
        models::show_generations(&mut response, &generations);
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
            Part::Finished { choice, reason } => choices[choice].finish_reason = Some(reason.into()),
            Part::Done { usage, .. } => used = usage,
            Part::Alive | Part::Progress(_) => {}
        }
    }
    let mut response = Json(growing.response(choices, Some(used))).into_response();
    models::show_generations(&mut response, &generations);
    Ok(response)
}

fn requests(job: CompletionJob) -> Vec<Request> {
    let request = |text| Request {
        purpose: Purpose::Answer,
        input: Input::Text(text),
        sampling: job.drawing.sampling.clone(),
        samples: job.drawing.choices,
        max_tokens: Some(job.max_tokens),
        stop: job.drawing.stop.clone(),
        logprobs: job.logprobs,
        constraint: None,
        origin: Origin::default(),
    };
    job.prompts.into_iter().map(request).collect()
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
    /// The texts that are continued, each by as many choices as the others.
    prompts: Vec<String>,
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
                let last =
                    CompletionChoice { finish_reason: Some(reason.into()), ..self.step(choice, String::new(), &[]) };
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
        CompletionChoice { index, text: prompt.clone(), logprobs: echo::logprobs(prompt, tokens), finish_reason: None }
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
        CompletionChoice { index, text, logprobs, finish_reason: None }
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
