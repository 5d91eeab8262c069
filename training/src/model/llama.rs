//! The network in candle, for every device and element type, and as the reference of the fast form.
//!
//! Only differentiable operations: candle's fused ones (`rms_norm`, `softmax_last_dim`, `rope`) cut gradients silently.

use std::collections::HashMap;

use candle_core::{D, DType, Device, Result, Tensor, Var};

use spar::weights::QkNorm;

use super::{DenseConfig, Params};

/// A low-rank addition to a weight: `W + scale · B · A`.
#[derive(Clone, Debug)]
pub struct Lora {
    /// `(rank, in)`
    pub a: Tensor,
    /// `(out, rank)`
    pub b: Tensor,
    /// Usually `alpha / rank`.
    pub scale: f64,
}

/// `y = x · Wᵀ`, with a low-rank addition where there is one.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `(out, in)`
    pub weight: Tensor,
    /// `(out,)`
    pub bias: Option<Tensor>,
    /// Trained in place of the weight.
    pub lora: Option<Lora>,
}

impl Linear {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = x.broadcast_matmul(&self.weight.t()?)?;
        let y = if let Some(bias) = &self.bias { y.broadcast_add(bias)? } else { y };
        let Some(lora) = &self.lora else { return Ok(y) };
        let low = x.broadcast_matmul(&lora.a.t()?)?.broadcast_matmul(&lora.b.t()?)?;
        y + (low * lora.scale)?
    }
}

/// One layer's tensors.
#[derive(Clone, Debug)]
pub struct Layer {
    /// `(hidden, hidden)`
    pub query: Linear,
    /// `(key heads · dim, hidden)`
    pub key: Linear,
    /// `(key heads · dim, hidden)`
    pub value: Linear,
    /// `(hidden, hidden)`
    pub output: Linear,
    /// `(inner, hidden)`
    pub gate: Linear,
    /// `(inner, hidden)`
    pub up: Linear,
    /// `(hidden, inner)`
    pub down: Linear,
    /// `(hidden,)`
    pub input_norm: Tensor,
    /// `(hidden,)`
    pub inner_norm: Tensor,
    /// Norms of heads of queries and of keys, `(head_dim,)` each.
    pub head_norms: Option<(Tensor, Tensor)>,
    /// Whether queries and keys have rotary positions.
    pub rotates: bool,
}

/// A differentiable Llama.
#[derive(Clone, Debug)]
pub struct Llama {
    config: DenseConfig,
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
}

/// Weights as candle variables under their names in the weights file.
///
/// # Errors
/// Fails when the device has no room for them.
pub fn variables(params: &Params, dtype: DType, device: &Device) -> Result<HashMap<String, Var>> {
    let entries = params.layout.entries.iter();
    let variable = |entry: &super::params::Entry| {
        let tensor = Tensor::from_slice(&params.data[entry.range.clone()], entry.shape.as_slice(), device)?;
        Ok((entry.name.clone(), Var::from_tensor(&tensor.to_dtype(dtype)?)?))
    };
    entries.map(variable).collect()
}

impl Llama {
    /// Builds the network over tensors by their names in the weights file.
    ///
    /// # Errors
    /// Fails when a tensor is missing.
    pub fn new(config: &DenseConfig, tensors: &HashMap<String, Var>) -> Result<Self> {
        let tensor = |name: &str| match tensors.get(name) {
            Some(var) => Ok(var.as_tensor().clone()),
            None => candle_core::bail!("{name} is missing"),
        };
        let linear = |name: &str| {
            let bias = tensors.get(&format!("{name}.bias")).map(|var| var.as_tensor().clone());
            Ok::<_, candle_core::Error>(Linear { weight: tensor(&format!("{name}.weight"))?, bias, lora: None })
        };
        let layer = |i: usize| {
            let linear = |name: &str| linear(&format!("model.layers.{i}.{name}"));
            let norm = |name: &str| tensor(&format!("model.layers.{i}.{name}.weight"));
            let head_norms = || Ok::<_, candle_core::Error>((norm("self_attn.q_norm")?, norm("self_attn.k_norm")?));
            Ok(Layer {
                query: linear("self_attn.q_proj")?,
                key: linear("self_attn.k_proj")?,
                value: linear("self_attn.v_proj")?,
                output: linear("self_attn.o_proj")?,
                gate: linear("mlp.gate_proj")?,
                up: linear("mlp.up_proj")?,
                down: linear("mlp.down_proj")?,
                input_norm: norm("input_layernorm")?,
                inner_norm: norm("post_attention_layernorm")?,
                head_norms: (config.qk_norm == QkNorm::Heads).then(head_norms).transpose()?,
                rotates: config.layer_rope(i).is_some(),
            })
        };
        let head = if config.tied { "model.embed_tokens" } else { "lm_head" };
        Ok(Self {
            config: config.clone(),
            embedding: tensor("model.embed_tokens.weight")?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: tensor("model.norm.weight")?,
            head: linear(head)?,
        })
    }

    /// The layers, to hang low-rank additions on.
    pub fn layers_mut(&mut self) -> &mut [Layer] {
        &mut self.layers
    }

    /// Logits `(batch, time, vocab)` of tokens `(batch, time)`. Short rows are filled at their end: later tokens do not
    /// change earlier logits.
    ///
    /// # Errors
    /// Fails when candle cannot compute it.
    pub fn logits(&self, tokens: &Tensor) -> Result<Tensor> {
        let (batch, time) = tokens.dims2()?;
        let mut x = self.embedding.embedding(&tokens.flatten_all()?)?.reshape((batch, time, ()))?;
        let positions = self.positions(time, &x)?;
        for layer in &self.layers {
            let normed = self.rms_norm(&x, &layer.input_norm)?;
            x = (x + self.attention(layer, &normed, &positions)?)?;
            let normed = self.rms_norm(&x, &layer.inner_norm)?;
            let inner = (layer.gate.forward(&normed)?.silu()? * layer.up.forward(&normed)?)?;
            x = (x + layer.down.forward(&inner)?)?;
        }
        self.head.forward(&self.rms_norm(&x, &self.norm)?)
    }

    /// `log p(target)`, `(batch, time)`, in `f32`, of tokens and targets `(batch, time)`.
    ///
    /// # Errors
    /// Fails when candle cannot compute it.
    pub fn log_probs(&self, tokens: &Tensor, targets: &Tensor) -> Result<Tensor> {
        let logits = self.logits(tokens)?.to_dtype(DType::F32)?;
        let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
        let total = shifted.exp()?.sum_keepdim(D::Minus1)?.log()?;
        let chosen = shifted.gather(&targets.unsqueeze(D::Minus1)?, D::Minus1)?;
        (chosen - total)?.squeeze(D::Minus1)
    }

    /// `w · x / sqrt(mean(x²) + ε)`, the mean in `f32`.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = wide.broadcast_div(&(mean + f64::from(self.config.norm_eps))?.sqrt()?)?;
        normed.to_dtype(x.dtype())?.broadcast_mul(weight)
    }

    fn attention(&self, layer: &Layer, x: &Tensor, positions: &Positions) -> Result<Tensor> {
        let (batch, time, _) = x.dims3()?;
        let (heads, kv_heads) = (self.config.heads, self.config.kv_heads);
        let dim = self.config.head_dim;
        let split = |x: Tensor, heads| x.reshape((batch, time, heads, dim))?.transpose(1, 2)?.contiguous();
        let repeat = |x: Tensor| {
            let shape = (batch, kv_heads, heads / kv_heads, time, dim);
            x.unsqueeze(2)?.broadcast_as(shape)?.reshape((batch, heads, time, dim))
        };
        let (mut query, mut key) = (split(layer.query.forward(x)?, heads)?, split(layer.key.forward(x)?, kv_heads)?);
        if let Some((of_queries, of_keys)) = &layer.head_norms {
            (query, key) = (self.rms_norm(&query, of_queries)?, self.rms_norm(&key, of_keys)?);
        }
        if layer.rotates {
            (query, key) = (positions.rotate(&query)?, positions.rotate(&key)?);
        }
        let key = repeat(key)?;
        let value = repeat(split(layer.value.forward(x)?, kv_heads)?)?;
        let scores = (query.matmul(&key.t()?.contiguous()?)? / (dim as f64).sqrt())?.to_dtype(DType::F32)?;
        let scores = scores.broadcast_add(&positions.mask)?;
        let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?.detach())?.exp()?;
        let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?.to_dtype(x.dtype())?;
        let out = weights.matmul(&value.contiguous()?)?.transpose(1, 2)?.reshape((batch, time, heads * dim))?;
        layer.output.forward(&out)
    }

    fn positions(&self, time: usize, like: &Tensor) -> Result<Positions> {
        let (dim, device) = (self.config.head_dim, like.device());
        let turns = self.config.rope.turns(0..time);
        let table = |part: fn(&(f32, f32)) -> f32| {
            let values: Vec<f32> = turns.iter().map(part).collect();
            Tensor::from_vec(values, (time, dim / 2), device)?.to_dtype(like.dtype())
        };
        let hidden = |t: usize| (0..time).map(move |j| if j > t { f32::NEG_INFINITY } else { 0.0 });
        let mask: Vec<f32> = (0..time).flat_map(hidden).collect();
        Ok(Positions {
            cos: table(|turn| turn.0)?,
            sin: table(|turn| turn.1)?,
            mask: Tensor::from_vec(mask, (time, time), device)?,
        })
    }
}

/// What depends on positions only.
struct Positions {
    /// `(time, dim / 2)`
    cos: Tensor,
    /// `(time, dim / 2)`
    sin: Tensor,
    /// `(time, time)`: minus infinity where a key is after the query.
    mask: Tensor,
}

impl Positions {
    /// `x` is `(batch, heads, time, dim)`; element `i` is paired with element `i + dim / 2`.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let (cos, sin) = (&self.cos, &self.sin);
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
        Tensor::cat(&[first, second], D::Minus1)
    }
}
