//! A model directory as Hugging Face and the server read it; the tokenizer's files are written next to it by its owner.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use crate::model::params::Precision;
use crate::model::{DenseConfig, Params, shape};

/// The source of an exported model's configuration.
#[derive(Clone, Copy, Debug)]
pub enum Configuration<'a> {
    /// It is that of the model directory that training started from: nothing of it changes but the element type.
    Of(&'a Path),
    /// It is written for a new model, whose texts begin and end with `end`.
    New {
        /// The model's shape.
        config: &'a DenseConfig,
        /// The token that begins and ends texts.
        end: Option<u32>,
    },
}

/// The files that say how a model's replies begin, end and are drawn.
const GENERATION: &str = "generation_config.json";

/// Writes `config.json`, `generation_config.json` and `model.safetensors`, each by an atomic rename.
///
/// # Errors
/// Fails when a file cannot be read or written.
pub fn export(directory: &Path, configuration: Configuration<'_>, params: &Params, precision: Precision) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let read = |path: &Path| -> Result<Map<String, Value>> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON object", path.display()))
    };
    let (mut config, kept) = match configuration {
        Configuration::New { config, end } => (shape::to_json(config, end), None),
        Configuration::Of(base) => {
            let file = base.join(GENERATION);
            (read(&base.join("config.json"))?, if file.is_file() { Some(read(&file)?) } else { None })
        }
    };
    let tokens = |config: &Map<String, Value>| {
        let token = |name: &str| (name.to_owned(), config.get(name).cloned().unwrap_or_default());
        ["bos_token_id", "eos_token_id", "pad_token_id"].map(token).into_iter().collect()
    };
    let generation = kept.unwrap_or_else(|| tokens(&config));
    // transformers 5 has another name for it.
    let dtype = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(dtype.into(), precision.torch_name().into());
    if dtype == "dtype" {
        config.shift_remove("torch_dtype");
    }
    replace(&directory.join("model.safetensors"), |path| params.save(path, precision))?;
    let write =
        |name: &str, text: String| replace(&directory.join(name), |path| Ok(std::fs::write(path, text + "\n")?));
    write("config.json", serde_json::to_string_pretty(&config)?)?;
    write(GENERATION, serde_json::to_string_pretty(&generation)?)
}

/// Writes a file under another name, waits until it is on the disk, and renames it: a reader of `path` sees the old
/// file or the new one.
///
/// # Errors
/// Fails when `write` fails or the file cannot be renamed.
pub fn replace(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path.file_name().context("a path without a file name")?.to_string_lossy();
    let partial = path.with_file_name(format!(".{name}.partial"));
    write(&partial)
        .and_then(|()| Ok(std::fs::File::open(&partial)?.sync_all()?))
        .and_then(|()| Ok(std::fs::rename(&partial, path)?))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::tiny;

    #[test]
    fn an_exported_model_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let config = DenseConfig { layers: 1, ..tiny(40) };
        let params = Params::random(&config, 2);
        let new = Configuration::New { config: &config, end: Some(3) };
        export(directory.path(), new, &params, Precision::F32).unwrap();
        let read = shape::load(directory.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(Params::load(&read, directory.path()).unwrap().data, params.data);
        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["config.json", "generation_config.json", "model.safetensors"]);
    }

    /// Whatever a base's files say, a trained model's say: every end token, either spelling, fields that training knows nothing of.
    #[test]
    fn the_configuration_of_the_base_survives() {
        let [base, out] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let config = DenseConfig { layers: 1, ..tiny(40) };
        let params = Params::random(&config, 2);
        let mut fields = shape::to_json(&config, Some(4));
        for name in ["rope_theta", "torch_dtype", "rms_norm_eps"] {
            fields.shift_remove(name);
        }
        let rope = serde_json::json!({ "rope_type": "linear", "factor": 2.0, "rope_theta": 5e4 });
        let own =
            serde_json::json!({ "rope_parameters": rope, "rope_scaling": null, "dtype": "bfloat16", "else": [1] });
        fields.extend(own.as_object().unwrap().clone());
        let generation = serde_json::json!({ "eos_token_id": [4, 1], "temperature": 0.6 });
        let write = |name: &str, value: &Value| std::fs::write(base.path().join(name), value.to_string()).unwrap();
        write("config.json", &Value::Object(fields.clone()));
        write(GENERATION, &generation);
        export(out.path(), Configuration::Of(base.path()), &params, Precision::F32).unwrap();
        let read = |name: &str| -> Value {
            serde_json::from_str(&std::fs::read_to_string(out.path().join(name)).unwrap()).unwrap()
        };
        fields.insert("dtype".into(), "float32".into());
        assert_eq!((read("config.json"), read(GENERATION)), (Value::Object(fields), generation));
        assert_eq!(spar::weights::ModelConfig::open(out.path()).unwrap().eos, [4, 1]);
        assert_eq!(shape::load(out.path()).unwrap(), shape::load(base.path()).unwrap());
    }
}
