//! `POST /v1/checks`: what `checks: "auto"` would check an answer for, without answering.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::answer::Clock;
use super::body::JsonObject;
use super::error::ApiError;
use super::job::conversation;
use super::{Shared, rules};
use crate::openai::{ChecksRequest, ChecksResponse, ErrorBody, StatedCheck};

/// The instructions of a conversation that a rule can check.
#[utoipa::path(
    post, path = "/v1/checks", tag = "search", request_body = ChecksRequest,
    responses((status = 200, body = ChecksResponse), (status = 400, body = ErrorBody)),
)]
pub async fn checks(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ChecksResponse>, ApiError> {
    let clock = Clock::start(state.settings.http.request_timeout);
    let object = clock.bound(JsonObject::read(&headers, body, state.settings.http.max_body)).await?;
    let asked: ChecksRequest = object.fields()?;
    let found = clock.bound(rules::found(conversation(&asked.messages)?)).await?;
    let stated = |found: crate::verify::find::FoundCheck| StatedCheck {
        id: found.check.id,
        kwargs: found.check.kwargs,
        words: found.words,
    };
    Ok(Json(ChecksResponse { checks: found.into_iter().map(stated).collect() }))
}
