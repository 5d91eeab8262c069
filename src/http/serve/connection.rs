//! One connection from its first byte to its last.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::activity::Activity;
use super::lease::{Asked, leased};
use super::limits::Limits;
use super::running::Running;
use crate::telemetry::metrics::{self, TimedOut};

/// Bytes that a connection reads ahead and writes behind; the headers of a request must fit into it.
const BUFFER: usize = 64 << 10;
/// Requests at a time on an HTTP/2 connection.
const STREAMS: u32 = 128;
/// Bytes of the headers of an HTTP/2 request.
const HEADERS: u32 = 32 << 10;
/// The interval of HTTP/2 pings, and the time that the peer has to answer one.
const PING: Duration = Duration::from_secs(20);
/// Time for an idle HTTP/2 connection to close gracefully.
const GOODBYE: Duration = Duration::from_secs(1);

/// What a connection uses; cheap to clone.
#[derive(Clone)]
pub(super) struct Terms {
    /// Answers the requests.
    pub router: Router,
    /// Its limits.
    pub limits: Limits,
    /// Requests in their handlers, counted over all connections.
    pub running: Running,
    /// Cancelled when connections should end after their last response.
    pub closing: CancellationToken,
    /// Cancelled when they must end.
    pub over: CancellationToken,
}

/// Serves a connection until its peer, its time or the server ends it.
pub(super) async fn serve<I>(io: I, activity: Arc<Activity>, terms: Terms)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Terms { limits, closing, over, .. } = terms.clone();
    let builder = builder(&limits);
    let requests = Requests { activity: Arc::clone(&activity), terms };
    let mut connection = pin!(builder.serve_connection(TokioIo::new(io), requests));
    let mut timer = pin!(sleep_until(Instant::now() + limits.idle));
    let mut closed = pin!(closing.cancelled());
    let mut dropped = pin!(over.cancelled());
    let mut ends: Option<Option<Instant>> = None;
    poll_fn(|cx| {
        activity.watch(cx.waker());
        if dropped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(error, "a connection ended");
                }
                return Poll::Ready(());
            }
            if ends.is_none() && closed.as_mut().poll(cx).is_ready() {
                ends = Some(None);
                connection.as_mut().graceful_shutdown();
                continue;
            }
            let (until, reason) = match ends {
                Some(Some(until)) => (until, TimedOut::Idle),
                _ => match activity.deadline(&limits) {
                    Some(deadline) => deadline,
                    None => return Poll::Pending,
                },
            };
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if ends.is_some() {
                return Poll::Ready(());
            }
            metrics::timed_out(reason);
            tracing::debug!(?reason, "a connection is closed");
            if matches!(reason, TimedOut::Header) {
                return Poll::Ready(());
            }
            ends = Some(Some(Instant::now() + GOODBYE));
            connection.as_mut().graceful_shutdown();
        }
    })
    .await;
}

fn builder(limits: &Limits) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().keep_alive(limits.keep_alive).max_buf_size(BUFFER).timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_send_buf_size(BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}

/// The requests of a connection.
struct Requests {
    activity: Arc<Activity>,
    terms: Terms,
}

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let version = request.version();
        let asked = Asked { received: Instant::now(), version, busy: self.activity.begin(version) };
        let running = self.terms.running.begin();
        let limits = self.terms.limits.clone();
        let answer = self.terms.router.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let response = answer.await?;
            drop(running);
            Ok(response.map(|body| leased(body, asked, &limits)))
        })
    }
}
