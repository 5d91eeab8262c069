//! Where the parts of a model are: in the files of a directory in Hugging Face layout, or in a GGUF file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokenizers::Tokenizer;

use super::chat_template::ChatTemplate;
use super::vocabulary::Vocabulary;
use crate::prompts::Templates;
use crate::weights::gguf::{self, Gguf};
use crate::weights::{ModelConfig, ModelError, Weights};

/// The files of one model.
pub(super) enum Files {
    /// A directory of files.
    Directory(PathBuf),
    /// A file, with the parts that belong to it.
    Gguf(PathBuf, Box<Gguf>),
}

impl Files {
    /// The files at a path.
    ///
    /// # Errors
    /// The path does not exist, or a file cannot be read.
    pub(super) fn open(path: &Path) -> Result<Self, ModelError> {
        match gguf::is_named(path) {
            true => Ok(Self::Gguf(path.into(), Box::new(Gguf::open(path)?))),
            false if path.is_dir() => match without_config(path) {
                Some(file) => Err(ModelError::Missing {
                    file: path.join("config.json"),
                    remedy: format!("the directory holds {}: name that file as the model", file.display()),
                }),
                None => Ok(Self::Directory(path.into())),
            },
            false => Err(ModelError::NoDirectory(path.into())),
        }
    }

    /// The file that holds what a directory has in the file `name`.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        match self {
            Self::Directory(directory) => directory.join(name),
            Self::Gguf(file, _) => file.clone(),
        }
    }

    pub(super) fn config(&self) -> Result<ModelConfig, ModelError> {
        match self {
            Self::Directory(directory) => ModelConfig::open(directory),
            Self::Gguf(_, gguf) => gguf.config(),
        }
    }

    pub(super) fn vocabulary(&self) -> Result<Arc<Vocabulary>, ModelError> {
        match self {
            Self::Directory(directory) => Vocabulary::open(&directory.join("tokenizer.json")),
            Self::Gguf(file, gguf) => Vocabulary::of(gguf.tokenizer_json()?.to_string().as_bytes(), file),
        }
    }

    /// The chat template, where there is one, and the end-of-sequence token that its settings name.
    pub(super) fn chat_template(
        &self,
        config: &ModelConfig,
        tokenizer: &Tokenizer,
    ) -> Result<(Option<ChatTemplate>, Option<u32>), ModelError> {
        match self {
            Self::Directory(directory) => ChatTemplate::open(directory, config, tokenizer),
            Self::Gguf(file, gguf) => {
                let settings = gguf.tokenizer_config_json()?;
                let source = settings["chat_template"].as_str().map(Into::into);
                ChatTemplate::compile(file.clone(), source, &settings, config, tokenizer)
            }
        }
    }

    /// The prompt templates of judge and refiner; a GGUF file has none.
    pub(super) fn templates(&self) -> Result<Templates, ModelError> {
        match self {
            Self::Directory(directory) if directory.join("spar.json").is_file() => {
                let file = directory.join("spar.json");
                Templates::from_file(&file).map_err(|e| ModelError::Broken { file, reason: e.reason })
            }
            _ => Ok(Templates::general()),
        }
    }

    pub(super) fn weights(self) -> Result<Weights, ModelError> {
        match self {
            Self::Directory(directory) => Weights::open(&directory),
            Self::Gguf(_, gguf) => gguf.into_weights(),
        }
    }
}

/// The first GGUF file of a directory that has no configuration.
fn without_config(directory: &Path) -> Option<PathBuf> {
    if directory.join("config.json").is_file() {
        return None;
    }
    let files = std::fs::read_dir(directory).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
    files.filter(|file| gguf::is_named(file)).min()
}
