//! The body of a request on every route: its deadline, and what follows where nobody reads it.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use crate::http::error::ApiError;
use crate::telemetry::metrics::{self, TimedOut};

/// Bytes of a body that are read and dropped at most, and the time for it, where the route has answered without reading it.
const DISCARDED: usize = 4 << 20;
const DISCARDING: Duration = Duration::from_millis(500);

/// Answers 408 if the body does not arrive in time. A response to a request whose body was not read is the last one of its
/// connection and says so: the connection is closed then, and a client that sent another request on it would get no answer. The
/// rest of the body is read first, within bounds: closing a socket with unread bytes resets the connection, and the response may
/// be lost.
pub(in crate::http) async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    if HttpBody::is_end_stream(request.body()) {
        return next.run(request).await;
    }
    let version = request.version();
    // Such a client sends its body when it is asked for it.
    let waits = request.headers().contains_key(header::EXPECT);
    let seen = Arc::new(Seen::default());
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body));
    let timed = Timed { body: Arc::clone(&body), limit, left: None, seen: Arc::clone(&seen) };
    let mut response = next.run(Request::from_parts(parts, Body::new(timed))).await;
    let late = seen.late.load(Ordering::Acquire);
    if late {
        // The route knows only that it could not read the body.
        response = ApiError::BodyTooSlow(limit).into_response();
    }
    // HTTP/2 ends the stream alone.
    if !seen.whole.load(Ordering::Acquire) && version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        if !late && !waits {
            discard(&body).await;
        }
    }
    response
}

/// Reads the rest of a body and drops it, as far as its bounds allow.
async fn discard(body: &Mutex<Body>) {
    let reading = async {
        let mut room = DISCARDED;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut *locked(body)).poll_frame(cx)).await {
            match room.checked_sub(frame.data_ref().map_or(0, Bytes::len)) {
                Some(left) => room = left,
                None => return,
            }
        }
    };
    // A client that sends more, or more slowly, finds its connection closed.
    timeout(DISCARDING, reading).await.ok();
}

fn locked(body: &Mutex<Body>) -> MutexGuard<'_, Body> {
    body.lock().unwrap_or_else(PoisonError::into_inner)
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
    /// What is left when the route has answered is read by the middleware.
    body: Arc<Mutex<Body>>,
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
        let (next, over) = {
            let mut body = locked(&self.body);
            (Pin::new(&mut *body).poll_frame(cx), HttpBody::is_end_stream(&*body))
        };
        if next.is_ready() {
            let ended = matches!(next, Poll::Ready(None)) || over;
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
        HttpBody::is_end_stream(&*locked(&self.body))
    }

    fn size_hint(&self) -> SizeHint {
        HttpBody::size_hint(&*locked(&self.body))
    }
}
