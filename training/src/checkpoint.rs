//! A model directory as Hugging Face and the server read it; the tokenizer's files are written next to it by its owner.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::model::params::Precision;
use crate::model::{LlamaConfig, Params};

/// Writes `config.json`, `generation_config.json` and `model.safetensors`, each by an atomic rename.
///
/// # Errors
/// When a file cannot be written.
pub fn export(directory: &Path, config: &LlamaConfig, params: &Params, precision: Precision) -> Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    let config = LlamaConfig { torch_dtype: precision.torch_name().into(), ..config.clone() };
    let generation = json!({
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    });
    replace(&directory.join("model.safetensors"), |path| params.save(path, precision))?;
    let write =
        |name: &str, text: String| replace(&directory.join(name), |path| Ok(std::fs::write(path, text + "\n")?));
    write("config.json", serde_json::to_string_pretty(&config)?)?;
    write("generation_config.json", serde_json::to_string_pretty(&generation)?)
}

/// Writes a file under another name, waits until it is on the disk, and renames it: a reader of `path` sees the old
/// file or the new one.
///
/// # Errors
/// When `write` fails or the file cannot be renamed.
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

    #[test]
    fn an_exported_model_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let config = LlamaConfig { num_hidden_layers: 1, ..LlamaConfig::tiny(40) };
        let params = Params::random(&config, 2);
        export(directory.path(), &config, &params, Precision::F32).unwrap();
        let read = LlamaConfig::load(directory.path()).unwrap();
        assert_eq!(read, config);
        assert_eq!(Params::load(&read, directory.path()).unwrap().data, params.data);
        let mut files: Vec<_> = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|f| f.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["config.json", "generation_config.json", "model.safetensors"]);
    }
}
