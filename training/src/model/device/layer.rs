//! One layer: attention and feed-forward, each with a norm before it and added to the residual stream.

use candle_core::{Result, Tensor};

use super::attention::{Attended, Plan};
use super::linear::{Kept, Linear, Slot, backward, forward};
use super::ops::{Angles, norm, norm_backward, norm_weight_gradient, rotate, swiglu, swiglu_backward};
use super::runs::Attention;
use crate::model::lora::Module;
use spar::engine::derive_seed;
use spar::weights::Rope;

#[derive(Debug)]
pub(super) struct Layer {
    /// The products by [`Module`].
    pub(super) products: [Linear; 7],
    pub(super) input_norm: Slot,
    pub(super) inner_norm: Slot,
    /// Norms of heads of queries and of keys, `(head_dim)` each.
    pub(super) head_norms: Option<[Slot; 2]>,
    pub(super) attention: Attention,
    /// Whether queries and keys have rotary positions.
    pub(super) rotates: bool,
    pub(super) eps: f64,
}

/// The first and the last of products that have one input.
const QKV: [Module; 2] = [Module::Query, Module::Value];
const OUTPUT: [Module; 2] = [Module::Output, Module::Output];
const GATE_UP: [Module; 2] = [Module::Gate, Module::Up];
const DOWN: [Module; 2] = [Module::Down, Module::Down];

/// The tensors as an array, if there are `N` of them.
fn take<const N: usize>(tensors: Vec<Tensor>) -> Result<[Tensor; N]> {
    tensors.try_into().map_err(|_| candle_core::Error::Msg("a product is missing".into()))
}

/// What all layers know of a batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) plan: Plan,
    pub(super) angles: Angles,
    /// The rows that are passed on after the last layer's attention, unless all are.
    pub(super) asked: Option<Tensor>,
    pub(super) rows: usize,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug)]
pub(super) struct Activations {
    normed: Tensor,
    /// Queries and keys before the norms of their heads.
    raw: Option<[Tensor; 2]>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Attended,
    /// The rows that are passed on.
    asked: Tensor,
    middle: Tensor,
    inner_normed: Tensor,
    gate: Tensor,
    up: Tensor,
    inner: Tensor,
    /// The kept factors of queries, keys and values; of the output; of gate and up; of down.
    kept: [Vec<Option<Kept>>; 4],
}

impl Layer {
    /// Outputs of neighbouring products that have one input, added to `stream` where that is given.
    fn apply(
        &self,
        [first, last]: [Module; 2],
        x: &Tensor,
        stream: Option<&Tensor>,
        seed: Option<u64>,
    ) -> Result<(Vec<Tensor>, Vec<Option<Kept>>)> {
        let seed = |i: usize| seed.map(|seed| derive_seed(seed, (first as usize + i) as u64));
        forward(&self.products[first as usize..=last as usize], x, stream, seed)
    }

    /// The stream after the layer, from `x` `(rows, hidden)`: of the asked rows alone if this is the `last` one.
    pub(super) fn forward(
        &self,
        x: &Tensor,
        batch: &Batch,
        last: bool,
        seed: Option<u64>,
    ) -> Result<(Tensor, Activations)> {
        let normed = norm(x, &self.input_norm.value, self.eps)?;
        let (qkv, kept_qkv) = self.apply(QKV, &normed, None, seed)?;
        let [mut q, mut k, v] = take(qkv)?;
        let mut raw = None;
        if let Some([of_queries, of_keys]) = &self.head_norms {
            let normed = [self.norm_heads(&q, of_queries)?, self.norm_heads(&k, of_keys)?];
            raw = Some([q, k]);
            [q, k] = normed;
        }
        if self.rotates {
            (q, k) = (rotate(&q, &batch.angles, 1.0)?, rotate(&k, &batch.angles, 1.0)?);
        }
        let attended = self.attention.forward(&q, &k, &v, &batch.plan)?;
        let (mut asked, mut x) = (attended.out.clone(), x.clone());
        if let Some(rows) = batch.asked.as_ref().filter(|_| last) {
            (asked, x) = (asked.index_select(rows, 0)?, x.index_select(rows, 0)?);
        }
        let (output, kept_output) = self.apply(OUTPUT, &asked, Some(&x), seed)?;
        let [middle] = take(output)?;
        let inner_normed = norm(&middle, &self.inner_norm.value, self.eps)?;
        let (gate_up, kept_gate_up) = self.apply(GATE_UP, &inner_normed, None, seed)?;
        let [gate, up] = take(gate_up)?;
        let inner = swiglu(&gate, &up)?;
        let (down, kept_down) = self.apply(DOWN, &inner, Some(&middle), seed)?;
        let [out] = take(down)?;
        let kept = [kept_qkv, kept_output, kept_gate_up, kept_down];
        Ok((out, Activations { normed, raw, q, k, v, attended, asked, middle, inner_normed, gate, up, inner, kept }))
    }

    /// The gradient of the layer's input `x`, `(rows, hidden)`, from that of its output; adds the weights' to theirs.
    pub(super) fn backward(
        &mut self,
        d: &Tensor,
        x: &Tensor,
        a: Activations,
        batch: &Batch,
        last: bool,
    ) -> Result<Tensor> {
        let eps = self.eps;
        let [kept_qkv, kept_output, kept_gate_up, kept_down] = &a.kept;
        let (qkv, rest) = self.products.split_at_mut(3);
        let (output, rest) = rest.split_at_mut(1);
        let (gate_up, down) = rest.split_at_mut(2);
        let dinner = backward(down, &[d], &a.inner, kept_down)?;
        let (dgate, dup) = swiglu_backward(&dinner, &a.gate, &a.up)?;
        let dnormed = backward(gate_up, &[&dgate, &dup], &a.inner_normed, kept_gate_up)?;
        self.inner_norm.learn_sum(|| norm_weight_gradient(&dnormed, &a.middle, eps))?;
        let mut d = norm_backward(d, &dnormed, &a.middle, &self.inner_norm.value, eps)?;

        let mut dattended = backward(output, &[&d], &a.asked, kept_output)?;
        if let Some(asked) = batch.asked.as_ref().filter(|_| last) {
            let spread = |rows: &Tensor| {
                let all = Tensor::zeros((batch.rows, rows.dim(1)?), rows.dtype(), rows.device())?;
                all.index_add(asked, rows, 0)
            };
            (d, dattended) = (spread(&d)?, spread(&dattended)?);
        }
        let (mut dq, mut dk, dv) = self.attention.backward(&dattended, [&a.q, &a.k, &a.v], &a.attended, &batch.plan)?;
        if self.rotates {
            (dq, dk) = (rotate(&dq, &batch.angles, -1.0)?, rotate(&dk, &batch.angles, -1.0)?);
        }
        if let (Some(norms), Some(raw)) = (&mut self.head_norms, &a.raw) {
            for ((d, raw), norm) in [&mut dq, &mut dk].into_iter().zip(raw).zip(norms) {
                let (dy, x) = (of_heads(d, &norm.value)?, of_heads(raw, &norm.value)?);
                norm.learn_sum(|| norm_weight_gradient(&dy, &x, eps))?;
                *d = norm_backward(&x.zeros_like()?, &dy, &x, &norm.value, eps)?.reshape(raw.shape())?;
            }
        }
        let dnormed = backward(qkv, &[&dq, &dk, &dv], &a.normed, kept_qkv)?;
        self.input_norm.learn_sum(|| norm_weight_gradient(&dnormed, x, eps))?;
        norm_backward(&d, &dnormed, x, &self.input_norm.value, eps)
    }

    /// The norm of each head of rows `x`, `(rows, heads · head_dim)`.
    fn norm_heads(&self, x: &Tensor, weight: &Slot) -> Result<Tensor> {
        norm(&of_heads(x, &weight.value)?, &weight.value, self.eps)?.reshape(x.shape())
    }

    /// Everything that may be trained, in the order of the flat vector: of the adapter if there is one, or of the model.
    pub(super) fn slots(&mut self, adapter: bool) -> Vec<&mut Slot> {
        if adapter {
            let low = self.products.iter_mut().filter_map(|product| product.low.as_mut());
            return low.flat_map(|low| [&mut low.a, &mut low.b]).collect();
        }
        let (weights, biases): (Vec<_>, Vec<_>) =
            self.products.iter_mut().map(|product| (&mut product.weight, &mut product.bias)).unzip();
        let norms = [&mut self.input_norm, &mut self.inner_norm];
        let biases = biases.into_iter().filter_map(Option::as_mut);
        weights.into_iter().chain(norms).chain(biases).chain(self.head_norms.iter_mut().flatten()).collect()
    }
}

/// Rows as one row for each head, `(rows · heads, head_dim)`, of the width of a norm's `weight`.
fn of_heads(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    x.reshape(((), weight.elem_count()))
}

/// Cosines and sines at positions, `(rows, head_dim / 2)` each in `f32`, on the device of `like`.
pub(super) fn angles(rope: &Rope, positions: &[usize], like: &Tensor) -> Result<Angles> {
    let (frequencies, factor) = (rope.frequencies(), rope.attention_factor());
    let shape = (positions.len(), frequencies.len());
    let angle = |&position: &usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
    let angles: Vec<f32> = positions.iter().flat_map(angle).collect();
    let table = |of: fn(f32) -> f32| {
        let values: Vec<f32> = angles.iter().map(|&angle| of(angle) * factor).collect();
        Tensor::from_vec(values, shape, like.device())
    };
    Ok(Angles { cos: table(f32::cos)?, sin: table(f32::sin)? })
}
