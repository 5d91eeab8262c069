//! The models of a stage: tree engines in this process, and only one if both roles use the same directory.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use spar::engine::native::NativeEngine;
use spar::search::Models;

use super::bootstrap::load;

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
