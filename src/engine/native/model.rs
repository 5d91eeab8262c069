//! A decoder of the Llama family, laid out for speed, and its forward pass over rows of many sequences.

use std::sync::Arc;

use super::attention::{Heads, Scoring};
use super::batch::{Batch, Row};
use super::blocks::Shape;
use super::config::Quantize;
use super::linear::{Linear, packed};
use super::residual::{LastProduct, Stream, norm_or_copy, scale};
use super::scratch::Scratch;
use super::sequence::Sequence;
use super::turns::Turns;
use crate::kernels::packed::Packed;
use crate::kernels::{gelu_times, rms_norm, rotate, silu_times};
use crate::weights::{Activation, DenseConfig, ModelError, Part, QkNorm, Rope, Weights};

/// Weights, fused and packed, in the checkpoint's own type or a smaller one; norms and biases in `f32`.
pub(super) struct Model {
    pub(super) config: DenseConfig,
    /// Where it is not the head: a column per token, as the head has.
    embedding: Option<Packed>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Packed,
}

struct Layer {
    attention_norm: Option<Vec<f32>>,
    /// Queries, keys and values side by side.
    qkv: Linear,
    /// Norms of queries and keys: of each head, or of all together.
    qk_norm: Option<(Vec<f32>, Vec<f32>)>,
    /// The rotary positions, where the layer has any, shared by the layers that turn alike.
    turns: Option<Arc<Turns>>,
    /// Keys that a query sees, where not all.
    window: Option<usize>,
    output: Linear,
    /// The norm of what attention adds to the residual stream, where there is one.
    output_norm: Option<Vec<f32>>,
    mlp_norm: Option<Vec<f32>>,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
    /// The norm of what the feed-forward layer adds to the residual stream, where there is one.
    down_norm: Option<Vec<f32>>,
}

impl Model {
    /// Reads the weights; the matrices are kept as the checkpoint has them, or smaller where `quantize` says so.
    pub(super) fn load(dense: &DenseConfig, weights: &Weights, quantize: Quantize) -> Result<Self, ModelError> {
        let packed = |name: &str| packed(weights, &[name], dense.hidden, quantize.of_vocabulary());
        let embedding = packed("model.embed_tokens.weight")?;
        let (embedding, head) = match dense.tied {
            true => (None, embedding),
            false => (Some(embedding), packed("lm_head.weight")?),
        };
        // The file's pages and the copy of a large model are never in memory together as a whole.
        weights.rest();
        let mut tables: Vec<(&Rope, Arc<Turns>)> = Vec::new();
        let layer = |layer| {
            let turns = dense.layer_rope(layer).map(|rope| match tables.iter().find(|(known, _)| *known == rope) {
                Some((_, turns)) => Arc::clone(turns),
                None => {
                    let turns = Arc::new(Turns::of(rope, dense.context));
                    tables.push((rope, Arc::clone(&turns)));
                    turns
                }
            });
            Layer::load(layer, dense, weights, (quantize, turns)).inspect(|_| weights.rest())
        };
        Ok(Self {
            layers: (0..dense.layers).map(layer).collect::<Result<_, _>>()?,
            norm: dense.norm_weights(weights.read("model.norm.weight")?),
            config: dense.clone(),
            embedding,
            head,
        })
    }

    /// Bytes of the matrices that every token is multiplied with.
    pub(super) fn bytes(&self) -> usize {
        let layer = |l: &Layer| {
            [&l.qkv, &l.output, &l.gate_up, &l.down].iter().map(|linear| linear.weight.bytes()).sum::<usize>()
        };
        self.head.bytes() + self.layers.iter().map(layer).sum::<usize>()
    }

    /// The shape of a block of keys and values.
    pub(super) fn block_shape(&self) -> Shape {
        Shape { layers: self.config.layers, heads: self.config.kv_heads, head_dim: self.config.head_dim }
    }

    /// Computes the batch's rows, whose blocks exist and are not shared, and leaves the logits of the wanted ones, which
    /// are all of the batch afterwards.
    pub(super) fn forward(&self, scratch: &mut Scratch, sequences: &mut [Sequence], batch: &mut Batch) {
        let hidden = self.config.hidden;
        scratch.x.resize(batch.rows.len() * hidden);
        let embedding = self.embedding.as_ref().unwrap_or(&self.head);
        for (row, x) in batch.rows.iter().zip(scratch.x.chunks_exact_mut(hidden)) {
            embedding.column(sequences[row.sequence].tokens[row.position] as usize, x);
            scale(x, self.config.scales.embedding);
        }
        for index in 0..self.layers.len() {
            self.project(index, scratch, sequences, batch);
            if index + 1 == self.layers.len() {
                // Nothing more is asked of other rows: their keys and values are all that is left of them.
                scratch.x.keep_rows(hidden, &batch.wanted);
                scratch.qkv.keep_rows(self.layers[index].qkv.weight.columns(), &batch.wanted);
                batch.keep_wanted();
                if batch.rows.is_empty() {
                    scratch.logits.clear();
                    return;
                }
            }
            self.mix(index, scratch, sequences, batch);
        }
        let Scratch { x, normed, logits, workspace, .. } = scratch;
        normed.resize(x.len());
        rms_norm(normed, x, &self.norm, self.config.norm_eps);
        let kept = pool_rows(batch, sequences, normed, hidden);
        normed.resize(kept * hidden);
        if kept == 0 {
            logits.clear();
            return;
        }
        logits.resize(batch.rows.len() * self.config.vocabulary, 0.0);
        self.head.multiply(normed, logits, workspace);
        scale(logits, self.config.scales.logits);
        if let Some(cap) = self.config.logit_cap {
            logits.iter_mut().for_each(|logit| *logit = cap * (*logit / cap).tanh());
        }
    }

    /// Queries, keys and values of a layer; the latter two go to the sequences' blocks.
    fn project(&self, index: usize, scratch: &mut Scratch, sequences: &mut [Sequence], batch: &Batch) {
        let Scratch { x, normed, qkv, low, raw, workspace, .. } = scratch;
        let (c, layer) = (&self.config, &self.layers[index]);
        let (q, kv) = c.widths();
        qkv.resize(batch.rows.len() * (q + 2 * kv));
        norm_or_copy(normed, x, layer.attention_norm.as_deref(), c.norm_eps);
        layer.qkv.apply(normed, qkv, workspace);
        batch.adapt(index, |layer| layer.qkv.as_ref(), normed, qkv, low, workspace);
        for (row, qkv) in batch.rows.iter().zip(qkv.chunks_exact_mut(q + 2 * kv)) {
            self.position(layer, &mut qkv[..q + kv], row.position, raw);
            let (keys, values) = qkv[q..].split_at(kv);
            sequences[row.sequence].write(self.block_shape(), index, row.position, keys, values);
        }
    }

    /// The rest of a layer: attention and feed-forward, added to the residual stream.
    fn mix(&self, index: usize, scratch: &mut Scratch, sequences: &[Sequence], batch: &Batch) {
        let Scratch { x, normed, qkv, attended, gate_up, activated, attention, addition, low, workspace, .. } = scratch;
        let (c, layer) = (&self.config, &self.layers[index]);
        let rows = batch.rows.len();
        attended.resize(rows * c.heads * c.head_dim);
        let scoring = Scoring { scale: c.score_scale(), cap: c.score_cap };
        let heads = Heads { layer: index, shape: self.block_shape(), window: layer.window, scoring };
        let queries = (&qkv[..], layer.qkv.weight.columns());
        attention.attend(heads, sequences, &batch.rows, queries, attended, workspace.team.as_deref());
        let mut stream = Stream { x, normed, addition, low, workspace };
        let output =
            LastProduct { linear: &layer.output, norm: layer.output_norm.as_deref(), adapter: |l| l.output.as_ref() };
        output.add(c, index, batch, attended, &mut stream);
        norm_or_copy(stream.normed, stream.x, layer.mlp_norm.as_deref(), c.norm_eps);
        gate_up.resize(rows * 2 * c.intermediate);
        layer.gate_up.apply(stream.normed, gate_up, stream.workspace);
        batch.adapt(index, |layer| layer.gate_up.as_ref(), stream.normed, gate_up, stream.low, stream.workspace);
        activated.resize(rows * c.intermediate);
        for (both, out) in gate_up.chunks_exact(2 * c.intermediate).zip(activated.chunks_exact_mut(c.intermediate)) {
            let (gate, up) = both.split_at(c.intermediate);
            match c.activation {
                Activation::Silu => silu_times(out, gate, up),
                Activation::GeluTanh => gelu_times(out, gate, up),
            }
        }
        let down = LastProduct { linear: &layer.down, norm: layer.down_norm.as_deref(), adapter: |l| l.down.as_ref() };
        down.add(c, index, batch, activated, &mut stream);
    }

    /// Norms, where the family has them, and rotation of query and key heads.
    fn position(&self, layer: &Layer, heads: &mut [f32], position: usize, raw: &mut Vec<f32>) {
        if let Some((queries, keys)) = &layer.qk_norm {
            raw.clear();
            raw.extend_from_slice(heads);
            let (q, _) = self.config.widths();
            rms_norm(&mut heads[..q], &raw[..q], queries, self.config.norm_eps);
            rms_norm(&mut heads[q..], &raw[q..], keys, self.config.norm_eps);
        }
        if let Some(turns) = &layer.turns {
            let turns = turns.at(position);
            for head in heads.chunks_exact_mut(self.config.head_dim) {
                rotate(&mut head[..2 * turns.len()], turns);
            }
        }
    }
}

/// Gives the rows of texts that become vectors, which are `width` numbers each, to these texts and takes them out of
/// the batch and of `rows`. The rest are those whose logits are asked for.
fn pool_rows(batch: &mut Batch, sequences: &mut [Sequence], rows: &mut [f32], width: usize) -> usize {
    let mut kept = 0;
    for index in 0..batch.rows.len() {
        let Row { sequence, .. } = batch.rows[index];
        match &mut sequences[sequence].pooled {
            Some(pooled) => pooled.add(&rows[index * width..][..width]),
            None => {
                rows.copy_within(index * width..(index + 1) * width, kept * width);
                batch.rows[kept] = batch.rows[index];
                kept += 1;
            }
        }
    }
    batch.rows.truncate(kept);
    kept
}

impl Layer {
    fn load(
        layer: usize,
        c: &DenseConfig,
        weights: &Weights,
        (quantize, turns): (Quantize, Option<Arc<Turns>>),
    ) -> Result<Self, ModelError> {
        let read = |name: &str| weights.read(&format!("model.layers.{layer}.{name}.weight"));
        let linear = |parts: &[Part], inner: usize, biased: bool| -> Result<Linear, ModelError> {
            let names: Vec<&str> = parts.iter().map(|&(name, _)| name).collect();
            let full: Vec<String> = names.iter().map(|name| format!("model.layers.{layer}.{name}.weight")).collect();
            let full: Vec<&str> = full.iter().map(String::as_str).collect();
            let biases = || -> Result<Vec<f32>, ModelError> {
                let parts: Result<Vec<_>, _> =
                    names.iter().map(|name| weights.read(&format!("model.layers.{layer}.{name}.bias"))).collect();
                Ok(parts?.concat())
            };
            let bias = biased.then(biases).transpose()?;
            Ok(Linear { weight: packed(weights, &full, inner, quantize)?, bias })
        };
        let norm = |name: &str| read(name).map(|stored| c.norm_weights(stored));
        let qk_norm = || Ok((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?));
        let [attention_norm, output_norm, mlp_norm, down_norm] = c.norm_names().map(|name| name.map(norm).transpose());
        Ok(Self {
            attention_norm: attention_norm?,
            qkv: linear(&c.qkv(), c.hidden, c.qkv_bias)?,
            qk_norm: (c.qk_norm != QkNorm::None).then(qk_norm).transpose()?,
            turns,
            window: c.window(layer),
            output: linear(&[("self_attn.o_proj", c.hidden)], c.heads * c.head_dim, c.output_bias)?,
            output_norm: output_norm?,
            mlp_norm: mlp_norm?,
            gate_up: linear(&c.gate_up(), c.hidden, c.mlp_bias)?,
            down: linear(&[("mlp.down_proj", c.hidden)], c.intermediate, c.mlp_bias)?,
            down_norm: down_norm?,
        })
    }
}
