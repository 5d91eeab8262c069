//! A checkpoint's tensors: memory-mapped, and checked by name, shape and type before anything is computed with them.

pub mod adapter;
mod check;
mod config;
pub mod digest;
mod encode;
mod error;
pub(crate) mod files;
pub mod gguf;
pub mod headers;
mod low_rank;
pub mod roots;
mod spread;
pub mod store;
mod tensors;

use std::path::Path;

pub(crate) use config::read_json;
pub use config::{
    Activation, Architecture, DenseConfig, ModelConfig, Norms, Part, QkNorm, Rope, RopeScaling, Scales, known_families,
};
pub use digest::Digests;
pub use error::ModelError;
pub use low_rank::{LowRank, LowRanks};
pub use tensors::{RowsInBlocks, Weights};

impl Weights {
    /// Maps a directory's `model.safetensors`, or the shards that `model.safetensors.index.json` names, and checks that every
    /// file is whole and holds what the index says. The path may also be that of a GGUF file.
    ///
    /// # Errors
    /// Names the file, and the tensor where there is one.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        if gguf::is_named(dir) {
            return gguf::Gguf::open(dir)?.into_weights();
        }
        Self::open_directory(dir)
    }
}
