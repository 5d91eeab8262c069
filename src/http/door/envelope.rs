//! Errors that no handler wrote, such as those of the router and of the documentation's files, are put into the envelope.

use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::http::error::ApiError;

/// Bytes of such an error's own text that are read.
const WORDS: usize = 1000;

/// Puts every error that is not JSON into the envelope. Its other headers, such as `allow`, stay.
pub async fn in_envelope(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let status = response.status();
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    if json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (parts, body) = response.into_parts();
    // A longer text is worth no more than none.
    let words = to_bytes(body, WORDS).await.unwrap_or_default();
    let mut response = ApiError::bare(status, &path, &String::from_utf8_lossy(&words)).into_response();
    for (name, value) in &parts.headers {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) && !response.headers().contains_key(name) {
            response.headers_mut().append(name, value.clone());
        }
    }
    response
}
