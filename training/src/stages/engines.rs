//! The models of a stage: tree engines in this process, and only one if both roles use the same directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use spar::engine::Engine;
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::search::Models;

/// An actor and a refiner.
pub struct Engines {
    actor: Arc<NativeEngine>,
    refiner: Arc<NativeEngine>,
}

impl Engines {
    /// Loads both models.
    ///
    /// # Errors
    /// Names what is wrong with a directory.
    pub fn open(actor: &Path, refiner: &Path) -> Result<Self> {
        let first = Arc::new(load(actor)?);
        let second = if actor == refiner { first.clone() } else { Arc::new(load(refiner)?) };
        Ok(Self { actor: first, refiner: second })
    }

    /// The models in the search's own type, with the refiner's templates.
    #[must_use]
    pub fn models(&self) -> Models<'_> {
        Models { actor: &*self.actor, refiner: &*self.refiner, templates: &self.refiner.dir().templates }
    }
}

/// Loads the native engine with a model directory.
///
/// # Errors
/// Names what is wrong with the directory.
pub fn load(directory: &Path) -> Result<NativeEngine> {
    let opened = ModelDir::open(PathBuf::from(directory))?;
    let engine = NativeEngine::load(opened, NativeConfig::default())?;
    tracing::info!(model = engine.info().name, "loaded");
    Ok(engine)
}
