//! `GET /v1/searches/{id}`: a finished search again.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use crate::http::Shared;
use crate::http::door::keys::Caller;
use crate::http::door::named::Named;
use crate::http::error::ApiError;
use crate::openai::{ErrorBody, SearchReport};

/// A recent search of the same key, with all of its tree.
#[utoipa::path(
    get, path = "/v1/searches/{id}", tag = "search",
    params(("id" = String, Path, description = "The `search.id` of a response.")),
    responses(
        (status = 200, body = SearchReport, description = "The search"),
        (status = 404, body = ErrorBody, description = "No such search is kept for this key: `search_not_found`"),
    ),
)]
pub async fn search(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    Named(id): Named,
) -> Result<impl IntoResponse, ApiError> {
    match state.kept.of(tenant.id).find(&id) {
        Some(json) => Ok(([(header::CONTENT_TYPE, "application/json")], json)),
        None => Err(ApiError::UnknownSearch(id)),
    }
}
