//! Server-sent events: parts of an answer, an error in their midst, and the end.

use std::convert::Infallible;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt, future, stream};
use serde::Serialize;

use super::part::Part;
use crate::http::error::ApiError;

/// `data` as one event.
pub fn event<T: Serialize>(data: &T) -> String {
    // Our own types: maps with string keys, finite numbers.
    let json = serde_json::to_string(data).expect("wire types are always JSON");
    format!("data: {json}\n\n")
}

/// A line that clients skip and proxies see.
pub fn comment(text: &str) -> String {
    format!(": {text}\n\n")
}

/// `data`, which has a `type`, as an event of that name.
pub fn named_event<T: Serialize>(data: &T) -> String {
    // Our own types, as above.
    let json = serde_json::to_value(data).expect("wire types are always JSON");
    let name = json["type"].as_str().unwrap_or("message");
    format!("event: {name}\ndata: {json}\n\n")
}

/// How an API writes its stream of events.
pub trait Wire: Send + 'static {
    /// The events of a part of the answer; empty where it shows nothing.
    fn part(&mut self, part: Part) -> String;

    /// The events of an error that ends the answer.
    fn error(&mut self, error: &ApiError) -> String;

    /// What follows the last event.
    fn end(&self) -> &'static str {
        ""
    }
}

/// OpenAI's stream of completions: unnamed events, errors in its envelope, and a mark at the end.
struct Unnamed<F>(F);

impl<F: FnMut(Part) -> String + Send + 'static> Wire for Unnamed<F> {
    fn part(&mut self, part: Part) -> String {
        (self.0)(part)
    }

    fn error(&mut self, error: &ApiError) -> String {
        event(&error.body())
    }

    fn end(&self) -> &'static str {
        "data: [DONE]\n\n"
    }
}

/// Streams `parts` as `show` writes them, each as an unnamed event.
///
/// # Errors
/// As [`named_events`].
pub async fn events(
    parts: impl Stream<Item = Result<Part, ApiError>> + Send + 'static,
    show: impl FnMut(Part) -> String + Send + 'static,
) -> Result<Response, ApiError> {
    named_events(parts, Unnamed(show)).await
}

/// Streams `parts` as `wire` writes them. The first part is awaited: an error before it is an ordinary error response,
/// one after it an event.
///
/// # Errors
/// The error that comes in place of the first part.
pub async fn named_events(
    parts: impl Stream<Item = Result<Part, ApiError>> + Send + 'static,
    mut wire: impl Wire,
) -> Result<Response, ApiError> {
    let mut parts = Box::pin(parts);
    let end = wire.end();
    let first = parts.next().await.unwrap_or_else(|| Err(ApiError::Failed("the answer is empty".into())))?;
    let rest = stream::once(future::ready(Ok(first))).chain(parts);
    let lines = rest.map(move |part| match part {
        Ok(part) => wire.part(part),
        Err(error) => {
            tracing::warn!(%error, ?error, "a stream ends with an error");
            wire.error(&error)
        }
    });
    let lines = lines.chain(stream::once(future::ready(end.to_owned())));
    let lines = lines.filter(|line| future::ready(!line.is_empty())).map(Ok::<_, Infallible>);
    let mut response = Body::from_stream(lines).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx not to collect the events.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}
