//! Attention of many positions over their sequences' blocks of keys and values. A block that neighbours share, as siblings
//! do their prompt's and the positions of a prompt all earlier ones, is read once for all of them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use super::batch::Row;
use super::blocks::{BLOCK, Block, Shape};
use super::sequence::Sequence;
use crate::kernels::packed::{Out, Rows, multiply_panels, prefetch};
use crate::kernels::team::Team;
use crate::kernels::{exp_scaled, max, sum};

/// Positions that are looked at together: their scores fit into a near cache.
const NEIGHBOURS: usize = 16;

/// Keys and values of more neighbours than this no longer fit in a near cache between steps and are prefetched.
const NEAR: usize = 4;

/// Where the keys and values of a layer are, and which of them a position sees.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) layer: usize,
    pub(super) shape: Shape,
    /// Keys that a position sees, itself included, where not all.
    pub(super) window: Option<usize>,
    pub(super) scoring: Scoring,
}

/// What becomes of products of queries and keys before their softmax.
#[derive(Clone, Copy)]
pub(super) struct Scoring {
    pub(super) scale: f32,
    /// Scores are `cap · tanh(score / cap)`.
    pub(super) cap: Option<f32>,
}

/// Buffers of the computation, one for each key head that is computed at a time.
#[derive(Default)]
pub(super) struct Attention {
    parts: Vec<Mutex<Part>>,
}

#[derive(Default)]
struct Part {
    /// `(query heads of the key head of all neighbours, head_dim)`.
    queries: Vec<f32>,
    /// `(the same, positions)`.
    scores: Vec<f32>,
    /// Sums of weights.
    totals: Vec<f32>,
    /// `(the same, head_dim)`.
    sums: Vec<f32>,
    /// `(rows, query heads of the key head, head_dim)`.
    results: Vec<f32>,
}

/// A position and what it sees.
#[derive(Clone, Copy)]
struct View<'a> {
    blocks: &'a [Arc<Block>],
    /// Positions from the first to the one after the last.
    seen: (usize, usize),
}

impl View<'_> {
    fn sees(&self, block: usize) -> bool {
        (self.seen.0 / BLOCK..self.seen.1.div_ceil(BLOCK)).contains(&block)
    }
}

impl Attention {
    /// `out = softmax(scale · q · kᵀ) · v`, with capped scores where there is a cap, for each query head of each row. `q` has
    /// `stride` elements per row, which begin with the queries, `(heads, head_dim)`; `out` is `(rows, heads, head_dim)`. A team
    /// shares the key heads.
    ///
    /// Every sum runs over positions in order, block by block, so the result does not depend on who shares the blocks.
    pub(super) fn attend(
        &mut self,
        heads: Heads,
        sequences: &[Sequence],
        rows: &[Row],
        (q, stride): (&[f32], usize),
        out: &mut [f32],
        team: Option<&Team>,
    ) {
        let count = heads.shape.heads;
        let width = out.len() / rows.len();
        let part = width / count;
        let mut keep = |head: usize, results: &[f32]| {
            for (out, results) in out.chunks_exact_mut(width).zip(results.chunks_exact(part)) {
                out[head * part..][..part].copy_from_slice(results);
            }
        };
        self.parts.resize_with(if team.is_some() { count } else { 1 }, Mutex::default);
        let Some(team) = team else {
            let own = self.parts[0].get_mut().unwrap_or_else(PoisonError::into_inner);
            for head in 0..count {
                own.attend(heads, head, sequences, rows, (q, stride), part);
                keep(head, &own.results);
            }
            return;
        };
        let parts = &self.parts;
        team.run(count, &|head| {
            let mut own = parts[head].lock().unwrap_or_else(PoisonError::into_inner);
            own.attend(heads, head, sequences, rows, (q, stride), part);
        });
        for (head, own) in self.parts.iter_mut().enumerate() {
            keep(head, &own.get_mut().unwrap_or_else(PoisonError::into_inner).results);
        }
    }
}

impl Part {
    /// All rows' query heads of one key head.
    fn attend(
        &mut self,
        heads: Heads,
        head: usize,
        sequences: &[Sequence],
        rows: &[Row],
        (q, stride): (&[f32], usize),
        part: usize,
    ) {
        self.results.clear();
        for (rows, q) in rows.chunks(NEIGHBOURS).zip(q.chunks(NEIGHBOURS * stride)) {
            let mut views = [View { blocks: &[], seen: (0, 0) }; NEIGHBOURS];
            for (view, row) in views.iter_mut().zip(rows) {
                let end = row.position + 1;
                let first = heads.window.map_or(0, |window| end.saturating_sub(window));
                *view = View { blocks: &sequences[row.sequence].blocks, seen: (first, end) };
            }
            self.queries.clear();
            for q in q.chunks(stride).take(rows.len()) {
                self.queries.extend_from_slice(&q[head * part..][..part]);
            }
            self.attend_neighbours(heads, head, &views[..rows.len()], part / heads.shape.head_dim);
        }
    }

    /// Appends the results of neighbours, whose `group` query heads each are in `queries`.
    fn attend_neighbours(&mut self, heads: Heads, head: usize, views: &[View<'_>], group: usize) {
        let Heads { layer, shape, scoring, .. } = heads;
        let size = shape.head_dim;
        let start = views.iter().map(|view| view.seen.0 / BLOCK).min().unwrap_or(0);
        let end = views.iter().map(|view| view.seen.1.div_ceil(BLOCK)).max().unwrap_or(0);
        let length = (end - start) * BLOCK;
        let far = views.len() > NEAR;
        let Self { queries, scores, totals, sums, results } = self;
        scores.resize(views.len() * group * length, 0.0);
        for index in start..end {
            let at = (index - start) * BLOCK;
            sharing(views, index, |sharers, block| {
                let rows = sharers.start * group..sharers.end * group;
                let q = Rows::new(&queries[rows.start * size..rows.end * size], size);
                let data = &mut scores[rows.start * length + at..rows.end * length];
                let out = Out { data, stride: length, columns: BLOCK, add: false };
                if far {
                    let view = &views[sharers.start];
                    prefetch(match view.sees(index + 1) {
                        true => view.blocks[index + 1].keys(shape, layer, head),
                        false => view.blocks[view.seen.0 / BLOCK].values(shape, layer, head),
                    });
                }
                multiply_panels(q, block.keys(shape, layer, head), size, out);
            });
        }
        sums.clear();
        sums.resize(views.len() * group * size, 0.0);
        totals.clear();
        totals.resize(views.len() * group, 0.0);
        for (row, (scores, total)) in scores.chunks_exact_mut(length.max(1)).zip(totals.iter_mut()).enumerate() {
            let (first, last) = views[row / group].seen;
            let seen = first - start * BLOCK..last - start * BLOCK;
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let seen = &mut scores[seen];
            let scale = match scoring.cap {
                Some(cap) => {
                    seen.iter_mut().for_each(|score| *score = cap * (*score * scoring.scale / cap).tanh());
                    1.0
                }
                None => scoring.scale,
            };
            let peak = max(seen);
            exp_scaled(seen, peak, scale);
            *total = sum(seen) as f32;
        }
        for index in start..end {
            let at = (index - start) * BLOCK;
            sharing(views, index, |sharers, block| {
                let rows = sharers.start * group..sharers.end * group;
                if let Some(next) = views[sharers.start].blocks.get(index + 1).filter(|_| far) {
                    prefetch(next.values(shape, layer, head));
                }
                // Where a position sees less than another, its weights are 0.
                let last = views[sharers].iter().map(|view| view.seen.1).max().unwrap_or(0);
                let seen = BLOCK.min(last - index * BLOCK);
                let data = &scores[rows.start * length + at..rows.end * length];
                let weights = Rows { data, stride: length, inner: seen, count: rows.len() };
                let data = &mut sums[rows.start * size..rows.end * size];
                let out = Out { data, stride: size, columns: size, add: true };
                multiply_panels(weights, block.values(shape, layer, head), BLOCK, out);
            });
        }
        for (sums, total) in sums.chunks_exact(size).zip(totals.iter()) {
            results.extend(sums.iter().map(|sum| sum / total));
        }
    }
}

/// Calls `f` for each range of neighbours that see one and the same block `index`.
fn sharing(views: &[View<'_>], index: usize, mut f: impl FnMut(Range<usize>, &Block)) {
    let mut first = 0;
    while first < views.len() {
        if !views[first].sees(index) {
            first += 1;
            continue;
        }
        let block = &views[first].blocks[index];
        let same = |view: &&View<'_>| view.sees(index) && Arc::ptr_eq(&view.blocks[index], block);
        let end = first + views[first..].iter().take_while(same).count();
        f(first..end, block);
        first = end;
    }
}

#[cfg(test)]
mod tests {
    use super::super::NativeConfig;
    use super::super::blocks::BlockPool;
    use super::super::tests::{engine_with, sequence};
    use super::*;
    use crate::testing::TinyModel;

    #[test]
    fn what_a_block_held_before_is_not_looked_at() {
        let engine = engine_with(&TinyModel::default(), NativeConfig::default());
        let shape = Shape { layers: 1, heads: 1, head_dim: 64 };
        let numbers = |count: usize, key: usize| -> Vec<f32> { (0..count).map(|i| ((i * key) as f32).sin()).collect() };
        let attended = |before: f32, positions: usize| {
            let pool = BlockPool::new(shape, Arc::default());
            let mut used = [pool.block(), pool.block()];
            for block in &mut used {
                (0..BLOCK).for_each(|slot| block.write(shape, 0, slot, &[before; 64], &[before; 64]));
            }
            drop(used);
            let mut sequence = sequence(&engine, &vec![1; positions]);
            sequence.own(&pool, positions);
            for position in 0..positions {
                sequence.write(shape, 0, position, &numbers(64, position + 1), &numbers(64, position + 2));
            }
            let rows = [positions - 2, positions - 1].map(|position| Row { sequence: 0, position });
            let mut out = vec![0.0; 2 * 3 * 64];
            let heads = Heads { layer: 0, shape, window: None, scoring: Scoring { scale: 0.125, cap: None } };
            Attention::default().attend(heads, &[sequence], &rows, (&numbers(2 * 192, 3), 192), &mut out, None);
            out
        };
        for positions in [2, 31, 32, 33, 50] {
            let out = attended(f32::NAN, positions);
            assert!(out.iter().all(|x| x.is_finite()));
            assert_eq!(out, attended(0.0, positions));
        }
    }
}
