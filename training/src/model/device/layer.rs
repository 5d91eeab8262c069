//! One layer: attention and feed-forward, each with a norm before it and added to the residual stream.

use candle_core::{DType, Result, Tensor};

use super::attention::{Attention, Run};
use super::linear::{Kept, Linear, Slot};
use super::ops::{Angles, norm, norm_backward, norm_weight_gradient, rotate, swiglu, swiglu_backward};
use crate::model::lora::Module;
use spar::engine::derive_seed;

#[derive(Debug)]
pub(super) struct Layer {
    /// By [`Module`].
    pub(super) products: [Linear; 7],
    pub(super) input_norm: Slot,
    pub(super) inner_norm: Slot,
    pub(super) attention: Attention,
    pub(super) eps: f64,
}

/// What all layers know of a batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) runs: Vec<Run>,
    pub(super) angles: Angles,
    /// The rows that go on after the last layer's attention, unless all do.
    pub(super) asked: Option<Tensor>,
    pub(super) rows: usize,
}

/// What the backward pass needs of the forward pass.
#[derive(Debug)]
pub(super) struct Activations {
    normed: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    middle: Tensor,
    inner_normed: Tensor,
    gate: Tensor,
    up: Tensor,
    inner: Tensor,
    kept: [Option<Kept>; 7],
}

impl Layer {
    fn apply(&self, module: Module, x: &Tensor, seed: Option<u64>) -> Result<(Tensor, Option<Kept>)> {
        self.products[module as usize].forward(x, seed.map(|seed| derive_seed(seed, module as u64)))
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
        let (q, kept_q) = self.apply(Module::Query, &normed, seed)?;
        let (k, kept_k) = self.apply(Module::Key, &normed, seed)?;
        let (v, kept_v) = self.apply(Module::Value, &normed, seed)?;
        let (q, k) = (rotate(&q, &batch.angles, 1.0)?, rotate(&k, &batch.angles, 1.0)?);
        let mut attended = self.attention.forward(&q, &k, &v, &batch.runs)?;
        let mut x = x.clone();
        if let Some(asked) = batch.asked.as_ref().filter(|_| last) {
            (attended, x) = (attended.index_select(asked, 0)?, x.index_select(asked, 0)?);
        }
        let (output, kept_output) = self.apply(Module::Output, &attended, seed)?;
        let middle = (x + output)?;
        let inner_normed = norm(&middle, &self.inner_norm.value, self.eps)?;
        let (gate, kept_gate) = self.apply(Module::Gate, &inner_normed, seed)?;
        let (up, kept_up) = self.apply(Module::Up, &inner_normed, seed)?;
        let inner = swiglu(&gate, &up)?;
        let (down, kept_down) = self.apply(Module::Down, &inner, seed)?;
        let out = (&middle + down)?;
        let kept = [kept_q, kept_k, kept_v, kept_output, kept_gate, kept_up, kept_down];
        Ok((out, Activations { normed, q, k, v, attended, middle, inner_normed, gate, up, inner, kept }))
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
        let [kept_q, kept_k, kept_v, kept_output, kept_gate, kept_up, kept_down] = &a.kept;
        let [query, key, value, output, gate, up, down] = &mut self.products;
        let dinner = down.backward(None, d, &a.inner, kept_down.as_ref())?;
        let (dgate, dup) = swiglu_backward(&dinner, &a.gate, &a.up)?;
        let dnormed = gate.backward(None, &dgate, &a.inner_normed, kept_gate.as_ref())?;
        let dnormed = up.backward(Some(dnormed), &dup, &a.inner_normed, kept_up.as_ref())?;
        self.inner_norm.learn_sum(|| norm_weight_gradient(&dnormed, &a.middle, eps))?;
        let mut d = norm_backward(d, &dnormed, &a.middle, &self.inner_norm.value, eps)?;

        let mut dattended = output.backward(None, &d, &a.attended, kept_output.as_ref())?;
        if let Some(asked) = batch.asked.as_ref().filter(|_| last) {
            let spread = |rows: &Tensor| {
                let all = Tensor::zeros((batch.rows, rows.dim(1)?), rows.dtype(), rows.device())?;
                all.index_add(asked, rows, 0)
            };
            (d, dattended) = (spread(&d)?, spread(&dattended)?);
        }
        let (dq, dk, dv) = self.attention.backward(&dattended, &a.q, &a.k, &a.v, &batch.runs)?;
        let (dq, dk) = (rotate(&dq, &batch.angles, -1.0)?, rotate(&dk, &batch.angles, -1.0)?);
        let dnormed = query.backward(None, &dq, &a.normed, kept_q.as_ref())?;
        let dnormed = key.backward(Some(dnormed), &dk, &a.normed, kept_k.as_ref())?;
        let dnormed = value.backward(Some(dnormed), &dv, &a.normed, kept_v.as_ref())?;
        self.input_norm.learn_sum(|| norm_weight_gradient(&dnormed, x, eps))?;
        norm_backward(&d, &dnormed, x, &self.input_norm.value, eps)
    }

    /// Everything that may be trained, in the order of the flat vector: of the adapter if there is one, or of the model.
    pub(super) fn slots(&mut self, adapter: bool) -> Vec<&mut Slot> {
        if adapter {
            let low = self.products.iter_mut().filter_map(|product| product.low.as_mut());
            return low.flat_map(|low| [&mut low.a, &mut low.b]).collect();
        }
        let products = self.products.iter_mut().map(|product| &mut product.weight);
        products.chain([&mut self.input_norm, &mut self.inner_norm]).collect()
    }
}

/// Cosines and sines at positions, `(rows, head_dim / 2)` each in `f32`, on the device of `like`.
pub(super) fn angles(frequencies: &[f32], positions: &[usize], like: &Tensor) -> Result<Angles> {
    let shape = (positions.len(), frequencies.len());
    let angle = |&position: &usize| frequencies.iter().map(move |frequency| position as f32 * frequency);
    let angles: Vec<f32> = positions.iter().flat_map(angle).collect();
    let table = |of: fn(f32) -> f32| {
        Tensor::from_vec(angles.iter().map(|&angle| of(angle)).collect(), shape, like.device())?.to_dtype(DType::F32)
    };
    Ok(Angles { cos: table(f32::cos)?, sin: table(f32::sin)? })
}
