//! Our sampler inside mistral.rs: a logits processor that draws the token itself, decodes it, and decides when to end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor};
use mistralrs::CustomLogitsProcessor;
use tokio::sync::mpsc::UnboundedSender;

use super::front::Event;
use crate::engine::grammar::Matcher;
use crate::engine::sampling::Sampler;
use crate::engine::text::{Pieces, ReplyRules, ReplyText};
use crate::engine::writer::Writer;
use crate::engine::{Chunk, EngineError};

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

/// One reply before it runs; an attempt at it starts from copies.
pub(super) struct Job {
    pub(super) prompt: Arc<[u32]>,
    pub(super) rules: ReplyRules,
    pub(super) sampler: Sampler,
    pub(super) grammar: Option<Matcher>,
    pub(super) chunks: UnboundedSender<std::result::Result<Chunk, EngineError>>,
    pub(super) shared: Arc<Shared>,
    pub(super) retried: bool,
}

impl Job {
    /// Whether the reply is still held.
    pub(super) fn is_wanted(&self) -> bool {
        !self.chunks.is_closed()
    }

    /// Ends the reply with an error.
    pub(super) fn fail(self, error: EngineError) {
        // A failure means that no one listens any more.
        self.chunks.send(Err(error)).ok();
    }

    /// The processor for one attempt.
    pub(super) fn hook(&self, ticket: Ticket) -> Arc<dyn CustomLogitsProcessor> {
        let text = ReplyText::new(Arc::clone(&self.shared.pieces), self.rules.clone());
        Arc::new(Hook(Mutex::new(Draft {
            writer: Writer::new(self.sampler.clone(), text, self.grammar.clone()),
            chunks: self.chunks.clone(),
            shared: Arc::clone(&self.shared),
            ticket: Some(ticket),
        })))
    }
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

/// Tells the front when the sequence has left the engine, however that happens.
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

/// A reply while it runs.
struct Draft {
    writer: Writer,
    chunks: UnboundedSender<std::result::Result<Chunk, EngineError>>,
    shared: Arc<Shared>,
    /// Given back with the last token.
    ticket: Option<Ticket>,
}

impl CustomLogitsProcessor for Hook {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        let mut draft = self.0.lock().map_err(|_| candle_core::Error::msg("an earlier step of this reply failed"))?;
        if draft.ticket.is_some() && draft.chunks.is_closed() {
            draft.end();
        }
        let next = if draft.ticket.is_some() { draft.step(&mut logits.to_vec1()?) } else { None };
        peak(next.unwrap_or(draft.shared.ends[0]), logits.elem_count())
    }
}

impl Draft {
    /// Draws a token and passes its text on. `None` when the reply ends with or before it.
    fn step(&mut self, logits: &mut [f32]) -> Option<u32> {
        self.shared.sampled.fetch_add(1, Ordering::Relaxed);
        #[cfg(test)]
        self.shared.maybe_fail();
        match self.writer.next(logits) {
            Ok((id, chunk)) => {
                let ends = chunk.finish.is_some();
                self.pass_on(Ok(chunk), ends);
                (!ends).then_some(id)
            }
            Err(error) => {
                self.pass_on(Err(error), true);
                None
            }
        }
    }

    fn pass_on(&mut self, news: std::result::Result<Chunk, EngineError>, ends: bool) {
        // A reply that was dropped in this moment is noticed in the next step.
        self.chunks.send(news).ok();
        if let Some(ticket) = &mut self.ticket {
            ticket.ended.produced = true;
        }
        if ends {
            self.end();
        }
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
