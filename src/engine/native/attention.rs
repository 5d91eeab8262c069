//! Attention of one position over its sequence's blocks of keys and values.

use std::sync::Arc;

use super::blocks::{BLOCK, Block, Shape};
use crate::kernels::packed::{AT_ONCE, Line, ROWS, WIDTH, at_once, multiply_tiles};
use crate::kernels::{exp_scaled, max, sum};

/// Where the keys and values of a layer are, and which of them a position sees.
#[derive(Clone, Copy)]
pub(super) struct Heads {
    pub(super) layer: usize,
    pub(super) shape: Shape,
    /// Keys that a position sees, itself included, where not all.
    pub(super) window: Option<usize>,
}

/// Buffers of the computation.
#[derive(Default)]
pub(super) struct Attention {
    /// `(query heads of one tile, positions)`.
    scores: Vec<f32>,
}

impl Attention {
    /// `out = softmax(q · kᵀ / √head_dim) · v` for each query head; `q` and `out` are `(heads, head_dim)`.
    ///
    /// Every sum runs over positions in order, block by block, so the result does not depend on who shares the blocks.
    pub(super) fn attend(&mut self, heads: Heads, blocks: &[Arc<Block>], position: usize, q: &[f32], out: &mut [f32]) {
        let Heads { layer, shape, window } = heads;
        let size = shape.head_dim;
        let group = q.len() / shape.heads;
        for head in 0..shape.heads {
            // Query heads that share a key head share the reading of its blocks.
            let tiles = q[head * group..][..group].chunks(ROWS * size);
            for (q, out) in tiles.zip(out[head * group..][..group].chunks_mut(ROWS * size)) {
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                self.attend_tile(&blocks[..=position / BLOCK], (shape, layer, head), (first, position), q, out);
            }
        }
    }

    fn attend_tile(
        &mut self,
        blocks: &[Arc<Block>],
        (shape, layer, head): (Shape, usize, usize),
        (first, last): (usize, usize),
        q: &[f32],
        out: &mut [f32],
    ) {
        let size = shape.head_dim;
        let rows = q.len() / size;
        let mut tiles = [[Line::ZERO; ROWS]; AT_ONCE];
        let start = first / BLOCK;
        let length = (blocks.len() - start) * BLOCK;
        self.scores.resize(rows * length, 0.0);
        for (b, block) in blocks[start..].iter().enumerate() {
            multiply_tiles(q, size, block.keys(shape, layer, head), &mut tiles);
            for (scores, line) in self.scores.chunks_exact_mut(length).zip(&tiles[0]) {
                scores[b * BLOCK..][..BLOCK].copy_from_slice(&line.0);
            }
        }
        let seen = first - start * BLOCK..last + 1 - start * BLOCK;
        let scale = (size as f32).sqrt().recip();
        let mut totals = [0.0f32; ROWS];
        for (scores, total) in self.scores.chunks_exact_mut(length).zip(&mut totals) {
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let seen = &mut scores[seen.clone()];
            let peak = max(seen);
            exp_scaled(seen, peak, scale);
            *total = sum(seen) as f32;
        }
        out.fill(0.0);
        let panels = at_once(rows) * BLOCK;
        let mut weights = [0.0; ROWS * BLOCK];
        for (b, block) in blocks[start..].iter().enumerate() {
            // Weights of positions that are not there yet are 0, and so are their values.
            for (to, scores) in weights.chunks_exact_mut(BLOCK).zip(self.scores.chunks_exact(length)) {
                to.copy_from_slice(&scores[b * BLOCK..][..BLOCK]);
            }
            for (p, panels) in block.values(shape, layer, head).chunks(panels).enumerate() {
                multiply_tiles(&weights[..rows * BLOCK], BLOCK, panels, &mut tiles);
                for (tile, first) in
                    tiles.iter().zip((p * at_once(rows) * WIDTH..size).step_by(WIDTH)).take(panels.len() / BLOCK)
                {
                    let columns = first..(first + WIDTH).min(size);
                    for (out, line) in out.chunks_exact_mut(size).zip(tile) {
                        out[columns.clone()].iter_mut().zip(&line.0).for_each(|(o, x)| *o += x);
                    }
                }
            }
        }
        for (out, total) in out.chunks_exact_mut(size).zip(totals) {
            out.iter_mut().for_each(|x| *x /= total);
        }
    }
}
