//! A layer's weights on a device, and what it computes apart from attention.

use candle_core::{D, DType, Device, Result, Tensor};
use safetensors::Dtype;

use super::super::batch::Batch;
use super::super::load_error::LoadError;
use super::cache::{Cache, Places};
use super::low::adapt;
use super::ops::{add_product, geglu, norm, product, swiglu};
#[cfg(feature = "cuda")]
use super::ops::{fused, place};
use crate::weights::{Activation, DenseConfig, ModelError, Part, QkNorm, Rope, Weights};

pub(super) struct Layer {
    attention_norm: Option<Norm>,
    /// Queries, keys and values side by side.
    qkv: Linear,
    qk_norm: Option<HeadNorms>,
    output: Linear,
    /// The norm of what attention adds to the residual stream, where there is one.
    output_norm: Option<Norm>,
    mlp_norm: Option<Norm>,
    /// Gate and up side by side.
    gate_up: Linear,
    down: Linear,
    /// The norm of what the feed-forward layer adds to the residual stream, where there is one.
    down_norm: Option<Norm>,
    /// Which of the model's turns it takes, where it has rotary positions.
    pub(super) turns: Option<usize>,
    /// Which of the model's reaches it has.
    pub(super) reach: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
    residual: f32,
    activation: Activation,
}

/// Norms of queries and keys.
enum HeadNorms {
    /// There is one for each head: its weights are `(heads + kv_heads, head_dim)`.
    Each(Norm),
    /// There is one for all query heads together, and one for all key heads.
    Whole([Norm; 2]),
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

/// Cosine and sine of positions' angles, `(positions, pairs)`, for the pairs of elements at the beginning of a head that turn.
#[derive(Clone)]
pub(super) struct Turns {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

impl Turns {
    /// The angles of the first positions.
    pub(super) fn new(rope: &Rope, positions: usize, device: &Device) -> Result<Self> {
        let turns = rope.turns(0..positions);
        let table = |part: fn(&(f32, f32)) -> f32| {
            Tensor::from_vec(turns.iter().map(part).collect::<Vec<f32>>(), (positions, rope.dims / 2), device)
        };
        Ok(Self { cos: table(|turn| turn.0)?, sin: table(|turn| turn.1)? })
    }

    /// The number of positions whose angles these are.
    pub(super) fn positions(&self) -> Result<usize> {
        self.cos.dim(0)
    }

    /// The number of elements of a head that turn.
    fn dims(&self) -> Result<usize> {
        Ok(2 * self.cos.dim(D::Minus1)?)
    }

    /// Those of positions, `(rows)`, as they multiply heads: `(rows, 1, pairs)`.
    pub(super) fn at(&self, positions: &Tensor) -> Result<Self> {
        let at = |table: &Tensor| table.index_select(positions, 0)?.unsqueeze(1);
        Ok(Self { cos: at(&self.cos)?, sin: at(&self.sin)? })
    }

    /// Rotates `x`, `(rows, heads, head_dim)`. Among the rotated elements the first half pairs with the second half.
    fn rotate(&self, x: &Tensor) -> Result<Tensor> {
        let (dims, size) = (self.dims()?, x.dim(D::Minus1)?);
        let half = dims / 2;
        let (first, second) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
        let mut turned = vec![
            (first.broadcast_mul(&self.cos)? - second.broadcast_mul(&self.sin)?)?,
            (second.broadcast_mul(&self.cos)? + first.broadcast_mul(&self.sin)?)?,
        ];
        if dims < size {
            turned.push(x.narrow(D::Minus1, dims, size - dims)?);
        }
        Tensor::cat(&turned, D::Minus1)
    }
}

impl Layer {
    /// A layer by its number, and which of the model's turns and reaches it takes.
    pub(super) fn load(
        (layer, turns, reach): (usize, Option<usize>, usize),
        c: &DenseConfig,
        weights: &Weights,
        dtype: DType,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let full = |name: &str, what: &str| format!("model.layers.{layer}.{name}.{what}");
        let norm = |name: &str| Norm::load(weights, &full(name, "weight"), c, device);
        let linear = |parts: &[Part], inner: usize, biased: bool| -> std::result::Result<Linear, LoadError> {
            let named = |what| parts.iter().map(|(name, _)| full(name, what)).collect::<Vec<_>>();
            let weight = linear_tensor(weights, &named("weight"), inner, dtype, device)?;
            let bias = || -> std::result::Result<Tensor, LoadError> {
                Ok(linear_tensor(weights, &named("bias"), 1, DType::F32, device)?.flatten_all()?)
            };
            let bias = if biased { Some(bias()?) } else { None };
            Ok(Linear { weight, bias })
        };
        let each_head = || {
            let parts = [("self_attn.q_norm", c.heads), ("self_attn.k_norm", c.kv_heads)];
            let parts =
                parts.map(|(name, heads)| Ok(c.norm_weights(weights.read(&full(name, "weight"))?).repeat(heads)));
            let values = parts.into_iter().collect::<std::result::Result<Vec<_>, ModelError>>()?.concat();
            let weight = Tensor::from_vec(values, (c.heads + c.kv_heads, c.head_dim), device)?;
            Ok::<_, LoadError>(Norm { weight, eps: f64::from(c.norm_eps) })
        };
        let [attention_norm, output_norm, mlp_norm, down_norm] = c.norm_names().map(|name| name.map(norm).transpose());
        Ok(Self {
            attention_norm: attention_norm?,
            qkv: linear(&c.qkv(), c.hidden, c.qkv_bias)?,
            qk_norm: match c.qk_norm {
                QkNorm::None => None,
                QkNorm::Heads => Some(HeadNorms::Each(each_head()?)),
                QkNorm::Whole => Some(HeadNorms::Whole([norm("self_attn.q_norm")?, norm("self_attn.k_norm")?])),
            },
            output: linear(&[("self_attn.o_proj", c.hidden)], c.heads * c.head_dim, c.output_bias)?,
            output_norm: output_norm?,
            mlp_norm: mlp_norm?,
            gate_up: linear(&c.gate_up(), c.hidden, c.mlp_bias)?,
            down: linear(&[("mlp.down_proj", c.hidden)], c.intermediate, c.mlp_bias)?,
            down_norm: down_norm?,
            turns,
            reach,
            heads: c.heads,
            kv_heads: c.kv_heads,
            head_dim: c.head_dim,
            scale: c.scales.attention.map_or_else(|| (c.head_dim as f64).sqrt().recip(), f64::from),
            residual: c.scales.residual,
            activation: c.activation,
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
        turns: Option<&Turns>,
        batch: &Batch,
        (cache, places): (&Cache, &Places),
    ) -> Result<Tensor> {
        let normed = normed(x, self.attention_norm.as_ref(), self.qkv.weight.dtype())?;
        let qkv = adapt(batch, index, |layer| layer.qkv.as_ref(), &normed, self.qkv.apply(&normed)?)?;
        let qkv = qkv.reshape((qkv.dim(0)?, self.heads + 2 * self.kv_heads, self.head_dim))?;
        let mut turned = qkv.narrow(1, 0, self.heads + self.kv_heads)?;
        match &self.qk_norm {
            Some(HeadNorms::Each(norm)) => turned = norm.apply(&turned, DType::F32)?,
            Some(HeadNorms::Whole(norms)) => {
                let parts = [(0, self.heads), (self.heads, self.kv_heads)];
                let parts = parts.into_iter().zip(norms).map(|((first, heads), norm)| {
                    let part = turned.narrow(1, first, heads)?;
                    norm.apply(&part.flatten_from(1)?, DType::F32)?.reshape(part.shape())
                });
                turned = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?;
            }
            None => {}
        }
        let values = qkv.narrow(1, self.heads + self.kv_heads, self.kv_heads)?;
        // Our kernel turns whole heads.
        #[cfg(feature = "cuda")]
        if let Some(turns) = turns.filter(|_| fused(x))
            && turns.dims()? == self.head_dim
        {
            return place(&turned, &values, [&turns.cos, &turns.sin], &cache.room(index, places), self.scale);
        }
        if let Some(turns) = turns {
            turned = turns.rotate(&turned)?;
        }
        cache.write(index, places, &turned.narrow(1, self.heads, self.kv_heads)?, &values)?;
        (turned.narrow(1, 0, self.heads)? * self.scale)?.to_dtype(self.qkv.weight.dtype())
    }

    /// The residual stream after what attention gives, `(rows, heads × head_dim)`, and after the feed-forward layer.
    pub(super) fn mix(&self, index: usize, x: Tensor, attended: &Tensor, batch: &Batch) -> Result<Tensor> {
        let dtype = self.down.weight.dtype();
        let output = (&self.output, self.output_norm.as_ref());
        let x = self.add(output, x, attended, |said| adapt(batch, index, |l| l.output.as_ref(), attended, said))?;
        let normed = normed(&x, self.mlp_norm.as_ref(), dtype)?;
        let both = adapt(batch, index, |layer| layer.gate_up.as_ref(), &normed, self.gate_up.apply(&normed)?)?;
        let hidden = match self.activation {
            Activation::Silu => swiglu(&both, dtype)?,
            Activation::GeluTanh => geglu(&both, dtype)?,
        };
        let down = (&self.down, self.down_norm.as_ref());
        self.add(down, x, &hidden, |said| adapt(batch, index, |l| l.down.as_ref(), &hidden, said))
    }

    /// Adds the product of `input`, changed by adapters and normed where the family does so, to the residual stream `x`.
    fn add(
        &self,
        (linear, norm): (&Linear, Option<&Norm>),
        x: Tensor,
        input: &Tensor,
        adapted: impl Fn(Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if norm.is_none() && self.residual == 1.0 {
            return adapted(linear.add_to(x, input)?);
        }
        let said = normed(&adapted(linear.apply(input)?)?, norm, DType::F32)?;
        x + (said * f64::from(self.residual))?
    }
}

/// Rows of `f32`, normed where there is a norm, in another type.
fn normed(x: &Tensor, norm: Option<&Norm>, dtype: DType) -> Result<Tensor> {
    match norm {
        Some(norm) => norm.apply(x, dtype),
        None => x.to_dtype(dtype),
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
        c: &DenseConfig,
        device: &Device,
    ) -> std::result::Result<Self, LoadError> {
        let values = c.norm_weights(weights.read(name)?);
        let size = values.len();
        Ok(Self { weight: Tensor::from_vec(values, size, device)?, eps: f64::from(c.norm_eps) })
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
