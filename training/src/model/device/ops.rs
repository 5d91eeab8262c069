//! What lies between matrix products, forward and backward: one kernel each on CUDA, candle's operations elsewhere.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda::{self, Arg, Grid};
use spar::engine::derive_seed;

/// Whether our kernels run where `x` is.
#[cfg(feature = "cuda")]
fn fused(x: &Tensor) -> bool {
    x.device().is_cuda()
}

/// Converts to `f32`.
fn wide(x: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)
}

/// `c + a · b`. The sum replaces `c`: nothing else may hold that tensor.
pub(super) fn add_product(c: Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(&c) {
        cuda::add_product(&c, a, b)?;
        return Ok(c);
    }
    &c + a.matmul(b)?.to_dtype(c.dtype())?
}

/// `r = 1 / sqrt(mean(x²) + ε)` of each row, `(rows, 1)` in `f32`.
fn root(x: &Tensor, eps: f64) -> Result<Tensor> {
    (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.powf(-0.5)
}

/// RMSNorm: `w · x · r` of rows of `x` `(rows, hidden)`.
pub(super) fn norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(x) {
        let (rows, width) = x.dims2()?;
        let y = cuda::unwritten(x.dims(), x.dtype(), x)?;
        let args = [Arg::Tensor(&y), Arg::Tensor(x), Arg::Tensor(weight), Arg::Int(width), Arg::Float(eps)];
        cuda::launch("norm", x.dtype(), width, Grid::Rows(rows), &args)?;
        return Ok(y);
    }
    let x32 = wide(x)?;
    x32.broadcast_mul(&root(&x32, eps)?)?.broadcast_mul(&wide(weight)?)?.to_dtype(x.dtype())
}

/// `d` and the gradient of [`norm`]'s input: `d + r · (w·dy) - x · r³ · mean(w·dy·x)`.
pub(super) fn norm_backward(d: &Tensor, dy: &Tensor, x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(x) {
        let (rows, width) = x.dims2()?;
        let dx = cuda::unwritten(x.dims(), x.dtype(), x)?;
        let args = [
            Arg::Tensor(&dx),
            Arg::Tensor(d),
            Arg::Tensor(dy),
            Arg::Tensor(x),
            Arg::Tensor(weight),
            Arg::Int(width),
            Arg::Float(eps),
        ];
        cuda::launch("norm_backward", x.dtype(), width, Grid::Rows(rows), &args)?;
        return Ok(dx);
    }
    let x32 = wide(x)?;
    let r = root(&x32, eps)?;
    let dy = wide(dy)?.broadcast_mul(&wide(weight)?)?;
    let pull = ((&dy * &x32)?.mean_keepdim(D::Minus1)? * r.powf(3.0)?)?;
    let dx = (dy.broadcast_mul(&r)? - x32.broadcast_mul(&pull)?)?;
    (wide(d)? + dx)?.to_dtype(x.dtype())
}

/// The gradient of [`norm`]'s weight, `(hidden)` in `f32`: `Σ dy · x · r` over rows.
pub(super) fn norm_weight_gradient(dy: &Tensor, x: &Tensor, eps: f64) -> Result<Tensor> {
    let x = wide(x)?;
    (x.broadcast_mul(&root(&x, eps)?)? * wide(dy)?)?.sum(0)
}

/// Cosines and sines of rows' positions, `(rows, head_dim / 2)` in `f32`.
#[derive(Clone, Debug)]
pub(super) struct Angles {
    pub(super) cos: Tensor,
    pub(super) sin: Tensor,
}

/// Heads of rows, `(rows, heads · head_dim)`, turned by their positions' angles times `direction`, 1 or -1.
pub(super) fn rotate(x: &Tensor, angles: &Angles, direction: f64) -> Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let half = angles.cos.dim(1)?;
    let heads = width / (2 * half);
    #[cfg(feature = "cuda")]
    if fused(x) {
        let y = cuda::unwritten(x.dims(), x.dtype(), x)?;
        let count = rows * heads * half;
        let args = [
            Arg::Tensor(&y),
            Arg::Tensor(x),
            Arg::Tensor(&angles.cos),
            Arg::Tensor(&angles.sin),
            Arg::Long(count as u64),
            Arg::Int(heads),
            Arg::Int(half),
            Arg::Float(direction),
        ];
        cuda::launch("rotate", x.dtype(), half, Grid::Elements(count), &args)?;
        return Ok(y);
    }
    let heads = wide(x)?.reshape((rows, heads, 2, half))?;
    let (first, second) = (heads.narrow(2, 0, 1)?, heads.narrow(2, 1, 1)?);
    let angle = |angle: &Tensor| angle.reshape((rows, 1, 1, half));
    let (cos, sin) = (angle(&angles.cos)?, (angle(&angles.sin)? * direction)?);
    let turned = [
        (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?,
        (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?,
    ];
    Tensor::cat(&turned, 2)?.reshape((rows, width))?.to_dtype(x.dtype())
}

fn sigmoid(x: &Tensor) -> Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `gate · σ(gate) · up`
pub(super) fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(gate) {
        let y = cuda::unwritten(gate.dims(), gate.dtype(), gate)?;
        let count = gate.elem_count();
        let args = [Arg::Tensor(&y), Arg::Tensor(gate), Arg::Tensor(up), Arg::Long(count as u64)];
        cuda::launch("swiglu", gate.dtype(), count, Grid::Elements(count), &args)?;
        return Ok(y);
    }
    let g = wide(gate)?;
    ((&g * sigmoid(&g)?)? * wide(up)?)?.to_dtype(gate.dtype())
}

/// The gradients of [`swiglu`]'s inputs.
pub(super) fn swiglu_backward(d: &Tensor, gate: &Tensor, up: &Tensor) -> Result<(Tensor, Tensor)> {
    #[cfg(feature = "cuda")]
    if fused(gate) {
        let new = || cuda::unwritten(gate.dims(), gate.dtype(), gate);
        let (dgate, dup, count) = (new()?, new()?, gate.elem_count());
        let tensors = [&dgate, &dup, d, gate, up].map(Arg::Tensor);
        let args: Vec<Arg<'_>> = tensors.into_iter().chain([Arg::Long(count as u64)]).collect();
        cuda::launch("swiglu_backward", gate.dtype(), count, Grid::Elements(count), &args)?;
        return Ok((dgate, dup));
    }
    let (d, g, u) = (wide(d)?, wide(gate)?, wide(up)?);
    let s = sigmoid(&g)?;
    let slope = ((((1.0 - &s)? * &g)? + 1.0)? * &s)?;
    let dgate = ((&d * u)? * slope)?;
    let dup = ((d * g)? * s)?;
    Ok((dgate.to_dtype(gate.dtype())?, dup.to_dtype(gate.dtype())?))
}

/// `(a, b, dim)` as `(b, a, dim)`, contiguous.
pub(super) fn swap(x: &Tensor) -> Result<Tensor> {
    let (rows, heads, dim) = x.dims3()?;
    #[cfg(feature = "cuda")]
    if fused(x) && x.is_contiguous() {
        let y = cuda::unwritten(&[heads, rows, dim], x.dtype(), x)?;
        let count = x.elem_count();
        let args =
            [Arg::Tensor(&y), Arg::Tensor(x), Arg::Long(count as u64), Arg::Int(rows), Arg::Int(heads), Arg::Int(dim)];
        cuda::launch("swap", x.dtype(), dim, Grid::Elements(count), &args)?;
        return Ok(y);
    }
    x.transpose(0, 1)?.contiguous()?.reshape((heads, rows, dim))
}

/// Which keys queries see.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sight {
    /// Queries of a head: query `i` sees `before + 1 + i` keys.
    pub(super) queries: usize,
    pub(super) before: usize,
    /// What scores are multiplied with.
    pub(super) scale: f64,
}

impl Sight {
    /// Zero where a key is seen and minus infinity elsewhere, `(queries, keys)`.
    fn mask(self, keys: usize, like: &Tensor) -> Result<Tensor> {
        let row = |query: usize| {
            let seen = self.before + 1 + query;
            (0..keys).map(move |key| if key < seen { 0.0 } else { f32::NEG_INFINITY })
        };
        Tensor::from_iter((0..self.queries).flat_map(row), like.device())?.reshape((self.queries, keys))
    }

    #[cfg(feature = "cuda")]
    fn launch(self, name: &str, tensors: &[&Tensor]) -> Result<()> {
        let first = tensors[0];
        let keys = first.dim(D::Minus1)?;
        let numbers = [Arg::Int(self.queries), Arg::Int(self.before), Arg::Int(keys)];
        let args: Vec<Arg<'_>> = tensors.iter().map(|tensor| Arg::Tensor(tensor)).chain(numbers).collect();
        let args: Vec<Arg<'_>> = args.into_iter().chain([Arg::Float(self.scale)]).collect();
        cuda::launch(name, first.dtype(), keys, Grid::Rows(first.elem_count() / keys), &args)
    }
}

/// Softmax of scores `(groups, heads · queries, keys)` over the keys that each query sees; the others have 0.
pub(super) fn attend(scores: &Tensor, sight: Sight) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(scores) {
        let p = cuda::unwritten(scores.dims(), scores.dtype(), scores)?;
        sight.launch("attend", &[&p, scores])?;
        return Ok(p);
    }
    let keys = scores.dim(D::Minus1)?;
    let shaped = (wide(scores)?.reshape(((), sight.queries, keys))? * sight.scale)?;
    let shaped = shaped.broadcast_add(&sight.mask(keys, scores)?)?;
    let powers = shaped.broadcast_sub(&shaped.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?.reshape(scores.shape())?.to_dtype(scores.dtype())
}

/// The gradient of [`attend`]'s scores, from its result `p` and the result's gradient.
pub(super) fn attend_backward(p: &Tensor, dp: &Tensor, sight: Sight) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(p) {
        let ds = cuda::unwritten(p.dims(), p.dtype(), p)?;
        sight.launch("attend_backward", &[&ds, p, dp])?;
        return Ok(ds);
    }
    let (p32, dp) = (wide(p)?, wide(dp)?);
    let dot = (&p32 * &dp)?.sum_keepdim(D::Minus1)?;
    ((p32 * dp.broadcast_sub(&dot)?)? * sight.scale)?.to_dtype(p.dtype())
}

/// `log p(target)` of rows of logits `(rows, vocab)`, `(rows)` in `f32`; with coefficients `(rows)` also the gradient of
/// `Σ coefficient · log p(target)` by the logits, which it may replace: nothing else may hold them.
pub(super) fn log_prob(
    logits: Tensor,
    targets: &Tensor,
    coefficients: Option<&Tensor>,
) -> Result<(Tensor, Option<Tensor>)> {
    #[cfg(feature = "cuda")]
    if fused(&logits) {
        let (rows, vocab) = logits.dims2()?;
        let out = cuda::unwritten(&[rows], DType::F32, &logits)?;
        let args = [
            Arg::Tensor(&out),
            Arg::Tensor(&logits),
            Arg::Tensor(targets),
            // Not read without a backward pass.
            Arg::Tensor(coefficients.unwrap_or(&out)),
            Arg::Int(vocab),
            Arg::Int(usize::from(coefficients.is_some())),
        ];
        cuda::launch("log_prob", logits.dtype(), vocab, Grid::Rows(rows), &args)?;
        return Ok((out, coefficients.is_some().then_some(logits)));
    }
    let shifted = wide(&logits)?.broadcast_sub(&wide(&logits)?.max_keepdim(D::Minus1)?)?;
    let powers = shifted.exp()?;
    let total = powers.sum_keepdim(D::Minus1)?;
    let places = targets.unsqueeze(1)?;
    let out = (shifted.gather(&places, 1)? - total.log()?)?.squeeze(1)?;
    let Some(coefficients) = coefficients else { return Ok((out, None)) };
    let coefficients = coefficients.unsqueeze(1)?;
    let ours = powers.broadcast_div(&total)?.broadcast_mul(&coefficients)?.neg()?;
    let gradient = ours.scatter_add(&places, &coefficients, 1)?.to_dtype(logits.dtype())?;
    Ok((out, Some(gradient)))
}

/// Each element set to 0 with probability `rate`, or else divided by `1 - rate`; which ones depends on the seed only, and is what
/// the CPU's form drops.
pub(super) fn drop_out(x: &Tensor, rate: f64, seed: u64) -> Result<Tensor> {
    let threshold = (rate * f64::from(u32::MAX)) as u32;
    let factor = (1.0 / (1.0 - rate)) as f32;
    #[cfg(feature = "cuda")]
    if fused(x) {
        let y = cuda::unwritten(x.dims(), x.dtype(), x)?;
        let count = x.elem_count();
        let args = [
            Arg::Tensor(&y),
            Arg::Tensor(x),
            Arg::Long(seed),
            Arg::Long(count as u64),
            Arg::Unsigned(threshold),
            Arg::Float(f64::from(factor)),
        ];
        cuda::launch("drop_out", x.dtype(), count, Grid::Single(count), &args)?;
        return Ok(y);
    }
    let element = |i: usize| {
        let bits = derive_seed(seed, i as u64 / 2) >> (i % 2 * 32);
        if (bits as u32) < threshold { 0.0 } else { factor }
    };
    let mask = Tensor::from_iter((0..x.elem_count()).map(element), x.device())?.reshape(x.shape())?;
    x * mask.to_dtype(x.dtype())?
}
