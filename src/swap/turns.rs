//! Whose turn it is to change what is live: one order at a time, each with a deadline, and a rollback ends a swap that runs. A
//! step that hangs is left behind, so that it holds up nothing else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::order::SwapError;

/// Turns, one after another.
#[derive(Default)]
pub(super) struct Turns {
    busy: Arc<tokio::sync::Mutex<()>>,
    /// What ends the swap that runs. A rollback has none: nobody ends it.
    running: Arc<Mutex<Option<CancellationToken>>>,
}

/// Somebody's turn, until it is dropped.
pub(super) struct Turn {
    _busy: OwnedMutexGuard<()>,
    running: Arc<Mutex<Option<CancellationToken>>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        *lock(&self.running) = None;
    }
}

/// How long somebody may work, and what ends it before.
#[derive(Clone)]
pub(super) struct Limit {
    time: Duration,
    deadline: Instant,
    /// Cancelled when nobody waits for the work any longer: threads that do it look at this.
    pub(super) stop: CancellationToken,
}

impl Turns {
    /// A turn for a swap, if nothing else runs.
    pub(super) fn swap(&self, time: Duration) -> Result<(Turn, Limit), SwapError> {
        let busy = Arc::clone(&self.busy).try_lock_owned().map_err(|_| SwapError::Busy)?;
        let limit = Limit::new(time);
        *lock(&self.running) = Some(limit.stop.clone());
        Ok((Turn { _busy: busy, running: Arc::clone(&self.running) }, limit))
    }

    /// A turn for a rollback: a swap that runs is ended, and has left everything as it was before the rollback begins.
    pub(super) async fn rollback(&self, time: Duration) -> Result<(Turn, Limit), SwapError> {
        let busy = match Arc::clone(&self.busy).try_lock_owned() {
            Ok(busy) => busy,
            Err(_) => {
                lock(&self.running).as_ref().ok_or(SwapError::Busy)?.cancel();
                let next = Arc::clone(&self.busy).lock_owned();
                timeout(time, next).await.map_err(|_| SwapError::Busy)?
            }
        };
        Ok((Turn { _busy: busy, running: Arc::clone(&self.running) }, Limit::new(time)))
    }
}

impl Limit {
    fn new(time: Duration) -> Self {
        Self { time, deadline: Instant::now() + time, stop: CancellationToken::new() }
    }

    /// Why nothing more is to be done, if that is so.
    pub(super) fn over(&self) -> Option<SwapError> {
        if self.stop.is_cancelled() {
            return Some(SwapError::Ended);
        }
        (Instant::now() >= self.deadline).then(|| self.timed_out())
    }

    /// What comes of a step, unless it takes too long or nobody wants it any longer.
    pub(super) async fn within<T>(&self, step: impl Future<Output = Result<T, SwapError>>) -> Result<T, SwapError> {
        tokio::select! {
            biased;
            done = step => done,
            () = self.stop.cancelled() => Err(SwapError::Ended),
            () = sleep_until(self.deadline) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> SwapError {
        self.stop.cancel();
        SwapError::TimedOut(self.time)
    }
}

fn lock(running: &Mutex<Option<CancellationToken>>) -> MutexGuard<'_, Option<CancellationToken>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const LONG: Duration = Duration::from_secs(1000);

    #[tokio::test(start_paused = true)]
    async fn a_step_that_hangs_is_left_behind() {
        let turns = Turns::default();
        let (turn, limit) = turns.swap(Duration::from_secs(3)).unwrap();
        assert_eq!(limit.within(async { Ok(1) }).await, Ok(1));
        assert_eq!(limit.within(pending::<Result<(), _>>()).await, Err(SwapError::TimedOut(Duration::from_secs(3))));
        assert!(limit.stop.is_cancelled() && limit.over().is_some());
        assert!(matches!(turns.swap(LONG), Err(SwapError::Busy)));
        drop(turn);
        assert!(turns.swap(LONG).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_rollback_ends_a_swap_and_nothing_ends_a_rollback() {
        let turns = Arc::new(Turns::default());
        let (turn, limit) = turns.swap(LONG).unwrap();
        let swap = tokio::spawn(async move {
            let ended = limit.within(pending::<Result<(), _>>()).await;
            drop(turn);
            ended
        });
        let (turn, limit) = turns.rollback(LONG).await.unwrap();
        assert_eq!(swap.await.unwrap(), Err(SwapError::Ended));
        assert!(limit.over().is_none());
        assert!(matches!(turns.rollback(LONG).await, Err(SwapError::Busy)));
        assert!(matches!(turns.swap(LONG), Err(SwapError::Busy)));
        drop(turn);
        assert!(turns.swap(LONG).is_ok());
    }
}
