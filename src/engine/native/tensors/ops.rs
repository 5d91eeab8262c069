//! What a layer computes between its matrix products: one custom kernel each on CUDA, candle's operations elsewhere. Rows are
//! `f32`; what the next product takes comes out in its type.

use candle_core::{D, DType, Result, Tensor};

#[cfg(feature = "cuda")]
use crate::kernels::device::{self, Arg, Kernels, THREADS, unwritten};

#[cfg(feature = "cuda")]
static KERNELS: Kernels = Kernels::new("native", include_str!("kernels.cu"));

/// Whether our kernels run where `x` is.
pub(super) fn fused(x: &Tensor) -> bool {
    cfg!(feature = "cuda") && x.device().is_cuda()
}

/// Runs the kernel `name` that gives `dtype`, where rows of `width` elements follow each other.
#[cfg(feature = "cuda")]
fn launch(name: &str, dtype: DType, width: usize, work: Work, args: &[Arg<'_>]) -> Result<()> {
    let (kind, count) = match (dtype, width.is_multiple_of(4)) {
        (DType::F32, true) => ("f32x4", 4),
        (DType::F32, false) => ("f32x1", 1),
        (DType::F16, true) => ("f16x4", 4),
        (DType::F16, false) => ("f16x1", 1),
        (DType::BF16, true) => ("bf16x4", 4),
        (DType::BF16, false) => ("bf16x1", 1),
        (other, _) => candle_core::bail!("there are no kernels for {other:?}"),
    };
    let blocks = match work {
        Work::Rows(rows) => rows,
        Work::Elements(elements) => elements.div_ceil(count * THREADS),
    };
    KERNELS.launch(&format!("{name}_{kind}"), blocks, args)
}

/// What blocks divide among them.
#[cfg(feature = "cuda")]
enum Work {
    /// One block of threads for each row.
    Rows(usize),
    /// The threads that these elements need if each reads as many as it can at once.
    Elements(usize),
}

/// The root mean square norm of rows of `x`, `(…, size)`: weights are `(size)`, or one for each head of a row, `(heads, size)`.
pub(super) fn norm(x: &Tensor, weight: &Tensor, eps: f64, dtype: DType) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(x) {
        let (x, size) = (x.contiguous()?, x.dim(D::Minus1)?);
        let y = unwritten(x.dims(), dtype, &x)?;
        let parts = weight.elem_count() / size;
        let args =
            [Arg::Tensor(&y), Arg::Tensor(&x), Arg::Tensor(weight), Arg::Int(size), Arg::Int(parts), Arg::Float(eps)];
        launch("norm", dtype, size, Work::Rows(x.elem_count() / size), &args)?;
        return Ok(y);
    }
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)?.to_dtype(dtype)
}

/// `x · Wᵀ` in `f32`, from `x` `(rows, inner)` in the type of the weight `(columns, inner)`.
pub(super) fn product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(x) {
        return device::product(x, &weight.t()?, DType::F32);
    }
    x.matmul(&weight.t()?)?.to_dtype(DType::F32)
}

/// `sum + x · Wᵀ`, which replaces `sum`: nothing else may hold that tensor.
pub(super) fn add_product(sum: Tensor, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    #[cfg(feature = "cuda")]
    if fused(x) {
        device::add_product(&sum, x, &weight.t()?)?;
        return Ok(sum);
    }
    sum + product(x, weight)?
}

/// Scores in `f32` of queries `(kv_heads, clusters, rows, size)` with keys `(kv_heads, clusters, width, size)`.
pub(super) fn scores(queries: &Tensor, keys: &Tensor) -> Result<Tensor> {
    let keys = keys.transpose(2, 3)?;
    #[cfg(feature = "cuda")]
    if fused(queries) {
        return device::product(queries, &keys, DType::F32);
    }
    queries.matmul(&keys)
}

/// Softmax of scores `(kv_heads, clusters, height × group, width)` and a mask `(1, clusters, height, 1, width)`.
pub(super) fn weigh(scores: &Tensor, mask: &Tensor, dtype: DType) -> Result<Tensor> {
    let (kv_heads, clusters, rows, width) = scores.dims4()?;
    let height = mask.dim(2)?;
    #[cfg(feature = "cuda")]
    if fused(scores) {
        let weights = unwritten(scores.dims(), dtype, scores)?;
        let args = [
            Arg::Tensor(&weights),
            Arg::Tensor(scores),
            Arg::Tensor(mask),
            Arg::Int(width),
            Arg::Int(rows / height),
            Arg::Int(clusters * height),
        ];
        launch("weigh", dtype, width, Work::Rows(kv_heads * clusters * rows), &args)?;
        return Ok(weights);
    }
    let shaped = scores.reshape((kv_heads, clusters, height, rows / height, width))?.broadcast_add(mask)?;
    let powers = shaped.broadcast_sub(&shaped.max_keepdim(D::Minus1)?)?.exp()?;
    powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?.reshape(scores.shape())?.to_dtype(dtype)
}

/// `gate · σ(gate) · up` of rows that have gates and then what they let through, `(rows, 2 × width)`.
pub(super) fn swiglu(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let width = x.dim(1)? / 2;
    #[cfg(feature = "cuda")]
    if fused(x) {
        let rows = x.dim(0)?;
        let y = unwritten(&[rows, width], dtype, x)?;
        let count = rows * width;
        let args = [Arg::Tensor(&y), Arg::Tensor(x), Arg::Long(count as u64), Arg::Int(width)];
        launch("swiglu", dtype, width, Work::Elements(count), &args)?;
        return Ok(y);
    }
    (x.narrow(1, 0, width)?.silu()? * x.narrow(1, width, width)?)?.to_dtype(dtype)
}

/// `gelu(gate) · up` with the approximation by `tanh`, of rows as [`swiglu`] takes them.
pub(super) fn geglu(x: &Tensor, dtype: DType) -> Result<Tensor> {
    let width = x.dim(1)? / 2;
    (x.narrow(1, 0, width)?.gelu()? * x.narrow(1, width, width)?)?.to_dtype(dtype)
}

/// `cap · tanh(x / cap)`, where there is a cap.
pub(super) fn cap(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    match cap.map(f64::from) {
        Some(cap) => (x / cap)?.tanh()? * cap,
        None => Ok(x),
    }
}

/// Where [`place`] puts keys and values: those of a layer, `(kv_heads, slots, size)`, and rows' slots.
#[cfg(feature = "cuda")]
pub(super) struct Room<'a> {
    pub(super) keys: &'a Tensor,
    pub(super) values: &'a Tensor,
    pub(super) slots: &'a Tensor,
}

/// Turns queries and keys, `(rows, heads + kv_heads, size)`, by angles `(rows, size / 2)`, and puts keys and values,
/// `(rows, kv_heads, size)`, into the cache. Returns the queries, `(rows, heads, size)`, scaled, in the cache's type.
#[cfg(feature = "cuda")]
pub(super) fn place(
    turned: &Tensor,
    values: &Tensor,
    angles: [&Tensor; 2],
    room: &Room<'_>,
    scale: f64,
) -> Result<Tensor> {
    let (rows, both, size) = turned.dims3()?;
    let (kv_heads, slots, _) = room.keys.dims3()?;
    let (heads, half, dtype) = (both - kv_heads, size / 2, room.keys.dtype());
    let queries = unwritten(&[rows, heads, size], dtype, turned)?;
    let count = rows * (heads + 2 * kv_heads) * half;
    let args = [
        Arg::Tensor(&queries),
        Arg::Tensor(room.keys),
        Arg::Tensor(room.values),
        Arg::Tensor(turned),
        Arg::Tensor(values),
        Arg::Tensor(angles[0]),
        Arg::Tensor(angles[1]),
        Arg::Tensor(room.slots),
        Arg::Long(count as u64),
        Arg::Long(turned.stride()[0] as u64),
        Arg::Long(values.stride()[0] as u64),
        Arg::Int(heads),
        Arg::Int(kv_heads),
        Arg::Int(half),
        Arg::Long(slots as u64),
        Arg::Float(scale),
    ];
    launch("place", dtype, half, Work::Elements(count), &args)?;
    Ok(queries)
}
