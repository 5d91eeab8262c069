//! Our sampler inside mistral.rs: a logits processor that draws the token itself, decodes it, and decides when to end; or that
//! reads the log-probabilities of labels and ends at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor};
use mistralrs::CustomLogitsProcessor;
use tokio::sync::mpsc::UnboundedSender;

use crate::engine::drawn::log_total;
use crate::engine::grammar::Matcher;
use crate::engine::pieces::Pieces;
use crate::engine::sampling::Sampler;
use crate::engine::text::{ReplyRules, ReplyText};
use crate::engine::writer::Writer;
use crate::engine::{Chunk, EngineError, Purpose};

/// What is the same for all replies of a model.
pub(super) struct Shared {
    /// The tokens at which the model ends a reply. mistral.rs ends a sequence at each of them.
    pub(super) ends: Vec<u32>,
    /// The bytes of the tokens.
    pub(super) pieces: Arc<Pieces>,
    /// Tokens sampled since the start.
    pub(super) sampled: AtomicU64,
    /// The token counts at which sampling panics.
    #[cfg(test)]
    pub(super) faults: Mutex<Vec<u64>>,
}

#[cfg(test)]
impl Shared {
    fn maybe_fail(&self) {
        let sampled = self.sampled.load(Ordering::Relaxed);
        let planned = self.faults.lock().unwrap().contains(&sampled);
        assert!(!planned, "a fault on purpose");
    }
}

/// A sequence before it runs; an attempt at it starts from copies.
pub(super) struct Job {
    pub(super) prompt: Arc<[u32]>,
    /// The most tokens that may be drawn.
    pub(super) most_tokens: usize,
    pub(super) work: Work,
    pub(super) shared: Arc<Shared>,
    pub(super) retried: bool,
}

/// What is made of a sequence's logits.
#[derive(Clone)]
pub(super) enum Work {
    /// A reply, token by token.
    Reply(Box<ReplyWork>),
    /// Log-probabilities of tokens that may follow the prompt. Nothing is generated.
    Labels(LabelWork),
}

/// A reply's rules and where its chunks go.
#[derive(Clone)]
pub(super) struct ReplyWork {
    pub(super) rules: ReplyRules,
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<Matcher>,
    pub(super) chunks: UnboundedSender<std::result::Result<Chunk, EngineError>>,
}

/// The tokens whose log-probabilities are wanted, each with its place among all that the call wants, and where they go.
#[derive(Clone)]
pub(super) struct LabelWork {
    pub(super) wanted: Vec<(u32, usize)>,
    pub(super) found: UnboundedSender<std::result::Result<Vec<(usize, f32)>, EngineError>>,
}

impl Work {
    /// Whether the caller still listens.
    fn is_wanted(&self) -> bool {
        match self {
            Self::Reply(reply) => !reply.chunks.is_closed(),
            Self::Labels(labels) => !labels.found.is_closed(),
        }
    }
}

impl Job {
    /// Whether the caller still listens.
    pub(super) fn is_wanted(&self) -> bool {
        self.work.is_wanted()
    }

    /// Ends the sequence with an error.
    pub(super) fn fail(self, error: EngineError) {
        // A failure means that no one listens any more.
        match self.work {
            Work::Reply(reply) => reply.chunks.send(Err(error)).ok(),
            Work::Labels(labels) => labels.found.send(Err(error)).ok(),
        };
    }

    /// The processor for one attempt.
    pub(super) fn hook(&self, ticket: Ticket) -> Arc<dyn CustomLogitsProcessor> {
        let output = match &self.work {
            Work::Reply(reply) => {
                let ReplyWork { rules, sampler, grammar, chunks } = reply.as_ref().clone();
                let text = ReplyText::new(Arc::clone(&self.shared.pieces), rules);
                Output::Reply(Box::new(Writer::new(sampler, text, grammar)), chunks)
            }
            Work::Labels(labels) => Output::Labels(labels.clone()),
        };
        Arc::new(Hook(Mutex::new(Draft { output, shared: Arc::clone(&self.shared), ticket: Some(ticket) })))
    }
}

/// An event for the front.
pub(super) enum Event {
    /// The siblings of one call.
    Submit(Purpose, Vec<Job>),
    /// A sequence has left the engine.
    Ended(Ended),
    /// The engine is not wanted any more.
    Close,
}

/// How a sequence left the engine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    pub(super) id: u64,
    /// Whether it ended by itself or by cancellation, rather than by a failure.
    pub(super) orderly: bool,
    /// Whether the client has been given anything.
    pub(super) produced: bool,
}

/// Notifies the front when the sequence has left the engine for any reason.
pub(super) struct Ticket {
    ended: Ended,
    events: Sender<Event>,
}

impl Ticket {
    pub(super) fn new(id: u64, events: Sender<Event>) -> Self {
        Self { ended: Ended { id, orderly: false, produced: false }, events }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The front has ended when the engine is being taken down.
        self.events.send(Event::Ended(self.ended)).ok();
    }
}

struct Hook(Mutex<Draft>);

/// A sequence while it runs.
struct Draft {
    output: Output,
    shared: Arc<Shared>,
    /// Given back with the last token.
    ticket: Option<Ticket>,
}

enum Output {
    Reply(Box<Writer>, UnboundedSender<std::result::Result<Chunk, EngineError>>),
    Labels(LabelWork),
}

impl CustomLogitsProcessor for Hook {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        let mut draft = self.0.lock().map_err(|_| candle_core::Error::msg("an earlier step of this reply failed"))?;
        if draft.ticket.is_some() && draft.is_abandoned() {
            draft.end();
        }
        let next = if draft.ticket.is_some() { draft.step(&mut logits.to_vec1()?) } else { None };
        peak(next.unwrap_or(draft.shared.ends[0]), logits.elem_count())
    }
}

impl Draft {
    /// Whether the caller does not listen any more.
    fn is_abandoned(&self) -> bool {
        match &self.output {
            Output::Reply(_, chunks) => chunks.is_closed(),
            Output::Labels(labels) => labels.found.is_closed(),
        }
    }

    /// Draws a token and passes its text on, or reads what is wanted. `None` when the sequence ends with or before it.
    fn step(&mut self, logits: &mut [f32]) -> Option<u32> {
        let (next, ends) = match &mut self.output {
            Output::Reply(writer, chunks) => {
                self.shared.sampled.fetch_add(1, Ordering::Relaxed);
                #[cfg(test)]
                self.shared.maybe_fail();
                let drawn = writer.next(logits);
                let next = drawn.as_ref().ok().filter(|(_, chunk)| chunk.finish.is_none()).map(|(id, _)| *id);
                // A reply that was dropped in this moment is noticed in the next step.
                chunks.send(drawn.map(|(_, chunk)| chunk)).ok();
                (next, next.is_none())
            }
            Output::Labels(labels) => {
                let total = log_total(logits);
                let logprob = |&(token, place): &(u32, usize)| (place, logits[token as usize] - total);
                labels.found.send(Ok(labels.wanted.iter().map(logprob).collect())).ok();
                (None, true)
            }
        };
        if let Some(ticket) = &mut self.ticket {
            ticket.ended.produced = true;
        }
        if ends {
            self.end();
        }
        next
    }

    /// The sequence leaves the engine in this step.
    fn end(&mut self) {
        if let Some(mut ticket) = self.ticket.take() {
            ticket.ended.orderly = true;
        }
    }
}

/// A row of logits from which greedy choice takes `next`.
pub(super) fn peak(next: u32, len: usize) -> Result<Tensor> {
    let mut row = vec![0f32; len];
    row[next as usize] = 1.0;
    Tensor::from_vec(row, len, &Device::Cpu)
}
