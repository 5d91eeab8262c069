//! The forward pass on tensors of a device: all rows of a step in one product per matrix, keys and values in one cache.

mod cache;
mod clusters;
mod layers;
mod lease;
mod low;
mod ops;
mod plan;

#[cfg(feature = "cuda")]
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device, Result, Tensor};
use safetensors::Dtype;

pub(super) use self::cache::Cache;
use self::clusters::{Reach, slot};
use self::layers::{Layer, Norm, Turns, linear_tensor};
use self::lease::{DeviceLease, line};
pub(super) use self::low::Changes;
use self::ops::cap;
use self::plan::Plans;
use super::adapter::Adapter;
use super::batch::{Batch, Row};
use super::blocks::{BLOCK, BlockPool, Shape};
use super::config::{Processor, Quantize};
use super::load_error::LoadError;
use super::scratch::Scratch;
use super::sequence::Sequence;
use crate::weights::{DenseConfig, LowRanks, Rope, Weights};

/// Weights on a device: matrices in the checkpoint's type where the device multiplies it, else in `f32`. The residual stream,
/// norms, scores and logits are `f32`.
pub(super) struct TensorModel {
    /// The type of matrices, keys and values.
    dtype: DType,
    config: DenseConfig,
    /// What rows see, for each window that some layer has.
    reaches: Vec<Reach>,
    /// `(vocabulary, hidden)`.
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
    /// `(vocabulary, hidden)`, in `f32` because logits in fewer bits are too coarse to draw from.
    head: Tensor,
    /// Each way in which some layer turns, with its angles of as many positions as were needed, `(positions, pairs)`.
    turns: Vec<(Rope, Mutex<Turns>)>,
    /// The lease is the last field, so that the fields above are dropped before it.
    device: DeviceLease,
}

/// Positions whose angles are there from the beginning; longer prompts make more.
const POSITIONS: usize = 1 << 15;

impl TensorModel {
    /// Reads the weights to the device.
    ///
    /// # Errors
    /// A tensor is damaged, the device cannot be used or has no room, or `quantize` is not computed there.
    pub(super) fn load(
        dense: &DenseConfig,
        weights: &Weights,
        quantize: Quantize,
        processor: Processor,
    ) -> std::result::Result<Self, LoadError> {
        if quantize != Quantize::None {
            let reason = "quantized weights are computed on the CPU only; leave --quantize out on a device";
            return Err(LoadError::Device(reason.into()));
        }
        let device = DeviceLease(open(processor).map_err(LoadError::Device)?);
        // Nothing is cached while weights are loaded: freed conversion buffers would fragment the pool around them.
        device.keep(0);
        Self::read(dense, weights, &device)
    }

    fn read(dense: &DenseConfig, weights: &Weights, device: &Device) -> std::result::Result<Self, LoadError> {
        let dtype = if device.is_cpu() { DType::F32 } else { stored(dense, weights) };
        let matrix = |name: &str| linear_tensor(weights, &[name.to_owned()], dense.hidden, dtype, device);
        let embedding = matrix("model.embed_tokens.weight")?;
        let head = if dense.tied { embedding.clone() } else { matrix("lm_head.weight")? };
        let (mut ropes, mut windows) = (Vec::new(), Vec::new());
        let layer = |index| {
            let turns = dense.layer_rope(index).map(|rope| place_of(&mut ropes, rope));
            let reach = place_of(&mut windows, dense.window(index));
            Layer::load((index, turns, reach), dense, weights, dtype, device)
        };
        let layers = (0..dense.layers).map(layer).collect::<std::result::Result<_, _>>()?;
        let turns = |rope: &Rope| {
            let turns = Turns::new(rope, dense.context.min(POSITIONS), device)?;
            Ok::<_, candle_core::Error>((rope.clone(), Mutex::new(turns)))
        };
        let turns = ropes.into_iter().map(turns).collect::<Result<_>>()?;
        let reach = |window| Reach { heads: dense.heads, kv_width: dense.kv_heads * dense.head_dim, window };
        Ok(Self {
            dtype,
            reaches: windows.into_iter().map(reach).collect(),
            embedding,
            layers,
            norm: Norm::load(weights, "model.norm.weight", dense, device)?,
            head: head.to_dtype(DType::F32)?,
            turns,
            config: dense.clone(),
            device: DeviceLease(device.clone()),
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.head.elem_count() * DType::F32.size_in_bytes() + self.layers.iter().map(Layer::bytes).sum::<usize>()
    }

    pub(super) fn block_bytes(&self, shape: Shape) -> usize {
        2 * BLOCK * shape.layers * shape.heads * shape.head_dim * self.dtype.size_in_bytes()
    }

    /// A cache of this many blocks.
    pub(super) fn cache(&self, blocks: usize) -> std::result::Result<Cache, String> {
        let c = &self.config;
        let shape = Shape { layers: c.layers, heads: c.kv_heads, head_dim: c.head_dim };
        let cache = Cache::new(shape, blocks, self.dtype, &self.device);
        let bytes = blocks * self.block_bytes(shape);
        let cache = cache.map_err(|error| {
            let reason = line(&error);
            format!("the device has no room for {bytes} bytes of keys and values, lower --kv-cache-bytes ({reason})")
        })?;
        tracing::info!(
            device = name(&self.device),
            positions = blocks * BLOCK,
            bytes,
            "keys and values have their place"
        );
        Ok(cache)
    }

    pub(super) fn adapter(&self, config: &DenseConfig, modules: &LowRanks) -> std::result::Result<Adapter, String> {
        let mut adapter = Adapter::default();
        adapter.tensors = Some(Changes::new(config, modules, &self.device)?);
        Ok(adapter)
    }

    /// The forward pass of [`super::compute::Compute::forward`] on tensors.
    pub(super) fn forward(
        &self,
        scratch: &mut Scratch,
        pool: &BlockPool,
        sequences: &[Sequence],
        batch: &mut Batch,
    ) -> std::result::Result<(), String> {
        let cache = scratch.cache.as_ref().ok_or("the device's keys and values were dropped")?;
        if let Some(slots) = &pool.slots {
            cache.copy(&slots.take_copies()).map_err(|error| line(&error))?;
        }
        scratch.logits = self.logits(cache, sequences, batch).map_err(|error| line(&error))?;
        Ok(())
    }

    /// The angles of positions up to `last` at least.
    fn turns_to(&self, (rope, turns): &(Rope, Mutex<Turns>), last: usize) -> Result<Turns> {
        let mut turns = turns.lock().unwrap_or_else(PoisonError::into_inner);
        if last >= turns.positions()? {
            *turns = Turns::new(rope, (last + 1).next_power_of_two().min(self.config.context), &self.device)?;
        }
        Ok(turns.clone())
    }

    fn logits(&self, cache: &Cache, sequences: &[Sequence], batch: &mut Batch) -> Result<Vec<f32>> {
        let column = |of: &dyn Fn(&Row) -> u32| {
            Tensor::from_vec(batch.rows.iter().map(of).collect::<Vec<u32>>(), batch.rows.len(), &self.device)
        };
        let tokens = column(&|row| sequences[row.sequence].tokens[row.position])?;
        let last = batch.rows.iter().map(|row| row.position).max().unwrap_or(0);
        let positions = column(&|row| row.position as u32)?;
        let turns = self.turns.iter().map(|turns| self.turns_to(turns, last)?.at(&positions));
        let turns: Vec<Turns> = turns.collect::<Result<_>>()?;
        let places = cache.places(column(&|row| slot(&sequences[row.sequence], row.position))?)?;
        let mut x =
            scaled(self.embedding.index_select(&tokens, 0)?.to_dtype(DType::F32)?, self.config.scales.embedding)?;
        let mut plans = Plans::new(&self.reaches);
        for (index, layer) in self.layers.iter().enumerate() {
            let turns = layer.turns.map(|place| &turns[place]);
            let mut queries = layer.project(index, &x, turns, batch, (cache, &places))?;
            if index + 1 == self.layers.len() && batch.wanted.len() < batch.rows.len() {
                // Nothing more is asked of other rows: their keys and values are all that is left of them.
                let wanted: Vec<u32> = batch.wanted.iter().map(|&row| row as u32).collect();
                batch.keep_wanted();
                if wanted.is_empty() {
                    return Ok(Vec::new());
                }
                let wanted = Tensor::from_vec(wanted, batch.rows.len(), &self.device)?;
                (x, queries) = (x.index_select(&wanted, 0)?, queries.index_select(&wanted, 0)?);
                plans = Plans::new(&self.reaches);
            }
            let plan = plans.of(layer.reach, &batch.rows, sequences, &self.device)?;
            let attended = plan.attend(cache, index, &queries, self.config.score_cap)?;
            x = layer.mix(index, x, &attended, batch)?;
        }
        let logits = self.norm.apply(&x, DType::F32)?.matmul(&self.head.t()?)?;
        let logits = scaled(logits, self.config.scales.logits)?;
        cap(logits, self.config.logit_cap)?.flatten_all()?.to_vec1()
    }
}

/// The place of a thing among known ones, to which it is added if it is new.
fn place_of<T: PartialEq>(known: &mut Vec<T>, thing: T) -> usize {
    known.iter().position(|other| *other == thing).unwrap_or_else(|| {
        known.push(thing);
        known.len() - 1
    })
}

fn scaled(x: Tensor, factor: f32) -> Result<Tensor> {
    if factor == 1.0 { Ok(x) } else { x * f64::from(factor) }
}

impl Drop for TensorModel {
    fn drop(&mut self) {
        bind(&self.device);
    }
}

fn open(processor: Processor) -> std::result::Result<Device, String> {
    match processor {
        Processor::Cpu | Processor::Tensors => Ok(Device::Cpu),
        #[cfg(feature = "cuda")]
        Processor::Cuda(number) => cuda(number)
            .map_err(|error| format!("CUDA device {number} cannot be used by the native engine: {}", line(&error))),
    }
}

/// A CUDA device, the same for all models: each opening has handles and compiled kernels of its own, which take a few hundred
/// megabytes of its memory.
#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device> {
    static OPEN: Mutex<BTreeMap<usize, Device>> = Mutex::new(BTreeMap::new());
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = open.get(&number) {
        return Ok(device.clone());
    }
    let device = Device::new_cuda(number)?;
    open.insert(number, device.clone());
    Ok(device)
}

fn name(device: &Device) -> &'static str {
    if device.is_cuda() { "cuda" } else { "cpu" }
}

/// The type that all of the model's matrices are stored in, if it is a short one; else `f32`.
fn stored(dense: &DenseConfig, weights: &Weights) -> DType {
    let matrices = dense.tensors().into_iter().filter(|(_, shape)| shape.len() == 2);
    let mut types = matrices.map(|(name, _)| weights.dtype(&name));
    match types.next().flatten() {
        Some(Dtype::BF16) if types.all(|other| other == Some(Dtype::BF16)) => DType::BF16,
        Some(Dtype::F16) if types.all(|other| other == Some(Dtype::F16)) => DType::F16,
        _ => DType::F32,
    }
}

/// Device memory is freed in the context that is bound to the thread; an allocation binds it.
fn bind(device: &Device) {
    if device.is_cuda()
        && let Err(error) = Tensor::zeros(1, DType::F32, device)
    {
        tracing::warn!(error = line(&error), "the model's device is lost");
    }
}

impl From<candle_core::Error> for LoadError {
    fn from(error: candle_core::Error) -> Self {
        Self::Device(format!("the device has no room for the weights ({})", line(&error)))
    }
}

#[cfg(test)]
mod tests;
