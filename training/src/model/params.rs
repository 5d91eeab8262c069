//! The weights: one flat `f32` vector, with Hugging Face's names for its parts.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use half::{bf16, f16};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use spar::weights::{QkNorm, Weights};

use super::DenseConfig;

/// What a tensor is for; the optimizer treats the kinds differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `(vocab, hidden)`: the embedding, or an untied head.
    Embedding,
    /// `(out, in)`: a product inside a layer.
    Matrix,
    /// `(hidden,)` or `(head_dim,)`: the scale of an RMSNorm.
    Norm,
    /// `(out,)`: what is added to a product.
    Bias,
}

/// One named tensor and its place in the flat vector.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Hugging Face's name.
    pub name: String,
    /// Rows and columns, or one size.
    pub shape: Vec<usize>,
    /// What it is for.
    pub kind: Kind,
    /// Where its elements are, rows one after another.
    pub range: Range<usize>,
}

/// The order of the tensors. Query, key and value of a layer are neighbours, and so are gate and up: each group is one
/// matrix to the kernels.
#[derive(Debug)]
pub struct Layout {
    /// All tensors, in order of their ranges, without gaps.
    pub entries: Vec<Entry>,
    /// The embedding `(vocab, hidden)`.
    pub embedding: Range<usize>,
    /// Everything of each layer.
    pub layers: Vec<Range<usize>>,
    /// The last norm.
    pub norm: Range<usize>,
    /// The head `(vocab, hidden)`; equal to `embedding` when tied.
    pub head: Range<usize>,
}

impl Layout {
    /// The layout of a model.
    #[must_use]
    pub fn new(config: &DenseConfig) -> Self {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (q, kv) = config.widths();
        let mut entries: Vec<Entry> = Vec::new();
        let mut add = |name: String, shape: &[usize], kind| {
            let start = entries.last().map_or(0, |entry: &Entry| entry.range.end);
            let range = start..start + shape.iter().product::<usize>();
            entries.push(Entry { name, shape: shape.to_vec(), kind, range: range.clone() });
            range
        };
        let embedding = add("model.embed_tokens.weight".into(), &[config.vocabulary, hidden], Kind::Embedding);
        let mut layers = Vec::new();
        for i in 0..config.layers {
            let mut add = |name: &str, shape: &[usize], kind| {
                let what = if kind == Kind::Bias { "bias" } else { "weight" };
                add(format!("model.layers.{i}.{name}.{what}"), shape, kind)
            };
            let start = add("self_attn.q_proj", &[q, hidden], Kind::Matrix).start;
            add("self_attn.k_proj", &[kv, hidden], Kind::Matrix);
            add("self_attn.v_proj", &[kv, hidden], Kind::Matrix);
            add("self_attn.o_proj", &[hidden, q], Kind::Matrix);
            add("mlp.gate_proj", &[inner, hidden], Kind::Matrix);
            add("mlp.up_proj", &[inner, hidden], Kind::Matrix);
            add("mlp.down_proj", &[hidden, inner], Kind::Matrix);
            add("input_layernorm", &[hidden], Kind::Norm);
            let mut end = add("post_attention_layernorm", &[hidden], Kind::Norm).end;
            if config.qkv_bias {
                add("self_attn.q_proj", &[q], Kind::Bias);
                add("self_attn.k_proj", &[kv], Kind::Bias);
                end = add("self_attn.v_proj", &[kv], Kind::Bias).end;
            }
            if config.qk_norm == QkNorm::Heads {
                add("self_attn.q_norm", &[config.head_dim], Kind::Norm);
                end = add("self_attn.k_norm", &[config.head_dim], Kind::Norm).end;
            }
            layers.push(start..end);
        }
        let norm = add("model.norm.weight".into(), &[hidden], Kind::Norm);
        let head = if config.tied {
            embedding.clone()
        } else {
            add("lm_head.weight".into(), &[config.vocabulary, hidden], Kind::Embedding)
        };
        Self { entries, embedding, layers, norm, head }
    }

    /// Elements in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.last().map_or(0, |entry| entry.range.end)
    }

    /// Whether there are no tensors.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// Element type of a weights file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 4 bytes, exact.
    #[default]
    F32,
    /// 2 bytes, 11 bits of precision, small range.
    F16,
    /// 2 bytes, 8 bits of precision, full range.
    Bf16,
}

impl Precision {
    /// The name in `config.json`.
    #[must_use]
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    fn encode(self, values: &[f32]) -> (Dtype, Vec<u8>) {
        match self {
            Self::F32 => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            Self::F16 => (Dtype::F16, values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect()),
            Self::Bf16 => (Dtype::BF16, values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect()),
        }
    }
}

/// A model's weights, or anything of the same shape.
#[derive(Clone, Debug)]
pub struct Params {
    /// Names and places.
    pub layout: Arc<Layout>,
    /// The elements of all tensors.
    pub data: Vec<f32>,
}

impl Params {
    /// Random weights. Embeddings have deviation 0.02, matrices `0.5 / sqrt(in)`, those that write to the residual stream
    /// `1 / sqrt(2 · layers)` of that, so that the stream's variance does not grow with depth; norms are 1, biases 0.
    #[must_use]
    pub fn random(config: &DenseConfig, seed: u64) -> Self {
        let layout = Layout::new(config);
        let mut data = vec![1.0; layout.len()];
        let depth = 1.0 / (2.0 * config.layers as f32).sqrt();
        for (stream, entry) in layout.entries.iter().enumerate() {
            let deviation = match entry.kind {
                Kind::Norm => continue,
                Kind::Bias => 0.0,
                Kind::Embedding => 0.02,
                Kind::Matrix => {
                    let writes = entry.name.contains("o_proj") || entry.name.contains("down_proj");
                    0.5 / (entry.shape[1] as f32).sqrt() * if writes { depth } else { 1.0 }
                }
            };
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(stream as u64);
            data[entry.range.clone()].iter_mut().for_each(|x| *x = deviation * normal(&mut rng));
        }
        Self { layout: Arc::new(layout), data }
    }

    /// The elements of the tensor of that name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&[f32]> {
        let entry = self.layout.entries.iter().find(|entry| entry.name == name)?;
        Some(&self.data[entry.range.clone()])
    }

    /// Reads `model.safetensors` in `directory`, or the shards that its index names, of any of the three precisions.
    ///
    /// # Errors
    /// Fails when a file is missing or damaged, or lacks a tensor of the right shape.
    pub fn load(config: &DenseConfig, directory: &Path) -> Result<Self> {
        let weights = Weights::open(directory)?;
        let layout = Layout::new(config);
        let mut data = Vec::with_capacity(layout.len());
        for entry in &layout.entries {
            let shape = weights.shape(&entry.name);
            let shape = shape.with_context(|| format!("{} lacks {}", directory.display(), entry.name))?;
            ensure!(
                shape == entry.shape,
                "{} has shape {shape:?}, the configuration says {:?}",
                entry.name,
                entry.shape
            );
            data.extend(weights.read(&entry.name)?);
        }
        Ok(Self { layout: Arc::new(layout), data })
    }

    /// Writes all tensors to one safetensors file.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn save(&self, path: &Path, precision: Precision) -> Result<()> {
        let encoded: Vec<_> = self
            .layout
            .entries
            .iter()
            .map(|entry| (entry, precision.encode(&self.data[entry.range.clone()])))
            .collect();
        let mut views = Vec::new();
        for (entry, (dtype, bytes)) in &encoded {
            views.push((entry.name.as_str(), TensorView::new(*dtype, entry.shape.clone(), bytes)?));
        }
        // transformers refuses a file that does not name its framework.
        let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
        serialize_to_file(views, Some(metadata), path).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Fills `out` uniformly within `bound` of 0, by stream `stream` of `seed`.
pub(super) fn uniform(out: &mut [f32], bound: f32, seed: u64, stream: u64) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    out.iter_mut().for_each(|x| *x = bound * (2.0 * rng.random::<f32>() - 1.0));
}

/// A sample of the standard normal distribution (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    let angle = std::f64::consts::TAU * rng.random::<f64>();
    (radius * angle.cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::tiny;

    #[test]
    fn weights_survive_a_file_in_every_precision() {
        let config = DenseConfig { layers: 1, tied: false, ..tiny(50) };
        let params = Params::random(&config, 3);
        let directory = tempfile::tempdir().unwrap();
        for (precision, tolerance) in [(Precision::F32, 0.0), (Precision::F16, 1e-3), (Precision::Bf16, 8e-3)] {
            params.save(&directory.path().join("model.safetensors"), precision).unwrap();
            let read = Params::load(&config, directory.path()).unwrap();
            for (a, b) in params.data.iter().zip(&read.data) {
                assert!((a - b).abs() <= tolerance * a.abs().max(1e-2), "{precision:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn a_file_of_another_shape_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let params = Params::random(&tiny(50), 3);
        params.save(&directory.path().join("model.safetensors"), Precision::F32).unwrap();
        let message = Params::load(&tiny(51), directory.path()).unwrap_err().to_string();
        assert!(message.contains("model.embed_tokens.weight has shape [50, 192]"), "{message}");
        let untied = DenseConfig { tied: false, ..tiny(50) };
        let message = Params::load(&untied, directory.path()).unwrap_err().to_string();
        assert!(message.contains("lacks lm_head.weight"), "{message}");
    }

    #[test]
    fn one_seed_gives_one_model() {
        let config = tiny(50);
        assert_eq!(Params::random(&config, 1).data, Params::random(&config, 1).data);
        assert_ne!(Params::random(&config, 1).data, Params::random(&config, 2).data);
    }
}
