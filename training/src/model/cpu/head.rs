//! The last norm, the head and the log-probabilities of the targets, a few rows at a time: the logits of a batch never
//! exist as a whole.

use super::linear::Size;
use super::norm;
use super::product::{Arithmetic, Products};
use super::vector::{exp_sum, max, scale};
use crate::model::DenseConfig;

/// Rows at a time: their logits and the head's weights stay in the cache.
const CHUNK: usize = 128;

/// Sizes, and buffers that are used again.
#[derive(Debug)]
pub struct Head {
    size: Size,
    products: Products,
    eps: f32,
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
    pub fn new(config: &DenseConfig, arithmetic: Arithmetic) -> Self {
        let (hidden, vocab) = (config.hidden, config.vocabulary);
        let buffer = |columns: usize| vec![0.0; CHUNK * columns];
        Self {
            size: Size { input: hidden, output: vocab },
            products: Products::new(arithmetic),
            eps: config.norm_eps,
            normed: buffer(hidden),
            r: buffer(1),
            logits: buffer(vocab),
            dnormed: buffer(hidden),
        }
    }

    /// Normalises some rows of `x` and multiplies them by the head. At most [`CHUNK`] rows.
    fn logits_of(&mut self, x: &[f32], weights: &HeadParts<&[f32]>) -> &mut [f32] {
        let rows = x.len() / self.size.input;
        let normed = &mut self.normed[..x.len()];
        norm::forward(normed, &mut self.r, x, weights.norm, self.eps);
        let logits = &mut self.logits[..rows * self.size.output];
        self.size.forward(&mut self.products, logits, normed, weights.head);
        logits
    }

    /// All logits, `(rows, vocab)`, from `x` `(rows, hidden)`.
    pub fn logits(&mut self, x: &[f32], weights: &HeadParts<&[f32]>) -> Vec<f32> {
        let chunk = CHUNK * self.size.input;
        x.chunks(chunk).flat_map(|x| self.logits_of(x, weights).to_vec()).collect()
    }

    /// `log p(target)` of each row of `x`.
    pub fn log_probs(&mut self, x: &[f32], targets: &[u32], weights: &HeadParts<&[f32]>) -> Vec<f32> {
        let (chunk, vocab) = (CHUNK * self.size.input, self.size.output);
        let mut out = Vec::with_capacity(targets.len());
        for (x, targets) in x.chunks(chunk).zip(targets.chunks(CHUNK)) {
            let logits = self.logits_of(x, weights);
            out.extend(logits.chunks_exact_mut(vocab).zip(targets).map(|(logits, &target)| softmax(logits, target)));
        }
        out
    }

    /// [`Head::log_probs`], and the gradient of `Σ coefficient · log p(target)`: added to `step.dx`, and to `gradient` where it is
    /// wanted.
    pub fn backward(
        &mut self,
        step: HeadStep<'_>,
        weights: &HeadParts<&[f32]>,
        mut gradient: Option<&mut HeadParts<&mut [f32]>>,
    ) -> Vec<f32> {
        let (size, chunk, vocab) = (self.size, CHUNK * self.size.input, self.size.output);
        let mut out = Vec::with_capacity(step.targets.len());
        let wanted = step.targets.chunks(CHUNK).zip(step.coefficients.chunks(CHUNK));
        for ((x, dx), (targets, coefficients)) in step.x.chunks(chunk).zip(step.dx.chunks_mut(chunk)).zip(wanted) {
            let logits = self.logits_of(x, weights);
            for ((logits, &target), &coefficient) in logits.chunks_exact_mut(vocab).zip(targets).zip(coefficients) {
                out.push(softmax(logits, target));
                // d log p(target) / d logit = [target] - p
                scale(logits, -coefficient);
                logits[target as usize] += coefficient;
            }
            let (dlogits, normed) = (&self.logits[..targets.len() * vocab], &self.normed[..x.len()]);
            let dnormed = &mut self.dnormed[..x.len()];
            if let Some(gradient) = &mut gradient {
                size.backward_weight(&mut self.products, gradient.head, dlogits, normed);
            }
            size.backward_input(&mut self.products, dnormed, dlogits, weights.head);
            let dw = gradient.as_mut().map(|gradient| &mut *gradient.norm);
            norm::backward(dx, dw, dnormed, x, weights.norm, &self.r);
        }
        out
    }
}

/// What the head's backward pass reads and writes: rows that are asked about only.
#[derive(Debug)]
pub struct HeadStep<'a> {
    /// The residual stream after the last layer, `(rows, hidden)`.
    pub x: &'a [f32],
    /// `(rows,)`
    pub targets: &'a [u32],
    /// `(rows,)`
    pub coefficients: &'a [f32],
    /// `(rows, hidden)`
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
