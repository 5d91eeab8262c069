//! Causal attention with grouped heads, per sequence of a packed batch.
//!
//! Queries go in blocks; the query heads that share a key head are stacked, so that each block is one product of
//! `(heads · block, dim)` with the keys up to its end. The probabilities are kept for the backward pass.

use spar::kernels::Matrix;

use super::batch::{Fork, Packed, Span};
use super::product::Products;
use super::vector::{dot, exp_sum, max, scale};
use crate::model::DenseConfig;

/// Queries of one block. Smaller blocks waste less above the diagonal, larger ones make better products.
const BLOCK: usize = 64;

/// Which columns of a row are whose.
#[derive(Clone, Copy, Debug)]
struct Heads {
    dim: usize,
    kv_heads: usize,
    /// Query heads per key head.
    group: usize,
}

/// Sizes, and buffers that are used again.
#[derive(Debug)]
pub struct Attention {
    heads: Heads,
    queries: Vec<f32>,
    outputs: Vec<f32>,
    scores: Vec<f32>,
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
}

/// A block of queries of one sequence and one key head.
#[derive(Clone, Copy)]
struct Block {
    /// First row of the sequence in the batch.
    sequence: usize,
    head: usize,
    /// First query, counted in the sequence.
    start: usize,
    queries: usize,
    fork: Fork,
}

impl Block {
    fn keys(self) -> usize {
        self.start + self.queries
    }

    /// Turns the scores of the block's `i`-th query into probabilities of the keys that it sees: those up to itself, but
    /// for the rest of the other text where the sequence forks.
    fn softmax(self, scores: &mut [f32], i: usize) {
        let query = self.start + i;
        let Fork { shared, first } = self.fork;
        let (visible, later) = scores.split_at_mut(query + 1);
        later.fill(0.0);
        let (before, rest) = visible.split_at_mut(if query < shared + first { 0 } else { shared });
        let (other, own) = rest.split_at_mut(if query < shared + first { 0 } else { first });
        other.fill(0.0);
        let shift = max(before).max(max(own));
        let sum = exp_sum(before, shift) + exp_sum(own, shift);
        scale(before, 1.0 / sum);
        scale(own, 1.0 / sum);
    }
}

impl Heads {
    /// Columns of a row of queries, keys and values.
    fn width(&self) -> usize {
        (self.group + 2) * self.kv_heads * self.dim
    }

    /// Columns of all query heads.
    fn query_width(&self) -> usize {
        self.group * self.kv_heads * self.dim
    }

    fn blocks(&self, span: Span) -> impl Iterator<Item = Block> + use<> {
        let Span { start: sequence, len, fork } = span;
        (0..self.kv_heads).flat_map(move |head| {
            let block = move |start| Block { sequence, head, start, queries: BLOCK.min(len - start), fork };
            (0..len).step_by(BLOCK).map(block)
        })
    }

    fn keys<'a>(&self, qkv: &'a [f32], block: Block) -> Matrix<'a> {
        self.columns(qkv, block, self.query_width())
    }

    fn values<'a>(&self, qkv: &'a [f32], block: Block) -> Matrix<'a> {
        self.columns(qkv, block, self.query_width() + self.kv_heads * self.dim)
    }

    fn columns<'a>(&self, qkv: &'a [f32], block: Block, column: usize) -> Matrix<'a> {
        let width = self.width();
        let data = &qkv[block.sequence * width + column + block.head * self.dim..];
        Matrix { data, rows: block.keys(), columns: self.dim, row_stride: width, column_stride: 1 }
    }

    fn query_scale(&self) -> f32 {
        1.0 / (self.dim as f32).sqrt()
    }

    /// The places of the block's queries in rows of `width` columns.
    fn places(&self, block: Block, width: usize) -> Places {
        let first = (block.sequence + block.start) * width + block.head * self.group * self.dim;
        Places { first, width, heads: self.group, queries: block.queries, dim: self.dim }
    }
}

impl Attention {
    pub fn new(config: &DenseConfig) -> Self {
        let group = config.heads / config.kv_heads;
        let dim = config.head_dim;
        let block = group * BLOCK;
        let buffer = |len| vec![0.0; len];
        Self {
            heads: Heads { dim, kv_heads: config.kv_heads, group },
            queries: buffer(block * dim),
            outputs: buffer(block * dim),
            scores: Vec::new(),
            dq: buffer(block * dim),
            dk: Vec::new(),
            dv: Vec::new(),
        }
    }

    /// Elements that the probabilities of a batch take.
    pub fn probabilities(&self, batch: &Packed) -> usize {
        let heads = self.heads;
        let of = |span| heads.blocks(span).map(|b| heads.group * b.queries * b.keys()).sum::<usize>();
        batch.sequences().map(of).sum()
    }

    /// `out` `(rows, heads · dim)` from `qkv` `(rows, query, key and value heads)`, already rotated.
    pub fn forward(
        &mut self,
        products: &mut Products,
        out: &mut [f32],
        probabilities: &mut [f32],
        qkv: &[f32],
        batch: &Packed,
    ) {
        let (heads, mut rest) = (self.heads, probabilities);
        let width = heads.width();
        for span in batch.sequences() {
            for block in heads.blocks(span) {
                let (rows, keys) = (heads.group * block.queries, block.keys());
                let p = rest.split_off_mut(..rows * keys).expect("sized by `probabilities`");
                gather(&mut self.queries, qkv, &heads.places(block, width), heads.query_scale());
                let queries = Matrix::row_major(&self.queries, rows, heads.dim);
                products.matmul(p, 0.0, queries, heads.keys(qkv, block).transposed());
                for (i, row) in p.chunks_exact_mut(keys).enumerate() {
                    block.softmax(row, i % block.queries);
                }
                products.matmul(&mut self.outputs, 0.0, Matrix::row_major(p, rows, keys), heads.values(qkv, block));
                scatter(out, &self.outputs, &heads.places(block, heads.query_width()), 1.0);
            }
        }
    }

    /// `dqkv` from `dout`; `dqkv` is overwritten.
    ///
    /// With `P = softmax(S)` and `O = P · V`: `dV = Pᵀ · dO`, `dP = dO · Vᵀ`, `dS = P · (dP - rowsum(P · dP))`,
    /// `dQ = dS · K` and `dK = dSᵀ · Q`.
    pub fn backward(
        &mut self,
        products: &mut Products,
        dqkv: &mut [f32],
        dout: &[f32],
        probabilities: &[f32],
        qkv: &[f32],
        batch: &Packed,
    ) {
        let (heads, mut rest) = (self.heads, probabilities);
        let (width, dim) = (heads.width(), heads.dim);
        for span in batch.sequences() {
            self.dk.resize(span.len * dim, 0.0);
            self.dv.resize(span.len * dim, 0.0);
            for block in heads.blocks(span) {
                let (rows, keys) = (heads.group * block.queries, block.keys());
                let p = rest.split_off(..rows * keys).expect("sized by `probabilities`");
                if block.start == 0 {
                    self.dk.fill(0.0);
                    self.dv.fill(0.0);
                }
                gather(&mut self.outputs, dout, &heads.places(block, heads.query_width()), 1.0);
                let (p_matrix, dout) = (Matrix::row_major(p, rows, keys), Matrix::row_major(&self.outputs, rows, dim));
                products.matmul(&mut self.dv, 1.0, p_matrix.transposed(), dout);

                self.scores.resize(rows * keys, 0.0);
                products.matmul(&mut self.scores, 0.0, dout, heads.values(qkv, block).transposed());
                for (ds, p) in self.scores.chunks_exact_mut(keys).zip(p.chunks_exact(keys)) {
                    let sum = dot(p, ds);
                    ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = p * (*ds - sum));
                }
                let ds = Matrix::row_major(&self.scores, rows, keys);
                products.matmul(&mut self.dq, 0.0, ds, heads.keys(qkv, block));
                scatter(dqkv, &self.dq, &heads.places(block, width), heads.query_scale());

                gather(&mut self.queries, qkv, &heads.places(block, width), heads.query_scale());
                let ds = Matrix::row_major(&self.scores, rows, keys);
                products.matmul(&mut self.dk, 1.0, ds.transposed(), Matrix::row_major(&self.queries, rows, dim));
                if keys == span.len {
                    let key = heads.query_width() + block.head * dim;
                    let rows = dqkv[span.start * width..].chunks_exact_mut(width);
                    for ((row, dk), dv) in rows.zip(self.dk.chunks_exact(dim)).zip(self.dv.chunks_exact(dim)) {
                        row[key..key + dim].copy_from_slice(dk);
                        let value = key + heads.kv_heads * dim;
                        row[value..value + dim].copy_from_slice(dv);
                    }
                }
            }
        }
    }
}

/// The heads of some neighbouring rows: head by head when together, row by row in the batch.
struct Places {
    first: usize,
    width: usize,
    heads: usize,
    queries: usize,
    dim: usize,
}

impl Places {
    fn starts(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.heads)
            .flat_map(move |head| (0..self.queries).map(move |q| self.first + q * self.width + head * self.dim))
    }
}

fn gather(together: &mut [f32], rows: &[f32], places: &Places, factor: f32) {
    for (to, start) in together.chunks_exact_mut(places.dim).zip(places.starts()) {
        to.iter_mut().zip(&rows[start..start + places.dim]).for_each(|(to, from)| *to = from * factor);
    }
}

fn scatter(rows: &mut [f32], together: &[f32], places: &Places, factor: f32) {
    for (from, start) in together.chunks_exact(places.dim).zip(places.starts()) {
        rows[start..start + places.dim].iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
    }
}
