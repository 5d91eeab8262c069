//! Work that computes for long without waiting, such as tokenizing a long prompt: it has threads of its own, and few of them,
//! so that workers which answer everybody else are never held up.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::sync::{Arc, OnceLock};
use std::thread::available_parallelism;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::EngineError;

/// Work on fewer bytes takes less time than giving it to another thread is worth.
pub const SHORT: usize = 4 << 10;
/// Work on more bytes takes so long that it has a lane of its own.
const LONG: usize = 256 << 10;

/// How much of each kind of work runs at the same time.
struct Lanes {
    middle: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

fn lanes() -> &'static Lanes {
    static LANES: OnceLock<Lanes> = OnceLock::new();
    LANES.get_or_init(|| {
        let processors = available_parallelism().map_or(1, NonZero::get);
        Lanes { middle: Arc::new(Semaphore::new(processors)), long: Arc::new(Semaphore::new((processors / 4).max(1))) }
    })
}

/// Runs `work`, which reads about `bytes` bytes of text, where it delays no other task. Work that has begun continues when its
/// caller no longer waits, and then still counts as running.
///
/// # Errors
/// Returns the errors of `work`, and [`EngineError::Unavailable`] where the process ends before it could begin.
pub async fn blocking<T, E>(bytes: usize, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<EngineError> + Send + 'static,
{
    if bytes < SHORT || Handle::try_current().is_err() {
        return work();
    }
    let lane = if bytes < LONG { &lanes().middle } else { &lanes().long };
    let permit = Arc::clone(lane).acquire_owned().await.expect("the lanes are never closed");
    let running = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    });
    match running.await {
        Ok(done) => done,
        Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
        Err(_) => Err(EngineError::Unavailable("the server is shutting down".into()).into()),
    }
}

#[cfg(test)]
mod tests {
    use std::thread::ThreadId;

    use super::*;

    #[tokio::test]
    async fn only_long_work_leaves_the_worker() {
        let own = std::thread::current().id();
        for (bytes, leaves) in [(10, false), (SHORT, true), (LONG, true)] {
            let thread: Result<ThreadId, EngineError> = blocking(bytes, || Ok(std::thread::current().id())).await;
            assert_eq!(thread.unwrap() != own, leaves, "{bytes}");
        }
        let failed: Result<(), EngineError> = blocking(LONG, || Err(EngineError::Invalid("so".into()))).await;
        assert_eq!(failed, Err(EngineError::Invalid("so".into())));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_still_has_its_place() {
        let room = lanes().long.available_permits();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let mut held = Box::pin(blocking(LONG, move || {
            wait.recv().ok();
            Ok::<_, EngineError>(())
        }));
        assert!(futures::poll!(&mut held).is_pending());
        drop(held);
        assert!(lanes().long.available_permits() < room);
        drop(go);
    }
}
