//! How many requests are in their handlers.

use std::sync::Arc;

use tokio::sync::watch;

/// A counter of requests; cheap to clone.
#[derive(Clone)]
pub(super) struct Running(Arc<watch::Sender<usize>>);

impl Running {
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Counts a request until the result is dropped.
    pub fn begin(&self) -> Counted {
        self.0.send_modify(|count| *count += 1);
        Counted(self.clone())
    }

    /// Resolves when no request is in its handler.
    pub async fn none(&self) {
        // The sender lives in `self`, so it cannot be closed.
        drop(self.0.subscribe().wait_for(|count| *count == 0).await);
    }
}

/// A request in its handler.
pub(super) struct Counted(Running);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
