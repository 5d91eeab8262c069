//! The network and its gradient, written out for one CPU thread: `f32`, with matrix products in bf16 where asked for.
//!
//! One file per idea, each with its forward and its backward pass. All buffers are kept from batch to batch, sequences
//! are packed without padding, and after the last attention only rows are computed whose targets count.

mod attention;
mod batch;
mod bf16;
mod head;
mod head_norm;
mod layer;
mod linear;
mod low_rank;
mod norm;
mod product;
mod rope;
mod swiglu;
mod vector;

use std::sync::Arc;

use anyhow::Result;

pub use batch::{Fork, Packed, Span};
use head::{Head, HeadParts, HeadStep};
use layer::{Activations, Layer, LayerGradient, LayerWeights};
pub use product::{Arithmetic, Products};

use super::params::Layout;
use super::{DenseConfig, LoraConfig, Params};
use spar::engine::derive_seed;

/// What a model computes with.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    /// The model's own.
    pub base: &'a Params,
    /// An adapter; where there is one, the base stays as it is and gradients are the adapter's.
    pub adapter: Option<&'a Params>,
    /// Decides what the adapter's dropout leaves out; nothing without it.
    pub dropout: Option<u64>,
}

impl<'a> From<&'a Params> for Weights<'a> {
    fn from(base: &'a Params) -> Self {
        Self { base, adapter: None, dropout: None }
    }
}

/// What is kept between the forward and the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keep {
    /// All activations are kept.
    #[default]
    Everything,
    /// The residual stream before each layer; the rest is computed again, a layer at a time, bit for bit the same.
    Streams,
}

/// Everything that one thread needs to compute log-probabilities and gradients: sizes and buffers, no weights.
#[derive(Debug)]
pub struct Workspace {
    layout: Arc<Layout>,
    /// Layers without rotary positions.
    unrotated: Vec<usize>,
    hidden: usize,
    vocab: usize,
    longest: usize,
    layer: Layer,
    head: Head,
    adapter: Option<Arc<Layout>>,
    /// One for each layer, or one for all of them.
    activations: Vec<Activations>,
    /// The residual stream before each layer, `(rows, hidden)` each, and after the last, `(asked rows, hidden)`.
    streams: Vec<Vec<f32>>,
    d: Vec<f32>,
}

impl Workspace {
    /// For models of this shape.
    #[must_use]
    pub fn new(config: &DenseConfig, arithmetic: Arithmetic) -> Self {
        Self::with(config, arithmetic, None, Keep::Everything)
    }

    /// For models of this shape with an adapter, or that keep less.
    #[must_use]
    pub fn with(config: &DenseConfig, arithmetic: Arithmetic, lora: Option<&LoraConfig>, keep: Keep) -> Self {
        let layers = config.layers;
        let none = LoraConfig { targets: Vec::new(), ..LoraConfig::default() };
        let kept = if keep == Keep::Everything { layers } else { 1 };
        Self {
            layout: Arc::new(Layout::new(config)),
            unrotated: config.unrotated.clone(),
            hidden: config.hidden,
            vocab: config.vocabulary,
            longest: config.context,
            layer: Layer::new(config, arithmetic, lora.unwrap_or(&none)),
            head: Head::new(config, arithmetic),
            adapter: lora.map(|lora| Arc::new(lora.layout(config))),
            activations: (0..kept).map(|_| Activations::default()).collect(),
            streams: vec![Vec::new(); layers + 1],
            d: Vec::new(),
        }
    }

    /// Runs the layers over a batch and keeps what [`Workspace::backward`] needs.
    ///
    /// # Errors
    /// Fails when a sequence is longer than the model's positions or a token is not in its vocabulary.
    pub fn forward<'a>(&mut self, weights: impl Into<Weights<'a>>, batch: &Packed) -> Result<()> {
        batch.check(self.longest, self.vocab)?;
        let weights = weights.into();
        let embedding = &weights.base.data[self.layout.embedding.clone()];
        let first = &mut self.streams[0];
        first.clear();
        for &token in &batch.inputs {
            first.extend_from_slice(&embedding[token as usize * self.hidden..][..self.hidden]);
        }
        for i in 0..self.layout.layers.len() {
            let mut out = std::mem::take(&mut self.streams[i + 1]);
            self.layer_forward(i, &mut out, weights, batch);
            self.streams[i + 1] = out;
        }
        Ok(())
    }

    fn layer_forward(&mut self, i: usize, out: &mut Vec<f32>, weights: Weights<'_>, batch: &Packed) {
        let last = i + 1 == self.layout.layers.len();
        let kept = (last && batch.asked.len() < batch.rows()).then_some(batch.asked.as_slice());
        let of_layer = self.layer_weights(i, weights);
        let place = if self.activations.len() == 1 { 0 } else { i };
        self.layer.forward(out, &mut self.activations[place], &self.streams[i], &of_layer, batch, kept);
    }

    fn layer_weights<'a>(&self, i: usize, weights: Weights<'a>) -> LayerWeights<'a> {
        let low = match (&self.adapter, weights.adapter) {
            (Some(layout), Some(adapter)) => self.layer.low_rank().weights(&adapter.data[layout.layers[i].clone()]),
            _ => [const { None }; 7],
        };
        LayerWeights {
            base: self.layer.weights(&weights.base.data[self.layout.layers[i].clone()]),
            low,
            dropout: weights.dropout.map(|seed| derive_seed(seed, i as u64)),
            rotates: !self.unrotated.contains(&i),
        }
    }

    /// `log p(target)` of every row of the batch of the last [`Workspace::forward`]; 0 where it is not asked.
    #[must_use]
    pub fn log_probs<'a>(&mut self, weights: impl Into<Weights<'a>>, batch: &Packed) -> Vec<f32> {
        let weights = head_weights(&self.layout, weights.into().base);
        let targets: Vec<u32> = batch.asked.iter().map(|&row| batch.targets[row]).collect();
        batch.on_all_rows(&self.head.log_probs(self.streams.last().expect("a stream"), &targets, &weights))
    }

    /// The logits `(asked rows, vocab)` of the last [`Workspace::forward`].
    #[must_use]
    pub fn logits<'a>(&mut self, weights: impl Into<Weights<'a>>) -> Vec<f32> {
        let weights = head_weights(&self.layout, weights.into().base);
        self.head.logits(self.streams.last().expect("a stream"), &weights)
    }

    /// Adds the gradient of `Σ coefficients[row] · log p(target of row)` to `gradient`, laid out as what is trained (the
    /// adapter, or else the model), for the batch of the last [`Workspace::forward`], which is used up.
    ///
    /// Returns `log p(target)` as [`Workspace::log_probs`] does. A loss that is a function of log-probabilities has its
    /// derivatives by them as coefficients: `-weight / total` for likelihood. Rows that are not asked have none.
    pub fn backward<'a>(
        &mut self,
        weights: impl Into<Weights<'a>>,
        batch: &Packed,
        coefficients: &[f32],
        gradient: &mut [f32],
    ) -> Vec<f32> {
        let weights = weights.into();
        let layers = self.layout.layers.len();
        let targets: Vec<u32> = batch.asked.iter().map(|&row| batch.targets[row]).collect();
        let asked: Vec<f32> = batch.asked.iter().map(|&row| coefficients[row]).collect();
        self.d.clear();
        self.d.resize(self.streams[layers].len(), 0.0);
        let step = HeadStep { x: &self.streams[layers], targets: &targets, coefficients: &asked, dx: &mut self.d };
        let trained = self.adapter.clone();
        let mut head = trained.is_none().then(|| head_gradients(&self.layout, gradient));
        let log_probs = self.head.backward(step, &head_weights(&self.layout, weights.base), head.as_mut());

        let again = self.activations.len() < layers;
        for i in (0..layers).rev() {
            if again && i + 1 < layers {
                let mut out = Vec::new();
                self.layer_forward(i, &mut out, weights, batch);
            }
            let of_layer = self.layer_weights(i, weights);
            let gradient = match &trained {
                Some(layout) => {
                    LayerGradient::Low(self.layer.low_rank().gradients(&mut gradient[layout.layers[i].clone()]))
                }
                None => LayerGradient::Base(self.layer.gradients(&mut gradient[self.layout.layers[i].clone()])),
            };
            let a = &mut self.activations[if again { 0 } else { i }];
            self.layer.backward(&mut self.d, gradient, a, &self.streams[i], &of_layer, batch);
        }
        if trained.is_none() {
            let embedding = &mut gradient[self.layout.embedding.clone()];
            for (&token, d) in batch.inputs.iter().zip(self.d.chunks_exact(self.hidden)) {
                vector::add(&mut embedding[token as usize * self.hidden..][..self.hidden], d);
            }
        }
        batch.on_all_rows(&log_probs)
    }
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
pub(crate) mod tests;
