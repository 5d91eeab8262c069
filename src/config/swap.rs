//! How weights are swapped.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, require};
use super::units::{bytes, duration};

/// How weights are swapped while the server runs. It needs the admin key.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Swapping weights")]
pub struct SwapArgs {
    /// Directories below which weights may be named, separated by commas
    #[arg(long = "weights-root", env = "SPAR_WEIGHTS_ROOTS", value_name = "DIR", value_delimiter = ',')]
    pub weights_roots: Vec<PathBuf>,
    /// File with the admin key; it may also be in the environment, as SPAR_ADMIN_KEY. Without a key nothing can be swapped
    #[arg(long, env = "SPAR_ADMIN_KEY_FILE", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Directory for copied and merged weights and for what was published last; absent: by port, in the user's cache
    #[arg(long, env = "SPAR_SWAP_DIR", value_name = "DIR")]
    pub swap_dir: Option<PathBuf>,
    /// Bytes of weights kept there; the live weights and those before them are always kept
    #[arg(long, env = "SPAR_SWAP_DIR_BYTES", value_name = "BYTES", default_value_t = 64 << 30, value_parser = bytes::<u64>)]
    pub swap_dir_bytes: u64,
    /// Generations in memory at most, at least 2: live ones, and old ones that still answer
    #[arg(long, env = "SPAR_MAX_GENERATIONS", value_name = "N", default_value_t = 6)]
    pub max_generations: usize,
    /// Adapters at most that are served under names of their own, next to the live model
    #[arg(long, env = "SPAR_MAX_ADAPTERS", value_name = "N", default_value_t = 16)]
    pub max_adapters: usize,
    /// Bytes of memory for new weights next to the live ones; absent: what is free. Where they do not fit, requests wait
    #[arg(long, env = "SPAR_SWAP_MEMORY", value_name = "BYTES", value_parser = bytes::<u64>)]
    pub swap_memory: Option<u64>,
    /// Time that running requests have to end where old and new weights do not fit into memory together
    #[arg(long, env = "SPAR_SWAP_DRAIN", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub swap_drain: Duration,
    /// Time for a whole swap or rollback, from the order to the switch; what takes longer is given up, and the old weights stay
    #[arg(long, env = "SPAR_SWAP_TIMEOUT", value_name = "TIME", default_value = "30m", value_parser = duration)]
    pub swap_timeout: Duration,
    /// Prompts in the JSONL format of IFEval and IFBench that new actors must answer as they ask; absent: any answer will do
    #[arg(long, env = "SPAR_CANARY", value_name = "FILE")]
    pub canary: Option<PathBuf>,
    /// Perplexity of new weights on what they and the live ones say, at most; 0 allows any
    #[arg(long, env = "SPAR_CANARY_PERPLEXITY", value_name = "P", default_value_t = 100.0)]
    pub canary_perplexity: f64,
}

impl SwapArgs {
    /// Checks the settings' numbers.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let (generations, perplexity) = (self.max_generations, self.canary_perplexity);
        require(generations >= 2, || format!("--max-generations must be at least 2, got {generations}"))?;
        require(!self.swap_timeout.is_zero(), || "--swap-timeout must be above 0".into())?;
        require(perplexity >= 0.0, || format!("--canary-perplexity must not be negative, got {perplexity}"))
    }
}
