//! The network and its gradient, written out for one CPU thread: `f32`, with matrix products in bf16 where asked for.
//!
//! One file per idea, each with its forward and its backward pass. All buffers are kept from batch to batch, sequences
//! are packed without padding, and after the last attention only rows are computed whose targets somebody asks about.

mod attention;
mod batch;
mod bf16;
mod head;
mod layer;
mod linear;
mod norm;
mod product;
mod rope;
mod swiglu;
mod vector;

use std::sync::Arc;

use anyhow::{Result, ensure};

pub use batch::Packed;
use head::{Head, HeadParts, HeadStep};
use layer::{Activations, Layer};
pub use product::{Arithmetic, Products};

use super::params::Layout;
use super::{LlamaConfig, Params};

/// Everything that one thread needs to compute log-probabilities and gradients: sizes and buffers, no weights.
#[derive(Debug)]
pub struct Workspace {
    layout: Arc<Layout>,
    hidden: usize,
    vocab: usize,
    longest: usize,
    layer: Layer,
    head: Head,
    activations: Vec<Activations>,
    /// The residual stream before each layer, `(rows, hidden)` each, and after the last, `(asked rows, hidden)`.
    streams: Vec<Vec<f32>>,
    d: Vec<f32>,
}

impl Workspace {
    /// For models of this shape.
    #[must_use]
    pub fn new(config: &LlamaConfig, arithmetic: Arithmetic) -> Self {
        let layers = config.num_hidden_layers;
        Self {
            layout: Arc::new(Layout::new(config)),
            hidden: config.hidden_size,
            vocab: config.vocab_size,
            longest: config.max_position_embeddings,
            layer: Layer::new(config, arithmetic),
            head: Head::new(config, arithmetic),
            activations: (0..layers).map(|_| Activations::default()).collect(),
            streams: vec![Vec::new(); layers + 1],
            d: Vec::new(),
        }
    }

    /// Runs the layers over a batch and keeps what [`Workspace::backward`] needs.
    ///
    /// # Errors
    /// When a sequence is longer than the model's positions or a token is not in its vocabulary.
    pub fn forward(&mut self, params: &Params, batch: &Packed) -> Result<()> {
        let longest = batch.lengths.iter().copied().max().unwrap_or(0);
        ensure!(longest <= self.longest, "a sequence of {longest} tokens exceeds {} positions", self.longest);
        let largest = batch.inputs.iter().chain(&batch.targets).copied().max().unwrap_or(0);
        ensure!((largest as usize) < self.vocab, "token {largest} is not in a vocabulary of {}", self.vocab);

        let embedding = &params.data[self.layout.embedding.clone()];
        let first = &mut self.streams[0];
        first.clear();
        for &token in &batch.inputs {
            first.extend_from_slice(&embedding[token as usize * self.hidden..][..self.hidden]);
        }
        let last = self.activations.len() - 1;
        for (i, a) in self.activations.iter_mut().enumerate() {
            let weights = self.layer.weights(&params.data[self.layout.layers[i].clone()]);
            let (before, after) = self.streams.split_at_mut(i + 1);
            let kept = (i == last && batch.asked.len() < batch.rows()).then_some(batch.asked.as_slice());
            self.layer.forward(&mut after[0], a, &before[i], &weights, batch, kept);
        }
        Ok(())
    }

    /// `log p(target)` of every row of the batch of the last [`Workspace::forward`]; 0 where it is not asked.
    #[must_use]
    pub fn log_probs(&mut self, params: &Params, batch: &Packed) -> Vec<f32> {
        let weights = head_weights(&self.layout, params);
        let targets: Vec<u32> = batch.asked.iter().map(|&row| batch.targets[row]).collect();
        on_all_rows(batch, self.head.log_probs(&self.streams[self.activations.len()], &targets, &weights))
    }

    /// The logits `(asked rows, vocab)` of the last [`Workspace::forward`].
    #[must_use]
    pub fn logits(&mut self, params: &Params) -> Vec<f32> {
        let weights = head_weights(&self.layout, params);
        self.head.logits(&self.streams[self.activations.len()], &weights)
    }

    /// Adds the gradient of `Σ coefficients[row] · log p(target of row)` to `gradient`, laid out as the parameters, for
    /// the batch of the last [`Workspace::forward`], which is used up.
    ///
    /// Returns `log p(target)` as [`Workspace::log_probs`] does. A loss that is a function of log-probabilities has its
    /// derivatives by them as coefficients: `-weight / total` for likelihood. Rows that are not asked have none.
    pub fn backward(
        &mut self,
        params: &Params,
        batch: &Packed,
        coefficients: &[f32],
        gradient: &mut [f32],
    ) -> Vec<f32> {
        let layers = self.activations.len();
        let targets: Vec<u32> = batch.asked.iter().map(|&row| batch.targets[row]).collect();
        let asked: Vec<f32> = batch.asked.iter().map(|&row| coefficients[row]).collect();
        self.d.clear();
        self.d.resize(self.streams[layers].len(), 0.0);
        let step = HeadStep { x: &self.streams[layers], targets: &targets, coefficients: &asked, dx: &mut self.d };
        let weights = head_weights(&self.layout, params);
        let log_probs = self.head.backward(step, &weights, &mut head_gradients(&self.layout, gradient));

        for (i, a) in self.activations.iter_mut().enumerate().rev() {
            let range = self.layout.layers[i].clone();
            let weights = self.layer.weights(&params.data[range.clone()]);
            let gradient = self.layer.gradients(&mut gradient[range]);
            self.layer.backward(&mut self.d, gradient, a, &self.streams[i], &weights, batch);
        }
        let embedding = &mut gradient[self.layout.embedding.clone()];
        for (&token, d) in batch.inputs.iter().zip(self.d.chunks_exact(self.hidden)) {
            vector::add(&mut embedding[token as usize * self.hidden..][..self.hidden], d);
        }
        on_all_rows(batch, log_probs)
    }
}

fn on_all_rows(batch: &Packed, asked: Vec<f32>) -> Vec<f32> {
    let mut out = vec![0.0; batch.rows()];
    batch.asked.iter().zip(asked).for_each(|(&row, value)| out[row] = value);
    out
}

fn head_weights<'a>(layout: &Layout, params: &'a Params) -> HeadParts<&'a [f32]> {
    HeadParts { norm: &params.data[layout.norm.clone()], head: &params.data[layout.head.clone()] }
}

/// The head is before the norm when it is the embedding, and after it otherwise.
fn head_gradients<'a>(layout: &Layout, gradient: &'a mut [f32]) -> HeadParts<&'a mut [f32]> {
    let parts = gradient.get_disjoint_mut([layout.norm.clone(), layout.head.clone()]);
    let [norm, head] = parts.expect("different tensors");
    HeadParts { norm, head }
}

#[cfg(test)]
mod tests;
