//! The spans of one search: the search itself, and below it one for each node, as the tree has them. The calls that drafted,
//! judged or refined a node are below its span.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use opentelemetry::trace::{SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};

use super::Recorder;
use super::attributes::{integer, node, output_messages, subject};
use crate::engine::{FinishReason, Subject};
use crate::search::{NodeId, Outcome, Progress, ROOT, SearchConfig};
use crate::telemetry::metrics::{stop_label, strategy_label};

/// What is known of a search before it runs.
#[derive(Clone, Copy, Debug)]
pub struct SearchAbout<'a> {
    /// The search's id.
    pub id: &'a str,
    /// The search's settings.
    pub config: &'a SearchConfig,
}

/// The spans of a search. Dropping them ends those that are still open.
#[derive(Debug)]
pub struct SearchSpans {
    recorder: Arc<Recorder>,
    root: Context,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    nodes: Vec<Open>,
    /// Responses that are being judged, by their numbers.
    candidates: HashMap<usize, Open>,
}

/// A span that has not ended.
#[derive(Debug)]
struct Open {
    context: Context,
    parent: Option<usize>,
    /// When something last happened to it.
    last: SystemTime,
}

impl SearchSpans {
    pub(super) fn begin(recorder: Arc<Recorder>, parent: &Context, about: SearchAbout<'_>) -> Self {
        let SearchAbout { id, config } = about;
        let attributes = vec![
            KeyValue::new("gen_ai.operation.name", "invoke_workflow"),
            KeyValue::new("gen_ai.workflow.name", "spar.search"),
            KeyValue::new("spar.search.id", id.to_owned()),
            KeyValue::new("spar.search.strategy", strategy_label(config.strategy)),
            KeyValue::new("spar.search.budget", integer(config.budget)),
        ];
        let span = recorder.tracer.span_builder("invoke_workflow spar.search");
        let span = span.with_kind(SpanKind::Internal).with_attributes(attributes);
        let root = parent.with_span(span.start_with_context(&recorder.tracer, parent));
        Self { recorder, root, state: Mutex::default() }
    }

    pub(super) fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The span that calls for `subject` are below; it begins with the first of them.
    pub(super) fn context(&self, about: Subject) -> Context {
        let mut state = self.state();
        match about {
            Subject::Whole => self.root.clone(),
            Subject::Node(id) => {
                if id == ROOT.0 && state.nodes.is_empty() {
                    let open = self.open(&self.root, None, "node 0", about);
                    state.nodes.push(open);
                }
                state.nodes.get(id).map_or_else(|| self.root.clone(), |open| open.context.clone())
            }
            Subject::Candidate { number, parent } => {
                if let Some(open) = state.candidates.get(&number) {
                    return open.context.clone();
                }
                let open = self.candidate(&state, parent, about);
                let context = open.context.clone();
                state.candidates.insert(number, open);
                context
            }
        }
    }

    /// Takes note of a step of the search.
    pub fn sees(&self, progress: &Progress<'_>) {
        match progress {
            Progress::RootJudged(judged) => {
                self.context(Subject::Node(ROOT.0));
                let mut state = self.state();
                self.describe(&mut state.nodes[ROOT.0], ROOT, judged);
            }
            Progress::NodeAdded(id, added) => {
                let mut state = self.state();
                let judged = match added.subject {
                    Subject::Candidate { number, .. } => state.candidates.remove(&number),
                    _ => None,
                };
                // A text that was judged before becomes a node without a call of its own.
                let parent = added.parent.map(|parent| parent.0);
                let mut open = judged.unwrap_or_else(|| self.candidate(&state, parent, added.subject));
                self.describe(&mut open, *id, added);
                state.nodes.push(open);
            }
            Progress::Drafted(_) | Progress::Voted(..) | Progress::Accepted(..) | Progress::Stopped(_) => {}
        }
    }

    /// Records the result.
    pub fn found(&self, outcome: &Outcome) {
        let span = self.root.span();
        span.set_attribute(KeyValue::new("spar.search.stop_reason", stop_label(outcome.stop)));
        span.set_attribute(KeyValue::new("spar.search.accepted", outcome.accepted));
        span.set_attribute(KeyValue::new("spar.search.best", integer(outcome.best.0)));
        span.set_attribute(KeyValue::new("spar.search.nodes", integer(outcome.tree.judged())));
        span.set_attribute(KeyValue::new("spar.search.tokens", integer(outcome.tokens.generated())));
        if let Some(value) = outcome.tree.nodes.get(outcome.best.0).and_then(|best| best.value) {
            span.set_attribute(KeyValue::new("spar.search.value", value));
        }
        self.end();
    }

    /// Takes note that a call for `subject` has ended.
    pub(super) fn worked_on(&self, about: Subject) {
        let mut state = self.state();
        let open = match about {
            Subject::Whole => None,
            Subject::Node(id) => state.nodes.get_mut(id),
            Subject::Candidate { number, .. } => state.candidates.get_mut(&number),
        };
        if let Some(open) = open {
            open.last = SystemTime::now();
        }
    }

    fn candidate(&self, state: &State, parent: Option<usize>, about: Subject) -> Open {
        let above = parent.and_then(|parent| state.nodes.get(parent)).map_or(&self.root, |open| &open.context);
        self.open(above, parent, "candidate", about)
    }

    fn open(&self, above: &Context, parent: Option<usize>, name: &'static str, about: Subject) -> Open {
        let tracer = &self.recorder.tracer;
        let span = tracer.span_builder(name).with_kind(SpanKind::Internal).with_attributes(subject(about));
        let context = above.with_span(span.start_with_context(tracer, above));
        Open { context, parent, last: SystemTime::now() }
    }

    fn describe(&self, open: &mut Open, id: NodeId, judged: &crate::search::Node) {
        let span = open.context.span();
        span.update_name(format!("node {}", id.0));
        node(id.0, judged).into_iter().for_each(|attribute| span.set_attribute(attribute));
        if self.recorder.content {
            let answer = [(judged.response.as_str(), Some(FinishReason::Stop))];
            span.set_attribute(KeyValue::new("gen_ai.output.messages", output_messages(answer.into_iter())));
            span.set_attribute(KeyValue::new("spar.node.critique", judged.critique.clone()));
        }
        open.last = SystemTime::now();
    }

    /// Ends every span. A node ends with the last of its calls and of the nodes below it, so that its span encloses theirs.
    fn end(&self) {
        let mut state = self.state();
        let State { mut nodes, candidates } = std::mem::take(&mut *state);
        let raise = |nodes: &mut [Open], parent: Option<usize>, last: SystemTime| {
            if let Some(above) = parent.and_then(|parent| nodes.get_mut(parent)) {
                above.last = above.last.max(last);
            }
        };
        for open in candidates.into_values() {
            open.context.span().set_attribute(KeyValue::new("spar.candidate.dropped", true));
            open.context.span().end_with_timestamp(open.last);
            raise(&mut nodes, open.parent, open.last);
        }
        // Nodes come after their parents.
        while let Some(open) = nodes.pop() {
            open.context.span().end_with_timestamp(open.last);
            raise(&mut nodes, open.parent, open.last);
        }
        self.root.span().end();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SearchSpans {
    fn drop(&mut self) {
        if self.root.span().is_recording() {
            self.root.span().set_attribute(KeyValue::new("error.type", "cancelled"));
            self.root.span().set_status(Status::error("cancelled"));
            self.end();
        }
    }
}
