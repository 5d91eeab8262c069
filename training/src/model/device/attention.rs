//! Causal attention of packed sequences, a run of neighbouring rows at a time. Probabilities are computed again in the
//! backward pass: kept, they would be most of a long sequence's memory.

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::ops::{Sight, attend, attend_backward};
use crate::model::LlamaConfig;
use crate::model::cpu::{Packed, Span};

/// Keys are filled up to a multiple of this, so that matrix units can work on rows of scores.
const ALIGNED: usize = 8;

/// Rows of one text, one after another, and the rows of its beginning that it shares with another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    rows: Range<usize>,
    shared: Range<usize>,
}

/// Sizes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    heads: usize,
    kv_heads: usize,
    dim: usize,
}

/// The runs of a batch, in the order of their rows.
pub(super) fn runs(batch: &Packed) -> Vec<Run> {
    let of =
        |span: Span| span.runs().map(move |(rows, position)| Run { rows, shared: span.start..span.start + position });
    batch.sequences().flat_map(of).filter(|run| !run.rows.is_empty()).collect()
}

impl Attention {
    pub(super) fn new(config: &LlamaConfig) -> Self {
        let (heads, kv_heads) = (config.num_attention_heads, config.num_key_value_heads);
        Self { heads, kv_heads, dim: config.head_dim() }
    }

    fn sight(self, run: &Run) -> Sight {
        Sight { queries: run.rows.len(), before: run.shared.len(), scale: 1.0 / (self.dim as f64).sqrt() }
    }

    /// A run's rows of `x`, `(rows, heads · dim)`, as `(kv_heads, heads / kv_heads · queries, dim)`.
    fn queries(self, x: &Tensor, run: &Run) -> Result<Tensor> {
        let count = run.rows.len();
        let rows = x.narrow(0, run.rows.start, count)?.reshape((count, self.heads, self.dim))?;
        rows.transpose(0, 1)?.contiguous()?.reshape((self.kv_heads, (), self.dim))
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
        rows.reshape(((), self.kv_heads, self.dim))?.transpose(0, 1)?.contiguous()
    }

    /// [`Attention::queries`] back to rows.
    fn rows(self, x: &Tensor) -> Result<Tensor> {
        let x = x.reshape((self.heads, (), self.dim))?.transpose(0, 1)?;
        let count = x.dim(0)?;
        x.contiguous()?.reshape((count, self.heads * self.dim))
    }

    /// What each row attends to, `(rows, heads · dim)`, from turned queries and keys, and values.
    pub(super) fn forward(self, q: &Tensor, k: &Tensor, v: &Tensor, runs: &[Run]) -> Result<Tensor> {
        let attended = |run: &Run| {
            let (q, k, v) = (self.queries(q, run)?, self.keys(k, run)?, self.keys(v, run)?);
            self.rows(&attend(&q.matmul(&k.t()?)?, self.sight(run))?.matmul(&v)?)
        };
        let parts = runs.iter().map(attended).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&parts, 0)
    }

    /// The gradients of queries, keys and values, given that of what was attended to.
    pub(super) fn backward(
        self,
        d: &Tensor,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        runs: &[Run],
    ) -> Result<(Tensor, Tensor, Tensor)> {
        let mut parts: [Vec<Tensor>; 3] = Default::default();
        for run in runs {
            let (d, q) = (self.queries(d, run)?, self.queries(q, run)?);
            let (k, v) = (self.keys(k, run)?, self.keys(v, run)?);
            let p = attend(&q.matmul(&k.t()?)?, self.sight(run))?;
            let dv = p.t()?.matmul(&d)?;
            let ds = attend_backward(&p, &d.matmul(&v.t()?)?, self.sight(run))?;
            parts[0].push(self.rows(&ds.matmul(&k)?)?);
            for (parts, d) in parts[1..].iter_mut().zip([ds.t()?.matmul(&q)?, dv]) {
                let (shared, own) = (run.shared.len(), run.rows.len());
                let rows = d.narrow(1, 0, shared + own)?.transpose(0, 1)?.contiguous()?;
                let rows = rows.reshape((shared + own, self.kv_heads * self.dim))?;
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
