//! What is handed to the computing threads, and what comes back when it begins.

use std::sync::Arc;

use futures::channel::{mpsc, oneshot};

use super::place::Place;
use super::pooled::Pooled;
use super::reading::Reading;
use super::sequence::{Chunks, Scoring};
use super::variant::Variant;
use crate::engine::writer::Writer;
use crate::engine::{Origin, Purpose, Waits};

/// A request that is ready to run.
pub(super) struct Job {
    /// The weights that compute it.
    pub(super) variant: Arc<Variant>,
    /// Judging and refining go after plain answers, and their tokens are flushed a few at a time; refinements copy from their prompts.
    pub(super) purpose: Purpose,
    /// The origin says whose prefixes it finds, and whether it goes with plain answers: a search's draft does not.
    pub(super) origin: Origin,
    pub(super) prompt: Vec<u32>,
    pub(super) replies: Vec<Writer>,
    /// Where the prompt is scored, without replies.
    pub(super) scoring: Option<Scoring>,
    /// Set where the prompt becomes a vector; such a job has no replies.
    pub(super) pooled: Option<Pooled>,
    /// What reads labels after the prompt; such a job has no replies.
    pub(super) reading: Option<Reading>,
    pub(super) started: oneshot::Sender<Started>,
    pub(super) place: Place,
}

impl Job {
    /// Whether a client waits for this very call.
    pub(super) fn is_plain(&self) -> bool {
        self.purpose == Purpose::Answer && self.origin.waits == Waits::Plain
    }

    /// Replies that it asks for, or sequences after which labels are read.
    pub(super) fn places(&self) -> usize {
        self.reading.as_ref().map_or(self.replies.len() + usize::from(self.pooled.is_some()), Reading::places)
    }
}

/// What an admitted request gets.
pub(super) struct Started {
    pub(super) cached_tokens: usize,
    pub(super) replies: Vec<mpsc::UnboundedReceiver<Chunks>>,
}
