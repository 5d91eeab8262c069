//! The tensors of one checkpoint, mapped from its files.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::encode::encode;
use super::error::ModelError;
use super::gguf::kind::{Blocks, Kind};
use super::{files, spread};

pub(in crate::weights) const SINGLE: &str = "model.safetensors";
pub(in crate::weights) const INDEX: &str = "model.safetensors.index.json";

/// The tensors of one checkpoint. The files stay mapped as long as this lives, so a published directory must never be
/// rewritten in place.
pub struct Weights {
    pub(in crate::weights) files: Vec<(PathBuf, Mmap)>,
    pub(in crate::weights) tensors: BTreeMap<String, Location>,
}

impl Weights {
    /// A checkpoint without tensors, for a model of which only the texts are read.
    pub(crate) fn none() -> Self {
        Self { files: Vec::new(), tensors: BTreeMap::new() }
    }
}

/// The place of a tensor's bytes.
#[derive(Clone, Debug)]
pub(in crate::weights) struct Location {
    pub(in crate::weights) file: usize,
    pub(in crate::weights) kind: Kind,
    pub(in crate::weights) shape: Vec<usize>,
    pub(in crate::weights) bytes: std::ops::Range<usize>,
    pub(in crate::weights) rows: Rows,
}

/// The order of a tensor's rows in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::weights) enum Rows {
    /// Rows in the order of the computation.
    InOrder,
    /// Heads of this many rows, in each of which rows of the first half and of the second half alternate.
    Interleaved(usize),
}

impl Location {
    /// Elements of a row. The rows of a vector whose elements have an order of their own are single elements.
    fn columns(&self) -> usize {
        match (self.rows, self.shape.as_slice()) {
            (Rows::Interleaved(_), [_]) => 1,
            (_, shape) => shape.last().copied().unwrap_or(1),
        }
    }
}

impl Rows {
    /// The index in the file of the row `index`.
    fn stored(self, index: usize) -> usize {
        match self {
            Self::InOrder => index,
            Self::Interleaved(head) => {
                let (first, within) = (index / head * head, index % head);
                let (half, pair) = (within / (head / 2), within % (head / 2));
                first + 2 * pair + half
            }
        }
    }
}

/// A tensor's number that is not finite: its place and value.
type Damage = Option<(usize, f32)>;

/// A tensor as its file holds it.
pub(crate) struct Stored<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: Cow<'a, [u8]>,
}

/// How a tensor's rows are kept in blocks, and the bytes of each row.
pub type RowsInBlocks<'a> = (Blocks, Vec<&'a [u8]>);

impl Weights {
    /// Maps a directory's files in the format safetensors, as [`Weights::open`] does.
    pub(in crate::weights) fn open_directory(dir: &Path) -> Result<Self, ModelError> {
        let (names, promised) = if dir.join(SINGLE).is_file() {
            (BTreeSet::from([SINGLE.to_owned()]), BTreeMap::new())
        } else if dir.join(INDEX).is_file() {
            let promised = read_index(&dir.join(INDEX))?;
            (promised.values().cloned().collect(), promised)
        } else {
            let remedy = format!("a model directory holds {SINGLE}, or {INDEX} and the files it names");
            return Err(ModelError::Missing { file: dir.join(SINGLE), remedy });
        };
        let mut weights = Self { files: Vec::new(), tensors: BTreeMap::new() };
        for name in names {
            weights.map(dir.join(name))?;
        }
        for (tensor, file) in promised {
            let found = weights.tensors.get(&tensor).map(|at| weights.files[at.file].0.as_path());
            if found != Some(&dir.join(&file)) {
                let reason = format!("{INDEX} places it in this file, which does not hold it");
                return Err(ModelError::Tensor { file: dir.join(file), tensor, reason });
            }
        }
        Ok(weights)
    }

    fn map(&mut self, path: PathBuf) -> Result<(), ModelError> {
        let broken = |reason: String| ModelError::Broken { file: path.clone(), reason };
        let file = files::open(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                ModelError::Missing { file: path.clone(), remedy: format!("{INDEX} names it; copy it there") }
            }
            _ => broken(e.to_string()),
        })?;
        #[expect(unsafe_code, reason = "a file can only be mapped unsafely")]
        // SAFETY: the map is read-only; generations are written under a new name and renamed, never changed in place.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| broken(e.to_string()))?;
        let part = |e: &dyn std::fmt::Display| {
            broken(format!("not a whole safetensors file ({e}); it has {} bytes: copy or download it again", map.len()))
        };
        if let Some(size) = map.first_chunk().map(|size| u64::from_le_bytes(*size)) {
            files::check_header_size(size, map.len() as u64).map_err(|e| part(&e))?;
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| part(&e))?;
        let start = header + 8;
        if start + metadata.data_len() != map.len() {
            let expected = start + metadata.data_len();
            return Err(broken(format!(
                "the file has {} bytes, its header promises {expected}: copy or download it again",
                map.len()
            )));
        }
        for (name, info) in metadata.tensors() {
            let bytes = start + info.data_offsets.0..start + info.data_offsets.1;
            let (file, kind, shape) = (self.files.len(), Kind::Plain(info.dtype), info.shape.clone());
            let at = Location { file, kind, shape, bytes, rows: Rows::InOrder };
            if let Some(other) = self.tensors.insert(name.clone(), at) {
                let reason = format!("{} holds it too", self.files[other.file].0.display());
                return Err(ModelError::Tensor { file: path.clone(), tensor: name, reason });
            }
        }
        self.files.push((path, map));
        Ok(())
    }

    /// A tensor's elements in row-major order, as `f32`.
    ///
    /// # Errors
    /// It is missing, of a type that is not read as numbers, or holds a value that is not finite.
    pub fn read(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let at = self.location(name)?;
        if let Some(other) = at.kind.foreign() {
            let file = self.files[at.file].0.clone();
            let reason = format!("its type is {other:?}; convert it to F32, F16 or BF16");
            return Err(ModelError::Tensor { file, tensor: name.into(), reason });
        }
        let columns = at.columns();
        let mut numbers = vec![0.0; at.shape.iter().product()];
        let mut damage = None;
        self.rows(at, |row, bytes| {
            let out = &mut numbers[row * columns..][..columns];
            at.kind.read(bytes, out);
            damage = damage.or_else(|| damaged(row * columns, out));
        });
        self.undamaged(name, at, damage).map(|()| numbers)
    }

    /// Checks that every number is finite; types that are not read as numbers are passed over.
    ///
    /// # Errors
    /// Names a tensor that holds one that is not.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        let tensors: Vec<(&str, usize)> =
            self.tensors.iter().map(|(name, at)| (name.as_str(), at.bytes.len())).collect();
        spread::over(&tensors, |&(_, bytes)| bytes, |&(name, _)| self.check_tensor(name)).into_iter().collect()
    }

    fn check_tensor(&self, name: &str) -> Result<(), ModelError> {
        let at = self.location(name)?;
        if at.kind.foreign().is_some() {
            return Ok(());
        }
        let columns = at.columns();
        let (mut numbers, mut damage) = (vec![0.0; columns], None);
        self.rows(at, |row, bytes| {
            at.kind.read(bytes, &mut numbers);
            damage = damage.or_else(|| damaged(row * columns, &numbers));
        });
        self.undamaged(name, at, damage)
    }

    /// A tensor's type and elements, row after row in little-endian order. Numbers in blocks become `f16`, the others are as the
    /// file holds them.
    ///
    /// # Errors
    /// It is missing or holds a value that is not finite; types that are not read as numbers are not looked at.
    pub fn raw(&self, name: &str) -> Result<(Dtype, Cow<'_, [u8]>), ModelError> {
        let at = self.location(name)?;
        if let Kind::Plain(dtype) = at.kind
            && (at.rows == Rows::InOrder || at.kind.foreign().is_some())
        {
            self.check_tensor(name)?;
            return Ok((dtype, Cow::Borrowed(&self.files[at.file].1[at.bytes.clone()])));
        }
        let numbers = self.read(name)?;
        let dtype = at.kind.dtype();
        Ok((dtype, Cow::Owned(encode(dtype, &numbers))))
    }

    /// A tensor's rows, where they are kept in blocks.
    ///
    /// # Errors
    /// It is missing, or a number is not finite.
    pub fn blocks(&self, name: &str) -> Result<Option<RowsInBlocks<'_>>, ModelError> {
        let at = self.location(name)?;
        let Kind::Blocks(kind) = at.kind else { return Ok(None) };
        let all = &self.files[at.file].1[at.bytes.clone()];
        let (numbers, size) = kind.block();
        if let Some(block) = all.chunks_exact(size).position(|block| !kind.is_finite(block)) {
            let reason = format!(
                "the scale of its block {block}, with {numbers} numbers, is not finite; the checkpoint is damaged"
            );
            return Err(ModelError::Tensor { file: self.files[at.file].0.clone(), tensor: name.into(), reason });
        }
        let count = at.shape.iter().product::<usize>() / at.columns().max(1);
        let bytes = all.len() / count.max(1);
        Ok(Some((kind, (0..count).map(|row| &all[at.rows.stored(row) * bytes..][..bytes]).collect())))
    }

    /// Gives every row's bytes, in the order in which rows are computed with.
    fn rows(&self, at: &Location, mut each: impl FnMut(usize, &[u8])) {
        let all = &self.files[at.file].1[at.bytes.clone()];
        let count = at.shape.iter().product::<usize>() / at.columns().max(1);
        let bytes = all.len() / count.max(1);
        for row in 0..count {
            each(row, &all[at.rows.stored(row) * bytes..][..bytes]);
        }
    }

    fn undamaged(&self, name: &str, at: &Location, damage: Damage) -> Result<(), ModelError> {
        match damage {
            Some((i, value)) => {
                let reason = format!("element {i} is {value}; the checkpoint is damaged");
                Err(ModelError::Tensor { file: self.files[at.file].0.clone(), tensor: name.into(), reason })
            }
            None => Ok(()),
        }
    }

    fn location(&self, name: &str) -> Result<&Location, ModelError> {
        self.tensors.get(name).ok_or_else(|| ModelError::Tensor {
            file: self.main_file(),
            tensor: name.into(),
            reason: "it is missing; export the checkpoint again".into(),
        })
    }

    /// Gives the memory of the mapped files back: tensors that are read again are read from the files again. Without it the
    /// files of a model that has been copied stay resident in addition to the copy.
    pub fn rest(&self) {
        #[cfg(unix)]
        for (path, map) in &self.files {
            #[expect(unsafe_code, reason = "advice that drops pages is unsafe in general")]
            // SAFETY: the map is read-only and of a file that is never changed: a dropped page is read from it again.
            let advised = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            if let Err(error) = advised {
                tracing::debug!(%error, file = %path.display(), "its pages stay resident");
            }
        }
    }

    /// Bytes of all tensors as the files hold them.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|at| at.bytes.len() as u64).sum()
    }

    /// Elements of the tensor that has the most.
    pub fn most_elements(&self) -> u64 {
        self.tensors.values().map(|at| at.shape.iter().map(|&size| size as u64).product()).max().unwrap_or(0)
    }

    /// The tensors of one of the files, in order of their names, in types that safetensors files have.
    ///
    /// # Errors
    /// Fails as [`Weights::raw`] does.
    pub(crate) fn of_file(&self, path: &Path) -> Result<Vec<Stored<'_>>, ModelError> {
        let here = self.tensors.iter().filter(|(_, at)| self.files[at.file].0 == path);
        here.map(|(name, at)| {
            let (dtype, bytes) = self.raw(name)?;
            Ok(Stored { name, dtype, shape: &at.shape, bytes })
        })
        .collect()
    }

    /// A tensor's type in [`Weights::raw`], if the checkpoint holds it.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|at| at.kind.dtype())
    }

    /// A tensor's shape, if the checkpoint holds it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|at| at.shape.as_slice())
    }

    /// Every tensor's name, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(in crate::weights) fn main_file(&self) -> PathBuf {
        self.files.first().map_or_else(|| SINGLE.into(), |(path, _)| path.clone())
    }
}

/// The first number that is not finite; `first` is the place of the first one.
fn damaged(first: usize, numbers: &[f32]) -> Damage {
    let place = numbers.iter().position(|x| !x.is_finite())?;
    Some((first + place, numbers[place]))
}

/// Tensor name to file name.
pub(in crate::weights) fn read_index(path: &Path) -> Result<BTreeMap<String, String>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let broken = |reason: String| ModelError::Broken { file: path.into(), reason };
    let bytes = files::read(path, files::SMALL).map_err(|e| broken(e.to_string()))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
    match index.weight_map.values().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        Some(outside) => Err(broken(format!("`{outside}` is not the name of a file in this directory"))),
        None => Ok(index.weight_map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, write_json, write_model, write_weights};
    use crate::weights::ModelConfig;

    fn open(dir: &Path) -> Result<Weights, ModelError> {
        let config = ModelConfig::open(dir)?;
        let weights = Weights::open(dir)?;
        weights.check(&config)?;
        Ok(weights)
    }

    fn refusal(change: impl Fn(&Path, &TinyModel)) -> String {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel::default();
        write_model(dir.path(), &model);
        change(dir.path(), &model);
        let message = open(dir.path()).err().expect("the change breaks the model").to_string();
        assert!(!message.contains('\n'), "{message}");
        message
    }

    type Case<'a> = (&'a dyn Fn(&Path, &TinyModel), &'a [&'a str]);

    #[test]
    fn every_family_and_layout_loads() {
        for model_type in ["llama", "mistral", "qwen2", "qwen3"] {
            for tied in [false, true] {
                let dir = tempfile::tempdir().unwrap();
                let model = TinyModel { model_type, tied, ..TinyModel::default() };
                write_model(dir.path(), &model);
                let weights = open(dir.path()).unwrap();
                for (name, shape) in model.tensors() {
                    assert_eq!(weights.read(&name).unwrap(), model.values(&name, &shape));
                }
            }
        }
    }

    fn shard(dir: &Path, model: &TinyModel) {
        std::fs::remove_file(dir.join(SINGLE)).unwrap();
        let tensors = model.tensors();
        let (first, second) = tensors.split_at(5);
        let mut map = serde_json::Map::new();
        for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
            write_weights(&dir.join(file), model, part);
            map.extend(part.iter().map(|(name, _)| (name.clone(), file.into())));
        }
        write_json(dir, INDEX, &serde_json::json!({ "metadata": {}, "weight_map": map }));
    }

    #[test]
    fn shards_load() {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel::default();
        write_model(dir.path(), &model);
        shard(dir.path(), &model);
        assert_eq!(open(dir.path()).unwrap().names().count(), model.tensors().len());
    }

    #[test]
    fn half_precision_is_read_as_f32() {
        let dir = tempfile::tempdir().unwrap();
        let values = [1.5f32, -0.25, 3.0];
        let f16: Vec<u8> = values.iter().flat_map(|&x| half::f16::from_f32(x).to_le_bytes()).collect();
        let bf16: Vec<u8> = values.iter().flat_map(|&x| half::bf16::from_f32(x).to_le_bytes()).collect();
        let view = |dtype, data| safetensors::tensor::TensorView::new(dtype, vec![3], data).unwrap();
        let views = [("a", view(Dtype::F16, &f16)), ("b", view(Dtype::BF16, &bf16))];
        safetensors::serialize_to_file(views, None, &dir.path().join(SINGLE)).unwrap();
        let weights = Weights::open(dir.path()).unwrap();
        assert_eq!(weights.read("a").unwrap(), values);
        assert_eq!(weights.read("b").unwrap(), values);
        assert!(weights.read("c").is_err());
    }

    #[test]
    fn every_defect_has_its_line() {
        let file = |dir: &Path| dir.join(SINGLE);
        let table: [Case<'_>; 9] = [
            (&|dir, _| std::fs::remove_file(file(dir)).unwrap(), &[SINGLE, "does not exist"]),
            (
                &|dir, _| {
                    let bytes = std::fs::read(file(dir)).unwrap();
                    std::fs::write(file(dir), &bytes[..bytes.len() - 10]).unwrap();
                },
                &[SINGLE, "again"],
            ),
            (&|dir, _| std::fs::write(file(dir), b"version https").unwrap(), &[SINGLE, "safetensors"]),
            (&|dir, _| std::fs::write(file(dir), b"").unwrap(), &[SINGLE]),
            (
                &|dir, model| write_weights(&file(dir), model, &model.tensors()[1..]),
                &[SINGLE, "model.embed_tokens.weight", "missing"],
            ),
            (
                &|dir, model| write_json(dir, "config.json", &TinyModel { intermediate: 47, ..model.clone() }.config()),
                &["model.layers.0.mlp.gate_proj.weight", "[48, 32]", "[47, 32]"],
            ),
            (
                &|dir, model| {
                    shard(dir, model);
                    std::fs::remove_file(dir.join("b.safetensors")).unwrap();
                },
                &["b.safetensors", "does not exist"],
            ),
            (
                &|dir, model| {
                    shard(dir, model);
                    write_weights(&dir.join("b.safetensors"), model, &model.tensors()[6..]);
                },
                &["b.safetensors", "does not hold it"],
            ),
            (
                &|dir, _| {
                    std::fs::remove_file(file(dir)).unwrap();
                    write_json(dir, INDEX, &serde_json::json!({ "weight_map": { "x": "../x.safetensors" } }));
                },
                &[INDEX, "../x.safetensors"],
            ),
        ];
        for (change, expected) in table {
            let message = refusal(change);
            assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks one of {expected:?}");
        }
    }

    type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

    /// Writes the model's tensors with others added or in their place.
    fn with_tensors(dir: &Path, model: &TinyModel, change: impl Fn(&mut Tensors)) {
        let bytes = |values: Vec<f32>| values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
        let stored = |(name, shape): (String, Vec<usize>)| {
            let data = bytes(model.values(&name, &shape));
            (name, (Dtype::F32, shape, data))
        };
        let mut tensors = model.tensors().into_iter().map(stored).collect();
        change(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, safetensors::tensor::TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &dir.join(SINGLE)).unwrap();
    }

    #[test]
    fn tensors_that_change_the_result_without_a_word_are_refused() {
        let bias = || (Dtype::F32, vec![32], vec![0; 128]);
        let message = refusal(|dir, model| {
            with_tensors(dir, model, |tensors| {
                tensors.insert("model.layers.0.self_attn.q_proj.bias".into(), bias());
            });
        });
        assert!(message.contains("q_proj.bias") && message.contains("says nothing of it"), "{message}");
        let message = refusal(|dir, model| {
            let tied = TinyModel { tied: true, ..model.clone() };
            write_json(dir, "config.json", &tied.config());
            with_tensors(dir, model, |_| ());
        });
        assert!(message.contains("lm_head.weight") && message.contains("tie_word_embeddings to false"), "{message}");
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel { tied: true, ..TinyModel::default() };
        write_model(dir.path(), &model);
        with_tensors(dir.path(), &model, |tensors| {
            let embedding = tensors["model.embed_tokens.weight"].clone();
            tensors.insert("lm_head.weight".into(), embedding);
            // Older files hold the rotary frequencies, too, and layers that are not used.
            tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), bias());
            tensors.insert("model.layers.7.self_attn.q_proj.bias".into(), bias());
        });
        open(dir.path()).unwrap();
    }

    #[test]
    fn quantized_tensors_are_refused_with_what_to_use_instead() {
        const NAME: &str = "model.layers.0.mlp.up_proj";
        let packed = refusal(|dir, model| {
            with_tensors(dir, model, |tensors| {
                tensors.remove(&format!("{NAME}.weight"));
                tensors.insert(format!("{NAME}.qweight"), (Dtype::I32, vec![4], vec![0; 16]));
            });
        });
        assert!(packed.contains(&format!("`{NAME}.qweight` instead")) && packed.contains("quantized"), "{packed}");
        for (dtype, name) in [(Dtype::U8, "U8"), (Dtype::F8_E4M3, "F8_E4M3"), (Dtype::I8, "I8")] {
            let message = refusal(|dir, model| {
                with_tensors(dir, model, |tensors| {
                    tensors.insert(format!("{NAME}.weight"), (dtype, vec![48, 32], vec![0; 48 * 32]));
                });
            });
            assert!(message.contains(&format!("{name}: it is quantized")) && message.contains("q8"), "{message}");
        }
    }

    #[test]
    fn a_value_that_is_not_finite_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let data = [1.0f32, f32::NAN].map(f32::to_le_bytes).concat();
        let view = safetensors::tensor::TensorView::new(Dtype::F32, vec![2], &data).unwrap();
        safetensors::serialize_to_file([("x", view)], None, &dir.path().join(SINGLE)).unwrap();
        let message = Weights::open(dir.path()).unwrap().read("x").unwrap_err().to_string();
        assert!(message.contains("element 1 is NaN"), "{message}");
    }
}
