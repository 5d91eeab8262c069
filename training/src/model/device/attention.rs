//! Causal attention of packed sequences. Probabilities are computed again in the backward pass: kept, they would be most of a long
//! sequence's memory. The kernels of `fused` run where there are any; else a run of neighbouring rows at a time, by products
//! with their scores in between.

use std::ops::Range;

use candle_core::{DType, Device, Result, Tensor};

#[cfg(feature = "cuda")]
use super::fused::Parts;
use super::ops::{Sight, attend, attend_backward, swap};
use super::runs::{Attention, Run};
use crate::model::DenseConfig;
use crate::model::cpu::{Packed, Span};

/// Keys are filled up to a multiple of this, so that matrix units can work on rows of scores.
const ALIGNED: usize = 8;

/// Queries at a time: none of them looks at keys that only later ones see, and their scores stay in the cache.
const BLOCK: usize = 256;

/// Which rows of a batch attend to which.
#[derive(Debug)]
pub(super) struct Plan {
    /// The runs in the order of their rows.
    runs: Vec<Run>,
    #[cfg(feature = "cuda")]
    parts: Option<Parts>,
}

/// What rows attended to, `(rows, heads · dim)`, and what else the backward pass needs.
#[derive(Debug)]
pub(super) struct Attended {
    pub(super) out: Tensor,
    #[cfg(feature = "cuda")]
    sums: Option<Tensor>,
}

impl Attention {
    pub(super) fn new(config: &DenseConfig) -> Self {
        let (heads, kv_heads) = (config.heads, config.kv_heads);
        Self { heads, kv_heads, dim: config.head_dim }
    }

    /// What to do for a batch in this type on this device.
    pub(super) fn plan(self, batch: &Packed, dtype: DType, device: &Device) -> Result<Plan> {
        let of =
            |span: Span| span.runs().map(move |(rows, first)| Run { rows, shared: span.start..span.start + first });
        let runs: Vec<Run> = batch.sequences().flat_map(of).filter(|run| !run.rows.is_empty()).collect();
        #[cfg(feature = "cuda")]
        let parts = Parts::new(self, &runs, dtype, device)?;
        #[cfg(not(feature = "cuda"))]
        let _ = (dtype, device);
        Ok(Plan {
            runs,
            #[cfg(feature = "cuda")]
            parts,
        })
    }

    /// A run's queries, [`BLOCK`] at a time: their rows of all, what they see, and how many keys that takes, filled up.
    fn blocks(self, run: &Run) -> impl DoubleEndedIterator<Item = (Range<usize>, Sight, usize)> + use<> {
        let (Run { rows, shared }, scale) = (run.clone(), 1.0 / (self.dim as f64).sqrt());
        (0..rows.len().div_ceil(BLOCK)).map(move |block| {
            let own = rows.start + block * BLOCK..rows.end.min(rows.start + (block + 1) * BLOCK);
            let before = shared.len() + own.start - rows.start;
            let sight = Sight { queries: own.len(), before, scale };
            let keys = (before + own.len()).next_multiple_of(ALIGNED);
            (own, sight, keys)
        })
    }

    /// Some rows of `x`, `(rows, heads · dim)`, as `(kv_heads, heads / kv_heads · queries, dim)`.
    fn queries(self, x: &Tensor, rows: &Range<usize>) -> Result<Tensor> {
        let rows = x.narrow(0, rows.start, rows.len())?.reshape((rows.len(), self.heads, self.dim))?;
        swap(&rows)?.reshape((self.kv_heads, (), self.dim))
    }

    /// The rows of `x`, `(rows, kv_heads · dim)`, that a run sees, filled up with zeros: `(kv_heads, keys, dim)`.
    fn keys(self, x: &Tensor, run: &Run) -> Result<Tensor> {
        let own = x.narrow(0, run.rows.start, run.rows.len())?;
        let rows = match run.shared.len() {
            0 => own,
            shared => Tensor::cat(&[x.narrow(0, run.shared.start, shared)?, own], 0)?,
        };
        let count = rows.dim(0)?;
        let rows = rows.pad_with_zeros(0, 0, count.next_multiple_of(ALIGNED) - count)?;
        swap(&rows.reshape(((), self.kv_heads, self.dim))?)
    }

    /// [`Attention::queries`] back to rows.
    fn rows(self, x: &Tensor) -> Result<Tensor> {
        swap(&x.reshape((self.heads, (), self.dim))?)?.reshape(((), self.heads * self.dim))
    }

    /// What each row attends to, from turned queries and keys, and values.
    pub(super) fn forward(self, q: &Tensor, k: &Tensor, v: &Tensor, plan: &Plan) -> Result<Attended> {
        #[cfg(feature = "cuda")]
        if let Some(parts) = &plan.parts {
            let (out, sums) = parts.forward(self, q, k, v)?;
            return Ok(Attended { out, sums: Some(sums) });
        }
        let mut parts = Vec::new();
        for run in &plan.runs {
            let (k, v) = (self.keys(k, run)?, self.keys(v, run)?);
            for (rows, sight, keys) in self.blocks(run) {
                let (k, v) = (k.narrow(1, 0, keys)?, v.narrow(1, 0, keys)?);
                let p = attend(&self.queries(q, &rows)?.matmul(&k.t()?)?, sight)?;
                parts.push(self.rows(&p.matmul(&v)?)?);
            }
        }
        Ok(Attended {
            out: Tensor::cat(&parts, 0)?,
            #[cfg(feature = "cuda")]
            sums: None,
        })
    }

    /// The gradients of queries, keys and values, given that of what was `attended` to.
    pub(super) fn backward(
        self,
        d: &Tensor,
        [q, k, v]: [&Tensor; 3],
        attended: &Attended,
        plan: &Plan,
    ) -> Result<(Tensor, Tensor, Tensor)> {
        #[cfg(feature = "cuda")]
        if let (Some(parts), Some(sums)) = (&plan.parts, &attended.sums) {
            return parts.backward(self, d, [q, k, v], (&attended.out, sums));
        }
        #[cfg(not(feature = "cuda"))]
        let _ = attended;
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for run in &plan.runs {
            let (k, v) = (self.keys(k, run)?, self.keys(v, run)?);
            let mut sums: [Option<Tensor>; 2] = Default::default();
            for (rows, sight, keys) in self.blocks(run) {
                let (k, v) = (k.narrow(1, 0, keys)?, v.narrow(1, 0, keys)?);
                let (d, q) = (self.queries(d, &rows)?, self.queries(q, &rows)?);
                let p = attend(&q.matmul(&k.t()?)?, sight)?;
                let dv = p.t()?.matmul(&d)?;
                let ds = attend_backward(&p, &d.matmul(&v.t()?)?, sight)?;
                parts[0].push(self.rows(&ds.matmul(&k)?)?);
                for (sum, more) in sums.iter_mut().zip([ds.t()?.matmul(&q)?, dv]) {
                    // Later blocks see more keys.
                    let more = more.to_dtype(DType::F32)?;
                    *sum = Some(match sum.take() {
                        Some(sum) => (sum.pad_with_zeros(1, 0, keys - sum.dim(1)?)? + more)?,
                        None => more,
                    });
                }
            }
            let sums = sums.into_iter().flatten().map(|sum| sum.to_dtype(k.dtype())).collect::<Result<Vec<_>>>()?;
            for (parts, d) in parts[1..].iter_mut().zip(sums) {
                let (shared, own) = (run.shared.len(), run.rows.len());
                let rows = swap(&d)?.narrow(0, 0, shared + own)?.reshape((shared + own, self.kv_heads * self.dim))?;
                if shared > 0 {
                    // The run before this one is the other text's, and begins with the rows that both share.
                    let other = parts.pop().expect("a run before this one");
                    let both = (other.narrow(0, 0, shared)? + rows.narrow(0, 0, shared)?)?;
                    let rest = other.dim(0)? - shared;
                    parts.push(match rest {
                        0 => both,
                        _ => Tensor::cat(&[both, other.narrow(0, shared, rest)?], 0)?,
                    });
                }
                parts.push(rows.narrow(0, shared, own)?);
            }
        }
        let [q, k, v] = parts;
        Ok((Tensor::cat(&q, 0)?, Tensor::cat(&k, 0)?, Tensor::cat(&v, 0)?))
    }
}
