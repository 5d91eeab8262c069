//! `config.json` and `generation_config.json`, read into checked numbers.

mod dense;
mod family;
mod fields;
mod layers;
mod refused;
mod rope;

use std::path::Path;

use serde_json::Value;

use self::fields::Fields;
use super::{ModelError, files, gguf};

pub use self::dense::{Activation, DenseConfig, Norms, Part, QkNorm, Scales};
pub use self::family::{Architecture, known_families};
pub(super) use self::refused::INSTEAD;
pub use self::rope::{Rope, RopeScaling};

/// Tokens that end a reply, at most.
const MOST_EOS: usize = 256;

/// What both engines and the trainer need to know of a model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The model's family.
    pub architecture: Architecture,
    /// Entries of the vocabulary: rows of the embedding.
    pub vocabulary: usize,
    /// Tokens of prompt and reply together.
    pub context: usize,
    /// The beginning-of-sequence token, where the model has one.
    pub bos: Option<u32>,
    /// Tokens that end a reply, from both files.
    pub eos: Vec<u32>,
    /// The dtype that the weights were saved in, as the file writes it.
    pub dtype: Option<String>,
    /// The shape, for a family that we know.
    pub dense: Option<DenseConfig>,
    /// `config.json` as it was read.
    pub json: Value,
    /// `generation_config.json` as it was read; null where there is none.
    pub generation: Value,
}

impl ModelConfig {
    /// Reads a directory's `config.json` and, if there is one, `generation_config.json`; or the metadata of a GGUF file.
    ///
    /// # Errors
    /// Names the file and the field: it is wrong, or it asks for what is not computed.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        if gguf::is_named(dir) {
            return gguf::Gguf::open(dir)?.config();
        }
        let path = dir.join("config.json");
        if !path.is_file() {
            let remedy = "a model directory in Hugging Face layout holds it".into();
            return Err(ModelError::Missing { file: path, remedy });
        }
        let json = read_json(&path)?;
        let generation = match dir.join("generation_config.json") {
            path if path.is_file() => read_json(&path)?,
            _ => Value::Null,
        };
        Self::from_json(&path, &json, &generation)
    }

    /// Reads the contents of `config.json` and `generation_config.json`. Errors name `path` for the first of them, and
    /// the second next to it.
    ///
    /// # Errors
    /// Fails as [`ModelConfig::open`] does.
    pub(crate) fn from_json(path: &Path, json: &Value, generation: &Value) -> Result<Self, ModelError> {
        let fields = Fields { path, value: json };
        let architecture = family(fields)?;
        // Models of text and images keep the numbers of their text part one level deeper.
        let text = Fields { path, value: json.get("text_config").unwrap_or(json) };
        refused::quantized(fields, &architecture)?;
        refused::quantized(text, &architecture)?;
        let dense = match architecture {
            Architecture::Other(_) => None,
            _ => Some(DenseConfig::read(fields, &architecture)?),
        };
        let mut eos = Vec::new();
        for (value, name) in
            [(generation, "generation_config.json"), (json, "config.json"), (text.value, "config.json")]
        {
            for id in ids(&value["eos_token_id"]).ok_or_else(|| ModelError::Broken {
                file: path.with_file_name(name),
                reason: "`eos_token_id` is neither a token id nor a list of them".into(),
            })? {
                if !eos.contains(&id) {
                    eos.push(id);
                }
                if eos.len() > MOST_EOS {
                    let reason = format!("`eos_token_id` lists more than {MOST_EOS} tokens");
                    return Err(ModelError::Broken { file: path.with_file_name(name), reason });
                }
            }
        }
        let dtype = json["torch_dtype"].as_str().or(json["dtype"].as_str()).or(text.value["dtype"].as_str());
        let bos = [json, generation].iter().find_map(|file| file["bos_token_id"].as_u64());
        let (vocabulary, context) = match &dense {
            Some(dense) => (dense.vocabulary, dense.context),
            None => (text.count("vocab_size")?, text.count("max_position_embeddings")?),
        };
        Ok(Self {
            architecture,
            vocabulary,
            context,
            bos: bos.and_then(|id| id.try_into().ok()),
            eos,
            dtype: dtype.map(Into::into),
            dense,
            json: json.clone(),
            generation: generation.clone(),
        })
    }

    /// Every tensor that the model must have, with its shape; none for a family that we do not know.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.dense.as_ref().map_or_else(Vec::new, DenseConfig::tensors)
    }
}

/// The family that the files name by class and by model type, which must agree: `transformers` goes by the latter.
fn family(fields: Fields<'_>) -> Result<Architecture, ModelError> {
    let class = fields.get("architectures")[0].as_str();
    let model_type = fields.text("model_type")?;
    let named = class.or(model_type).ok_or_else(|| fields.wrong("architectures", "is missing"))?;
    let architecture = Architecture::named(named);
    match (architecture.model_type(), model_type) {
        (Some(expected), Some(found)) if expected != found => {
            let reason = format!("is `{found}`, but `architectures` says {named}, whose type is `{expected}`");
            Err(fields.wrong("model_type", &reason))
        }
        _ => Ok(architecture),
    }
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

/// Reads a JSON file.
///
/// # Errors
/// Names the file and the place.
pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let broken = |reason: String| ModelError::Broken { file: path.into(), reason };
    let bytes = files::read(path, files::SMALL).map_err(|e| broken(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| broken(format!("not valid JSON: {e}")))
}

#[cfg(test)]
mod tests;
