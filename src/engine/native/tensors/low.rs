//! An adapter's low-rank pairs on a device, added to the rows of its groups.

use candle_core::{DType, Device, Result, Tensor};

use super::super::adapter::{self, LayerAdapter};
use super::super::batch::Batch;
use crate::weights::{DenseConfig, LowRanks};

/// The changes of every layer.
pub(in super::super) struct Changes {
    layers: Vec<LayerAdapter<Low>>,
    device: Device,
}

/// A low-rank change of matrices that lie side by side, in `f32`.
pub(super) struct Low {
    /// `(ranks, inner)`.
    a: Tensor,
    /// `(columns, ranks)`, scaled.
    b: Tensor,
}

impl Changes {
    /// Puts the pairs on the device, for a model of this shape.
    ///
    /// # Errors
    /// A module that the model does not have, or whose sizes do not fit; or there is no room.
    pub(super) fn new(config: &DenseConfig, modules: &LowRanks, device: &Device) -> std::result::Result<Self, String> {
        let layers = adapter::layers(config, modules, |stacked| {
            let (rank, columns) = (stacked.rank, stacked.b.len() / stacked.rank);
            let place = || {
                let a = Tensor::from_vec(stacked.a.concat(), (rank, stacked.inner), device)?;
                Ok(Low { a, b: Tensor::from_vec(stacked.b, (columns, rank), device)? })
            };
            place().map_err(|error| format!("the device has no room for the adapter ({})", super::line(&error)))
        })?;
        Ok(Self { layers, device: device.clone() })
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        super::bind(&self.device);
    }
}

/// `out`, `(rows, columns)`, with what the batch's adapters change in the matrix `which` of a layer. `x` is `(rows, inner)`.
pub(super) fn adapt(
    batch: &Batch,
    layer: usize,
    which: fn(&LayerAdapter<Low>) -> Option<&Low>,
    x: &Tensor,
    out: Tensor,
) -> Result<Tensor> {
    let mut parts = Vec::new();
    let mut done = 0;
    for group in &batch.groups {
        let changes = group.adapter.tensors.as_ref().map(|changes| &changes.layers[layer]);
        let Some(low) = changes.and_then(which).filter(|_| !group.rows.is_empty()) else { continue };
        if done < group.rows.start {
            parts.push(out.narrow(0, done, group.rows.start - done)?);
        }
        let (start, count) = (group.rows.start, group.rows.len());
        let x = x.narrow(0, start, count)?.to_dtype(DType::F32)?;
        let change = x.matmul(&low.a.t()?)?.matmul(&low.b.t()?)?;
        parts.push((out.narrow(0, start, count)? + change)?);
        done = group.rows.end;
    }
    if parts.is_empty() {
        return Ok(out);
    }
    let rows = out.dim(0)?;
    if done < rows {
        parts.push(out.narrow(0, done, rows - done)?);
    }
    Tensor::cat(&parts, 0)
}
