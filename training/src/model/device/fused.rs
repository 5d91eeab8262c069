//! Attention in bf16 as one kernel forward and two backward (`attention.cu`), for all runs of a batch at once: scores are never in
//! memory, and a batch of many short runs takes no longer than one of few long ones.

use candle_core::{DType, Device, Result, Tensor};

use super::cuda::{ATTENTION, Arg, has_capability, unwritten};
use super::runs::{Attention, Run};

/// Rows of a block, queries or keys.
const ROWS: usize = 128;

/// Keys that a block of queries reads at once, and queries that a block of keys does.
const KEYS: usize = 64;
const QUERIES: usize = 32;

/// What a batch's blocks work on: of queries, and of keys, each `(blocks, 6)` as the kernels' `Part`, those with most to do first.
#[derive(Debug)]
pub(super) struct Parts {
    queries: Tensor,
    keys: Tensor,
}

impl Parts {
    /// Parts for the runs of a batch, where there are kernels for it.
    pub(super) fn new(sizes: Attention, runs: &[Run], dtype: DType, device: &Device) -> Result<Option<Self>> {
        let fits = dtype == DType::BF16 && matches!(sizes.dim, 64 | 128) && device.is_cuda();
        if !fits || !has_capability(device, 8)? {
            return Ok(None);
        }
        // What a block has to do, and its part.
        let (mut queries, mut keys) = (Vec::new(), Vec::new());
        for (i, Run { rows, shared }) in runs.iter().enumerate() {
            // The other text's run follows that which it shares rows with.
            let other = runs.get(i + 1).filter(|other| !other.shared.is_empty() && other.shared.start == rows.start);
            for first in rows.clone().step_by(ROWS) {
                let end = rows.end.min(first + ROWS);
                let seen = shared.len() + end - rows.start;
                queries.push((seen, [first, rows.start, rows.end, shared.start, shared.end, 0]));
                let (others, seen) = match other {
                    Some(other) if first < other.shared.end => (other.rows.clone(), other.shared.end),
                    _ => (0..0, 0),
                };
                let seeing = rows.end - first + others.len();
                keys.push((seeing, [first, rows.start, rows.end, others.start, others.end, seen]));
            }
        }
        let tensor = |mut parts: Vec<(usize, [usize; 6])>| {
            parts.sort_by_key(|&(size, _)| std::cmp::Reverse(size));
            let numbers: Vec<u32> = parts.iter().flat_map(|(_, part)| part.map(|number| number as u32)).collect();
            Tensor::from_vec(numbers, (parts.len(), 6), device)
        };
        Ok(Some(Self { queries: tensor(queries)?, keys: tensor(keys)? }))
    }

    /// Computes [`Attention::forward`], and keeps what [`Parts::backward`] needs: `log2` of the softmax's sum of each row and head.
    pub(super) fn forward(&self, sizes: Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let out = unwritten(q.dims(), q.dtype(), q)?;
        let sums = unwritten(&[q.dim(0)?, sizes.heads], DType::F32, q)?;
        let args = [&out, &sums, q, k, v, &self.queries];
        launch("attention", sizes, &self.queries, sizes.heads, 4 * KEYS * sizes.dim * 2, &args)?;
        Ok((out, sums))
    }

    /// Computes [`Attention::backward`], given what [`Parts::forward`] returned.
    pub(super) fn backward(
        &self,
        sizes: Attention,
        d: &Tensor,
        [q, k, v]: [&Tensor; 3],
        (out, sums): (&Tensor, &Tensor),
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let like = |x: &Tensor| unwritten(x.dims(), x.dtype(), x);
        let (dq, dk, dv, deltas) = (like(q)?, like(k)?, like(v)?, like(sums)?);
        let args = [&dq, &deltas, d, out, sums, q, k, v, &self.queries];
        launch("attention_queries", sizes, &self.queries, sizes.heads, 4 * KEYS * sizes.dim * 2, &args)?;
        // In addition to the tiles, two numbers of each query, twice.
        let shared = (2 * ROWS + 4 * QUERIES) * sizes.dim * 2 + 4 * QUERIES * 4;
        let args = [&dk, &dv, d, sums, &deltas, q, k, v, &self.keys];
        launch("attention_keys", sizes, &self.keys, sizes.kv_heads, shared, &args)?;
        Ok((dq, dk, dv))
    }
}

/// Runs a kernel for each part and each of this many heads.
fn launch(
    name: &str,
    sizes: Attention,
    parts: &Tensor,
    heads: usize,
    shared: usize,
    tensors: &[&Tensor],
) -> Result<()> {
    let scale = 1.0 / (sizes.dim as f64).sqrt();
    let numbers = [Arg::Int(sizes.heads), Arg::Int(sizes.heads / sizes.kv_heads), Arg::Float(scale)];
    let args: Vec<Arg<'_>> = tensors.iter().map(|tensor| Arg::Tensor(tensor)).chain(numbers).collect();
    ATTENTION.launch_sharing(&format!("{name}_{}", sizes.dim), parts.dim(0)? * heads, shared, &args)
}
