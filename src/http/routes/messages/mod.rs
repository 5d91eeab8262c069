//! `POST /v1/messages` and `/v1/messages/count_tokens`: Anthropic's Messages API as a translation from and to a chat
//! completion.

pub mod envelope;
mod translate;
mod turns;
mod writing;

use std::sync::Arc;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::anthropic::{
    CountTokensAnswer, CountTokensRequest, MessagesAnswer, MessagesErrorBody, MessagesEvent, MessagesRequest,
};
use crate::chat::{Chat, Message};
use crate::engine::EngineError;
use crate::engine::blocking::blocking;
use crate::http::answer::part::Part;
use crate::http::answer::search_header::{self, Running};
use crate::http::answer::sse::{Wire, named_event, named_events};
use crate::http::conversation::{Begun, begin, made};
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::http::job::drawing::Delivery;
use crate::http::job::rules::Rules;
use crate::http::served;
use translate::{NAMES, prompt, translate};
use writing::Writing;

/// Answers a conversation in the form of Anthropic's Messages API. With `search_budget`, `search` or a `:search` model the
/// answer is the best one of a search.
#[utoipa::path(
    post, path = "/v1/messages", tag = "completions", request_body = MessagesRequest,
    responses(
        (status = 200, description = "The answer; with `stream` as server-sent events", content(
            (MessagesAnswer = "application/json"), (MessagesEvent = "text/event-stream"),
        )),
        (status = 404, body = MessagesErrorBody, description = "No such model"),
    ),
)]
pub async fn answer(call: Call) -> Result<Response, ApiError> {
    let Begun { about, mut parts, rest } = begin(call, NAMES, translate).await?;
    let generations = about.generations.clone();
    let delivery = about.delivery;
    let running = Running::from(&about);
    let mut writing = Writing::new(about, rest);
    let mut response = match delivery {
        Delivery::Whole => {
            while let Some(part) = parts.next().await {
                drop(writing.part(part?));
            }
            let answer = writing.whole().ok_or_else(|| EngineError::Crashed("the answer has no end".into()))?;
            let search = answer.search.clone();
            let mut response = Json(answer).into_response();
            search_header::show_results(&mut response, &search);
            response
        }
        Delivery::Stream | Delivery::StreamWithUsage => {
            let mut response = named_events(parts, writing).await?;
            search_header::show_running(&mut response, &running);
            response
        }
    };
    served::show_generations(&mut response, &generations);
    Ok(response)
}

impl Wire for Writing {
    fn part(&mut self, part: Part) -> String {
        let mut events = self.beginning();
        events.extend(self.part(part));
        events.iter().map(named_event).collect()
    }

    fn error(&mut self, error: &ApiError) -> String {
        named_event(&MessagesEvent::Error { error: envelope::detail(error) })
    }
}

/// Counts the tokens of a prompt, as the model's chat template writes it.
#[utoipa::path(
    post, path = "/v1/messages/count_tokens", tag = "models", request_body = CountTokensRequest,
    responses(
        (status = 200, body = CountTokensAnswer, description = "The tokens of the prompt"),
        (status = 404, body = MessagesErrorBody, description = "No such model"),
    ),
)]
pub async fn count_tokens(call: Call) -> Result<Json<CountTokensAnswer>, ApiError> {
    let make = {
        let (state, tenant) = (Arc::clone(&call.state), Arc::clone(&call.tenant));
        move |asked: CountTokensRequest, chosen: &Chosen| {
            let mut chat = prompt(asked.prompt)?;
            chat.drawing.model = asked.model;
            // Only its prompt is of interest, which no search changes.
            chat.search_budget = Some(0);
            let job = made(&state, &tenant, chosen, chat, Rules::default());
            let job = job.map_err(|error| error.in_words_of(NAMES))?;
            let bytes = job.messages.iter().map(Message::bytes).sum();
            Ok(Made::plain((job, bytes), bytes))
        }
    };
    let entered = enter(call, make).await?;
    let Entered { job: (job, bytes), chosen, clock, permit: _permit, .. } = entered;
    let actor = chosen.pinned.actor;
    let work = move || {
        let none = || ApiError::Invalid { param: None, message: "this model's engine has no tokenizer".into() };
        let tokenizer = actor.engine.info().tokenizer().cloned().ok_or_else(none)?;
        let text = actor.engine.info().render(&Chat { messages: job.messages, options: job.template })?;
        let encoding = tokenizer
            .encode(text, false)
            .map_err(|error| ApiError::invalid("messages", format!("`messages` cannot be tokenized: {error}")))?;
        Ok::<_, ApiError>(CountTokensAnswer { input_tokens: encoding.len() })
    };
    Ok(Json(clock.bound(blocking(bytes, work)).await?))
}
