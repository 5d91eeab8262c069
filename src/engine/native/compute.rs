//! What computes a step's rows: the processor's own kernels, or tensors on a device.

use std::sync::Arc;

use super::adapter::Adapter;
use super::batch::Batch;
use super::blocks::{BlockPool, Shape};
use super::config::{NativeConfig, Processor};
use super::load_error::LoadError;
use super::model::Model;
use super::scratch::Scratch;
use super::sequence::Sequence;
#[cfg(feature = "tensors")]
use super::tensors::TensorModel;
use crate::engine::counters::EngineCounters;
use crate::weights::{DenseConfig, LowRanks, Weights};

/// A model in the form that computes it.
pub(super) struct Compute {
    pub(super) config: DenseConfig,
    form: Form,
}

enum Form {
    Cpu(Box<Model>),
    #[cfg(feature = "tensors")]
    Tensors(Box<TensorModel>),
}

impl Compute {
    /// Reads the weights to where `native` says.
    ///
    /// # Errors
    /// A tensor is damaged, or in one sentence why the device cannot have it.
    pub(super) fn load(dense: &DenseConfig, weights: &Weights, native: &NativeConfig) -> Result<Self, LoadError> {
        let form = match native.processor {
            Processor::Cpu => Form::Cpu(Box::new(Model::load(dense, weights, native.quantize)?)),
            #[cfg(feature = "tensors")]
            other => Form::Tensors(Box::new(TensorModel::load(dense, weights, native.quantize, other)?)),
        };
        Ok(Self { config: dense.clone(), form })
    }

    /// Whether all rows of a step are computed elsewhere, for one thread that waits.
    pub(super) fn on_device(&self) -> bool {
        match &self.form {
            Form::Cpu(_) => false,
            #[cfg(feature = "tensors")]
            Form::Tensors(_) => true,
        }
    }

    /// Bytes of the matrices that every token is multiplied with.
    pub(super) fn bytes(&self) -> usize {
        match &self.form {
            Form::Cpu(model) => model.bytes(),
            #[cfg(feature = "tensors")]
            Form::Tensors(model) => model.bytes(),
        }
    }

    /// The shape of a block of keys and values.
    pub(super) fn block_shape(&self) -> Shape {
        Shape { layers: self.config.layers, heads: self.config.kv_heads, head_dim: self.config.head_dim }
    }

    /// Bytes of a block of keys and values.
    pub(super) fn block_bytes(&self) -> usize {
        match &self.form {
            Form::Cpu(_) => self.block_shape().bytes(),
            #[cfg(feature = "tensors")]
            Form::Tensors(model) => model.block_bytes(self.block_shape()),
        }
    }

    /// The pool that blocks come from. A device has at most as many as are `kept` for later prompts, and no fewer than one reply of
    /// the whole context needs.
    pub(super) fn pool(&self, kept: usize, counters: Arc<EngineCounters>) -> Arc<BlockPool> {
        match self.on_device() {
            false => BlockPool::new(self.block_shape(), counters),
            // One block for the last position's, and one while a shared block is copied.
            true => BlockPool::limited(
                self.block_shape(),
                kept.max(self.config.context / super::blocks::BLOCK + 2),
                counters,
            ),
        }
    }

    /// Buffers for the steps on a pool's blocks.
    ///
    /// # Errors
    /// The device has no room for them.
    pub(super) fn scratch(&self, pool: &BlockPool) -> Result<Scratch, String> {
        match &self.form {
            Form::Cpu(_) => {
                debug_assert!(pool.free().is_none(), "blocks are in memory");
                Ok(Scratch::default())
            }
            #[cfg(feature = "tensors")]
            Form::Tensors(model) => {
                let cache = Some(model.cache(pool.free().unwrap_or_default())?);
                Ok(Scratch { cache, ..Scratch::default() })
            }
        }
    }

    /// An adapter in this form.
    ///
    /// # Errors
    /// As [`Adapter::new`], or the device has no room.
    pub(super) fn adapter(&self, modules: &LowRanks) -> Result<Adapter, String> {
        match &self.form {
            Form::Cpu(_) => Adapter::new(&self.config, modules),
            #[cfg(feature = "tensors")]
            Form::Tensors(model) => model.adapter(&self.config, modules),
        }
    }

    /// Computes the batch's rows, whose blocks exist and are not shared, and leaves the logits of the wanted ones, which
    /// are all of the batch afterwards.
    ///
    /// # Errors
    /// The device fails; the error is one line.
    pub(super) fn forward(
        &self,
        scratch: &mut Scratch,
        pool: &BlockPool,
        sequences: &mut [Sequence],
        batch: &mut Batch,
    ) -> Result<(), String> {
        match &self.form {
            Form::Cpu(model) => {
                debug_assert!(pool.free().is_none(), "blocks are in memory");
                model.forward(scratch, sequences, batch);
                Ok(())
            }
            #[cfg(feature = "tensors")]
            Form::Tensors(model) => model.forward(scratch, pool, sequences, batch),
        }
    }
}
