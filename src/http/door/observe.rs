//! Every request gets an id, a span, a log line and its metrics, from its first byte to the end of its response.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use futures::Stream;
use tracing::{Instrument, Span};

use crate::http::answer::account::request_span;
use crate::telemetry::metrics;
use crate::telemetry::traces::{RequestSpan, Traces};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The status in logs and metrics of a request whose client disconnected before its response was complete.
const CLIENT_GONE: u16 = 499;

/// How requests are observed.
#[derive(Clone)]
pub struct Observing {
    /// The paths of all routes: metrics are labelled by them, and by `other` for everything else.
    pub routes: &'static BTreeSet<String>,
    /// Where spans are recorded.
    pub traces: Traces,
}

/// Routes that others ask again and again: their spans would drown the rest.
const UNTRACED: &[&str] = &["/healthz", "/health", "/readyz", "/version", "/metrics", "/", "/openapi.json", "other"];

/// The outermost layer.
pub async fn observe(State(observing): State<Observing>, mut request: Request, next: Next) -> Response {
    let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let route = matched.and_then(|matched| observing.routes.get(matched)).map_or("other", String::as_str);
    let id = request_id(request.headers());
    let span = request_span!(id = id.to_str().unwrap_or_default(), method = %request.method(), route);
    let method = request.method().as_str().to_owned();
    let traced = if UNTRACED.contains(&route) { Traces::default() } else { observing.traces };
    let trace = traced.request(route, &method, request.headers_mut());
    trace.identify(&id);
    let watch = Watch { route, started: Instant::now(), span: span.clone(), trace, status: CLIENT_GONE };
    let mut response = next.run(request).instrument(span).await;
    response.headers_mut().insert(REQUEST_ID, id);
    let streams = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
    if !streams {
        watch.complete(response.status().as_u16());
        return response;
    }
    let status = response.status().as_u16();
    response.map(|body| Body::from_stream(WatchedStream { inner: body.into_data_stream(), watch: Some(watch), status }))
}

/// The caller's id, if it is short and printable, or a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let printable = |id: &&HeaderValue| {
        let bytes = id.as_bytes();
        (1..=128).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
    };
    headers.get(REQUEST_ID).filter(printable).cloned().unwrap_or_else(|| {
        let id = format!("req_{}", uuid::Uuid::new_v4().simple());
        HeaderValue::try_from(id).expect("an id is printable")
    })
}

/// Its drop is the end of the request, however it came.
struct Watch {
    route: &'static str,
    started: Instant,
    span: Span,
    trace: RequestSpan,
    status: u16,
}

impl Watch {
    fn complete(mut self, status: u16) {
        self.status = status;
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        metrics::request_ended(self.route, self.status, took);
        self.trace.answered(self.status);
        let _entered = self.span.enter();
        tracing::info!(status = self.status, seconds = took.as_secs_f64(), "request");
    }
}

/// A streamed response until its end or the client's.
struct WatchedStream {
    inner: BodyDataStream,
    watch: Option<Watch>,
    status: u16,
}

impl Stream for WatchedStream {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let span = self.watch.as_ref().map(|watch| watch.span.clone());
        let _entered = span.as_ref().map(Span::enter);
        let next = Pin::new(&mut self.inner).poll_next(cx);
        if let Poll::Ready(None) = next {
            let status = self.status;
            if let Some(watch) = self.watch.take() {
                watch.complete(status);
            }
        }
        next
    }
}
