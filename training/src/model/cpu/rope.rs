//! Rotary positions in Hugging Face's form: element `i` of a head is paired with element `i + dim / 2`.

use std::ops::Range;

use crate::model::DenseConfig;

/// Cosines and sines of every position, and where the rotated heads are in a row.
#[derive(Debug)]
pub struct Rope {
    half: usize,
    width: usize,
    rotated: Range<usize>,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// For rows of query, key and value; the first two are rotated.
    pub fn new(config: &DenseConfig) -> Self {
        let dim = config.head_dim;
        let half = dim / 2;
        let (cos, sin) = config.rope.turns(0..config.context).into_iter().unzip();
        let rotated = (config.heads + config.kv_heads) * dim;
        Self { half, width: rotated + config.kv_heads * dim, rotated: 0..rotated, cos, sin }
    }

    /// Rotates neighbouring rows, the first of which is at `position`.
    pub fn forward(&self, rows: &mut [f32], position: usize) {
        self.rotate(rows, position, 1.0);
    }

    /// Rotates gradients back: the transpose of a rotation turns the other way.
    pub fn backward(&self, rows: &mut [f32], position: usize) {
        self.rotate(rows, position, -1.0);
    }

    fn rotate(&self, rows: &mut [f32], position: usize, direction: f32) {
        let angles = self.cos.chunks_exact(self.half).zip(self.sin.chunks_exact(self.half)).skip(position);
        for (row, (cos, sin)) in rows.chunks_exact_mut(self.width).zip(angles) {
            for head in row[self.rotated.clone()].chunks_exact_mut(2 * self.half) {
                let (first, second) = head.split_at_mut(self.half);
                for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                    let sin = direction * sin;
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
