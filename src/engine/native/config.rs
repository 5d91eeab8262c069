//! How much of the machine the engine uses, and what computes.

use std::num::NonZero;
use std::sync::OnceLock;
use std::time::Duration;

use crate::memory;

/// What computes the forward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Processor {
    /// Our own kernels on the CPU.
    #[default]
    Cpu,
    /// Tensors on the CPU, in `f32`: the device form on machines without a device.
    #[cfg(feature = "tensors")]
    Tensors,
    /// Tensors on the CUDA device of this number.
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

/// How much of the machine the engine uses. Results do not depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeConfig {
    /// Threads that compute.
    pub threads: usize,
    /// Replies that run at once; more wait in order, plain answers first. Searches of a server leave an eighth of them.
    pub max_replies: usize,
    /// Replies that may wait; more are refused as unavailable.
    pub max_waiting: usize,
    /// Bytes of keys and values that are kept for later prompts.
    pub cache_bytes: usize,
    /// Positions that a thread computes per step: a long prompt delays running replies by one such step at a time.
    pub step_rows: usize,
    /// How the weights are kept in memory.
    pub quantize: Quantize,
    /// The processor that computes.
    pub processor: Processor,
    /// Tokens at most that a refinement copies from its prompt at once, to be checked in one step; 0 computes every token
    /// by itself. Only our kernels on the CPU compute a row alike in any step, so devices do not speculate.
    pub speculate: usize,
    /// Time without a step after which the threads are given up and started again.
    pub stall: Duration,
}

/// How the matrices of a checkpoint are kept in memory on the CPU. Blocks of a GGUF file stay as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// Matrices keep the checkpoint's own type.
    #[default]
    None,
    /// Matrices have 8 bits, with a 16-bit scale for each 32 numbers of a row.
    Q8,
    /// Matrices have 4 bits that name one of 16 values, with a 16-bit scale for each 32 numbers of a row, as GGUF's `IQ4_NL` has them. The embedding
    /// and the output matrix have 8 bits, as have matrices whose rows are no multiple of 32.
    Q4,
}

impl Quantize {
    /// For the embedding and the output matrix, which lose more by fewer bits.
    pub(super) fn of_vocabulary(self) -> Self {
        match self {
            Self::Q4 => Self::Q8,
            other => other,
        }
    }
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, NonZero::get),
            max_replies: 128,
            max_waiting: 4096,
            cache_bytes: usual_cache(),
            step_rows: 256,
            quantize: Quantize::None,
            processor: Processor::default(),
            speculate: 32,
            stall: Duration::from_secs(60),
        }
    }
}

/// Bytes of keys and values that are kept where the configuration names no number: actor and refiner together take no more than a
/// quarter of what the process may use.
fn usual_cache() -> usize {
    static BYTES: OnceLock<usize> = OnceLock::new();
    let most = 256 << 20;
    *BYTES.get_or_init(|| memory::now().limit.map_or(most, |limit| most.min((limit / 8) as usize)))
}

impl NativeConfig {
    /// Replies of a server's searches that run at once.
    pub(super) fn max_search_replies(&self) -> usize {
        self.max_replies - self.max_replies / 8
    }

    /// Replies of one of several callers that run at once.
    pub(super) fn max_replies_of_one(&self) -> usize {
        self.max_replies - self.max_replies / 4
    }
}
