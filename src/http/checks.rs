//! `POST /v1/checks`: what `checks: "auto"` would check an answer for, without answering.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;

use super::Shared;
use super::body::JsonObject;
use super::error::ApiError;
use super::job::conversation;
use crate::openai::{ChecksRequest, ChecksResponse, StatedCheck};
use crate::verify::find::find_checks;

/// The instructions of a conversation that a rule can check.
#[utoipa::path(
    post, path = "/v1/checks", tag = "search", request_body = ChecksRequest,
    responses((status = 200, body = ChecksResponse, description = "What a search with `checks: \"auto\"` would check")),
)]
pub async fn checks(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ChecksResponse>, ApiError> {
    let object = JsonObject::read(&headers, body, state.settings.http.max_body).await?;
    let asked: ChecksRequest = object.fields()?;
    let found = find_checks(&conversation(&asked.messages)?);
    let stated = |found: crate::verify::find::FoundCheck| StatedCheck {
        id: found.check.id,
        kwargs: found.check.kwargs,
        words: found.words,
    };
    Ok(Json(ChecksResponse { checks: found.into_iter().map(stated).collect() }))
}
