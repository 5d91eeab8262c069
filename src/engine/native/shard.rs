//! The step that a worker does for its share of the running sequences.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::batch::{Batch, Group, Row};
use super::blocks::{BLOCK, BlockPool};
use super::compute::Compute;
use super::scratch::Scratch;
use super::sequence::Sequence;
use crate::engine::drawn::DrawnLogprobs;
use crate::kernels::team::Team;

/// Logits from which on a team draws tokens: their passes over the vocabulary take longer than waking it.
const DRAWN_TOGETHER: usize = 1 << 18;

/// Minimum interval between two flushes of one plain reply. With n plain replies running it is n times this, so that waking
/// listeners takes a constant share of the time.
const TOLD_EVERY: Duration = Duration::from_micros(500);

/// A worker's share of the running sequences, with its buffers.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) sequences: Vec<Sequence>,
    /// Sequences that are over, whose keys and values may be kept.
    pub(super) ended: Vec<Sequence>,
    batch: Batch,
    /// A step takes about as long for many rows as for one, so that no row has to wait for other rows.
    whole_steps: bool,
    steps: u64,
    /// The time of the last flush to listeners.
    told: Option<Instant>,
    /// Sequences in the order in which they are served.
    order: Vec<usize>,
    /// Positions that each of them advances by.
    advances: Vec<usize>,
    scratch: Scratch,
    /// Tokens of prompts that were computed since the owner last asked.
    pub(super) prompt_tokens: usize,
    /// Tokens since then that were proposed and accepted, and that were not.
    pub(super) speculated: [usize; 2],
}

impl Shard {
    /// A share whose large products a team computes.
    ///
    /// # Errors
    /// A device has no room for the pool's keys and values.
    pub(super) fn new(model: &Compute, pool: &BlockPool, team: Option<Arc<Team>>) -> Result<Self, String> {
        let mut scratch = model.scratch(pool)?;
        scratch.workspace.team = team;
        Ok(Self { scratch, whole_steps: model.on_device(), ..Self::default() })
    }

    /// Replies that run or wait for their prompt, and texts that are scored, become vectors, or after which labels are read.
    pub(super) fn replies(&self) -> usize {
        self.sequences.iter().map(Sequence::places).sum()
    }

    /// Blocks that a step of `most` positions may take.
    pub(super) fn blocks_due(&self, most: usize) -> usize {
        let due = |s: &Sequence| s.blocks_due(s.tokens.len().min(s.computed + most));
        self.sequences.iter().map(due).sum()
    }

    /// Draws the tokens of all sequences that are one reply each on the team, if that pays, and marks them as continuing.
    /// Returns whether it did.
    fn draw_together(&mut self, vocabulary: usize) -> bool {
        let rows = &self.batch.rows;
        let several = rows.first().map(|row| row.sequence) != rows.last().map(|row| row.sequence);
        let worth = several && self.scratch.logits.len() >= DRAWN_TOGETHER;
        let Some(team) = self.scratch.workspace.team.clone().filter(|_| worth) else { return false };
        let mut sequences: Vec<Option<&mut Sequence>> = self.sequences.iter_mut().map(Some).collect();
        let mut rest = self.scratch.logits.as_mut_slice();
        let draw = rows.chunk_by(|a, b| a.sequence == b.sequence).filter_map(|rows| {
            let (logits, others) = std::mem::take(&mut rest).split_at_mut(rows.len() * vocabulary);
            rest = others;
            let sequence = sequences[rows[0].sequence].take_if(|s| s.scoring.is_none() && s.replies.len() == 1)?;
            Some(Mutex::new((sequence, rows, logits)))
        });
        let draws: Vec<_> = draw.collect();
        team.run(draws.len(), &|index| {
            let (sequence, rows, logits) = &mut *draws[index].lock().unwrap_or_else(PoisonError::into_inner);
            for (row, logits) in rows.iter().zip(logits.chunks_exact_mut(vocabulary)) {
                sequence.advance(row.position, logits);
            }
            sequence.goes_on = true;
        });
        true
    }

    /// One step: up to `most_rows` positions, replies before prompts; then a token for every reply that is due one.
    ///
    /// # Errors
    /// A device's: nothing more can be computed with these sequences.
    pub(super) fn step(&mut self, model: &Compute, pool: &Arc<BlockPool>, most_rows: usize) -> Result<(), String> {
        self.forget_unheard();
        self.choose_rows(most_rows, pool);
        if self.batch.rows.len() > self.batch.wanted.len() {
            // Prompts take their time.
            self.tell(true);
        }
        if self.batch.rows.is_empty() {
            return Ok(());
        }
        model.forward(&mut self.scratch, pool, &mut self.sequences, &mut self.batch)?;
        for (sequence, advance) in self.sequences.iter_mut().zip(&self.advances) {
            let of_prompt = sequence.prompt.saturating_sub(sequence.computed).min(*advance);
            self.prompt_tokens += of_prompt;
            if let Some(reading) = &mut sequence.reading {
                reading.computed += of_prompt;
            }
            sequence.computed += advance;
        }
        let mut begun = Vec::new();
        let together = self.draw_together(model.config.vocabulary);
        for (row, logits) in self.batch.rows.iter().zip(self.scratch.logits.chunks_exact_mut(model.config.vocabulary)) {
            let Row { sequence, position } = *row;
            let sequence = &mut self.sequences[sequence];
            if (together && sequence.goes_on) || position >= sequence.computed {
                continue;
            }
            if let Some(scoring) = &mut sequence.scoring {
                scoring.found.push(DrawnLogprobs::new(logits, scoring.targets[position], scoring.top));
                continue;
            }
            if let Some(reading) = sequence.reading.take() {
                begun.extend(sequence.read(reading, logits));
                continue;
            }
            if sequence.replies.len() == 1 {
                sequence.advance(position, logits);
                continue;
            }
            // The prompt is computed: every sibling continues by itself, on the prompt's blocks.
            for mut reply in std::mem::take(&mut sequence.replies) {
                if let Some(id) = reply.advance(&mut logits.to_vec()) {
                    let mut tokens = sequence.tokens.clone();
                    tokens.push(id);
                    begun.push(Sequence {
                        variant: sequence.variant.clone(),
                        root: sequence.root,
                        caller: sequence.caller,
                        plain: sequence.plain,
                        told: sequence.told,
                        born: sequence.born,
                        served: sequence.served,
                        tokens,
                        prompt: sequence.prompt,
                        computed: sequence.computed,
                        blocks: sequence.blocks.clone(),
                        kept: sequence.kept.clone(),
                        replies: vec![reply],
                        scoring: None,
                        pooled: None,
                        reading: None,
                        lookup: sequence.lookup.clone(),
                        goes_on: false,
                    });
                }
            }
        }
        self.sequences.append(&mut begun);
        self.tell(false);
        // Adapters are not held between steps.
        self.batch.clear();
        for sequence in &mut self.sequences {
            sequence.goes_on = false;
            self.speculated.iter_mut().zip(sequence.settle()).for_each(|(sum, tokens)| *sum += tokens);
            if let Some(scoring) = sequence.scoring.take_if(|scoring| scoring.found.len() == scoring.targets.len()) {
                // A caller that disconnected needs no answer.
                scoring.done.send(scoring.found).ok();
            }
            let whole = sequence.computed == sequence.tokens.len();
            if let Some(pooled) = sequence.pooled.take_if(|_| whole) {
                pooled.finish();
            }
        }
        Ok(())
    }

    /// Flushes due tokens to all listeners at once: waking a listener costs as much as a small model's token, and it then competes for
    /// the cores.
    fn tell(&mut self, now: bool) {
        let told = self.sequences.iter().filter(|sequence| sequence.told).count();
        let every = TOLD_EVERY * told as u32;
        let time = now || self.told.is_none_or(|told| told.elapsed() >= every);
        if time {
            self.told = Some(Instant::now());
        }
        for sequence in &mut self.sequences {
            let told = sequence.told;
            sequence.replies.iter_mut().for_each(|reply| reply.tell(told, time));
        }
    }

    /// Drops replies that have no listener any more, and puts sequences without a reply aside.
    pub(super) fn forget_unheard(&mut self) {
        for sequence in &mut self.sequences {
            sequence.replies.retain(|reply| !reply.listener.is_closed());
            sequence.scoring.take_if(|scoring| scoring.done.is_canceled());
            sequence.pooled.take_if(|pooled| pooled.done.is_canceled());
            sequence.reading.take_if(|reading| reading.listener.is_closed());
        }
        let over =
            |s: &mut Sequence| s.replies.is_empty() && s.scoring.is_none() && s.pooled.is_none() && s.reading.is_none();
        self.ended.extend(self.sequences.extract_if(.., over));
    }

    fn choose_rows(&mut self, most: usize, pool: &Arc<BlockPool>) {
        self.batch.clear();
        // Rows that share an adapter lie side by side.
        self.sequences.sort_by_key(|sequence| sequence.variant.root);
        self.choose_advances(most);
        if let Some(free) = pool.free() {
            self.make_room(free, pool);
        }
        let Batch { rows, groups, wanted } = &mut self.batch;
        for (index, (sequence, &advance)) in self.sequences.iter_mut().zip(&self.advances).enumerate() {
            if advance == 0 {
                continue;
            }
            let end = sequence.computed + advance;
            sequence.own(pool, end);
            let first = rows.len();
            rows.extend((sequence.computed..end).map(|position| Row { sequence: index, position }));
            match () {
                () if sequence.wants_every_row() => wanted.extend(first..rows.len()),
                () if end == sequence.tokens.len() => wanted.extend(rows.len() - 1 - sequence.proposed()..rows.len()),
                () => {}
            }
            let Some(adapter) = &sequence.variant.adapter else { continue };
            match groups.last_mut() {
                Some(group) if Arc::ptr_eq(&group.adapter, adapter) => group.rows.end = rows.len(),
                _ => groups.push(Group { rows: first..rows.len(), adapter: adapter.clone() }),
            }
        }
    }

    /// Where blocks are limited, the older sequence has them: younger ones wait, or give theirs back. What they have in the
    /// tree is free only before the next step. One sequence alone always has room, so the oldest always advances.
    fn make_room(&mut self, free: usize, pool: &BlockPool) {
        let (mut free, mut taken, mut staying) = (free, 0, self.order.len());
        for place in 0..self.order.len() {
            let index = self.order[place];
            if place >= staying || self.advances[index] == 0 {
                self.advances[index] = 0;
                continue;
            }
            let sequence = &self.sequences[index];
            let due = sequence.blocks_due(sequence.computed + self.advances[index]);
            while free < taken + due && staying > place + 1 {
                staying -= 1;
                self.sequences[self.order[staying]].give_up();
                free = pool.free().unwrap_or(usize::MAX);
            }
            if free < taken + due {
                self.advances[index] = 0;
            } else {
                taken += due;
            }
        }
    }

    /// Every reply advances by its token and prompts by what is left of `most`. While plain replies run, searches get
    /// as many positions as these, in turns, so that a plain reply's next token takes at most twice as long as alone.
    /// Replies that copy from their prompts have proposals appended, which advance with them.
    fn choose_advances(&mut self, most: usize) {
        self.steps += 1;
        let due = |sequence: &Sequence| sequence.tokens.len() - sequence.computed;
        let runs = |sequence: &&Sequence| due(sequence) == 1 && !sequence.wants_every_row();
        let running = self.sequences.iter().filter(runs).count();
        let plain = match self.whole_steps {
            true => 0,
            false => self.sequences.iter().filter(runs).filter(|sequence| sequence.plain).count(),
        };
        let mut for_searches = if plain == 0 { usize::MAX } else { plain };
        let mut for_prompts = if plain == 0 { most.saturating_sub(running).max(BLOCK) } else { BLOCK };
        self.order.clear();
        self.order.extend(0..self.sequences.len());
        if self.whole_steps {
            // Rows go to the oldest sequence first, as blocks do: it would starve if a younger one had its rows and no block for them.
            self.order.sort_by_key(|&index| self.sequences[index].born);
        } else if plain > 0 {
            self.order.sort_by_key(|&index| self.sequences[index].served);
        } else {
            // Prompts get what proposals leave.
            self.order.sort_by_key(|&index| due(&self.sequences[index]) > 1);
        }
        // Proposals take at most half of a step, and during plain replies only what tokens that are certain leave.
        let searches = running - plain;
        let spare = match self.sequences.iter().any(|sequence| sequence.plain) {
            true => plain.saturating_sub(searches),
            false => (most / 2).saturating_sub(searches),
        };
        let proposals = spare / searches.max(1);
        self.advances.clear();
        self.advances.resize(self.sequences.len(), 0);
        for &index in &self.order {
            let sequence = &mut self.sequences[index];
            let due = due(sequence);
            let mut room = if due == 1 { 1 } else { for_prompts };
            if !sequence.plain {
                room = room.min(for_searches);
            }
            if sequence.scoring.is_some() {
                // Scores of a whole vocabulary for every row: a few at a time.
                room = room.min(BLOCK);
            }
            let advance = match room {
                1.. if due == 1 => {
                    let proposed = sequence.propose(proposals.min(for_searches.saturating_sub(1)));
                    for_prompts = for_prompts.saturating_sub(proposed);
                    1 + proposed
                }
                room if due <= room => due,
                room if room < BLOCK => room,
                // Prompts advance by whole blocks, so that a sequence can reuse between steps what another has computed.
                room => ((sequence.computed + room) / BLOCK * BLOCK) - sequence.computed,
            };
            if due > 1 {
                for_prompts -= advance;
            }
            if !sequence.plain {
                for_searches -= advance;
            }
            if advance > 0 {
                sequence.served = self.steps;
            }
            self.advances[index] = advance;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;

    use super::super::NativeConfig;
    use super::super::blocks::Shape;
    use super::super::lookup::Lookup;
    use super::super::sequence::RunningReply;
    use super::super::tests::{engine_with, sequence};
    use super::*;
    use crate::engine::{Purpose, Request};
    use crate::testing::TinyModel;

    #[test]
    fn where_blocks_are_short_the_oldest_goes_on_wherever_it_stands() {
        let engine = engine_with(&TinyModel::default(), NativeConfig::default());
        let pool = BlockPool::limited(Shape { layers: 1, heads: 1, head_dim: 2 }, 10, Arc::default());
        let begun = |born: u64, blocks: usize| {
            let mut sequence = Sequence { born, ..sequence(&engine, &[1; 8 * BLOCK]) };
            sequence.own(&pool, blocks * BLOCK);
            sequence.computed = blocks * BLOCK;
            sequence
        };
        let (younger, older) = (begun(2, 4), begun(1, 6));
        let mut shard = Shard { sequences: vec![younger, older], whole_steps: true, ..Shard::default() };
        shard.choose_rows(BLOCK, &pool);
        let rows: Vec<usize> = shard.batch.rows.iter().map(|row| shard.sequences[row.sequence].born as usize).collect();
        assert_eq!(rows, [1; BLOCK]);
        assert_eq!(shard.sequences[0].computed, 0, "the younger one gave its blocks back");
    }

    /// A refinement's rows, proposals included, are no more than those of the plain replies that run with it.
    #[tokio::test]
    async fn proposals_do_not_hold_plain_replies_up() {
        let engine = engine_with(&TinyModel::default(), NativeConfig::default());
        let pool = engine.runtime.model.pool(0, Arc::default());
        let tokens: Vec<u32> = (1..30).chain(1..6).collect();
        let begun = |prompt, computed| Sequence { prompt, computed, ..sequence(&engine, &tokens) };
        // Plain replies that run, those whose prompt is computed, and rows of the refinement.
        for (running, prompts, expected) in
            [(0, 0, 4), (1, 0, 1), (2, 0, 2), (3, 0, 3), (9, 0, 4), (0, 1, 1), (3, 1, 3)]
        {
            let request = Request { max_tokens: Some(20), ..Request::chat(Purpose::Refine, vec![]) };
            let writer = engine.replies(&request, &tokens[..30]).await.unwrap().remove(0);
            let refinement = Sequence {
                plain: false,
                lookup: Some(Box::new(Lookup::new(32))),
                replies: vec![RunningReply::new(writer, mpsc::unbounded().0)],
                ..begun(30, tokens.len() - 1)
            };
            let plain = (0..running).map(|_| begun(30, tokens.len() - 1)).chain((0..prompts).map(|_| begun(34, 0)));
            let mut shard = Shard { sequences: std::iter::once(refinement).chain(plain).collect(), ..Shard::default() };
            shard.choose_rows(256, &pool);
            let refinement = shard.sequences.iter().position(|sequence| !sequence.plain).unwrap();
            let rows = shard.batch.rows.iter().filter(|row| row.sequence == refinement).count();
            assert_eq!(rows, expected, "{running} plain replies, {prompts} prompts");
        }
    }
}
