//! Why nothing can be served.

use std::path::PathBuf;

use crate::engine::EngineError;
use crate::engine::embedded::UnpackError;
use crate::engine::model_dir::ModelError;
use crate::prompts::TemplateError;

/// The features of a build like this one that has mistral.rs.
pub(super) const MISTRAL: &str = if cfg!(feature = "cuda") { "mistral,cuda" } else { "mistral" };

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model needs mistral.rs, which is not in this binary.
    #[error(
        "{} needs mistral.rs, which this build leaves out ({why}): build it in with `cargo build --release --features {}`",
        .model.display(),
        MISTRAL
    )]
    NotBuilt {
        /// The model's directory.
        model: PathBuf,
        /// Why mistral.rs was chosen for it.
        why: String,
    },
    /// The directory cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter that a flag names cannot be used.
    #[error("{0}: {1}")]
    Adapter(&'static str, ModelError),
    /// The adapters that requests choose cannot be served.
    #[error("--lora-modules: {0}")]
    LoraModules(String),
    /// The embedded model has no place.
    #[error(transparent)]
    Embedded(#[from] UnpackError),
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// The server that should answer does not.
    #[error("--upstream-url: {0}")]
    Upstream(EngineError),
    /// The fleet that should answer cannot be used.
    #[error("{0}")]
    Fleet(String),
}
