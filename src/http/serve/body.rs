//! The body of a request on every route: its deadline, and what follows where nobody reads it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::http::error::ApiError;
use crate::telemetry::metrics::{self, TimedOut};

/// Answers 408 if the body does not arrive in time. A response to a request whose body was not read is the last one of its
/// connection and says so: the connection is closed then, and a client that sent another request on it would get no answer.
pub(in crate::http) async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if HttpBody::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let version = request.version();
    let seen = Arc::new(Seen::default());
    let timed = |body| Body::new(Timed { body, limit, left: None, seen: Arc::clone(&seen) });
    let mut response = next.run(request.map(timed)).await;
    if seen.late.load(Ordering::Acquire) {
        // The route knows only that it could not read the body.
        response = ApiError::BodyTooSlow(limit).into_response();
    }
    // HTTP/2 ends the stream alone.
    if !seen.whole.load(Ordering::Acquire) && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What became of a body.
#[derive(Default)]
struct Seen {
    /// It did not arrive in time.
    late: AtomicBool,
    /// It was read to its end.
    whole: AtomicBool,
}

/// A body whose time runs from the moment when its route begins to read it.
struct Timed {
    body: Body,
    limit: Duration,
    left: Option<Pin<Box<Sleep>>>,
    seen: Arc<Seen>,
}

#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
struct Late;

impl HttpBody for Timed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(cx);
        if next.is_ready() {
            let ended = matches!(next, Poll::Ready(None)) || HttpBody::is_end_stream(&self.body);
            self.seen.whole.fetch_or(ended, Ordering::Release);
            return next;
        }
        let limit = self.limit;
        let left = self.left.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(left.as_mut().poll(cx));
        self.seen.late.store(true, Ordering::Release);
        metrics::timed_out(TimedOut::Body);
        Poll::Ready(Some(Err(axum::Error::new(Late))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&self.body)
    }
}
