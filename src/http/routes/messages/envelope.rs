//! Anthropic's error envelope, for every error of these routes, whichever layer of the server it comes from.

use axum::Json;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::anthropic::{MessagesErrorBody, MessagesErrorDetail};
use crate::http::error::ApiError;

/// Whether errors of this path are in Anthropic's envelope.
pub fn covers(path: &str) -> bool {
    path == "/v1/messages" || path.starts_with("/v1/messages/")
}

/// Puts the errors of these routes into Anthropic's envelope. Their status and their headers stay.
pub async fn in_own_envelope(request: Request, next: Next) -> Response {
    let own = covers(request.uri().path());
    let response = next.run(request).await;
    match response.extensions().get::<ApiError>().filter(|_| own) {
        Some(error) => {
            let body = MessagesErrorBody { kind: "error", error: detail(error) };
            let (mut parts, _) = response.into_parts();
            parts.headers.remove(header::CONTENT_LENGTH);
            let body = Json(body).into_response().into_body();
            Response::from_parts(parts, body)
        }
        None => response,
    }
}

/// An error in Anthropic's words.
pub fn detail(error: &ApiError) -> MessagesErrorDetail {
    let kind = error.anthropic_class();
    let words = error.body().error;
    MessagesErrorDetail { kind, message: words.message, param: words.param, code: words.code }
}
