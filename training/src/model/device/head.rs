//! The last norm, the head and the log-probabilities of the targets, some rows at a time: the logits of a batch never exist
//! as a whole.

use candle_core::{Result, Tensor};

use super::linear::Slot;
use super::ops::{log_prob, norm, norm_backward, norm_weight_gradient};

/// Logits that exist at once at most.
pub const LOGITS: usize = 1 << 28;

/// The weights, and sizes.
pub(super) struct Head<'a> {
    pub(super) norm: &'a mut Slot,
    /// `(vocab, hidden)`
    pub(super) head: &'a mut Slot,
    pub(super) eps: f64,
}

impl Head<'_> {
    /// Rows at a time, as ranges `(first, count)`.
    fn chunks(&self, rows: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let most = (LOGITS / self.head.value.dims()[0]).max(1);
        (0..rows).step_by(most).map(move |first| (first, most.min(rows - first)))
    }

    /// `log p(target)` of rows of `x`, `(rows, hidden)`.
    pub(super) fn log_probs(&self, x: &Tensor, targets: &Tensor) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        for (first, count) in self.chunks(x.dim(0)?) {
            let normed = norm(&x.narrow(0, first, count)?.contiguous()?, &self.norm.value, self.eps)?;
            let logits = normed.matmul(&self.head.value.t()?)?;
            out.extend(log_prob(logits, &targets.narrow(0, first, count)?, None)?.0.to_vec1::<f32>()?);
        }
        Ok(out)
    }

    /// [`Head::log_probs`], and the gradient of `Σ coefficient · log p(target)` by `x`; adds the weights' to theirs.
    pub(super) fn backward(
        &mut self,
        x: &Tensor,
        targets: &Tensor,
        coefficients: &Tensor,
    ) -> Result<(Vec<f32>, Tensor)> {
        let (mut out, mut parts) = (Vec::new(), Vec::new());
        for (first, count) in self.chunks(x.dim(0)?) {
            let x = x.narrow(0, first, count)?.contiguous()?;
            let normed = norm(&x, &self.norm.value, self.eps)?;
            let logits = normed.matmul(&self.head.value.t()?)?;
            let of_chunk = |all: &Tensor| all.narrow(0, first, count);
            let (log_probs, d) = log_prob(logits, &of_chunk(targets)?, Some(&of_chunk(coefficients)?))?;
            let d = d.expect("coefficients were given");
            out.extend(log_probs.to_vec1::<f32>()?);
            self.head.learn_weight(&d, &normed)?;
            let dnormed = d.matmul(&self.head.value)?;
            self.norm.learn_sum(|| norm_weight_gradient(&dnormed, &x, self.eps))?;
            parts.push(norm_backward(&x.zeros_like()?, &dnormed, &x, &self.norm.value, self.eps)?);
        }
        Ok((out, Tensor::cat(&parts, 0)?))
    }
}
