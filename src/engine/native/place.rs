//! Places in the line of replies that wait to begin.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::engine::EngineError;

/// A reply's place among those that wait to begin; given back when dropped.
pub(super) struct Place {
    waiting: Arc<AtomicUsize>,
    replies: usize,
}

impl Place {
    /// Places for `replies` in a line that has room for `most`; a call is admitted whatever its size if the line is empty.
    ///
    /// # Errors
    /// The line is full.
    pub(super) fn take(waiting: &Arc<AtomicUsize>, replies: usize, most: usize) -> Result<Self, EngineError> {
        let admit = |waiting: usize| (waiting == 0 || waiting + replies <= most).then_some(waiting + replies);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit) {
            Ok(_) => Ok(Self { waiting: Arc::clone(waiting), replies }),
            Err(waiting) => Err(EngineError::Unavailable(format!("{waiting} replies wait already; try again later"))),
        }
    }

    /// Leaves `replies` of its places to another job of the same call.
    pub(super) fn split(&mut self, replies: usize) -> Self {
        self.replies -= replies;
        Self { waiting: self.waiting.clone(), replies }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.replies, Ordering::Relaxed);
    }
}
