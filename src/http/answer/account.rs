//! What a request used and how it ended, for its log line and its metrics: written at the end of its answer, however that comes.

use tokio::time::Instant;
use tracing::Span;

use super::hold::Hold;
use super::part::Part;
use crate::engine::FinishReason;
use crate::http::error::ApiError;
use crate::openai::{SearchReport, Usage};
use crate::telemetry::metrics::{self, Answering, Ended};

/// The span of a request, with room for what is known only at its end. A span has the fields only that it was made with.
macro_rules! request_span {
    ($($field:tt)*) => {
        tracing::info_span!(
            "request", $($field)*,
            model = tracing::field::Empty, key = tracing::field::Empty, mode = tracing::field::Empty,
            prompt_tokens = tracing::field::Empty, cached_tokens = tracing::field::Empty,
            completion_tokens = tracing::field::Empty, finish = tracing::field::Empty, stop = tracing::field::Empty,
            nodes = tracing::field::Empty, accepted = tracing::field::Empty,
        )
    };
}
pub(in crate::http) use request_span;

/// Follows the parts of an answer. Dropped before the last one, it says that the client disconnected.
pub struct Account {
    span: Span,
    mode: Answering,
    turn: Instant,
    first: Option<Instant>,
    ends: Vec<Ended>,
    closed: bool,
}

impl Account {
    /// The account of a request that begins to be answered; it is written to the span in which this is called.
    pub fn open(mode: Answering, hold: &Hold) -> Self {
        let span = Span::current();
        span.record("model", hold.pinned.actor.engine.info().name.as_str()).record("mode", mode.label());
        if let Some(key) = &hold.behalf.tenant.name {
            span.record("key", &**key);
        }
        Self { span, mode, turn: Instant::now(), first: None, ends: Vec::new(), closed: false }
    }

    /// Takes note of a part.
    pub fn sees(&mut self, part: &Result<Part, ApiError>) {
        match part {
            Ok(Part::Delta { .. }) => {
                self.first.get_or_insert_with(Instant::now);
            }
            Ok(Part::Finished { reason, .. }) => self.ends.push(match reason {
                FinishReason::Stop | FinishReason::StopString(_) | FinishReason::StopToken(_) => Ended::Stop,
                FinishReason::Length => Ended::Length,
            }),
            Ok(Part::Done { usage, searches }) => self.close(usage, searches),
            Ok(Part::Alive | Part::Progress(_) | Part::Echo { .. }) => {}
            Err(_) => self.fail(Ended::Error),
        }
    }

    fn close(&mut self, usage: &Usage, searches: &[SearchReport]) {
        self.closed = true;
        metrics::lengths(self.mode, usage.prompt_tokens, usage.completion_tokens);
        if let Some(first) = self.first.filter(|_| self.mode == Answering::Plain) {
            metrics::computed(first - self.turn, first.elapsed());
        }
        for &end in &self.ends {
            metrics::answer_ended(self.mode, end);
        }
        let span = &self.span;
        span.record("prompt_tokens", usage.prompt_tokens)
            .record("cached_tokens", usage.prompt_tokens_details.cached_tokens)
            .record("completion_tokens", usage.completion_tokens)
            .record("finish", joined(self.ends.iter().map(|end| end.label())));
        if !searches.is_empty() {
            span.record("stop", joined(searches.iter().map(|search| metrics::stop_label(search.stop_reason))))
                .record("nodes", searches.iter().map(|search| search.nodes).sum::<usize>())
                .record("accepted", searches.iter().filter(|search| search.accepted).count());
        }
    }

    fn fail(&mut self, end: Ended) {
        if !std::mem::replace(&mut self.closed, true) {
            metrics::answer_ended(self.mode, end);
            self.span.record("finish", end.label());
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.fail(Ended::Abort);
    }
}

/// Each word once, in the order in which they come.
fn joined(words: impl Iterator<Item = &'static str>) -> String {
    let mut distinct: Vec<&str> = Vec::new();
    for word in words {
        if !distinct.contains(&word) {
            distinct.push(word);
        }
    }
    distinct.join(",")
}
