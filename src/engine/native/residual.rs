//! What attention and the feed-forward layer add to the residual stream: as it is, or through a norm and a scale.

use super::adapter::{Delta, LayerAdapter};
use super::batch::Batch;
use super::linear::Linear;
use crate::kernels::packed::Workspace;
use crate::kernels::pages::Buffer;
use crate::kernels::rms_norm;
use crate::weights::DenseConfig;

/// The residual stream, and buffers for what is added to it.
pub(super) struct Stream<'a> {
    pub(super) x: &'a mut Buffer<f32>,
    pub(super) normed: &'a mut Buffer<f32>,
    pub(super) addition: &'a mut Buffer<f32>,
    pub(super) low: &'a mut Vec<f32>,
    pub(super) workspace: &'a mut Workspace,
}

/// The last product of attention or of the feed-forward layer.
pub(super) struct LastProduct<'a> {
    pub(super) linear: &'a Linear,
    /// The norm of the result, where there is one.
    pub(super) norm: Option<&'a [f32]>,
    pub(super) adapter: fn(&LayerAdapter) -> Option<&Delta>,
}

impl LastProduct<'_> {
    /// Adds the product of `input` to the residual stream: at once where it is added as it is.
    pub(super) fn add(&self, c: &DenseConfig, index: usize, batch: &Batch, input: &[f32], stream: &mut Stream<'_>) {
        let Stream { x, normed, addition, low, workspace } = stream;
        if self.norm.is_none() && c.scales.residual == 1.0 {
            self.linear.add(input, x, workspace);
            batch.adapt(index, self.adapter, input, x, low, workspace);
            return;
        }
        addition.resize(x.len());
        self.linear.apply(input, addition, workspace);
        batch.adapt(index, self.adapter, input, addition, low, workspace);
        norm_or_copy(normed, addition, self.norm, c.norm_eps);
        x.iter_mut().zip(normed.iter()).for_each(|(x, y)| *x += c.scales.residual * y);
    }
}

/// Rows of `x`, normed where there are weights.
pub(super) fn norm_or_copy(out: &mut Buffer<f32>, x: &[f32], weights: Option<&[f32]>, eps: f32) {
    out.resize(x.len());
    match weights {
        Some(weights) => rms_norm(out, x, weights, eps),
        None => out.copy_from_slice(x),
    }
}

/// Multiplies, unless by 1.
pub(super) fn scale(xs: &mut [f32], factor: f32) {
    if factor != 1.0 {
        xs.iter_mut().for_each(|x| *x *= factor);
    }
}
