//! Adapters on models: checked against them, then put on the weights in memory or merged into a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::metered::Metered;
use crate::engine::{Engine, SharedBase};
use crate::prompts::Templates;
use crate::weights::adapter::Adapter;
use crate::weights::store::{Store, Stored};
use crate::weights::{Digests, LowRanks, ModelConfig, ModelError, Weights};

/// Reads an adapter and checks it against the modules of the model at `model`, whose configuration is `config`. The digests are
/// those of what was read.
///
/// # Errors
/// Names the file, and the field or tensor.
pub(crate) fn open(model: &Path, config: &ModelConfig, adapter: &Path) -> Result<(Adapter, Digests), ModelError> {
    let linears = match &config.dense {
        Some(dense) => dense.linears(),
        None => Weights::open(model)?.linears(),
    };
    Adapter::open(adapter, &linears)
}

/// The judge and refine templates of an adapter's own `spar.json`, which holds the calibration of what it was trained for; `None` if it has
/// none, and the model's apply.
///
/// # Errors
/// The file cannot be used.
pub(crate) fn templates(adapter: &Path) -> Result<Option<Arc<Templates>>, ModelError> {
    let file = adapter.join("spar.json");
    if !file.is_file() {
        return Ok(None);
    }
    let templates = Templates::from_file(&file).map_err(|e| ModelError::Broken { file, reason: e.reason })?;
    Ok(Some(Arc::new(templates)))
}

/// The model with the adapter, whose digest is `sha256`, in a directory of the store.
///
/// # Errors
/// A sum that is not finite, or the store cannot be written.
pub(crate) fn merged(store: &Store, model: &Stored, adapter: &Adapter, sha256: &str) -> Result<PathBuf, ModelError> {
    let merged = store.merged(model, adapter, sha256)?;
    Weights::open(&merged.path)?.check_finite()?;
    Ok(merged.path)
}

/// The weights in memory of a base, with an adapter or without any.
///
/// # Errors
/// A module that does not fit.
pub(crate) fn on(base: &dyn SharedBase, modules: Option<&LowRanks>) -> Result<Arc<dyn Engine>, ModelError> {
    Ok(Arc::new(Metered(base.adapted(modules)?)))
}
