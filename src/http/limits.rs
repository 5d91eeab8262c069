//! Admission: a bounded number of requests runs, a bounded number waits, and the rest is refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::error::ApiError;
use crate::telemetry::metrics::{self, Counted, Rejection};

/// The door of the server.
pub struct Gate {
    running: Arc<Semaphore>,
    max_running: usize,
    waiting: AtomicUsize,
    max_waiting: usize,
    closing: AtomicBool,
}

/// The right to run; given back when dropped.
pub struct Permit {
    _running: OwnedSemaphorePermit,
    _counted: Counted,
}

impl Gate {
    /// A door for `max_running` requests at a time, with room for `max_waiting` in front of it.
    pub fn new(max_running: usize, max_waiting: usize) -> Self {
        Self {
            running: Arc::new(Semaphore::new(max_running)),
            max_running,
            waiting: AtomicUsize::new(0),
            max_waiting,
            closing: AtomicBool::new(false),
        }
    }

    /// Waits for its turn, first come first served, until `deadline`.
    ///
    /// # Errors
    /// [`ApiError::QueueFull`], [`ApiError::Deadline`] or [`ApiError::ShuttingDown`].
    pub async fn enter(&self, deadline: Instant) -> Result<Permit, ApiError> {
        if self.is_closing() {
            metrics::request_rejected(Rejection::ShuttingDown);
            return Err(ApiError::ShuttingDown);
        }
        if let Ok(permit) = Arc::clone(&self.running).try_acquire_owned() {
            return Ok(Permit { _running: permit, _counted: Counted::running() });
        }
        let _place = self.wait()?;
        match timeout_at(deadline, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Permit { _running: permit, _counted: Counted::running() }),
            Ok(Err(_closed)) => {
                metrics::request_rejected(Rejection::ShuttingDown);
                Err(ApiError::ShuttingDown)
            }
            Err(_elapsed) => {
                metrics::request_rejected(Rejection::Deadline);
                Err(ApiError::Deadline)
            }
        }
    }

    /// Whether new requests are refused since the server is shutting down.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Refuses new requests; those inside and in the queue continue.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Resolves when no request is inside or in the queue.
    pub async fn empty(&self) {
        let all = u32::try_from(self.max_running).unwrap_or(u32::MAX);
        // Semaphores are fair: this comes after all that wait. An error means that it was closed, so none is left.
        drop(self.running.acquire_many(all).await);
    }

    fn wait(&self) -> Result<Place<'_>, ApiError> {
        let enough_room = |waiting: usize| (waiting < self.max_waiting).then_some(waiting + 1);
        match self.waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, enough_room) {
            Ok(_) => Ok(Place { waiting: &self.waiting, _counted: Counted::waiting() }),
            Err(waiting) => {
                metrics::request_rejected(Rejection::QueueFull);
                Err(ApiError::QueueFull(waiting))
            }
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    waiting: &'a AtomicUsize,
    _counted: Counted,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_runs_one_waits_the_third_is_refused() {
        let gate = Gate::new(1, 1);
        let soon = || Instant::now() + Duration::from_secs(1);
        let first = gate.enter(soon()).await.unwrap();
        let mut second = Box::pin(gate.enter(soon()));
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(gate.enter(soon()).await.err(), Some(ApiError::QueueFull(1)));
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(gate.enter(soon()).await.err(), Some(ApiError::Deadline));
        let mut empty = Box::pin(gate.empty());
        assert!(futures::poll!(&mut empty).is_pending());
        gate.close();
        assert_eq!(gate.enter(soon()).await.err(), Some(ApiError::ShuttingDown));
        drop(second);
        empty.await;
    }
}
