//! A layer's weights on a device, and what it computes apart from attention.

use candle_core::{D, DType, Device, Result, Tensor};
use safetensors::Dtype;

use super::super::compute::LoadError;
use super::super::model::Batch;
use super::cache::{Cache, Places};
use super::low::adapt;
use super::ops::{add_product, norm, product, swiglu};
#[cfg(feature = "cuda")]
use super::ops::{fused, place};
use crate::weights::{DenseConfig, ModelError, Weights};

pub(super) struct Layer {
    attention_norm: Norm,
    /// Queries, keys and values side by side.
    qkv: Linear,
    /// Norms of each query and key head.
    qk_norm: Option<Norm>,
    output: Linear,
    mlp_norm: Norm,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

struct Linear {
    /// `(columns, inner)`.
    weight: Tensor,
    /// `(columns)`, in `f32`.
    bias: Option<Tensor>,
}

/// A root mean square norm in `f32`.
pub(super) struct Norm {
    /// `(size)`, or one for each head of a row, `(heads, size)`.
    weight: Tensor,
    eps: f64,
}

/// Cosine and sine of positions' angles, `(positions, head_dim / 2)`.
#[derive(Clone)]
pub(super) struct Turns {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Turns {
    /// Those of positions, `(rows)`, as they multiply heads: `(rows, 1, head_dim / 2)`.
    pub(super) fn at(&self, positions: &Tensor) -> Result<Self> {
        let at = |table: &Tensor| table.index_select(positions, 0)?.unsqueeze(1);
        Ok(Self { cos: at(&self.cos)?, sin: at(&self.sin)? })
    }

    /// `x`, `(rows, heads, head_dim)`, turned: element `i` of a head's first half pairs with element `i` of the second.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let half = x.dim(D::Minus1)? / 2;
        let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let turned = [
            (first.broadcast_mul(&self.cos)? - second.broadcast_mul(&self.sin)?)?,
            (second.broadcast_mul(&self.cos)? + first.broadcast_mul(&self.sin)?)?,
        ];
        Tensor::cat(&turned, D::Minus1)
    }
}

impl Layer {
    pub(super) fn load(
        layer: usize,
        c: &DenseConfig,
        weights: &Weights,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let full = |name: &str, what: &str| format!("model.layers.{layer}.{name}.{what}");
        let norm = |name: &str| Norm::load(weights, &full(name, "weight"), c.norm_eps, device);
        let linear = |names: &[&str], inner: usize, biased: bool| -> std::result::Result<Linear, LoadError> {
            let named = |what| names.iter().map(|name| full(name, what)).collect::<Vec<_>>();
            let weight = linear_tensor(weights, &named("weight"), inner, dtype, device)?;
            let bias = || -> std::result::Result<Tensor, LoadError> {
                Ok(linear_tensor(weights, &named("bias"), 1, DType::F32, device)?.flatten_all()?)
            };
            let bias = if biased { Some(bias()?) } else { None };
            Ok(Linear { weight, bias })
        };
        let qk_norm = || {
            let parts = [("self_attn.q_norm", c.heads), ("self_attn.k_norm", c.kv_heads)];
            let parts = parts.map(|(name, heads)| Ok(weights.read(&full(name, "weight"))?.repeat(heads)));
            let values = parts.into_iter().collect::<std::result::Result<Vec<_>, ModelError>>()?.concat();
            let weight = Tensor::from_vec(values, (c.heads + c.kv_heads, c.head_dim), device)?;
            Ok::<_, LoadError>(Norm { weight, eps: f64::from(c.norm_eps) })
        };
        Ok(Self {
            attention_norm: norm("input_layernorm")?,
            qkv: linear(&["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"], c.hidden, c.qkv_bias)?,
            qk_norm: if c.qk_norm { Some(qk_norm()?) } else { None },
            output: linear(&["self_attn.o_proj"], c.heads * c.head_dim, c.output_bias)?,
            mlp_norm: norm("post_attention_layernorm")?,
            gate_up: linear(&["mlp.gate_proj", "mlp.up_proj"], c.hidden, c.mlp_bias)?,
            down: linear(&["mlp.down_proj"], c.intermediate, c.mlp_bias)?,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        let bytes = |linear: &Linear| linear.weight.elem_count() * linear.weight.dtype().size_in_bytes();
        [&self.qkv, &self.output, &self.gate_up, &self.down].into_iter().map(bytes).sum()
    }

    /// Scaled queries `(rows, heads, head_dim)` of the residual stream `x`, `(rows, hidden)`; keys and values go to their
    /// places in the cache.
    pub(super) fn project(
        &self,
        index: usize,
        x: &Tensor,
        turns: &Turns,
        batch: &Batch,
        (cache, places): (&Cache, &Places),
    ) -> Result<Tensor> {
        let normed = self.attention_norm.apply(x, self.qkv.weight.dtype())?;
        let qkv = adapt(batch, index, |layer| layer.qkv.as_ref(), &normed, self.qkv.apply(&normed)?)?;
        let qkv = qkv.reshape((qkv.dim(0)?, self.heads + 2 * self.kv_heads, self.head_dim))?;
        let mut turned = qkv.narrow(1, 0, self.heads + self.kv_heads)?;
        if let Some(norm) = &self.qk_norm {
            turned = norm.apply(&turned, DType::F32)?;
        }
        let values = qkv.narrow(1, self.heads + self.kv_heads, self.kv_heads)?;
        let scale = (self.head_dim as f64).sqrt().recip();
        #[cfg(feature = "cuda")]
        if fused(x) {
            return place(&turned, &values, [&turns.cos, &turns.sin], &cache.room(index, places), scale);
        }
        let turned = turns.rotate(&turned)?;
        cache.write(index, places, &turned.narrow(1, self.heads, self.kv_heads)?, &values)?;
        turned.narrow(1, 0, self.heads)? * scale
    }

    /// The residual stream after what attention gives, `(rows, heads × head_dim)`, and after the feed-forward layer.
    pub(super) fn mix(&self, index: usize, x: Tensor, attended: &Tensor, batch: &Batch) -> Result<Tensor> {
        let dtype = self.down.weight.dtype();
        let x = adapt(batch, index, |layer| layer.output.as_ref(), attended, self.output.add_to(x, attended)?)?;
        let normed = self.mlp_norm.apply(&x, dtype)?;
        let both = adapt(batch, index, |layer| layer.gate_up.as_ref(), &normed, self.gate_up.apply(&normed)?)?;
        let hidden = swiglu(&both, dtype)?;
        adapt(batch, index, |layer| layer.down.as_ref(), &hidden, self.down.add_to(x, &hidden)?)
    }
}

impl Linear {
    /// The product as `f32`, of `x` in the weight's type.
    fn apply(&self, x: &Tensor) -> Result<Tensor> {
        self.biased(product(x, &self.weight)?)
    }

    /// The product added to `sum`, whose place it takes.
    fn add_to(&self, sum: Tensor, x: &Tensor) -> Result<Tensor> {
        self.biased(add_product(sum, x, &self.weight)?)
    }

    fn biased(&self, product: Tensor) -> Result<Tensor> {
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}

impl Norm {
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        eps: f32,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let values = weights.read(name)?;
        let size = values.len();
        Ok(Self { weight: Tensor::from_vec(values, size, device)?, eps: f64::from(eps) })
    }

    /// Rows of `f32`, normed, in another type.
    pub(super) fn apply(&self, x: &Tensor, dtype: DType) -> Result<Tensor> {
        norm(x, &self.weight, self.eps, dtype)
    }
}

/// Tensors of the checkpoint below one another, `(columns, inner)`.
pub(super) fn linear_tensor(
    weights: &Weights,
    names: &[String],
    inner: usize,
    dtype: DType,
    device: &Device,
) -> std::result::Result<Tensor, LoadError> {
    let kept = match dtype {
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        other => return Err(LoadError::Device(format!("weights of type {other:?} are not computed"))),
    };
    let part = |name: &String| {
        let (stored, bytes) = weights.raw(name)?;
        if stored == kept {
            let columns = bytes.len() / dtype.size_in_bytes() / inner;
            return Ok(Tensor::from_raw_buffer(&bytes, dtype, &[columns, inner], device)?);
        }
        let values = weights.read(name)?;
        let columns = values.len() / inner;
        Ok(Tensor::from_vec(values, (columns, inner), &Device::Cpu)?.to_dtype(dtype)?.to_device(device)?)
    };
    let parts = names.iter().map(part).collect::<std::result::Result<Vec<_>, LoadError>>()?;
    Ok(if let [whole] = parts.as_slice() { whole.clone() } else { Tensor::cat(&parts, 0)? })
}
