//! Why weights are not loaded.

use crate::weights::ModelError;

/// Why weights are not loaded.
#[derive(Debug)]
pub(super) enum LoadError {
    Model(ModelError),
    /// A sentence about the device.
    #[cfg(feature = "tensors")]
    Device(String),
}

impl From<ModelError> for LoadError {
    fn from(error: ModelError) -> Self {
        Self::Model(error)
    }
}
