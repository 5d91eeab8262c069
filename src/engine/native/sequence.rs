//! Running sequences: what they have read and said, the blocks that hold it, and who listens.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use futures::channel::oneshot;

use super::blocks::{BLOCK, Block, BlockPool, Found, Prefix, PrefixTree, Shape, block_tokens};
use super::lookup::Lookup;
use super::pooled::Pooled;
use super::reading::{Branch, Read, Reading};
use super::variant::Variant;
use crate::engine::drawn::{DrawnLogprobs, log_total};
use crate::engine::embedding::Pooling;
use crate::engine::writer::Writer;
use crate::engine::{Chunk, EngineError, Namespace};

/// Tokens with their keys and values: the prompt of siblings, and after it one reply.
pub(super) struct Sequence {
    /// The weights that compute it.
    pub(super) variant: Arc<Variant>,
    /// Where its prefixes begin in the tree: at the variant's root, in the caller's namespace.
    pub(super) root: Prefix,
    /// The caller, among those that share the engine's places.
    pub(super) caller: Namespace,
    /// A client waits for this very reply, so it does not wait for long steps of other replies.
    pub(super) plain: bool,
    /// The reply is streamed: its chunks are flushed as they come.
    pub(super) told: bool,
    /// Orders sequences by age; siblings are of one.
    pub(super) born: u64,
    /// The step in which it last advanced.
    pub(super) served: u64,
    /// Prompt and reply so far; during a step, also what is proposed to follow.
    pub(super) tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub(super) prompt: usize,
    /// Tokens whose keys and values are in `blocks`.
    pub(super) computed: usize,
    pub(super) blocks: Vec<Arc<Block>>,
    /// The tree's node of each full block that was found or kept there.
    pub(super) kept: Vec<Prefix>,
    /// The siblings that still wait for the prompt; one once the reply has begun.
    pub(super) replies: Vec<RunningReply>,
    /// Set if the tokens are scored rather than continued.
    pub(super) scoring: Option<Scoring>,
    /// Set if the rows become one vector.
    pub(super) pooled: Option<Pooled>,
    /// What reads labels after the last token; `None` for replies.
    pub(super) reading: Option<Reading>,
    /// What proposes the reply's next tokens, if anything does.
    pub(super) lookup: Option<Box<Lookup>>,
    /// Whether the tokens of this step have been drawn.
    pub(super) goes_on: bool,
}

/// A text whose tokens are given log-probabilities.
pub(super) struct Scoring {
    /// The token that follows each of the sequence's.
    pub(super) targets: Vec<u32>,
    /// Likeliest alternatives that are listed for each token.
    pub(super) top: usize,
    pub(super) found: Vec<DrawnLogprobs>,
    pub(super) done: oneshot::Sender<Vec<DrawnLogprobs>>,
}

/// Chunks that are flushed to a listener together.
pub(super) type Chunks = Vec<Result<Chunk, EngineError>>;

/// Chunks of a judgement or a refinement that are flushed together: no client reads along, and waking a listener costs more than
/// a token.
const HELD: usize = 16;

/// A reply and the one who listens to it.
pub(super) struct RunningReply {
    writer: Writer,
    pub(super) listener: UnboundedSender<Chunks>,
    held: Chunks,
    /// Whether the listener has heard anything.
    begun: bool,
}

impl RunningReply {
    pub(super) fn new(writer: Writer, listener: UnboundedSender<Chunks>) -> Self {
        Self { writer, listener, held: Vec::new(), begun: false }
    }

    /// Draws a token, which [`RunningReply::tell`] sends to the listener. Returns `None` when the reply is over, and the listener
    /// was notified.
    pub(super) fn advance(&mut self, logits: &mut [f32]) -> Option<u32> {
        let (id, over, news) = match self.writer.next(logits) {
            Ok((id, chunk)) => (Some(id), chunk.finish.is_some(), Ok(chunk)),
            Err(error) => (None, true, Err(error)),
        };
        self.held.push(news);
        if over {
            self.send();
        }
        id.filter(|_| !over)
    }

    /// Tokens that may still be drawn.
    pub(super) fn left(&self) -> usize {
        self.writer.left()
    }

    /// Sends the listener the tokens that are due. If the reply is streamed, which is `told`, the first token is flushed at once
    /// and all pending ones when `time` is set; other replies are flushed a few tokens at a time.
    pub(super) fn tell(&mut self, told: bool, time: bool) {
        let due = match told {
            true => time || !self.begun,
            false => self.held.len() >= HELD,
        };
        if due && !self.held.is_empty() {
            self.send();
        }
    }

    fn send(&mut self) {
        self.begun = true;
        // A caller that disconnected is noticed before the next step.
        self.listener.unbounded_send(std::mem::take(&mut self.held)).ok();
    }
}

impl Sequence {
    /// Replies that it computes; a prompt that is scored, pooled or read counts as one.
    pub(super) fn places(&self) -> usize {
        self.replies.len() + usize::from(self.scoring.is_some() || self.pooled.is_some() || self.reading.is_some())
    }

    /// Proposes up to `room` tokens of a running reply; returns how many. They are checked in this step.
    pub(super) fn propose(&mut self, room: usize) -> usize {
        let (Some(lookup), [reply]) = (&mut self.lookup, self.replies.as_slice()) else { return 0 };
        // The last row that is computed draws a token, too.
        lookup.propose(&mut self.tokens, self.prompt, room.min(reply.left().saturating_sub(1)))
    }

    /// Tokens at the end that are only proposed.
    pub(super) fn proposed(&self) -> usize {
        self.lookup.as_ref().map_or(0, |lookup| lookup.proposed())
    }

    /// Draws the token after `position` of its only reply. Where another one was proposed, or the reply is over, it is as
    /// if nothing after `position` had been computed.
    pub(super) fn advance(&mut self, position: usize, logits: &mut [f32]) {
        if position >= self.computed {
            return;
        }
        let drawn = self.replies[0].advance(logits);
        if drawn.is_some() && self.tokens.get(position + 1).copied() == drawn {
            return;
        }
        self.tokens.truncate(position + 1);
        self.computed = position + 1;
        self.blocks.truncate(self.computed.div_ceil(BLOCK));
        match drawn {
            Some(id) => self.tokens.push(id),
            None => self.replies.clear(),
        }
    }

    /// Ends a step: how many of its proposals were accepted, and how many not.
    pub(super) fn settle(&mut self) -> [usize; 2] {
        self.lookup.as_mut().map_or([0; 2], |lookup| lookup.settle(self.computed))
    }

    /// Takes from the tree what it has of the tokens that are still to be computed; the last token is always computed,
    /// because its scores are wanted.
    pub(super) fn reuse(&mut self, tree: &mut PrefixTree) {
        if self.wants_every_row() {
            return;
        }
        let wanted = self.tokens.len().saturating_sub(1);
        while self.kept.len() * BLOCK < wanted {
            let begin = self.kept.len() * BLOCK;
            let tokens = block_tokens(&self.tokens[begin..wanted.min(begin + BLOCK)]);
            let Some(Found { whole, positions, block }) = tree.find(self.parent(), &tokens) else { return };
            if begin + positions <= self.computed {
                return;
            }
            self.blocks.truncate(self.kept.len());
            self.blocks.push(block);
            self.computed = begin + positions;
            let Some(id) = whole else { return };
            self.kept.push(id);
        }
    }

    /// Whether something is wanted of each position, so that all of them are computed.
    pub(super) fn wants_every_row(&self) -> bool {
        self.scoring.is_some() || self.pooled.as_ref().is_some_and(|pooled| pooled.pooling == Pooling::Mean)
    }

    /// Gives the tree the blocks that are full.
    pub(super) fn keep(&mut self, tree: &mut PrefixTree) {
        while (self.kept.len() + 1) * BLOCK <= self.computed {
            let index = self.kept.len();
            let tokens = block_tokens(&self.tokens[index * BLOCK..][..BLOCK]);
            let kept = tree.keep(self.variant.root, self.parent(), &tokens, &mut self.blocks[index]);
            self.kept.push(kept);
        }
    }

    /// Gives the tree everything that was computed; nothing more will be.
    pub(super) fn keep_all(&mut self, tree: &mut PrefixTree) {
        self.keep(tree);
        let index = self.kept.len();
        let rest = &self.tokens[index * BLOCK..self.computed];
        if !rest.is_empty() {
            tree.keep_end(self.variant.root, self.parent(), rest, &self.blocks[index]);
        }
    }

    /// The tree's node before the first block that is missing.
    pub(super) fn parent(&self) -> Prefix {
        self.kept.last().copied().unwrap_or(self.root)
    }

    /// Makes the blocks of the positions `computed..end` exist and belong to this sequence alone.
    pub(super) fn own(&mut self, pool: &Arc<BlockPool>, end: usize) {
        self.blocks.resize_with(end.div_ceil(BLOCK), || Arc::new(pool.block()));
        let first = &mut self.blocks[self.computed / BLOCK];
        if Arc::get_mut(first).is_none() {
            *first = Arc::new(first.beginning(self.computed % BLOCK));
        }
    }

    /// Blocks that have to be taken to compute the positions `computed..end`.
    pub(super) fn blocks_due(&self, end: usize) -> usize {
        let shared = |block: &Arc<Block>| Arc::strong_count(block) > 1;
        let copied = self.blocks.get(self.computed / BLOCK).is_some_and(shared);
        end.div_ceil(BLOCK).saturating_sub(self.blocks.len()) + usize::from(copied)
    }

    /// Gives its blocks back: everything is computed again, or found in the tree.
    pub(super) fn give_up(&mut self) {
        self.blocks.clear();
        self.kept.clear();
        self.computed = 0;
        if let Some(scoring) = &mut self.scoring {
            scoring.found.clear();
        }
        if let Some(pooled) = &mut self.pooled {
            pooled.clear();
        }
    }

    /// Reads what is wanted from the last token's logits. The sequences that continue from here reuse the blocks.
    pub(super) fn read(&self, reading: Reading, logits: &[f32]) -> Vec<Sequence> {
        let Reading { branch, computed, listener } = reading;
        let logprobs = match branch.wanted.is_empty() {
            true => Vec::new(),
            false => {
                let total = log_total(logits);
                let logprob = |(token, place): (u32, usize)| (place, logits[token as usize] - total);
                branch.wanted.into_iter().map(logprob).collect()
            }
        };
        // A caller that disconnected is noticed before the next step.
        listener.unbounded_send(Read { computed, logprobs }).ok();
        let continued = |mut branch: Branch| {
            let tokens = [&self.tokens, std::mem::take(&mut branch.tokens).as_slice()].concat();
            Sequence {
                variant: self.variant.clone(),
                root: self.root,
                caller: self.caller,
                plain: self.plain,
                told: self.told,
                born: self.born,
                served: self.served,
                prompt: if branch.asks { tokens.len() } else { self.prompt },
                tokens,
                computed: self.computed,
                blocks: self.blocks.clone(),
                kept: self.kept.clone(),
                replies: Vec::new(),
                scoring: None,
                pooled: None,
                lookup: None,
                reading: Some(Reading { branch, computed: 0, listener: listener.clone() }),
                goes_on: false,
            }
        };
        branch.parts.into_iter().map(continued).collect()
    }

    /// Sets a position's keys and values in a layer.
    pub(super) fn write(&mut self, shape: Shape, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let block = Arc::get_mut(&mut self.blocks[position / BLOCK]).expect("blocks are owned before they are written");
        block.write(shape, layer, position % BLOCK, keys, values);
    }
}
