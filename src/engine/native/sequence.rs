//! Running sequences, and the step that a worker does for its share of them.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;

use super::blocks::{BLOCK, Block, Prefix, PrefixTree, Shape};
use super::model::{Model, Row, Scratch};
use crate::engine::sampling::Sampler;
use crate::engine::text::ReplyText;
use crate::engine::{Chunk, EngineError};

/// Tokens with their keys and values: the prompt of siblings, and after it one reply.
pub(super) struct Sequence {
    /// Prompt and reply so far.
    pub(super) tokens: Vec<u32>,
    /// Tokens whose keys and values are in `blocks`.
    pub(super) computed: usize,
    pub(super) blocks: Vec<Arc<Block>>,
    /// The tree's node of each full block that was found or kept there.
    pub(super) kept: Vec<Prefix>,
    /// The siblings that still wait for the prompt; one once the reply has begun.
    pub(super) replies: Vec<RunningReply>,
}

/// A reply and the one who listens to it.
pub(super) struct RunningReply {
    pub(super) sampler: Sampler,
    pub(super) text: ReplyText,
    pub(super) chunks: UnboundedSender<Result<Chunk, EngineError>>,
}

impl RunningReply {
    /// Draws a token and tells the listener. `None` when the reply is over.
    fn advance(&mut self, logits: &mut [f32]) -> Option<u32> {
        let Some(drawn) = self.sampler.sample(logits) else {
            let error = EngineError::Crashed("the model's scores are not finite; the checkpoint may be damaged".into());
            // A listener that has gone needs no error.
            self.chunks.unbounded_send(Err(error)).ok();
            return None;
        };
        let id = drawn.id;
        let chunk = self.text.push(drawn);
        let over = chunk.finish.is_some();
        let heard = self.chunks.unbounded_send(Ok(chunk)).is_ok();
        (heard && !over).then_some(id)
    }
}

impl Sequence {
    /// Takes from the tree what it has of the tokens that are still to be computed; the last token is always computed,
    /// because its scores are wanted.
    pub(super) fn reuse(&mut self, tree: &mut PrefixTree) {
        while self.computed == self.kept.len() * BLOCK && self.computed + BLOCK < self.tokens.len() {
            let parent = self.kept.last().copied().unwrap_or(Prefix::ROOT);
            let tokens = self.block_tokens(self.kept.len());
            let Some((id, block)) = tree.find(parent, &tokens) else { return };
            self.blocks.truncate(self.kept.len());
            self.blocks.push(block);
            self.kept.push(id);
            self.computed += BLOCK;
        }
    }

    /// Gives the tree the blocks that are full.
    pub(super) fn keep(&mut self, tree: &mut PrefixTree) {
        while (self.kept.len() + 1) * BLOCK <= self.computed {
            let index = self.kept.len();
            let parent = self.kept.last().copied().unwrap_or(Prefix::ROOT);
            let tokens = self.block_tokens(index);
            self.kept.push(tree.keep(parent, &tokens, &mut self.blocks[index]));
        }
    }

    fn block_tokens(&self, index: usize) -> [u32; BLOCK] {
        std::array::from_fn(|i| self.tokens[index * BLOCK + i])
    }

    /// Makes the blocks of the positions `computed..end` exist and belong to this sequence alone.
    fn own(&mut self, shape: Shape, end: usize) {
        self.blocks.resize_with(end.div_ceil(BLOCK), || Arc::new(Block::new(shape)));
        for block in &mut self.blocks[self.computed / BLOCK..] {
            Arc::make_mut(block);
        }
    }

    /// Sets a position's keys and values in a layer.
    pub(super) fn write(&mut self, shape: Shape, layer: usize, position: usize, keys: &[f32], values: &[f32]) {
        let block = Arc::get_mut(&mut self.blocks[position / BLOCK]).expect("blocks are owned before they are written");
        block.write(shape, layer, position % BLOCK, keys, values);
    }
}

/// A worker's share of the running sequences, with its buffers.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) sequences: Vec<Sequence>,
    rows: Vec<Row>,
    wanted: Vec<usize>,
    scratch: Scratch,
}

impl Shard {
    /// Replies that run or wait for their prompt.
    pub(super) fn replies(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.replies.len()).sum()
    }

    /// One step: up to `most_rows` positions, replies before prompts; then a token for every reply that is due one.
    pub(super) fn step(&mut self, model: &Model, most_rows: usize) {
        self.forget_unheard();
        self.choose_rows(most_rows, model.block_shape());
        if self.rows.is_empty() {
            return;
        }
        model.forward(&mut self.scratch, &mut self.sequences, &self.rows, &self.wanted);
        for row in &self.rows {
            self.sequences[row.sequence].computed = row.position + 1;
        }
        let mut begun = Vec::new();
        for (&row, logits) in self.wanted.iter().zip(self.scratch.logits.chunks_exact_mut(model.vocabulary)) {
            let sequence = &mut self.sequences[self.rows[row].sequence];
            if let [reply] = sequence.replies.as_mut_slice() {
                match reply.advance(logits) {
                    Some(id) => sequence.tokens.push(id),
                    None => sequence.replies.clear(),
                }
                continue;
            }
            // The prompt is computed: every sibling goes on by itself, on the prompt's blocks.
            for mut reply in std::mem::take(&mut sequence.replies) {
                if let Some(id) = reply.advance(&mut logits.to_vec()) {
                    let mut tokens = sequence.tokens.clone();
                    tokens.push(id);
                    let (blocks, kept) = (sequence.blocks.clone(), sequence.kept.clone());
                    begun.push(Sequence { tokens, computed: sequence.computed, blocks, kept, replies: vec![reply] });
                }
            }
        }
        self.sequences.append(&mut begun);
    }

    /// Drops replies that nobody listens to any more.
    pub(super) fn forget_unheard(&mut self) {
        for sequence in &mut self.sequences {
            sequence.replies.retain(|reply| !reply.chunks.is_closed());
        }
        self.sequences.retain(|sequence| !sequence.replies.is_empty());
    }

    fn choose_rows(&mut self, most: usize, shape: Shape) {
        self.rows.clear();
        self.wanted.clear();
        let running = self.sequences.iter().filter(|s| s.tokens.len() == s.computed + 1).count();
        // Prompts advance by whole blocks, so that between steps they can take over what another has computed.
        let mut spare = most.saturating_sub(running).max(BLOCK);
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            let due = sequence.tokens.len() - sequence.computed;
            let end = match due {
                due if due == 1 || due <= spare => sequence.tokens.len(),
                _ => ((sequence.computed + spare) / BLOCK * BLOCK).max(sequence.computed),
            };
            let count = end - sequence.computed;
            if due > 1 {
                spare -= count;
            }
            sequence.own(shape, end);
            self.rows.extend((sequence.computed..end).map(|position| Row { sequence: index, position }));
            if count == due {
                self.wanted.push(self.rows.len() - 1);
            }
        }
    }
}
