//! One layer: attention and feed-forward, each with a norm before it and added to the residual stream.

use super::attention::Attention;
use super::linear::Size;
use super::product::{Arithmetic, Products};
use super::rope::Rope;
use super::{batch::Packed, norm, swiglu};
use crate::model::LlamaConfig;

/// The tensors of a layer in the order of the flat vector: weights (`S = &[f32]`) or gradients (`S = &mut [f32]`).
#[derive(Debug)]
pub struct LayerParts<S> {
    /// Query, key and value: `(heads + 2 · key heads) · dim` rows.
    pub qkv: S,
    /// `(hidden, hidden)`
    pub output: S,
    /// `(2 · inner, hidden)`
    pub gate_up: S,
    /// `(hidden, inner)`
    pub down: S,
    /// `(hidden,)`
    pub input_norm: S,
    /// `(hidden,)`
    pub inner_norm: S,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug, Default)]
pub struct Activations {
    /// The rows that go on after attention; all of them if there is no list.
    kept: Option<Vec<usize>>,
    input_r: Vec<f32>,
    input_normed: Vec<f32>,
    qkv: Vec<f32>,
    probabilities: Vec<f32>,
    attended: Vec<f32>,
    middle: Vec<f32>,
    inner_r: Vec<f32>,
    inner_normed: Vec<f32>,
    gate_up: Vec<f32>,
    inner: Vec<f32>,
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
    attention: Attention,
    products: Products,
    dwide: Vec<f32>,
    dnormed: Vec<f32>,
    dqkv: Vec<f32>,
}

impl Layer {
    pub fn new(config: &LlamaConfig, arithmetic: Arithmetic) -> Self {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let qkv = hidden + 2 * config.num_key_value_heads * config.head_dim();
        Self {
            qkv: Size { input: hidden, output: qkv },
            output: Size { input: hidden, output: hidden },
            gate_up: Size { input: hidden, output: 2 * inner },
            down: Size { input: inner, output: hidden },
            eps: config.rms_norm_eps as f32,
            rope: Rope::new(config),
            attention: Attention::new(config),
            products: Products::new(arithmetic),
            dwide: Vec::new(),
            dnormed: Vec::new(),
            dqkv: Vec::new(),
        }
    }

    /// Splits a layer's range of the flat vector.
    pub fn weights<'a>(&self, mut flat: &'a [f32]) -> LayerParts<&'a [f32]> {
        let mut take = |len: usize| flat.split_off(..len).expect("the range of a layer");
        let [qkv, output, gate_up, down] = self.lengths();
        LayerParts {
            qkv: take(qkv),
            output: take(output),
            gate_up: take(gate_up),
            down: take(down),
            input_norm: take(self.qkv.input),
            inner_norm: take(self.qkv.input),
        }
    }

    /// Splits a layer's range of the flat gradient.
    pub fn gradients<'a>(&self, mut flat: &'a mut [f32]) -> LayerParts<&'a mut [f32]> {
        let mut take = |len: usize| flat.split_off_mut(..len).expect("the range of a layer");
        let [qkv, output, gate_up, down] = self.lengths();
        LayerParts {
            qkv: take(qkv),
            output: take(output),
            gate_up: take(gate_up),
            down: take(down),
            input_norm: take(self.qkv.input),
            inner_norm: take(self.qkv.input),
        }
    }

    fn lengths(&self) -> [usize; 4] {
        [self.qkv, self.output, self.gate_up, self.down].map(|size| size.input * size.output)
    }

    /// `out = stream after the layer`, from `x` `(rows, hidden)`. After the last layer only some rows are looked at: `kept`
    /// are those that go on after attention, and `out` is `(kept, hidden)`.
    pub fn forward(
        &mut self,
        out: &mut Vec<f32>,
        a: &mut Activations,
        x: &[f32],
        weights: &LayerParts<&[f32]>,
        batch: &Packed,
        kept: Option<&[usize]>,
    ) {
        let rows = batch.rows();
        a.input_r.resize(rows, 0.0);
        a.input_normed.resize(x.len(), 0.0);
        norm::forward(&mut a.input_normed, &mut a.input_r, x, weights.input_norm, self.eps);
        a.qkv.resize(rows * self.qkv.output, 0.0);
        self.qkv.forward(&mut self.products, &mut a.qkv, &a.input_normed, weights.qkv);
        for (start, len) in batch.sequences() {
            self.rope.forward(&mut a.qkv[start * self.qkv.output..(start + len) * self.qkv.output]);
        }
        a.probabilities.resize(self.attention.probabilities(batch), 0.0);
        a.attended.resize(x.len(), 0.0);
        self.attention.forward(&mut self.products, &mut a.attended, &mut a.probabilities, &a.qkv, batch);
        a.middle.clear();
        a.middle.extend_from_slice(x);
        a.kept = kept.map(<[usize]>::to_vec);
        if let Some(kept) = kept {
            keep_rows(&mut a.attended, kept, self.output.output);
            keep_rows(&mut a.middle, kept, self.output.output);
        }
        self.output.forward_add(&mut self.products, &mut a.middle, &a.attended, weights.output);

        let rows = kept.map_or(rows, <[usize]>::len);
        a.inner_r.resize(rows, 0.0);
        a.inner_normed.resize(a.middle.len(), 0.0);
        norm::forward(&mut a.inner_normed, &mut a.inner_r, &a.middle, weights.inner_norm, self.eps);
        a.gate_up.resize(rows * self.gate_up.output, 0.0);
        self.gate_up.forward(&mut self.products, &mut a.gate_up, &a.inner_normed, weights.gate_up);
        a.inner.resize(rows * self.down.input, 0.0);
        swiglu::forward(&mut a.inner, &a.gate_up, self.down.input);
        out.clear();
        out.extend_from_slice(&a.middle);
        self.down.forward_add(&mut self.products, out, &a.inner, weights.down);
    }

    /// Turns `d`, the gradient of the layer's output, into that of its input `x`, `(rows, hidden)`; adds to `gradient`.
    /// The activations are used up.
    pub fn backward(
        &mut self,
        d: &mut Vec<f32>,
        gradient: LayerParts<&mut [f32]>,
        a: &mut Activations,
        x: &[f32],
        weights: &LayerParts<&[f32]>,
        batch: &Packed,
    ) {
        self.dwide.resize(a.inner.len(), 0.0);
        self.dnormed.resize(x.len(), 0.0);
        self.down.backward_weight(&mut self.products, gradient.down, d, &a.inner);
        self.down.backward_input(&mut self.products, &mut self.dwide, d, weights.down);
        swiglu::backward(&mut a.gate_up, &self.dwide, self.down.input);
        self.gate_up.backward_weight(&mut self.products, gradient.gate_up, &a.gate_up, &a.inner_normed);
        self.gate_up.backward_input(&mut self.products, &mut self.dnormed, &a.gate_up, weights.gate_up);
        norm::backward(d, gradient.inner_norm, &mut self.dnormed, &a.middle, weights.inner_norm, &a.inner_r);

        self.dqkv.resize(a.qkv.len(), 0.0);
        self.output.backward_weight(&mut self.products, gradient.output, d, &a.attended);
        self.output.backward_input(&mut self.products, &mut self.dnormed, d, weights.output);
        if let Some(kept) = &a.kept {
            spread_rows(&mut self.dnormed, kept, batch.rows(), self.output.output);
            spread_rows(d, kept, batch.rows(), self.output.output);
        }
        self.attention.backward(&mut self.products, &mut self.dqkv, &self.dnormed, &a.probabilities, &a.qkv, batch);
        for (start, len) in batch.sequences() {
            self.rope.backward(&mut self.dqkv[start * self.qkv.output..(start + len) * self.qkv.output]);
        }
        self.qkv.backward_weight(&mut self.products, gradient.qkv, &self.dqkv, &a.input_normed);
        self.qkv.backward_input(&mut self.products, &mut self.dnormed, &self.dqkv, weights.qkv);
        norm::backward(d, gradient.input_norm, &mut self.dnormed, x, weights.input_norm, &a.input_r);
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
