//! The places of a device's cache: which blocks of it are free, and which have to be copied before the next step.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Blocks of a device's cache by number. Block 0 is all zeros and never allocated; it pads batches to one length.
pub(super) struct Slots {
    state: Mutex<State>,
}

struct State {
    free: Vec<u32>,
    copies: Vec<BlockCopy>,
}

/// The first positions of a block that another one begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockCopy {
    pub(super) from: u32,
    pub(super) to: u32,
    pub(super) positions: usize,
}

impl Slots {
    /// Makes `blocks` free blocks, in addition to the block of zeros.
    pub(super) fn new(blocks: usize) -> Self {
        let blocks = u32::try_from(blocks).unwrap_or(u32::MAX - 1);
        Self { state: Mutex::new(State { free: (1..=blocks).rev().collect(), copies: Vec::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn free(&self) -> usize {
        self.state().free.len()
    }

    pub(super) fn take(&self) -> Option<u32> {
        self.state().free.pop()
    }

    pub(super) fn give_back(&self, block: u32) {
        let mut state = self.state();
        state.copies.retain(|copy| copy.to != block);
        state.free.push(block);
    }

    /// Notes a copy that is due before anything is written. Until then `from` may be given back, and taken again.
    pub(super) fn copy(&self, from: u32, to: u32, positions: usize) {
        self.state().copies.push(BlockCopy { from, to, positions });
    }

    /// The copies that are due, which the caller makes.
    #[cfg(feature = "tensors")]
    pub(super) fn take_copies(&self) -> Vec<BlockCopy> {
        std::mem::take(&mut self.state().copies)
    }

    #[cfg(test)]
    pub(super) fn copies_due(&self) -> usize {
        self.state().copies.len()
    }
}
