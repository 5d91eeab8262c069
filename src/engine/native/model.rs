//! A decoder of the Llama family, laid out for speed, and its forward pass over rows of many sequences.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapter, Delta, LayerAdapter};
use super::attention::{Attention, Heads};
use super::blocks::Shape;
use super::sequence::Sequence;
use crate::kernels::packed::Packed;
use crate::kernels::{rms_norm, rotate, silu_times};
use crate::weights::{DenseConfig, ModelConfig, ModelError, RopeScaling, Weights};

/// Weights in `f32`, fused and packed.
pub(super) struct Model {
    pub(super) config: DenseConfig,
    pub(super) vocabulary: usize,
    /// `(vocabulary, hidden)`.
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Packed,
    /// Cosine and sine, `(context, head_dim / 2)`.
    turns: Vec<(f32, f32)>,
}

struct Layer {
    attention_norm: Vec<f32>,
    /// Queries, keys and values side by side.
    qkv: Linear,
    /// Norms of each query and key head.
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    output: Linear,
    mlp_norm: Vec<f32>,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
}

struct Linear {
    weight: Packed,
    bias: Option<Vec<f32>>,
}

/// A position of a sequence that a step computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Index of the sequence.
    pub(super) sequence: usize,
    /// Position in it.
    pub(super) position: usize,
}

/// Rows of a step that one adapter changes.
pub(super) struct Group {
    pub(super) rows: Range<usize>,
    pub(super) adapter: Arc<Adapter>,
}

/// Buffers of a step, kept from step to step. Shapes are `(rows, …)`.
#[derive(Default)]
pub(super) struct Scratch {
    x: Vec<f32>,
    normed: Vec<f32>,
    qkv: Vec<f32>,
    attended: Vec<f32>,
    gate_up: Vec<f32>,
    activated: Vec<f32>,
    attention: Attention,
    /// `(rows of a group, ranks)`.
    low: Vec<f32>,
    /// `(rows asked for, vocabulary)`.
    pub(super) logits: Vec<f32>,
}

impl Model {
    pub(super) fn load(config: &ModelConfig, dense: &DenseConfig, weights: &Weights) -> Result<Self, ModelError> {
        let embedding = weights.read("model.embed_tokens.weight")?;
        let head = match dense.tied {
            true => Packed::new(&[&embedding], dense.hidden),
            false => Packed::new(&[&weights.read("lm_head.weight")?], dense.hidden),
        };
        Ok(Self {
            layers: (0..dense.layers).map(|layer| Layer::load(layer, dense, weights)).collect::<Result<_, _>>()?,
            norm: weights.read("model.norm.weight")?,
            turns: turns(dense, config.context),
            config: dense.clone(),
            vocabulary: config.vocabulary,
            embedding,
            head,
        })
    }

    /// The shape of a block of keys and values.
    pub(super) fn block_shape(&self) -> Shape {
        Shape { layers: self.config.layers, heads: self.config.kv_heads, head_dim: self.config.head_dim }
    }

    /// Computes `rows`, whose blocks exist and are not shared, and leaves the logits of the rows numbered `wanted`.
    ///
    /// `groups` are disjoint ranges of `rows`.
    pub(super) fn forward(
        &self,
        scratch: &mut Scratch,
        sequences: &mut [Sequence],
        rows: &[Row],
        groups: &[Group],
        wanted: &[usize],
    ) {
        let c = &self.config;
        let Scratch { x, normed, qkv, attended, gate_up, activated, attention, low, logits } = scratch;
        x.clear();
        for row in rows {
            let token = sequences[row.sequence].tokens[row.position] as usize;
            x.extend_from_slice(&self.embedding[token * c.hidden..][..c.hidden]);
        }
        normed.resize(x.len(), 0.0);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        qkv.resize(rows.len() * (q + 2 * kv), 0.0);
        attended.resize(rows.len() * q, 0.0);
        gate_up.resize(rows.len() * 2 * c.intermediate, 0.0);
        activated.resize(rows.len() * c.intermediate, 0.0);
        for (index, layer) in self.layers.iter().enumerate() {
            rms_norm(normed, x, &layer.attention_norm, c.norm_eps);
            layer.qkv.apply(normed, qkv);
            let mut adapt = |which: fn(&LayerAdapter) -> Option<&Delta>, a: &[f32], out: &mut [f32]| {
                let (inner, columns) = (a.len() / rows.len(), out.len() / rows.len());
                for Group { rows, adapter } in groups {
                    let Some(delta) = which(adapter.layer(index)) else { continue };
                    let out = &mut out[rows.start * columns..rows.end * columns];
                    delta.add(&a[rows.start * inner..rows.end * inner], out, low);
                }
            };
            adapt(|layer| layer.qkv.as_ref(), normed, qkv);
            for (row, qkv) in rows.iter().zip(qkv.chunks_exact_mut(q + 2 * kv)) {
                self.position(layer, &mut qkv[..q + kv], row.position);
                let (keys, values) = qkv[q..].split_at(kv);
                sequences[row.sequence].write(self.block_shape(), index, row.position, keys, values);
            }
            for ((row, qkv), out) in rows.iter().zip(qkv.chunks_exact(q + 2 * kv)).zip(attended.chunks_exact_mut(q)) {
                let heads = Heads { layer: index, shape: self.block_shape(), window: c.sliding_window };
                attention.attend(heads, &sequences[row.sequence].blocks, row.position, &qkv[..q], out);
            }
            layer.output.add(attended, x);
            adapt(|layer| layer.output.as_ref(), attended, x);
            rms_norm(normed, x, &layer.mlp_norm, c.norm_eps);
            layer.gate_up.apply(normed, gate_up);
            adapt(|layer| layer.gate_up.as_ref(), normed, gate_up);
            for (both, out) in gate_up.chunks_exact(2 * c.intermediate).zip(activated.chunks_exact_mut(c.intermediate))
            {
                let (gate, up) = both.split_at(c.intermediate);
                silu_times(out, gate, up);
            }
            layer.down.add(activated, x);
            adapt(|layer| layer.down.as_ref(), activated, x);
        }
        for (to, &from) in wanted.iter().enumerate() {
            let to = to * c.hidden..(to + 1) * c.hidden;
            rms_norm(&mut normed[to], &x[from * c.hidden..][..c.hidden], &self.norm, c.norm_eps);
        }
        logits.resize(wanted.len() * self.vocabulary, 0.0);
        self.head.multiply(&normed[..wanted.len() * c.hidden], logits);
    }

    /// Norms, where the family has them, and rotation of query and key heads.
    fn position(&self, layer: &Layer, heads: &mut [f32], position: usize) {
        let half = self.config.head_dim / 2;
        let turns = &self.turns[position * half..][..half];
        for (index, head) in heads.chunks_exact_mut(2 * half).enumerate() {
            if let Some((queries, keys)) = &layer.qk_norm {
                let weight = if index < self.config.heads { queries } else { keys };
                let raw = head.to_vec();
                rms_norm(head, &raw, weight, self.config.norm_eps);
            }
            rotate(head, turns);
        }
    }
}

impl Layer {
    fn load(layer: usize, c: &DenseConfig, weights: &Weights) -> Result<Self, ModelError> {
        let read = |name: &str| weights.read(&format!("model.layers.{layer}.{name}.weight"));
        let linear = |names: &[&str], inner: usize, biased: bool| -> Result<Linear, ModelError> {
            let parts: Vec<_> = names.iter().map(|name| read(name)).collect::<Result<_, _>>()?;
            let slices: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
            let biases = || -> Result<Vec<f32>, ModelError> {
                let parts: Result<Vec<_>, _> =
                    names.iter().map(|name| weights.read(&format!("model.layers.{layer}.{name}.bias"))).collect();
                Ok(parts?.concat())
            };
            let bias = biased.then(biases).transpose()?;
            Ok(Linear { weight: Packed::new(&slices, inner), bias })
        };
        let qk_norm = || Ok((read("self_attn.q_norm")?, read("self_attn.k_norm")?));
        Ok(Self {
            attention_norm: read("input_layernorm")?,
            qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], c.hidden, c.qkv_bias)?,
            qk_norm: c.qk_norm.then(qk_norm).transpose()?,
            output: linear(&["self_attn.o_proj"], c.heads * c.head_dim, c.output_bias)?,
            mlp_norm: read("post_attention_layernorm")?,
            gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], c.hidden, c.mlp_bias)?,
            down: linear(&["mlp.down_proj"], c.intermediate, c.mlp_bias)?,
        })
    }
}

impl Linear {
    fn apply(&self, a: &[f32], out: &mut [f32]) {
        self.weight.multiply(a, out);
        self.add_bias(out);
    }

    fn add(&self, a: &[f32], out: &mut [f32]) {
        self.weight.multiply_add(a, out);
        self.add_bias(out);
    }

    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
}

/// Cosine and sine of every position's angles, in `f32` as `transformers` computes them.
fn turns(config: &DenseConfig, context: usize) -> Vec<(f32, f32)> {
    let half = config.head_dim / 2;
    let frequency = |i: usize| {
        let plain = config.rope_theta.powf(-(i as f64) / half as f64);
        let scaled = match config.rope_scaling {
            RopeScaling::Linear(factor) => plain / factor,
            RopeScaling::Llama3 { factor, low, high, original_context } => {
                let turns = original_context * plain / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                plain * kept + plain / factor * (1.0 - kept)
            }
            RopeScaling::None | RopeScaling::Other(_) => plain,
        };
        scaled as f32
    };
    let frequencies: Vec<f32> = (0..half).map(frequency).collect();
    let angles = (0..context).flat_map(|position| frequencies.iter().map(move |f| position as f32 * f));
    angles.map(|angle| (angle.cos(), angle.sin())).collect()
}
