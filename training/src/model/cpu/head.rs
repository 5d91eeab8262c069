//! The last norm, the head and the log-probabilities of the targets, a few rows at a time: the logits of a batch never
//! exist as a whole, and rows that nobody asks for are skipped.

use super::linear::Size;
use super::product::{Arithmetic, Products};
use super::vector::{exp_sum, max, scale};
use super::{batch::Packed, norm};
use crate::model::LlamaConfig;

/// Rows at a time: their logits and the head's weights stay in the cache.
const CHUNK: usize = 128;

/// Sizes, and buffers that are used again.
#[derive(Debug)]
pub struct Head {
    size: Size,
    products: Products,
    eps: f32,
    x: Vec<f32>,
    normed: Vec<f32>,
    r: Vec<f32>,
    logits: Vec<f32>,
    dnormed: Vec<f32>,
}

/// The weights of the last norm and of the head, or their gradients.
#[derive(Debug)]
pub struct HeadParts<S> {
    /// `(hidden,)`
    pub norm: S,
    /// `(vocab, hidden)`
    pub head: S,
}

impl Head {
    pub fn new(config: &LlamaConfig, arithmetic: Arithmetic) -> Self {
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let buffer = |columns: usize| vec![0.0; CHUNK * columns];
        Self {
            size: Size { input: hidden, output: vocab },
            products: Products::new(arithmetic),
            eps: config.rms_norm_eps as f32,
            x: buffer(hidden),
            normed: buffer(hidden),
            r: buffer(1),
            logits: buffer(vocab),
            dnormed: buffer(hidden),
        }
    }

    /// Copies rows of `x` together, normalises them and multiplies them by the head. At most [`CHUNK`] rows.
    fn logits_of(&mut self, rows: &[usize], x: &[f32], weights: &HeadParts<&[f32]>) -> &mut [f32] {
        let (hidden, vocab) = (self.size.input, self.size.output);
        for (to, &row) in self.x.chunks_exact_mut(hidden).zip(rows) {
            to.copy_from_slice(&x[row * hidden..(row + 1) * hidden]);
        }
        let n = rows.len() * hidden;
        norm::forward(&mut self.normed[..n], &mut self.r, &self.x[..n], weights.norm, self.eps);
        let logits = &mut self.logits[..rows.len() * vocab];
        self.size.forward(&mut self.products, logits, &self.normed[..n], weights.head);
        logits
    }

    /// All logits, `(rows, vocab)`.
    pub fn logits(&mut self, x: &[f32], weights: &HeadParts<&[f32]>) -> Vec<f32> {
        let rows: Vec<usize> = (0..x.len() / self.size.input).collect();
        rows.chunks(CHUNK).flat_map(|rows| self.logits_of(rows, x, weights).to_vec()).collect()
    }

    /// `out[row] = log p(target of row)` for the given rows.
    pub fn log_probs(
        &mut self,
        out: &mut [f32],
        rows: &[usize],
        x: &[f32],
        batch: &Packed,
        weights: &HeadParts<&[f32]>,
    ) {
        let vocab = self.size.output;
        for rows in rows.chunks(CHUNK) {
            let logits = self.logits_of(rows, x, weights);
            for (logits, &row) in logits.chunks_exact_mut(vocab).zip(rows) {
                out[row] = softmax(logits, batch.targets[row]);
            }
        }
    }

    /// [`Head::log_probs`], and the gradient of `Σ coefficient[row] · log p(target of row)`: written to the rows of `dx`,
    /// added to `gradient`.
    pub fn backward(&mut self, step: HeadStep<'_>, weights: &HeadParts<&[f32]>, gradient: &mut HeadParts<&mut [f32]>) {
        let (size, hidden, vocab) = (self.size, self.size.input, self.size.output);
        for rows in step.rows.chunks(CHUNK) {
            let logits = self.logits_of(rows, step.x, weights);
            for (logits, &row) in logits.chunks_exact_mut(vocab).zip(rows) {
                let target = step.batch.targets[row];
                step.log_probs[row] = softmax(logits, target);
                // d log p(target) / d logit = [target] - p
                scale(logits, -step.coefficients[row]);
                logits[target as usize] += step.coefficients[row];
            }
            let (n, dlogits) = (rows.len() * hidden, &self.logits[..rows.len() * vocab]);
            size.backward_weight(&mut self.products, gradient.head, dlogits, &self.normed[..n]);
            size.backward_input(&mut self.products, &mut self.dnormed[..n], dlogits, weights.head);
            let columns = self.dnormed.chunks_exact_mut(hidden).zip(self.x.chunks_exact(hidden)).zip(&self.r);
            for (((dnormed, x), &r), &row) in columns.zip(rows) {
                let dx = &mut step.dx[row * hidden..(row + 1) * hidden];
                norm::backward_row(dx, gradient.norm, dnormed, x, weights.norm, r);
            }
        }
    }
}

/// What the head's backward pass reads and writes.
#[derive(Debug)]
pub struct HeadStep<'a> {
    /// The residual stream after the last layer, `(rows, hidden)`.
    pub x: &'a [f32],
    /// The targets.
    pub batch: &'a Packed,
    /// The rows to look at; all others have a coefficient of 0.
    pub rows: &'a [usize],
    /// For every row of the batch.
    pub coefficients: &'a [f32],
    /// For every row of the batch; only the given rows are written.
    pub log_probs: &'a mut [f32],
    /// `(rows, hidden)`; only the given rows are added to.
    pub dx: &'a mut [f32],
}

/// Turns logits into probabilities; returns the logarithm of the target's.
fn softmax(logits: &mut [f32], target: u32) -> f32 {
    let shift = max(logits);
    let target = logits[target as usize] - shift;
    let sum = exp_sum(logits, shift);
    scale(logits, 1.0 / sum);
    target - sum.ln()
}
