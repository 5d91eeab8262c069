//! `POST /v1/checks`: what `checks: "auto"` would check an answer for, without answering.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::admit::Arrival;
use super::error::ApiError;
use super::job::conversation;
use super::keys::Caller;
use super::limits::Ask;
use super::{Shared, rules};
use crate::openai::{ChecksRequest, ChecksResponse, ErrorBody, StatedCheck};
use crate::verify::find::FoundCheck;

/// The instructions of a conversation that a rule can check.
#[utoipa::path(
    post, path = "/v1/checks", tag = "search", request_body = ChecksRequest,
    responses(
        (status = 200, body = ChecksResponse), (status = 400, body = ErrorBody),
        (status = 429, body = ErrorBody, description = "Too many requests wait; see `Retry-After`"),
    ),
)]
pub async fn checks(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ChecksResponse>, ApiError> {
    let arrival = Arrival::read(&state, tenant, &headers, body).await?;
    let clock = arrival.clock;
    let ready = arrival.made(|asked: ChecksRequest| conversation(&asked.messages)).await?;
    let bytes = ready.job.iter().map(crate::chat::Message::bytes).sum();
    let (messages, _permit) = ready.enter(&state.gate, Ask::plain(1), bytes).await?;
    let found = clock.bound(rules::found(messages)).await?;
    let stated = |found: FoundCheck| StatedCheck { id: found.check.id, kwargs: found.check.kwargs, words: found.words };
    Ok(Json(ChecksResponse { checks: found.into_iter().map(stated).collect() }))
}
