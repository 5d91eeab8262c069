//! The first bytes of a model's files say what the files promise: whether they are whole and hold the tensors that the configuration
//! asks for. It takes moments, so that a directory is refused before anything of it is copied or mapped.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::config::INSTEAD;
use super::tensors::{INDEX, SINGLE, Weights, read_index};
use super::{ModelConfig, ModelError, digest, files, gguf};

/// A tensor as a header names it.
struct Promised {
    file: PathBuf,
    dtype: Dtype,
    shape: Vec<usize>,
}

/// Checks the sizes and headers of a directory's files against one another and against `config.json`, or the sizes and headers of a
/// GGUF file.
///
/// # Errors
/// Names the file, and the tensor or field.
pub fn check(dir: &Path) -> Result<(), ModelError> {
    let config = ModelConfig::open(dir)?;
    if gguf::is_named(dir) {
        return Weights::open(dir)?.check(&config);
    }
    for name in digest::files(dir)? {
        check_size(&dir.join(name))?;
    }
    let (names, placed) = if dir.join(SINGLE).is_file() {
        (vec![SINGLE.to_owned()], BTreeMap::new())
    } else if dir.join(INDEX).is_file() {
        let placed = read_index(&dir.join(INDEX))?;
        let mut names: Vec<String> = placed.values().cloned().collect();
        names.sort();
        names.dedup();
        (names, placed)
    } else {
        let remedy = format!("a model directory holds {SINGLE}, or {INDEX} and the files it names");
        return Err(ModelError::Missing { file: dir.join(SINGLE), remedy });
    };
    let mut promised = BTreeMap::new();
    for name in names {
        let file = dir.join(name);
        for (tensor, info) in header(&file)?.tensors() {
            let known = Promised { file: file.clone(), dtype: info.dtype, shape: info.shape.clone() };
            if let Some(other) = promised.insert(tensor.clone(), known) {
                let reason = format!("{} holds it too", other.file.display());
                return Err(ModelError::Tensor { file, tensor, reason });
            }
        }
    }
    for (tensor, name) in placed {
        let file = dir.join(name);
        if promised.get(&tensor).is_none_or(|found| found.file != file) {
            let reason = format!("{INDEX} places it in this file, which does not hold it");
            return Err(ModelError::Tensor { file, tensor, reason });
        }
    }
    agree(dir, &config, &promised)
}

/// Every tensor that the configuration asks for is promised, in its shape.
fn agree(dir: &Path, config: &ModelConfig, promised: &BTreeMap<String, Promised>) -> Result<(), ModelError> {
    check_layers(dir, config, promised.len())?;
    for (tensor, shape) in config.tensors() {
        let Some(found) = promised.get(&tensor) else {
            let file = promised.values().next().map_or_else(|| dir.join(SINGLE), |other| other.file.clone());
            let reason = missing(promised, &tensor);
            return Err(ModelError::Tensor { file, tensor, reason });
        };
        let wrong = |reason: String| ModelError::Tensor { file: found.file.clone(), tensor: tensor.clone(), reason };
        if let Some(reason) = unread(found.dtype) {
            return Err(wrong(reason));
        }
        if found.shape != shape {
            let found = &found.shape;
            let reason = format!("its shape is {found:?}, config.json asks for {shape:?}; one of the two is wrong");
            return Err(wrong(reason));
        }
    }
    Ok(())
}

/// Why the tensor `name` cannot be read, where there is none of this name, and what to do.
pub(super) fn missing<T>(tensors: &BTreeMap<String, T>, name: &str) -> String {
    if let Some(found) = quantized_in_place_of(tensors, name) {
        return format!("the file holds `{found}` instead: it is quantized, {INSTEAD}");
    }
    let hint = if name == "lm_head.weight" { " (or set tie_word_embeddings in config.json)" } else { "" };
    format!("it is missing; export the checkpoint again{hint}")
}

/// Why a tensor of this type is not read, and what to do; `None` for a type that is.
pub(super) fn unread(dtype: Dtype) -> Option<String> {
    match dtype {
        Dtype::F32 | Dtype::F16 | Dtype::BF16 => None,
        Dtype::F64 => Some("its type is F64; convert it to F32, F16 or BF16".into()),
        other => Some(format!("its type is {other:?}: it is quantized, {INSTEAD}")),
    }
}

/// What a quantized checkpoint holds where others have the tensor `name`.
fn quantized_in_place_of<'a, T>(tensors: &'a BTreeMap<String, T>, name: &str) -> Option<&'a str> {
    let module = name.strip_suffix("weight")?;
    let found = tensors.range(module.to_owned()..).next().map(|(name, _)| name.as_str())?;
    let kind = found.strip_prefix(module)?;
    ["qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "SCB"].contains(&kind).then_some(found)
}

/// No more layers than tensors: the names of more would fill the memory.
pub(super) fn check_layers(dir: &Path, config: &ModelConfig, tensors: usize) -> Result<(), ModelError> {
    match &config.dense {
        Some(dense) if dense.layers > tensors => Err(ModelError::Broken {
            file: dir.join("config.json"),
            reason: format!(
                "`num_hidden_layers` is {}, but the files hold {tensors} tensors; they are of two models",
                dense.layers
            ),
        }),
        _ => Ok(()),
    }
}

/// A file that is read as a whole must not be larger than such files are; a file of tensors must be what its header says.
fn check_size(file: &Path) -> Result<(), ModelError> {
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".safetensors") {
        return header(file).map(drop);
    }
    let large = ["tokenizer.json", "vocab.json", "merges.txt"].contains(&name.as_str());
    let most = if large { files::LARGE } else { files::SMALL };
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    if length > most {
        let reason = format!("it has {length} bytes, more than the {most} that such a file may have");
        return Err(ModelError::Broken { file: file.into(), reason });
    }
    Ok(())
}

/// The header of a file whose length is what the header promises.
fn header(path: &Path) -> Result<Metadata, ModelError> {
    let broken = |reason: String| ModelError::Broken { file: path.into(), reason };
    let mut file = files::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => {
            ModelError::Missing { file: path.into(), remedy: format!("{INDEX} names it; copy it there") }
        }
        _ => broken(error.to_string()),
    })?;
    let length = file.metadata().map_err(|e| broken(e.to_string()))?.len();
    let part = |e: &dyn std::fmt::Display| {
        broken(format!("not a whole safetensors file ({e}); it has {length} bytes: copy or download it again"))
    };
    let mut size = [0; 8];
    file.read_exact(&mut size).map_err(|e| part(&e))?;
    let size = u64::from_le_bytes(size);
    files::check_header_size(size, length).map_err(|e| part(&e))?;
    let mut text = vec![0; size as usize];
    file.read_exact(&mut text).map_err(|e| part(&e))?;
    let metadata: Metadata = serde_json::from_slice(&text).map_err(|e| part(&e))?;
    // The metadata is checked while it is read: tensors lie side by side, each as long as its shape and type say.
    let expected = (metadata.data_len() as u64).checked_add(size + 8);
    if expected != Some(length) {
        let expected = expected.unwrap_or(u64::MAX);
        return Err(broken(format!(
            "the file has {length} bytes, its header promises {expected}: copy or download it again"
        )));
    }
    Ok(metadata)
}
