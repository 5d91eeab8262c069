//! One layer: attention and feed-forward, each with a norm before it and added to the residual stream.

use spar::weights::QkNorm;

use super::attention::Attention;
use super::batch::{Packed, Span};
use super::head_norm::{HeadNorms, Raw};
use super::linear::Size;
use super::low_rank::{BackStep, Kept, LayerFactors, LowRank, Place};
use super::product::{Arithmetic, Products};
use super::rope::Rope;
use super::{norm, swiglu};
use crate::model::DenseConfig;
use crate::model::lora::{LoraConfig, Module};

/// The tensors of a layer in the order of the flat vector: weights (`S = &[f32]`) or gradients (`S = &mut [f32]`).
#[derive(Debug)]
pub struct LayerParts<S> {
    /// Query, key and value: `(heads + 2 · key heads) · dim` rows.
    pub qkv: S,
    /// `(hidden, heads · dim)`
    pub output: S,
    /// `(2 · inner, hidden)`
    pub gate_up: S,
    /// `(hidden, inner)`
    pub down: S,
    /// `(hidden,)`
    pub input_norm: S,
    /// `(hidden,)`
    pub inner_norm: S,
    /// Biases of query, key and value; empty where there are none.
    pub qkv_bias: S,
    /// Norms of a head of queries and of keys, `(dim,)` each; empty where there are none.
    pub head_norms: [S; 2],
}

/// A layer's weights: the base's, and an adapter's where there is one.
#[derive(Debug)]
pub struct LayerWeights<'a> {
    pub base: LayerParts<&'a [f32]>,
    pub low: LayerFactors<&'a [f32]>,
    /// Decides what the adapter's dropout leaves out.
    pub dropout: Option<u64>,
    /// Whether queries and keys have rotary positions.
    pub rotates: bool,
}

/// Where a layer's gradient goes: training an adapter leaves the base as it is.
#[derive(Debug)]
pub enum LayerGradient<'a> {
    Base(LayerParts<&'a mut [f32]>),
    Low(LayerFactors<&'a mut [f32]>),
}

const QKV: [Module; 3] = [Module::Query, Module::Key, Module::Value];
const GATE_UP: [Module; 2] = [Module::Gate, Module::Up];

/// What the backward pass needs of the forward pass.
#[derive(Debug, Default)]
pub struct Activations {
    /// The rows that are passed on after attention; all of them if there is no list.
    kept: Option<Vec<usize>>,
    input_r: Vec<f32>,
    input_normed: Vec<f32>,
    raw: Raw,
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    inner_r: Vec<f32>,
    inner_normed: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
    low: [Kept; 7],
}

/// The layer's sizes, and buffers that all layers share.
#[derive(Debug)]
pub struct Layer {
    qkv: Size,
    output: Size,
    gate_up: Size,
    down: Size,
    eps: f32,
    rope: Rope,
    biases: bool,
    head_norms: Option<HeadNorms>,
    head_dim: usize,
    attention: Attention,
    low_rank: LowRank,
    products: Products,
    dwide: Vec<f32>,
    dnormed: Vec<f32>,
    dqkv: Vec<f32>,
}

impl Layer {
    pub fn new(config: &DenseConfig, arithmetic: Arithmetic, lora: &LoraConfig) -> Self {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (q, kv) = config.widths();
        Self {
            qkv: Size { input: hidden, output: q + 2 * kv },
            output: Size { input: q, output: hidden },
            gate_up: Size { input: hidden, output: 2 * inner },
            down: Size { input: inner, output: hidden },
            eps: config.norm_eps,
            rope: Rope::new(config),
            biases: config.qkv_bias,
            head_norms: (config.qk_norm == QkNorm::Heads).then(|| HeadNorms::new(config)),
            head_dim: config.head_dim,
            attention: Attention::new(config),
            low_rank: LowRank::new(config, lora),
            products: Products::new(arithmetic),
            dwide: Vec::new(),
            dnormed: Vec::new(),
            dqkv: Vec::new(),
        }
    }

    /// The factors of an adapter.
    pub fn low_rank(&self) -> &LowRank {
        &self.low_rank
    }

    /// Splits a layer's range of the flat vector.
    pub fn weights<'a>(&self, mut flat: &'a [f32]) -> LayerParts<&'a [f32]> {
        let mut take = |len: usize| flat.split_off(..len).expect("the range of a layer");
        let ([qkv, output, gate_up, down], [bias, norm]) = self.lengths();
        LayerParts {
            qkv: take(qkv),
            output: take(output),
            gate_up: take(gate_up),
            down: take(down),
            input_norm: take(self.qkv.input),
            inner_norm: take(self.qkv.input),
            qkv_bias: take(bias),
            head_norms: [take(norm), take(norm)],
        }
    }

    /// Splits a layer's range of the flat gradient.
    pub fn gradients<'a>(&self, mut flat: &'a mut [f32]) -> LayerParts<&'a mut [f32]> {
        let mut take = |len: usize| flat.split_off_mut(..len).expect("the range of a layer");
        let ([qkv, output, gate_up, down], [bias, norm]) = self.lengths();
        LayerParts {
            qkv: take(qkv),
            output: take(output),
            gate_up: take(gate_up),
            down: take(down),
            input_norm: take(self.qkv.input),
            inner_norm: take(self.qkv.input),
            qkv_bias: take(bias),
            head_norms: [take(norm), take(norm)],
        }
    }

    /// Lengths of the matrices, and of biases and of a head's norm.
    fn lengths(&self) -> ([usize; 4], [usize; 2]) {
        let matrices = [self.qkv, self.output, self.gate_up, self.down].map(|size| size.input * size.output);
        let bias = if self.biases { self.qkv.output } else { 0 };
        (matrices, [bias, if self.head_norms.is_some() { self.head_dim } else { 0 }])
    }

    /// `out = stream after the layer`, from `x` `(rows, hidden)`. After the last layer only some rows are looked at: `kept`
    /// are those that are passed on after attention, and `out` is `(kept, hidden)`.
    pub fn forward(
        &mut self,
        out: &mut Vec<f32>,
        a: &mut Activations,
        x: &[f32],
        weights: &LayerWeights<'_>,
        batch: &Packed,
        kept: Option<&[usize]>,
    ) {
        let LayerWeights { base, low, dropout, rotates } = weights;
        let mut low = Place { factors: low, kept: &mut a.low, seed: *dropout };
        let rows = batch.rows();
        a.input_r.resize(rows, 0.0);
        a.input_normed.resize(x.len(), 0.0);
        norm::forward(&mut a.input_normed, &mut a.input_r, x, base.input_norm, self.eps);
        a.qkv.resize(rows * self.qkv.output, 0.0);
        self.qkv.forward(&mut self.products, &mut a.qkv, &a.input_normed, base.qkv);
        self.qkv.add_bias(&mut a.qkv, base.qkv_bias);
        self.low_rank.forward(&mut self.products, &QKV, &mut a.qkv, &a.input_normed, &mut low);
        if let Some(norms) = &self.head_norms {
            norms.forward(&mut a.raw, &mut a.qkv, base.head_norms);
        }
        for (rows, position) in batch.sequences().flat_map(Span::runs).filter(|_| *rotates) {
            self.rope.forward(&mut a.qkv[rows.start * self.qkv.output..rows.end * self.qkv.output], position);
        }
        a.probabilities.resize(self.attention.probabilities(batch), 0.0);
        a.attended.resize(rows * self.output.input, 0.0);
        self.attention.forward(&mut self.products, &mut a.attended, &mut a.probabilities, &a.qkv, batch);
        a.middle.clear();
        a.middle.extend_from_slice(x);
        a.kept = kept.map(<[usize]>::to_vec);
        if let Some(kept) = kept {
            keep_rows(&mut a.attended, kept, self.output.input);
            keep_rows(&mut a.middle, kept, self.output.output);
        }
        self.output.forward_add(&mut self.products, &mut a.middle, &a.attended, base.output);
        self.low_rank.forward(&mut self.products, &[Module::Output], &mut a.middle, &a.attended, &mut low);

        let rows = kept.map_or(rows, <[usize]>::len);
        a.inner_r.resize(rows, 0.0);
        a.inner_normed.resize(a.middle.len(), 0.0);
        norm::forward(&mut a.inner_normed, &mut a.inner_r, &a.middle, base.inner_norm, self.eps);
        a.gate_up.resize(rows * self.gate_up.output, 0.0);
        self.gate_up.forward(&mut self.products, &mut a.gate_up, &a.inner_normed, base.gate_up);
        self.low_rank.forward(&mut self.products, &GATE_UP, &mut a.gate_up, &a.inner_normed, &mut low);
        a.inner.resize(rows * self.down.input, 0.0);
        swiglu::forward(&mut a.inner, &a.gate_up, self.down.input);
        out.clear();
        out.extend_from_slice(&a.middle);
        self.down.forward_add(&mut self.products, out, &a.inner, base.down);
        self.low_rank.forward(&mut self.products, &[Module::Down], out, &a.inner, &mut low);
    }

    /// Turns `d`, the gradient of the layer's output, into that of its input `x`, `(rows, hidden)`; adds to `gradient`.
    /// The activations are used up.
    pub fn backward(
        &mut self,
        d: &mut Vec<f32>,
        gradient: LayerGradient<'_>,
        a: &mut Activations,
        x: &[f32],
        weights: &LayerWeights<'_>,
        batch: &Packed,
    ) {
        let LayerWeights { base, low, dropout, rotates } = weights;
        let low = Place { factors: low, kept: &mut a.low, seed: *dropout };
        let (mut full, mut lows) = match gradient {
            LayerGradient::Base(parts) => (Some(parts), [const { None }; 7]),
            LayerGradient::Low(factors) => (None, factors),
        };
        let (products, low_rank) = (&mut self.products, &mut self.low_rank);
        self.dwide.resize(a.inner.len(), 0.0);
        self.dnormed.resize(a.inner_normed.len(), 0.0);
        if let Some(full) = &mut full {
            self.down.backward_weight(products, full.down, d, &a.inner);
        }
        self.down.backward_input(products, &mut self.dwide, d, base.down);
        let step = BackStep { dx: &mut self.dwide, dy: d, x: &a.inner };
        low_rank.backward(products, &[Module::Down], &mut lows, step, &low);
        swiglu::backward(&mut a.gate_up, &self.dwide, self.down.input);
        if let Some(full) = &mut full {
            self.gate_up.backward_weight(products, full.gate_up, &a.gate_up, &a.inner_normed);
        }
        self.gate_up.backward_input(products, &mut self.dnormed, &a.gate_up, base.gate_up);
        let step = BackStep { dx: &mut self.dnormed, dy: &a.gate_up, x: &a.inner_normed };
        low_rank.backward(products, &GATE_UP, &mut lows, step, &low);
        let dw = full.as_mut().map(|full| &mut *full.inner_norm);
        norm::backward(d, dw, &mut self.dnormed, &a.middle, base.inner_norm, &a.inner_r);

        self.dqkv.resize(a.qkv.len(), 0.0);
        if let Some(full) = &mut full {
            self.output.backward_weight(products, full.output, d, &a.attended);
        }
        self.dnormed.resize(a.attended.len(), 0.0);
        self.output.backward_input(products, &mut self.dnormed, d, base.output);
        let step = BackStep { dx: &mut self.dnormed, dy: d, x: &a.attended };
        low_rank.backward(products, &[Module::Output], &mut lows, step, &low);
        if let Some(kept) = &a.kept {
            spread_rows(&mut self.dnormed, kept, batch.rows(), self.output.input);
            spread_rows(d, kept, batch.rows(), self.output.output);
        }
        self.attention.backward(products, &mut self.dqkv, &self.dnormed, &a.probabilities, &a.qkv, batch);
        for (rows, position) in batch.sequences().flat_map(Span::runs).filter(|_| *rotates) {
            self.rope.backward(&mut self.dqkv[rows.start * self.qkv.output..rows.end * self.qkv.output], position);
        }
        if let Some(norms) = &mut self.head_norms {
            let gradients = full.as_mut().map(|full| full.head_norms.each_mut().map(|gradient| &mut **gradient));
            norms.backward(&mut self.dqkv, &a.raw, base.head_norms, gradients);
        }
        if let Some(full) = &mut full {
            self.qkv.backward_weight(products, full.qkv, &self.dqkv, &a.input_normed);
            self.qkv.backward_bias(full.qkv_bias, &self.dqkv);
        }
        self.dnormed.resize(x.len(), 0.0);
        self.qkv.backward_input(products, &mut self.dnormed, &self.dqkv, base.qkv);
        let step = BackStep { dx: &mut self.dnormed, dy: &self.dqkv, x: &a.input_normed };
        low_rank.backward(products, &QKV, &mut lows, step, &low);
        let dw = full.as_mut().map(|full| &mut *full.input_norm);
        norm::backward(d, dw, &mut self.dnormed, x, base.input_norm, &a.input_r);
    }
}

/// Moves the kept rows of `x` together and drops the others. `kept` is in order.
fn keep_rows(x: &mut Vec<f32>, kept: &[usize], columns: usize) {
    for (to, &from) in kept.iter().enumerate() {
        x.copy_within(from * columns..(from + 1) * columns, to * columns);
    }
    x.truncate(kept.len() * columns);
}

/// Moves rows back to where [`keep_rows`] took them from, among `rows` in all; the others are 0.
fn spread_rows(x: &mut Vec<f32>, kept: &[usize], rows: usize, columns: usize) {
    x.resize(rows * columns, 0.0);
    let mut end = rows;
    for (from, &to) in kept.iter().enumerate().rev() {
        x.copy_within(from * columns..(from + 1) * columns, to * columns);
        x[(to + 1) * columns..end * columns].fill(0.0);
        end = to;
    }
    x[..end * columns].fill(0.0);
}
