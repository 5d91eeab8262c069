//! What a directory alone does not say.

use std::path::PathBuf;
use std::sync::Arc;

/// The device on which a model computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The CPU, in f32: one reply at a time, since this version of mistral.rs decodes batches wrongly there.
    Cpu,
    /// CUDA, in bf16: the siblings of one call at a time.
    Cuda,
}

impl Place {
    /// The GPU in a build for it, otherwise the CPU.
    pub fn of_this_build() -> Self {
        if cfg!(feature = "cuda") { Self::Cuda } else { Self::Cpu }
    }
}

/// How a failed engine came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restart {
    /// Another engine on the weights that were loaded.
    Engine,
    /// The directory was loaded again.
    Model,
}

/// A callback for each restart, on the engine's own thread.
pub type OnRestart = Arc<dyn Fn(Restart) + Send + Sync>;

/// What a directory alone does not say.
#[derive(Clone)]
pub struct MistralConfig {
    /// The device to compute on.
    pub place: Place,
    /// Called at each restart.
    pub on_restart: Option<OnRestart>,
}

impl Default for MistralConfig {
    fn default() -> Self {
        Self { place: Place::of_this_build(), on_restart: None }
    }
}

/// The source of a model.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) directory: PathBuf,
    pub(super) place: Place,
    /// The end-of-sequence tokens of the directory's files, at least one.
    pub(super) eos: Vec<u32>,
    /// The first of them, as the vocabulary spells it.
    pub(super) end_name: String,
}
