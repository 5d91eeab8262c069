//! OpenTelemetry traces: a span for each request, for each search with the nodes of its tree, and for each model call, in the
//! semantic conventions for generative AI. Without a collector nothing is recorded.

mod attributes;
mod call;
mod export;
mod search;

use std::sync::Arc;

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderValue};
use opentelemetry::trace::{
    SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use crate::config::TraceArgs;
use crate::engine::{Subject, TraceContext};
pub use call::CallSpan;
pub use search::{SearchAbout, SearchSpans};

/// Records spans and sends them to the collector; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces(Option<Arc<Recorder>>);

/// What makes spans.
#[derive(Debug)]
pub struct Recorder {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Whether prompts and answers are recorded.
    content: bool,
}

impl Traces {
    /// Starts to send traces if `settings` name a collector. Must be called in the runtime that sends them.
    ///
    /// # Errors
    /// Fails if the sender cannot be made.
    pub fn start(settings: &TraceArgs) -> anyhow::Result<Self> {
        let Some(address) = settings.address() else { return Ok(Self::default()) };
        let provider =
            export::provider(&address).with_context(|| format!("--otlp-endpoint: no traces to {address}"))?;
        let tracer = provider.tracer("spar");
        Ok(Self(Some(Arc::new(Recorder { provider, tracer, content: settings.otlp_content }))))
    }

    /// Sends what is left. Blocks for a few seconds at most.
    pub fn stop(&self) {
        let Some(recorder) = &self.0 else { return };
        if let Err(error) = recorder.provider.shutdown() {
            tracing::warn!(%error, "the last traces were not sent");
        }
    }

    /// Begins the span of a request. From then on its headers name this span as the parent of all that follows.
    pub fn request(&self, route: &'static str, method: &str, headers: &mut HeaderMap) -> RequestSpan {
        let Some(recorder) = &self.0 else { return RequestSpan(None) };
        let attributes = vec![
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route),
            KeyValue::new("url.path", route),
        ];
        let span = recorder.tracer.span_builder(format!("{method} {route}"));
        let span = span.with_kind(SpanKind::Server).with_attributes(attributes);
        let parent = caller(headers).map_or_else(Context::new, |caller| remote(&caller));
        let context = Context::new().with_span(span.start_with_context(&recorder.tracer, &parent));
        let value = HeaderValue::try_from(place(&context).to_string()).expect("ids are printable");
        headers.insert(TraceContext::HEADER, value);
        RequestSpan(Some(context))
    }

    /// The spans of the calls of a request, whose headers name their parent.
    pub fn within(&self, headers: &HeaderMap) -> Spans {
        let parent = caller(headers);
        match (&self.0, parent) {
            (Some(recorder), Some(parent)) => Spans::Request(Arc::clone(recorder), parent),
            (_, parent) => Spans::Off(parent),
        }
    }
}

/// The span of a request; dropping it ends it.
#[derive(Debug)]
pub struct RequestSpan(Option<Context>);

impl RequestSpan {
    /// Records the request's id.
    pub fn identify(&self, id: &HeaderValue) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new("spar.request.id", id.to_str().unwrap_or_default().to_owned()));
        }
    }

    /// Records how the request was answered.
    pub fn answered(&self, status: u16) {
        let Some(context) = &self.0 else { return };
        let span = context.span();
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        // A client that disconnects is no error of the server.
        if status >= 500 {
            span.set_attribute(KeyValue::new("error.type", status.to_string()));
            span.set_status(Status::error(""));
        }
    }
}

impl Drop for RequestSpan {
    fn drop(&mut self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }
}

/// Where the spans of model calls belong; cheap to clone.
#[derive(Clone, Debug)]
pub enum Spans {
    /// Nothing is recorded. The caller's own span, if it has one, is passed on to upstreams.
    Off(Option<TraceContext>),
    /// Calls are children of the request's span.
    Request(Arc<Recorder>, TraceContext),
    /// Calls are children of the search's nodes.
    Search(Arc<SearchSpans>),
}

impl Spans {
    /// The spans of a search of this request.
    #[must_use]
    pub fn search(&self, about: SearchAbout<'_>) -> Self {
        match self {
            Self::Request(recorder, parent) => {
                Self::Search(Arc::new(SearchSpans::begin(Arc::clone(recorder), &remote(parent), about)))
            }
            other => other.clone(),
        }
    }

    /// The search whose spans these are.
    pub fn of_search(&self) -> Option<&Arc<SearchSpans>> {
        match self {
            Self::Search(search) => Some(search),
            _ => None,
        }
    }

    /// The parent of a call for `subject`; `None` if nothing is recorded.
    fn parent(&self, subject: Subject) -> Option<(&Recorder, Context)> {
        match self {
            Self::Off(_) => None,
            Self::Request(recorder, parent) => Some((recorder, remote(parent))),
            Self::Search(search) => Some((search.recorder(), search.context(subject))),
        }
    }
}

/// The span that a caller names in its request.
fn caller(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get(TraceContext::HEADER)?.to_str().ok()?)
}

/// A context whose span is recorded elsewhere.
fn remote(place: &TraceContext) -> Context {
    let flags = if place.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
    let (trace, span) = (TraceId::from_bytes(place.trace), SpanId::from_bytes(place.span));
    Context::new().with_remote_span_context(SpanContext::new(trace, span, flags, true, TraceState::default()))
}

/// The ids of a context's span.
fn place(context: &Context) -> TraceContext {
    let span = context.span();
    let span = span.span_context();
    TraceContext { trace: span.trace_id().to_bytes(), span: span.span_id().to_bytes(), sampled: span.is_sampled() }
}
