//! `POST /v1/responses`: the Responses API without state, as a translation from and to a chat completion.

mod items;
mod translate;
mod writing;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::engine::EngineError;
use crate::http::answer::part::Part;
use crate::http::answer::search_header::{self, Running};
use crate::http::answer::sse::{Wire, comment, named_event, named_events};
use crate::http::conversation::{Begun, begin};
use crate::http::door::enter::Call;
use crate::http::error::ApiError;
use crate::http::job::drawing::Delivery;
use crate::http::served;
use crate::openai::ErrorBody;
use crate::openai::responses::{NumberedEvent, ResponsesAnswer, ResponsesEvent, ResponsesRequest};
use translate::{NAMES, translate};
use writing::Writing;

/// Answers a conversation in the form of the Responses API. The server keeps nothing of it: every request holds its whole
/// conversation. With `search_budget`, `search` or a `:search` model the answer is the best one of a search.
#[utoipa::path(
    post, path = "/v1/responses", tag = "completions", request_body = ResponsesRequest,
    responses(
        (status = 200, description = "The response; with `stream` as server-sent events", content(
            (ResponsesAnswer = "application/json"), (NumberedEvent = "text/event-stream"),
        )),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn respond(call: Call) -> Result<Response, ApiError> {
    let Begun { about, mut parts, rest } = begin(call, NAMES, translate).await?;
    let generations = about.generations.clone();
    let running = Running::from(&about);
    let mut writing = Writing::new(&about, rest);
    let mut response = match about.delivery {
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
            let mut response = named_events(parts, Numbered { writing, sent: 0 }).await?;
            search_header::show_running(&mut response, &running);
            response
        }
    };
    served::show_generations(&mut response, &generations);
    Ok(response)
}

/// Events with their numbers.
struct Numbered {
    writing: Writing,
    sent: u64,
}

impl Numbered {
    fn show(&mut self, events: Vec<ResponsesEvent>) -> String {
        let event = |event| {
            let sequence_number = self.sent;
            self.sent += 1;
            named_event(&NumberedEvent { event, sequence_number })
        };
        events.into_iter().map(event).collect()
    }
}

impl Wire for Numbered {
    fn part(&mut self, part: Part) -> String {
        let alive = if matches!(part, Part::Alive) { comment("searching") } else { String::new() };
        let mut events = self.writing.beginning();
        events.extend(self.writing.part(part));
        self.show(events) + &alive
    }

    fn error(&mut self, error: &ApiError) -> String {
        let events = self.writing.failed(error);
        self.show(events)
    }
}
