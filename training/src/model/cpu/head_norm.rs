//! RMSNorm of each head of queries and of keys (Qwen 3), in rows of query, key and value.

use std::ops::Range;

use super::norm;
use crate::model::DenseConfig;

/// Sizes, and a buffer.
#[derive(Debug)]
pub struct HeadNorms {
    dim: usize,
    /// Columns of a row.
    width: usize,
    /// The norms of queries and of keys.
    parts: [Range<usize>; 2],
    eps: f32,
    dy: Vec<f32>,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug, Default)]
pub struct Raw {
    /// Queries and keys before their norms, `(rows, heads · dim)` together.
    x: Vec<f32>,
    /// `1 / sqrt(mean(x²) + ε)`, `(rows, heads)`.
    r: Vec<f32>,
}

impl HeadNorms {
    pub fn new(config: &DenseConfig) -> Self {
        let (q, kv) = config.widths();
        let parts = [0..q, q..q + kv];
        Self { dim: config.head_dim, width: q + 2 * kv, parts, eps: config.norm_eps, dy: Vec::new() }
    }

    /// Normalises queries and keys where they are, by their weights `(dim,)`.
    pub fn forward(&self, raw: &mut Raw, qkv: &mut [f32], weights: [&[f32]; 2]) {
        let both = self.parts[1].end;
        raw.x.clear();
        qkv.chunks_exact(self.width).for_each(|row| raw.x.extend_from_slice(&row[..both]));
        raw.r.resize(raw.x.len() / self.dim, 0.0);
        let rows = qkv.chunks_exact_mut(self.width).zip(raw.x.chunks_exact(both));
        for ((row, x), r) in rows.zip(raw.r.chunks_exact_mut(both / self.dim)) {
            for (part, weight) in self.parts.iter().zip(weights) {
                let r = &mut r[part.start / self.dim..part.end / self.dim];
                norm::forward(&mut row[part.clone()], r, &x[part.clone()], weight, self.eps);
            }
        }
    }

    /// Turns the gradient of normalised queries and keys into that of raw ones; adds that of the weights where it is wanted.
    pub fn backward(
        &mut self,
        dqkv: &mut [f32],
        raw: &Raw,
        weights: [&[f32]; 2],
        mut dweights: Option<[&mut [f32]; 2]>,
    ) {
        let both = self.parts[1].end;
        let rows = dqkv.chunks_exact_mut(self.width).zip(raw.x.chunks_exact(both));
        for ((row, x), r) in rows.zip(raw.r.chunks_exact(both / self.dim)) {
            for (index, (part, weight)) in self.parts.iter().zip(weights).enumerate() {
                let d = &mut row[part.clone()];
                self.dy.clear();
                self.dy.extend_from_slice(d);
                d.fill(0.0);
                let dw = dweights.as_mut().map(|dweights| &mut *dweights[index]);
                let r = &r[part.start / self.dim..part.end / self.dim];
                norm::backward(d, dw, &mut self.dy, &x[part.clone()], weight, r);
            }
        }
    }
}
