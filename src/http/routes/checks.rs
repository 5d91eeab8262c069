//! `POST /v1/checks`: what `checks: "auto"` would check an answer for, without answering.

use axum::Json;

use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::http::job::rules;
use crate::http::job::turns::conversation;
use crate::openai::{ChecksRequest, ChecksResponse, StatedCheck};
use crate::verify::find::FoundCheck;

/// The instructions of a conversation that a rule can check.
#[utoipa::path(
    post, path = "/v1/checks", tag = "search", request_body = ChecksRequest,
    responses((status = 200, body = ChecksResponse, description = "What a search with `checks: \"auto\"` would check")),
)]
pub async fn checks(call: Call) -> Result<Json<ChecksResponse>, ApiError> {
    let make = |asked: ChecksRequest, _: &Chosen| {
        let messages = conversation(&asked.messages)?;
        let bytes = messages.iter().map(crate::chat::Message::bytes).sum();
        Ok(Made::plain(messages, bytes))
    };
    let entered = enter(call, make).await?;
    let Entered { job: messages, clock, permit: _permit, .. } = entered;
    let found = clock.bound(rules::found(messages)).await?;
    let stated = |found: FoundCheck| StatedCheck { id: found.check.id, kwargs: found.check.kwargs, words: found.words };
    Ok(Json(ChecksResponse { checks: found.into_iter().map(stated).collect() }))
}
