//! The span of one model call: from its start to the end of its last reply.

use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt;
use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};

use super::attributes::{
    drawing, finish_reason, input_messages, integer, operation, output_messages, purpose, strings, subject,
};
use super::{Spans, place};
use crate::engine::{Chunk, EngineError, FinishReason, LabelRequest, ModelInfo, Reply, Request, Subject, TraceContext};
use crate::telemetry::metrics::failure_label;

/// The span of one model call, or nothing where none is recorded.
#[derive(Debug)]
pub struct CallSpan {
    recording: Option<Arc<Mutex<Recording>>>,
    /// The span that upstreams are told.
    pub place: Option<TraceContext>,
}

/// A call that is recorded. Dropping it ends its span.
#[derive(Debug)]
struct Recording {
    context: Context,
    spans: Spans,
    subject: Subject,
    content: bool,
    prompt: usize,
    cached: usize,
    replies: Vec<Heard>,
}

/// What was heard of one reply.
#[derive(Debug, Default)]
struct Heard {
    text: String,
    tokens: usize,
    finish: Option<FinishReason>,
}

/// What a span is begun with.
struct Beginning<'a> {
    operation: &'static str,
    purpose: &'static str,
    subject: Subject,
    model: &'a ModelInfo,
    attributes: Vec<KeyValue>,
}

impl Spans {
    /// Begins the span of replies to `request`.
    pub fn reply(&self, request: &Request, model: &ModelInfo) -> CallSpan {
        let subject = request.origin.subject;
        self.begin(|content| {
            let mut attributes = drawing(request);
            if content {
                attributes.push(KeyValue::new("gen_ai.input.messages", input_messages(&request.input)));
            }
            let purpose = purpose(request.purpose, subject, self.of_search().is_some());
            Beginning { operation: operation(&request.input), purpose, subject, model, attributes }
        })
    }

    /// Begins the span of verdicts that are read.
    pub fn labels(&self, request: &LabelRequest, model: &ModelInfo) -> CallSpan {
        self.begin(|content| {
            let mut attributes = vec![KeyValue::new("spar.questions", integer(request.questions.len()))];
            if let Some(first) = request.questions.first().filter(|_| content) {
                attributes.push(KeyValue::new("gen_ai.input.messages", input_messages(&first.input)));
            }
            let subject = request.origin.subject;
            Beginning { operation: "score", purpose: "score", subject, model, attributes }
        })
    }

    /// Begins the span of texts that become vectors.
    pub fn embeddings(&self, model: &ModelInfo) -> CallSpan {
        let subject = Subject::Whole;
        let attributes = Vec::new();
        self.begin(|_| Beginning { operation: "embeddings", purpose: "embed", subject, model, attributes })
    }

    /// Begins the span of a prompt whose tokens are scored.
    pub fn prompt(&self, model: &ModelInfo) -> CallSpan {
        let subject = Subject::Whole;
        let attributes = Vec::new();
        self.begin(|_| Beginning { operation: "score", purpose: "score", subject, model, attributes })
    }

    /// Begins a span. What it says is made only if it is recorded.
    fn begin<'a>(&self, about: impl FnOnce(bool) -> Beginning<'a>) -> CallSpan {
        let content = match self {
            Self::Off(caller) => return CallSpan { recording: None, place: *caller },
            Self::Request(recorder, _) => recorder.content,
            Self::Search(search) => search.recorder().content,
        };
        let Beginning { operation, purpose, subject: about, model, mut attributes } = about(content);
        let Some((recorder, parent)) = self.parent(about) else { return CallSpan { recording: None, place: None } };
        attributes.extend([
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "spar"),
            KeyValue::new("gen_ai.request.model", model.name.clone()),
            KeyValue::new("spar.purpose", purpose),
        ]);
        attributes.extend(subject(about));
        let span = recorder.tracer.span_builder(format!("{operation} {}", model.name));
        let span = span.with_kind(SpanKind::Client).with_attributes(attributes);
        let context = parent.with_span(span.start_with_context(&recorder.tracer, &parent));
        let place = Some(place(&context));
        let (spans, replies) = (self.clone(), Vec::new());
        let recording = Recording { context, spans, subject: about, content, prompt: 0, cached: 0, replies };
        CallSpan { recording: Some(Arc::new(Mutex::new(recording))), place }
    }
}

impl CallSpan {
    /// Follows the replies of a call to their ends.
    ///
    /// # Errors
    /// Passes the call's own error on.
    pub fn follow(self, started: Result<Vec<Reply>, EngineError>) -> Result<Vec<Reply>, EngineError> {
        let Some(recording) = self.recording else { return started };
        let replies = started.inspect_err(|error| lock(&recording).fails(error))?;
        {
            let mut call = lock(&recording);
            call.replies.resize_with(replies.len(), Heard::default);
            if let Some(first) = replies.first() {
                (call.prompt, call.cached) = (first.prompt_tokens, first.cached_tokens);
            }
        }
        let follow = |(index, reply): (usize, Reply)| {
            let recording = Arc::clone(&recording);
            let hear = move |chunk: &Result<Chunk, EngineError>| match chunk {
                Ok(chunk) => lock(&recording).hears(index, chunk),
                Err(error) => lock(&recording).fails(error),
            };
            Reply { chunks: Box::pin(reply.chunks.inspect(hear)), ..reply }
        };
        Ok(replies.into_iter().enumerate().map(follow).collect())
    }

    /// Ends the span of a call that generates nothing. `prompt` says how many tokens it read.
    pub fn ends<T>(self, result: &Result<T, EngineError>, prompt: impl FnOnce(&T) -> usize) {
        let Some(recording) = self.recording else { return };
        let mut call = lock(&recording);
        match result {
            Ok(found) => call.prompt = prompt(found),
            Err(error) => call.fails(error),
        }
    }
}

fn lock(recording: &Mutex<Recording>) -> std::sync::MutexGuard<'_, Recording> {
    recording.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recording {
    fn hears(&mut self, index: usize, chunk: &Chunk) {
        if let Some(prompt) = chunk.prompt.filter(|_| index == 0) {
            (self.prompt, self.cached) = (prompt.sent, prompt.cached);
        }
        let content = self.content;
        let Some(heard) = self.replies.get_mut(index) else { return };
        heard.tokens += chunk.tokens;
        heard.finish = chunk.finish.or(heard.finish);
        if content {
            heard.text.push_str(&chunk.text);
        }
    }

    fn fails(&mut self, error: &EngineError) {
        let span = self.context.span();
        let kind = failure_label(error);
        span.set_attribute(KeyValue::new("error.type", kind));
        span.set_status(Status::error(kind));
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("gen_ai.usage.input_tokens", integer(self.prompt)));
        span.set_attribute(KeyValue::new("gen_ai.usage.cache_read.input_tokens", integer(self.cached)));
        if !self.replies.is_empty() {
            let generated = self.replies.iter().map(|heard| heard.tokens).sum();
            span.set_attribute(KeyValue::new("gen_ai.usage.output_tokens", integer(generated)));
            let reasons: Vec<_> = self.replies.iter().filter_map(|heard| heard.finish).map(finish_reason).collect();
            span.set_attribute(KeyValue::new("gen_ai.response.finish_reasons", strings(&reasons)));
            if self.content {
                let replies = self.replies.iter().map(|heard| (heard.text.as_str(), heard.finish));
                span.set_attribute(KeyValue::new("gen_ai.output.messages", output_messages(replies)));
            }
        }
        span.end();
        if let Some(search) = self.spans.of_search() {
            search.worked_on(self.subject);
        }
    }
}
