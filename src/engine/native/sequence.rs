//! Running sequences, and the step that a worker does for its share of them.

use std::sync::Arc;

use futures::channel::mpsc::UnboundedSender;
use futures::channel::oneshot;

use super::blocks::{BLOCK, Block, BlockPool, Prefix, PrefixTree, Shape};
use super::model::{Group, Model, Row, Scratch};
use super::variant::Variant;
use crate::engine::sampling::DrawnLogprobs;
use crate::engine::writer::Writer;
use crate::engine::{Chunk, EngineError};

/// Tokens with their keys and values: the prompt of siblings, and after it one reply.
pub(super) struct Sequence {
    /// The weights that compute it.
    pub(super) variant: Arc<Variant>,
    /// Prompt and reply so far.
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
    /// Where the tokens are scored rather than continued.
    pub(super) scoring: Option<Scoring>,
}

/// A text whose tokens are given log-probabilities.
pub(super) struct Scoring {
    /// The token that follows each of the sequence's.
    pub(super) targets: Vec<u32>,
    /// Likeliest tokens that are named beside each.
    pub(super) top: usize,
    pub(super) found: Vec<DrawnLogprobs>,
    pub(super) done: oneshot::Sender<Vec<DrawnLogprobs>>,
}

/// A reply and the one who listens to it.
pub(super) struct RunningReply {
    pub(super) writer: Writer,
    pub(super) chunks: UnboundedSender<Result<Chunk, EngineError>>,
}

impl RunningReply {
    /// Draws a token and tells the listener. `None` when the reply is over.
    fn advance(&mut self, logits: &mut [f32]) -> Option<u32> {
        match self.writer.next(logits) {
            Ok((id, chunk)) => {
                let over = chunk.finish.is_some();
                let heard = self.chunks.unbounded_send(Ok(chunk)).is_ok();
                (heard && !over).then_some(id)
            }
            Err(error) => {
                // A listener that has gone needs no error.
                self.chunks.unbounded_send(Err(error)).ok();
                None
            }
        }
    }
}

impl Sequence {
    /// Takes from the tree what it has of the tokens that are still to be computed; the last token is always computed,
    /// because its scores are wanted.
    pub(super) fn reuse(&mut self, tree: &mut PrefixTree) {
        // Every position of a text that is scored is computed: its scores are wanted.
        if self.scoring.is_some() {
            return;
        }
        while self.computed == self.kept.len() * BLOCK && self.computed + BLOCK < self.tokens.len() {
            let parent = self.kept.last().copied().unwrap_or(self.variant.root);
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
            let root = self.variant.root;
            let parent = self.kept.last().copied().unwrap_or(root);
            let tokens = self.block_tokens(index);
            self.kept.push(tree.keep(root, parent, &tokens, &mut self.blocks[index]));
        }
    }

    fn block_tokens(&self, index: usize) -> [u32; BLOCK] {
        std::array::from_fn(|i| self.tokens[index * BLOCK + i])
    }

    /// Makes the blocks of the positions `computed..end` exist and belong to this sequence alone.
    pub(super) fn own(&mut self, pool: &Arc<BlockPool>, end: usize) {
        self.blocks.resize_with(end.div_ceil(BLOCK), || Arc::new(pool.block()));
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
    groups: Vec<Group>,
    wanted: Vec<usize>,
    scratch: Scratch,
    /// Tokens of prompts that were computed since the owner last asked.
    pub(super) prompt_tokens: usize,
}

impl Shard {
    /// Replies that run or wait for their prompt, and texts that are scored.
    pub(super) fn replies(&self) -> usize {
        self.sequences.iter().map(|s| s.replies.len() + usize::from(s.scoring.is_some())).sum()
    }

    /// One step: up to `most_rows` positions, replies before prompts; then a token for every reply that is due one.
    pub(super) fn step(&mut self, model: &Model, pool: &Arc<BlockPool>, most_rows: usize) {
        self.forget_unheard();
        self.choose_rows(most_rows, pool);
        if self.rows.is_empty() {
            return;
        }
        model.forward(&mut self.scratch, &mut self.sequences, &self.rows, &self.groups, &self.wanted);
        self.groups.clear();
        for row in &self.rows {
            let sequence = &mut self.sequences[row.sequence];
            sequence.computed = row.position + 1;
            self.prompt_tokens += usize::from(row.position < sequence.prompt);
        }
        let mut begun = Vec::new();
        for (&row, logits) in self.wanted.iter().zip(self.scratch.logits.chunks_exact_mut(model.vocabulary)) {
            let Row { sequence, position } = self.rows[row];
            let sequence = &mut self.sequences[sequence];
            if let Some(scoring) = &mut sequence.scoring {
                scoring.found.push(DrawnLogprobs::new(logits, scoring.targets[position], scoring.top));
                continue;
            }
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
                    begun.push(Sequence {
                        variant: sequence.variant.clone(),
                        tokens,
                        prompt: sequence.prompt,
                        computed: sequence.computed,
                        blocks: sequence.blocks.clone(),
                        kept: sequence.kept.clone(),
                        replies: vec![reply],
                        scoring: None,
                    });
                }
            }
        }
        self.sequences.append(&mut begun);
        for sequence in &mut self.sequences {
            if let Some(scoring) = sequence.scoring.take_if(|scoring| scoring.found.len() == scoring.targets.len()) {
                // A caller that has gone needs no answer.
                scoring.done.send(scoring.found).ok();
            }
        }
    }

    /// Drops replies that nobody listens to any more.
    pub(super) fn forget_unheard(&mut self) {
        for sequence in &mut self.sequences {
            sequence.replies.retain(|reply| !reply.chunks.is_closed());
            sequence.scoring.take_if(|scoring| scoring.done.is_canceled());
        }
        self.sequences.retain(|sequence| !sequence.replies.is_empty() || sequence.scoring.is_some());
    }

    fn choose_rows(&mut self, most: usize, pool: &Arc<BlockPool>) {
        self.rows.clear();
        self.wanted.clear();
        // Rows that share an adapter lie side by side.
        self.sequences.sort_by_key(|sequence| sequence.variant.root);
        let running = self.sequences.iter().filter(|s| s.tokens.len() == s.computed + 1).count();
        // Prompts advance by whole blocks, so that between steps they can take over what another has computed.
        let mut spare = most.saturating_sub(running).max(BLOCK);
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            let due = sequence.tokens.len() - sequence.computed;
            let scored = sequence.scoring.is_some();
            // Scores of a whole vocabulary for every row: a few at a time.
            let spare = if scored { &mut BLOCK.min(spare) } else { &mut spare };
            let end = match due {
                due if due == 1 || due <= *spare => sequence.tokens.len(),
                _ => ((sequence.computed + *spare) / BLOCK * BLOCK).max(sequence.computed),
            };
            let count = end - sequence.computed;
            if due > 1 {
                *spare -= count;
            }
            sequence.own(pool, end);
            let first = self.rows.len();
            self.rows.extend((sequence.computed..end).map(|position| Row { sequence: index, position }));
            match () {
                () if scored => self.wanted.extend(first..self.rows.len()),
                () if count == due => self.wanted.push(self.rows.len() - 1),
                () => {}
            }
            let Some(adapter) = &sequence.variant.adapter else { continue };
            match self.groups.last_mut() {
                Some(group) if Arc::ptr_eq(&group.adapter, adapter) => group.rows.end = self.rows.len(),
                _ => self.groups.push(Group { rows: first..self.rows.len(), adapter: adapter.clone() }),
            }
        }
    }
}
