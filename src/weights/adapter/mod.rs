//! PEFT LoRA adapters: read and checked against their base, written, and merged into whole checkpoints.

mod config;
mod merge;

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

pub use self::config::{AdapterConfig, Layers, Patterns, Targets};
pub use self::merge::merge;
use super::digest::{Digests, FileDigest};
use super::tensors::{Location, Weights};
use super::{LowRank, LowRanks, ModelError, digest, files};

const WEIGHTS: &str = "adapter_model.safetensors";
/// PEFT wraps the model twice and names its tensors accordingly.
const PREFIX: &str = "base_model.model.";
/// The key in the file's metadata of the digest of the tensors that the adapter was trained on.
const BASE: &str = "base_sha256";

/// Linear modules by name, with rows and columns.
pub type Linears = BTreeMap<String, [usize; 2]>;

impl Weights {
    /// Every matrix that may be a linear module's weight: for architectures whose modules we do not know.
    pub fn linears(&self) -> Linears {
        let matrix = |(name, at): (&String, &Location)| match (name.strip_suffix(".weight"), at.shape.as_slice()) {
            (Some(module), &[outer, inner]) if !module.contains("embed") => Some((module.to_owned(), [outer, inner])),
            _ => None,
        };
        self.tensors.iter().filter_map(matrix).collect()
    }
}

/// A checked adapter in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// What it says of itself.
    pub config: AdapterConfig,
    /// What it changes.
    pub pairs: LowRanks,
    /// The digest of the tensors that it was trained on, as [`Digests::weights`] has it, where it names them.
    pub base_sha256: Option<String>,
}

impl Adapter {
    /// Whether `dir` is an adapter's directory rather than a model's.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(config::FILE).is_file()
    }

    /// Reads an adapter and checks it against the linear modules of its base: every target is changed, nothing else is,
    /// shapes and ranks agree, every number is finite. The digests are computed from the bytes that were read.
    ///
    /// # Errors
    /// Names the file, and the field or tensor.
    pub fn open(dir: &Path, base: &Linears) -> Result<(Self, Digests), ModelError> {
        let (config, config_bytes) = AdapterConfig::read(dir)?;
        let file = dir.join(WEIGHTS);
        if !file.is_file() {
            let remedy = "save the adapter with safe_serialization, the default".into();
            return Err(ModelError::Missing { file, remedy });
        }
        let broken = |reason: String| ModelError::Broken { file: file.clone(), reason };
        let most =
            most_bytes(&config, base).map_err(|reason| ModelError::Broken { file: dir.join(config::FILE), reason })?;
        // Read rather than mapped: the file may be rewritten at any time.
        let bytes = files::read(&file, most + files::HEADER).map_err(|e| broken(e.to_string()))?;
        let whole = |e| broken(format!("not a whole safetensors file ({e}); copy it again"));
        let tensors = SafeTensors::deserialize(&bytes).map_err(whole)?;
        let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(whole)?;
        let base_sha256 = metadata.metadata().as_ref().and_then(|fields| fields.get(BASE).cloned());
        let mut adapter = Self { config, pairs: LowRanks::new(), base_sha256 };
        let wrong = |tensor: String, reason: String| ModelError::Tensor { file: file.clone(), tensor, reason };
        for name in tensors.names() {
            if let Some(module) = copied_module(name) {
                let copy = tensors.tensor(name).map_err(|e| wrong(name.to_owned(), e.to_string()))?;
                match base.get(module) {
                    Some(shape) if copy.shape() == shape => continue,
                    _ => {
                        let reason =
                            "it copies a module that the base does not have in this shape; it is of another base";
                        return Err(wrong(name.to_owned(), reason.into()));
                    }
                }
            }
            let module = module_of(name).map_err(|reason| wrong(name.to_owned(), reason))?;
            if !base.contains_key(module) {
                return Err(wrong(name.to_owned(), "the base has no linear module of this name".into()));
            }
            if !adapter.config.targets(module) {
                return Err(wrong(name.to_owned(), "`target_modules` does not name its module".into()));
            }
        }
        for (module, &[outer, inner]) in base.iter().filter(|(module, _)| adapter.config.targets(module)) {
            let rank = adapter.config.rank(module);
            let read = |side: &str, shape: [usize; 2]| {
                let name = tensor_name(module, side);
                let tensor = tensors.tensor(&name);
                let tensor = tensor.map_err(|_| wrong(name.clone(), "it is missing; save the adapter again".into()))?;
                values(&tensor, shape).map_err(|reason| wrong(name, reason))
            };
            let pair = LowRank {
                a: read("A", [rank, inner])?,
                b: read("B", [outer, rank])?,
                rank,
                scale: adapter.config.scale(module),
            };
            adapter.pairs.insert(module.clone(), pair);
        }
        if adapter.pairs.is_empty() {
            let reason = "`target_modules` names no linear module of the base".into();
            return Err(ModelError::Broken { file: dir.join(config::FILE), reason });
        }
        let mut digests = Digests::default();
        for (name, bytes) in [(config::FILE, &config_bytes), (WEIGHTS, &bytes)] {
            digests.0.insert(name.into(), FileDigest::of(bytes));
        }
        digests.check_manifest(dir)?;
        Ok((adapter, digests))
    }

    /// Checks that the adapter was trained on the tensors with this digest, where it names any.
    ///
    /// # Errors
    /// Names both digests.
    pub fn check_base(&self, dir: &Path, weights: &str) -> Result<(), ModelError> {
        match &self.base_sha256 {
            Some(trained) if trained != weights => {
                let reason = format!("it was trained on weights with the SHA-256 {trained}, the base has {weights}");
                Err(ModelError::Broken { file: dir.join(WEIGHTS), reason })
            }
            _ => Ok(()),
        }
    }

    /// Writes a PEFT directory that holds this adapter, in `f32`. Each file appears whole or not at all.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn save(&self, dir: &Path) -> Result<(), ModelError> {
        let broken = |file: &str, reason: String| ModelError::Broken { file: dir.join(file), reason };
        std::fs::create_dir_all(dir).map_err(|e| broken("", e.to_string()))?;
        let mut data = Vec::new();
        for (module, pair) in &self.pairs {
            let bytes = |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>();
            let (inner, outer) = (pair.a.len() / pair.rank, pair.b.len() / pair.rank);
            data.push((tensor_name(module, "A"), [pair.rank, inner], bytes(&pair.a)));
            data.push((tensor_name(module, "B"), [outer, pair.rank], bytes(&pair.b)));
        }
        let views = data.iter().map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).map(|view| (name.as_str(), view))
        });
        let views: Vec<_> = views.collect::<Result<_, _>>().map_err(|e| broken(WEIGHTS, e.to_string()))?;
        let mut metadata = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
        metadata.extend(self.base_sha256.clone().map(|sha256| (BASE.to_owned(), sha256)));
        let weights = safetensors::serialize(views, Some(metadata)).map_err(|e| broken(WEIGHTS, e.to_string()))?;
        let weights = sorted(weights).map_err(|e| broken(WEIGHTS, e.to_string()))?;
        let config = format!("{:#}\n", self.config.to_json());
        for (name, bytes) in [(WEIGHTS, weights), (config::FILE, config.into_bytes())] {
            digest::replace(&dir.join(name), &bytes).map_err(|e| broken(name, e.to_string()))?;
        }
        Ok(())
    }
}

/// Bytes of the numbers that an adapter has on this base at most. A rank above the sizes of its matrix is no low rank: it would
/// take more memory and time than the matrix itself.
fn most_bytes(config: &AdapterConfig, base: &Linears) -> Result<u64, String> {
    let mut bytes = 0;
    for (module, &[outer, inner]) in base.iter().filter(|(module, _)| config.targets(module)) {
        let rank = config.rank(module);
        if rank > outer.max(inner) {
            return Err(format!(
                "the rank of `{module}` is {rank}, above the {outer} and {inner} of its matrix; merge the adapter, or train one \
                 of a lower rank"
            ));
        }
        bytes += (rank * (outer + inner) * size_of::<f32>()) as u64;
    }
    Ok(bytes)
}

/// Writes the file's metadata in order: `safetensors` writes a hash map, and equal adapters should have one digest.
fn sorted(mut file: Vec<u8>) -> serde_json::Result<Vec<u8>> {
    const LENGTH: usize = size_of::<u64>();
    let length = u64::from_le_bytes(file[..LENGTH].try_into().expect("eight bytes")) as usize;
    let header = &mut file[LENGTH..][..length];
    let mut fields: BTreeMap<String, Value> = serde_json::from_slice(header)?;
    if let Some(metadata) = fields.get_mut("__metadata__") {
        let ordered: BTreeMap<String, String> = serde_json::from_value(metadata.take())?;
        *metadata = serde_json::to_value(ordered)?;
    }
    let text = serde_json::to_string(&fields)?;
    // Spaces fill the header, as the format allows: the tensors stay where they are.
    header.fill(b' ');
    header[..text.len()].copy_from_slice(text.as_bytes());
    Ok(file)
}

impl LowRank {
    /// Adds `scale · B · A` to `weight`, `(outer, inner)`: the product first, then the scale, as PEFT merges.
    pub fn add_to(&self, weight: &mut [f32]) {
        let inner = self.a.len() / self.rank;
        let mut delta = vec![0.0f32; inner];
        for (row, b) in weight.chunks_exact_mut(inner).zip(self.b.chunks_exact(self.rank)) {
            delta.fill(0.0);
            for (&b, a) in b.iter().zip(self.a.chunks_exact(inner)) {
                delta.iter_mut().zip(a).for_each(|(d, a)| *d += b * a);
            }
            row.iter_mut().zip(&delta).for_each(|(w, d)| *w += self.scale * d);
        }
    }
}

fn tensor_name(module: &str, side: &str) -> String {
    format!("{PREFIX}{module}.lora_{side}.weight")
}

/// The module of which a tensor is the base's own weight: PEFT writes a copy of a head next to the adapter on it.
fn copied_module(tensor: &str) -> Option<&str> {
    tensor.strip_prefix(PREFIX)?.strip_suffix(".base_layer.weight")
}

fn module_of(tensor: &str) -> Result<&str, String> {
    let inner = tensor.strip_prefix(PREFIX).ok_or_else(|| format!("its name does not begin with {PREFIX}"))?;
    let module = inner.strip_suffix(".lora_A.weight").or_else(|| inner.strip_suffix(".lora_B.weight"));
    module.ok_or_else(|| {
        let reason = match inner {
            name if name.contains("lora_magnitude_vector") => "DoRA is not supported; train without it",
            name if name.contains("lora_embedding_") => "adapters on embeddings are not supported",
            name if name.contains("lora_A.") || name.contains("lora_B.") => {
                "it belongs to a named adapter; one directory holds one adapter, and adapters do not stack: merge first"
            }
            _ => "only lora_A and lora_B are supported; merge whole modules into a full checkpoint",
        };
        reason.to_owned()
    })
}

fn values(tensor: &TensorView<'_>, shape: [usize; 2]) -> Result<Vec<f32>, String> {
    if tensor.shape() != shape {
        return Err(format!("its shape is {:?}, rank and base ask for {shape:?}", tensor.shape()));
    }
    let bytes = tensor.data();
    let pairs = |convert: fn([u8; 2]) -> f32| bytes.as_chunks::<2>().0.iter().map(|&b| convert(b)).collect();
    let values: Vec<f32> = match tensor.dtype() {
        Dtype::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
        Dtype::F16 => pairs(|b| half::f16::from_le_bytes(b).to_f32()),
        Dtype::BF16 => pairs(|b| half::bf16::from_le_bytes(b).to_f32()),
        other => return Err(format!("its type is {other:?}; convert it to F32, F16 or BF16")),
    };
    match values.iter().position(|x| !x.is_finite()) {
        Some(i) => Err(format!("element {i} is {}; the adapter is damaged", values[i])),
        None => Ok(values),
    }
}

#[cfg(test)]
mod tests;
