//! The network and its gradient on a device, written out: candle's matrix products, and between them one custom kernel for
//! each idea (`ops`), so that nothing is computed that is not asked for. It takes what the [CPU's form](super::cpu) takes,
//! computes in `f32` or in bf16 with sums in `f32`, and hands gradients out as the same flat vector; `f32` weights stay with
//! the optimizer.

mod attention;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(feature = "cuda")]
mod fused;
mod head;
mod layer;
mod linear;
mod ops;
mod runs;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use half::bf16;
use safetensors::Dtype;

use head::Head;
pub use head::LOGITS;
use layer::{Activations, Batch, Layer, angles};
use linear::{Linear, Low, Slot};
use runs::Attention;

use super::computing::Computing;
use super::cpu::{Arithmetic, Keep, Packed, Span};
use super::lora::Module;
use super::params::{Entry, Layout};
use super::{DenseConfig, Params};
use spar::engine::derive_seed;
use spar::weights::{QkNorm, Weights};

/// A model on a device, its trained parameters, and the activations kept from the last forward pass.
#[derive(Debug)]
pub struct DeviceModel {
    config: DenseConfig,
    dtype: DType,
    device: Device,
    embedding: Slot,
    layers: Vec<Layer>,
    norm: Slot,
    /// The output head; absent if it is the embedding.
    head: Option<Slot>,
    adapter: bool,
    /// The layout of what is trained.
    layout: Arc<Layout>,
    keep: Keep,
    dropout: Option<u64>,
    /// The last forward pass: the streams before each layer and after the last, and what each layer kept.
    streams: Vec<Tensor>,
    activations: Vec<Option<Activations>>,
    batch: Option<Batch>,
    /// The asked rows' log-probabilities, and their gradients by the last stream.
    slopes: Option<(Vec<f32>, Tensor)>,
}

/// The device that `cuda` asks for.
///
/// # Errors
/// There is none, or this build has no CUDA.
pub fn cuda() -> Result<Device> {
    ensure!(
        cfg!(feature = "cuda"),
        "`device = \"cuda\"` needs a build with it: `cargo build --release -p spar-training --features cuda`"
    );
    let device = Device::new_cuda(0).context("no CUDA device can be used")?;
    // Steps want the same memory again and again.
    #[cfg(feature = "cuda")]
    spar::kernels::device::keep_memory(&device, u64::MAX)?;
    Ok(device)
}

impl DeviceModel {
    /// Builds the model from the tensors that `read` gives in any type. With an adapter only that is trained; it changes nothing
    /// until [`DeviceModel::take`].
    ///
    /// # Errors
    /// `read` fails, or the device has no room.
    pub fn new(
        config: &DenseConfig,
        computing: Computing<'_>,
        device: &Device,
        read: &dyn Fn(&Entry) -> Result<Tensor>,
    ) -> Result<Self> {
        let Computing { arithmetic, lora, keep, .. } = computing;
        let dtype = match arithmetic {
            Arithmetic::F32 => DType::F32,
            Arithmetic::Bf16 => DType::BF16,
        };
        let base = Layout::new(config);
        let read = |name: &str| -> Result<Slot> {
            let entry = base.entries.iter().find(|entry| entry.name == name).context("a tensor of the layout")?;
            Ok(Slot::new(read(entry)?.to_device(device)?.to_dtype(dtype)?, lora.is_none()))
        };
        let attention = Attention::new(config);
        let layer = |i: usize| -> Result<Layer> {
            let products = Module::ALL.map(|module| -> Result<Linear> {
                let weight = read(&format!("model.layers.{i}.{}.weight", module.path()))?;
                let [out, input] = module.shape(config);
                let low = lora.filter(|lora| lora.has(module)).map(|lora| -> Result<Low> {
                    let zeros =
                        |shape| Ok::<_, candle_core::Error>(Slot::new(Tensor::zeros(shape, dtype, device)?, true));
                    let (a, b) = (zeros((lora.rank, input))?, zeros((out, lora.rank))?);
                    Ok(Low { a, b, scale: f64::from(lora.scale()), dropout: lora.dropout })
                });
                let biased = config.qkv_bias && matches!(module, Module::Query | Module::Key | Module::Value);
                let bias = biased.then(|| read(&format!("model.layers.{i}.{}.bias", module.path()))).transpose()?;
                Ok(Linear { weight, bias, low: low.transpose()? })
            });
            let head_norm = |name: &str| read(&format!("model.layers.{i}.self_attn.{name}_norm.weight"));
            let head_norms = || anyhow::Ok([head_norm("q")?, head_norm("k")?]);
            let products: Vec<Linear> = products.into_iter().collect::<Result<_>>()?;
            Ok(Layer {
                products: products.try_into().map_err(|_| anyhow::anyhow!("seven products"))?,
                input_norm: read(&format!("model.layers.{i}.input_layernorm.weight"))?,
                inner_norm: read(&format!("model.layers.{i}.post_attention_layernorm.weight"))?,
                head_norms: (config.qk_norm == QkNorm::Heads).then(head_norms).transpose()?,
                attention,
                rotates: config.layer_rope(i).is_some(),
                eps: f64::from(config.norm_eps),
            })
        };
        Ok(Self {
            config: config.clone(),
            dtype,
            device: device.clone(),
            embedding: read("model.embed_tokens.weight")?,
            layers: (0..config.layers).map(layer).collect::<Result<_>>()?,
            norm: read("model.norm.weight")?,
            head: (!config.tied).then(|| read("lm_head.weight")).transpose()?,
            adapter: lora.is_some(),
            layout: Arc::new(lora.map_or(base, |lora| lora.layout(config))),
            keep,
            dropout: None,
            streams: Vec::new(),
            activations: Vec::new(),
            batch: None,
            slopes: None,
        })
    }

    /// [`DeviceModel::new`] from a model directory.
    ///
    /// # Errors
    /// Fails when a tensor is missing, damaged or of another shape, or the device has no room.
    pub fn open(config: &DenseConfig, computing: Computing<'_>, device: &Device, directory: &Path) -> Result<Self> {
        let files = Weights::open(directory)?;
        Self::new(config, computing, device, &|entry| {
            let (name, expected) = (&entry.name, &entry.shape);
            let shape = files.shape(name).with_context(|| format!("{} lacks {name}", directory.display()))?;
            ensure!(shape == expected, "{name} has shape {shape:?}, the configuration says {expected:?}");
            let (stored, bytes) = files.raw(name)?;
            if stored == Dtype::BF16 && computing.arithmetic == Arithmetic::Bf16 {
                return Ok(Tensor::from_raw_buffer(&bytes, DType::BF16, expected, device)?);
            }
            let values = files.read(name)?;
            match computing.arithmetic {
                Arithmetic::F32 => Ok(Tensor::from_vec(values, expected.as_slice(), &Device::Cpu)?),
                // Rounded here, so that half as much travels.
                Arithmetic::Bf16 => tensor(&values, expected, DType::BF16, &Device::Cpu),
            }
        })
    }

    /// [`DeviceModel::new`] from weights in memory.
    ///
    /// # Errors
    /// The device has no room.
    pub fn from_params(
        config: &DenseConfig,
        computing: Computing<'_>,
        device: &Device,
        params: &Params,
    ) -> Result<Self> {
        Self::new(config, computing, device, &|entry| {
            Ok(Tensor::from_slice(&params.data[entry.range.clone()], entry.shape.as_slice(), device)?)
        })
    }

    /// Elements of what is trained.
    #[must_use]
    pub fn trained(&self) -> usize {
        self.layout.len()
    }

    /// What is trained, in the order of its layout.
    fn slots(&mut self) -> Vec<&mut Slot> {
        let adapter = self.adapter;
        let layers = self.layers.iter_mut().flat_map(|layer| layer.slots(adapter));
        if adapter {
            return layers.collect();
        }
        let first = std::iter::once(&mut self.embedding);
        first.chain(layers).chain([&mut self.norm]).chain(self.head.as_mut()).collect()
    }

    /// Takes what is trained as `params` has it. `dropout` decides what an adapter's dropout leaves out from now on; nothing
    /// without it.
    ///
    /// # Errors
    /// The device fails.
    pub fn take(&mut self, params: &Params) -> Result<()> {
        let (dtype, device, layout) = (self.dtype, self.device.clone(), self.layout.clone());
        for (entry, slot) in layout.entries.iter().zip(self.slots()) {
            slot.value = tensor(&params.data[entry.range.clone()], &entry.shape, dtype, &device)?;
        }
        Ok(())
    }

    /// Runs the layers over a batch and keeps what [`DeviceModel::backward`] needs. `dropout` decides what an adapter's dropout
    /// leaves out; nothing without it.
    ///
    /// # Errors
    /// Fails when a sequence is longer than the model's positions, a token is not in its vocabulary, or the device has no room.
    pub fn forward(&mut self, batch: &Packed, dropout: Option<u64>) -> Result<()> {
        batch.check(self.config.context, self.config.vocabulary)?;
        self.dropout = dropout;
        let mut positions = vec![0; batch.rows()];
        for (rows, first) in batch.sequences().flat_map(Span::runs) {
            rows.enumerate().for_each(|(i, row)| positions[row] = first + i);
        }
        let asked: Vec<u32> = batch.asked.iter().map(|&row| row as u32).collect();
        let asked = (asked.len() < batch.rows()).then(|| Tensor::new(asked, &self.device)).transpose()?;
        let tokens = Tensor::new(batch.inputs.as_slice(), &self.device)?;
        let mut x = self.embedding.value.index_select(&tokens, 0)?;
        let of_batch = Batch {
            plan: Attention::new(&self.config).plan(batch, self.dtype, &self.device)?,
            angles: angles(&self.config.rope, &positions, &x)?,
            asked,
            rows: batch.rows(),
        };
        self.streams.clear();
        self.activations.clear();
        self.slopes = None;
        for (i, layer) in self.layers.iter().enumerate() {
            let last = i + 1 == self.layers.len();
            let (out, activations) = layer.forward(&x, &of_batch, last, seed(dropout, i))?;
            self.activations.push((self.keep == Keep::Everything || last).then_some(activations));
            self.streams.push(x);
            x = out;
        }
        self.streams.push(x);
        self.batch = Some(of_batch);
        Ok(())
    }

    /// `log p(target)` of every row of the batch of the last [`DeviceModel::forward`]; 0 where it is not asked.
    ///
    /// # Errors
    /// The device fails.
    pub fn log_probs(&mut self, batch: &Packed) -> Result<Vec<f32>> {
        if batch.asked.is_empty() {
            return Ok(vec![0.0; batch.rows()]);
        }
        let targets = self.targets(batch)?;
        let x = self.streams.last().context("a forward pass before")?.clone();
        let log_probs = self.head().log_probs(&x, &targets)?;
        Ok(batch.on_all_rows(&log_probs))
    }

    /// [`DeviceModel::log_probs`] for [`DeviceModel::backward`] with coefficients that depend on them: where the head is not trained, it
    /// is passed through once instead of twice, since the gradient of a row is that of its log-probability times its coefficient.
    ///
    /// # Errors
    /// The device fails.
    pub fn log_probs_first(&mut self, batch: &Packed) -> Result<Vec<f32>> {
        if batch.asked.is_empty() || !self.adapter {
            return self.log_probs(batch);
        }
        let targets = self.targets(batch)?;
        let x = self.streams.last().context("a forward pass before")?.clone();
        let slopes = self.head().backward(&x, &targets, &Tensor::ones(batch.asked.len(), DType::F32, x.device())?)?;
        let log_probs = batch.on_all_rows(&slopes.0);
        self.slopes = Some(slopes);
        Ok(log_probs)
    }

    /// Adds the gradient of `Σ coefficients[row] · log p(target of row)` by what is trained to what [`DeviceModel::gradient`] takes,
    /// for the batch of the last [`DeviceModel::forward`], which is used up. Returns `log p(target)` as
    /// [`DeviceModel::log_probs`] does.
    ///
    /// # Errors
    /// The device fails.
    pub fn backward(&mut self, batch: &Packed, coefficients: &[f32]) -> Result<Vec<f32>> {
        if batch.asked.is_empty() {
            return Ok(vec![0.0; batch.rows()]);
        }
        let asked: Vec<f32> = batch.asked.iter().map(|&row| coefficients[row]).collect();
        let asked = Tensor::new(asked, &self.device)?;
        let x = self.streams.pop().context("a forward pass before")?;
        let (log_probs, mut d) = match self.slopes.take() {
            Some((log_probs, slopes)) => {
                let d = slopes.to_dtype(DType::F32)?.broadcast_mul(&asked.unsqueeze(1)?)?;
                (log_probs, d.to_dtype(self.dtype)?)
            }
            None => {
                let targets = self.targets(batch)?;
                self.head().backward(&x, &targets, &asked)?
            }
        };
        let of_batch = self.batch.take().context("a forward pass before")?;
        let layers = self.layers.len();
        for (i, layer) in self.layers.iter_mut().enumerate().rev() {
            let (x, last) = (self.streams.pop().context("a stream before each layer")?, i + 1 == layers);
            let activations = match self.activations.pop().flatten() {
                Some(activations) => activations,
                None => layer.forward(&x, &of_batch, last, seed(self.dropout, i))?.1,
            };
            d = layer.backward(&d, &x, activations, &of_batch, last)?;
        }
        let tokens = Tensor::new(batch.inputs.as_slice(), &self.device)?;
        let shape = self.embedding.value.shape().clone();
        self.embedding.learn_sum(|| {
            Tensor::zeros(shape, DType::F32, d.device())?.index_add(&tokens, &d.to_dtype(DType::F32)?, 0)
        })?;
        Ok(batch.on_all_rows(&log_probs))
    }

    /// Writes the sum of gradients since the last call over `out`, laid out as what is trained.
    ///
    /// # Errors
    /// The device fails.
    pub fn gradient(&mut self, out: &mut [f32]) -> Result<()> {
        let layout = self.layout.clone();
        for (entry, slot) in layout.entries.iter().zip(self.slots()) {
            let out = &mut out[entry.range.clone()];
            match slot.gradient.take() {
                Some(gradient) => out.copy_from_slice(&gradient.flatten_all()?.to_vec1::<f32>()?),
                None => out.fill(0.0),
            }
        }
        Ok(())
    }

    fn targets(&self, batch: &Packed) -> Result<Tensor> {
        let targets: Vec<u32> = batch.asked.iter().map(|&row| batch.targets[row]).collect();
        Ok(Tensor::new(targets, &self.device)?)
    }

    fn head(&mut self) -> Head<'_> {
        let head = self.head.as_mut().unwrap_or(&mut self.embedding);
        Head { norm: &mut self.norm, head, eps: f64::from(self.config.norm_eps) }
    }
}

fn seed(dropout: Option<u64>, layer: usize) -> Option<u64> {
    dropout.map(|seed| derive_seed(seed, layer as u64))
}

/// Rounded where they are, so that half as much travels.
fn tensor(values: &[f32], shape: &[usize], dtype: DType, device: &Device) -> Result<Tensor> {
    Ok(match dtype {
        DType::BF16 => {
            let values: Vec<bf16> = values.iter().map(|&x| bf16::from_f32(x)).collect();
            Tensor::from_vec(values, shape, device)?
        }
        _ => Tensor::from_slice(values, shape, device)?,
    })
}

#[cfg(test)]
mod tests;
