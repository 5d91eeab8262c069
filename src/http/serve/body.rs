//! The deadline for the body of a request, on every route.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use crate::http::error::ApiError;
use crate::telemetry::metrics::{self, TimedOut};

/// Answers 408 if the body does not arrive in time.
pub(in crate::http) async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if HttpBody::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let late = Arc::new(AtomicBool::new(false));
    let timed = |body| Body::new(Timed { body, limit, left: None, late: Arc::clone(&late) });
    let response = next.run(request.map(timed)).await;
    // The route knows only that it could not read the body.
    if late.load(Ordering::Acquire) { ApiError::BodyTooSlow(limit).into_response() } else { response }
}

/// A body whose time runs from the moment when its route begins to read it.
struct Timed {
    body: Body,
    limit: Duration,
    left: Option<Pin<Box<Sleep>>>,
    late: Arc<AtomicBool>,
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
            return next;
        }
        let limit = self.limit;
        let left = self.left.get_or_insert_with(|| Box::pin(sleep(limit)));
        std::task::ready!(left.as_mut().poll(cx));
        self.late.store(true, Ordering::Release);
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
