//! What an engine counts of its own work, for its owner to publish.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Numbers of one engine; adapters of one base share them.
#[derive(Debug, Default)]
pub struct EngineCounters {
    /// Blocks of keys and values that exist.
    pub blocks: AtomicUsize,
    /// How many of these blocks are kept for later prompts.
    pub kept_blocks: AtomicUsize,
    /// Bytes of a block.
    pub block_bytes: AtomicUsize,
    /// Blocks that are kept at most.
    pub most_kept: AtomicUsize,
    /// Blocks that running replies can have at most: a device's whole cache, or on the CPU the whole context of as many replies as
    /// are computed at the same time.
    pub most_running: AtomicUsize,
    /// Tokens of prompts whose keys and values were reused from earlier prompts.
    pub prompt_tokens_reused: AtomicU64,
    /// Tokens of prompts that were computed.
    pub prompt_tokens_computed: AtomicU64,
    /// Tokens that were proposed from the prompt and are part of a reply.
    pub speculated_accepted: AtomicU64,
    /// Tokens that were proposed from the prompt in vain.
    pub speculated_rejected: AtomicU64,
    /// Times that the engine's threads were started again.
    pub restarts: AtomicU64,
}

impl EngineCounters {
    /// Bytes of keys and values that are kept for later prompts, and how many may be.
    pub fn kept_bytes(&self) -> [u64; 2] {
        let bytes = self.block_bytes.load(Ordering::Relaxed) as u64;
        [&self.kept_blocks, &self.most_kept].map(|blocks| blocks.load(Ordering::Relaxed) as u64 * bytes)
    }

    /// Blocks in use by running replies alone.
    pub fn running_blocks(&self) -> usize {
        self.blocks.load(Ordering::Relaxed).saturating_sub(self.kept_blocks.load(Ordering::Relaxed))
    }
}
