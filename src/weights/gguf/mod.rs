//! GGUF files as a source of models: one file, or several that are parts of one, with everything that a Hugging Face directory
//! has: configuration, tokenizer, chat template and tensors.

mod config;
mod container;
mod export;
pub mod kind;
mod names;
mod split;
mod tokenizer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use self::container::{Container, Listed, Value};
use self::kind::Kind;
pub use self::split::parts;
use super::tensors::{Location, Rows, Weights};
use super::{ModelError, files};

/// Whether a path names a GGUF file.
pub fn is_named(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) && !path.is_dir()
}

/// The name of the model at a path: a directory's own, or that of a GGUF file without the extension and the number of a part.
pub fn served_name(path: &Path) -> Option<String> {
    if !is_named(path) {
        return path.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    let stem = path.file_stem()?.to_string_lossy().into_owned();
    Some(split::name_of(&stem).unwrap_or(stem))
}

/// An opened GGUF file with all of its parts, which stay mapped: they must not be rewritten in place.
pub struct Gguf {
    path: PathBuf,
    files: Vec<(PathBuf, Mmap)>,
    metadata: BTreeMap<String, Value>,
    /// Each with the number of its file.
    tensors: Vec<(usize, Listed)>,
}

impl Gguf {
    /// Maps a file, and the other parts where it is one of several, and checks their structure.
    ///
    /// # Errors
    /// Names the file, and the key or tensor.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let mut gguf = Self { path: path.into(), files: Vec::new(), metadata: BTreeMap::new(), tensors: Vec::new() };
        for (index, part) in parts(path).into_iter().enumerate() {
            let (map, container) = read(&part)?;
            split::check(&part, index, &container)?;
            gguf.tensors.extend(container.tensors.into_iter().map(|tensor| (index, tensor)));
            if index == 0 {
                gguf.metadata = container.metadata;
            }
            gguf.files.push((part, map));
        }
        split::check_whole(&gguf)?;
        Ok(gguf)
    }

    /// The tensors by their names in a Hugging Face checkpoint.
    ///
    /// # Errors
    /// A tensor that the architecture does not have, or that is there twice.
    pub fn into_weights(self) -> Result<Weights, ModelError> {
        let heads = self.interleaved_heads()?;
        let mut tensors = BTreeMap::new();
        for (file, listed) in self.tensors {
            if names::is_computed_otherwise(&listed.name) {
                continue;
            }
            let wrong = |reason: String| ModelError::Tensor {
                file: self.files[file].0.clone(),
                tensor: listed.name.clone(),
                reason,
            };
            let Some(name) = names::hugging_face(&listed.name) else {
                return Err(wrong("it is no part of the models of this architecture that are computed here".into()));
            };
            let rows = match heads.rows(&name) {
                Some(rows) if listed.shape.first().is_none_or(|all| all % rows != 0) => {
                    return Err(wrong(format!("its shape is {:?}, no whole number of heads of {rows}", listed.shape)));
                }
                Some(rows) => Rows::Interleaved(rows),
                None => Rows::InOrder,
            };
            let Listed { kind, shape, bytes, .. } = listed.clone();
            if tensors.insert(name, Location { file, kind, shape, bytes, rows }).is_some() {
                return Err(wrong("another tensor has its place in the model, too".into()));
            }
        }
        Ok(Weights { files: self.files, tensors })
    }

    fn find(&self, name: &str) -> Option<(usize, &Listed)> {
        self.tensors.iter().find(|(_, tensor)| tensor.name == name).map(|(file, tensor)| (*file, tensor))
    }

    /// The numbers of a small tensor in `f32`.
    fn floats(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some((file, tensor)) = self.find(name) else { return Ok(None) };
        let bytes = &self.files[file].1[tensor.bytes.clone()];
        match tensor.kind {
            Kind::Plain(safetensors::Dtype::F32) => {
                Ok(Some(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()))
            }
            _ => Err(ModelError::Tensor {
                file: self.files[file].0.clone(),
                tensor: name.into(),
                reason: "its type is not F32; convert the model again".into(),
            }),
        }
    }

    fn wrong(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Broken { file: self.path.clone(), reason: reason.into() }
    }

    fn of_type<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, ModelError> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(format!("`{key}` is not {kind}"))),
        }
    }

    fn text(&self, key: &str) -> Result<Option<String>, ModelError> {
        self.of_type(key, "a text", |value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn count(&self, key: &str) -> Result<Option<usize>, ModelError> {
        self.of_type(key, "a whole number that is not negative", |value| match value {
            Value::Whole(number) => usize::try_from(*number).ok(),
            _ => None,
        })
    }

    fn float(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.of_type(key, "a finite number", |value| match value {
            Value::Float(number) => Some(*number).filter(|number| number.is_finite()),
            Value::Whole(number) => Some(*number as f64),
            _ => None,
        })
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.of_type(key, "true or false", |value| match value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        })
    }

    fn list<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<Vec<T>>, ModelError> {
        self.of_type(key, kind, |value| match value {
            Value::List(values) => values.iter().map(&read).collect(),
            _ => None,
        })
    }
}

fn read(path: &Path) -> Result<(Mmap, Container), ModelError> {
    let broken = |reason: String| ModelError::Broken { file: path.into(), reason };
    let file = files::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => ModelError::Missing {
            file: path.into(),
            remedy: "check its name; of a model in several files all must be in one directory".into(),
        },
        _ => broken(e.to_string()),
    })?;
    #[expect(unsafe_code, reason = "a file can only be mapped unsafely")]
    // SAFETY: the map is read-only; generations are written under a new name and renamed, never changed in place.
    let map = unsafe { Mmap::map(&file) }.map_err(|e| broken(e.to_string()))?;
    let container = Container::read(&map).map_err(|fault| match fault.tensor {
        Some(tensor) => ModelError::Tensor { file: path.into(), tensor, reason: fault.reason },
        None => broken(fault.reason),
    })?;
    Ok((map, container))
}

#[cfg(test)]
mod tests;
