//! Threads that compile: few at once, with room for deep recursion, and never in the way of the process's end.
//!
//! A compilation cannot be interrupted. Each has a thread of its own, which nothing waits for when the process ends, and
//! whose stack is given back with it. One that takes far too long does not keep its place, so that a few bad grammars do
//! not leave everybody else without.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Address space for the stack of a compilation; only what is used of it becomes memory. The compiler recurses once per
/// schema behind a reference and takes up to 8 KiB each time.
const STACK: usize = 256 << 20;
/// The time after which a compilation loses its place to others, though it continues.
const OVERDUE: Duration = Duration::from_secs(15);
/// How many compilations may continue without a place.
const MOST_OVERDUE: usize = 4;
/// How often a request that waits for a place looks for overdue compilations.
const LOOK: Duration = Duration::from_secs(1);

/// The threads of this process.
pub static POOL: LazyLock<Pool> =
    LazyLock::new(|| Pool::new(thread::available_parallelism().map_or(2, usize::from).clamp(2, 4)));

/// A bound on compilations at once.
pub struct Pool {
    places: Arc<Semaphore>,
    running: Mutex<Vec<Weak<Place>>>,
    overdue: Arc<AtomicUsize>,
}

/// The right to compile. It ends when it is dropped, or when the compilation is overdue.
pub struct Place {
    since: Instant,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
    overdue: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.permit.get_mut().unwrap_or_else(PoisonError::into_inner).is_none() {
            self.overdue.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Pool {
    /// A pool of at most `places` compilations at once.
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), running: Mutex::default(), overdue: Arc::default() }
    }

    /// Waits for a place.
    pub async fn place(&self) -> Arc<Place> {
        loop {
            self.write_off(OVERDUE);
            if let Ok(permit) = timeout(LOOK, Arc::clone(&self.places).acquire_owned()).await {
                let permit = Mutex::new(Some(permit.expect("the semaphore is never closed")));
                let place = Arc::new(Place { since: Instant::now(), permit, overdue: Arc::clone(&self.overdue) });
                let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
                running.retain(|place| place.strong_count() > 0);
                running.push(Arc::downgrade(&place));
                return place;
            }
        }
    }

    /// Takes their places from compilations that run for longer than `most`.
    fn write_off(&self, most: Duration) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for place in running.iter().filter_map(Weak::upgrade).filter(|place| place.since.elapsed() > most) {
            let mut permit = place.permit.lock().unwrap_or_else(PoisonError::into_inner);
            if permit.is_some() && self.overdue.load(Ordering::Relaxed) < MOST_OVERDUE {
                self.overdue.fetch_add(1, Ordering::Relaxed);
                *permit = None;
                let seconds = place.since.elapsed().as_secs();
                tracing::warn!(seconds, "a grammar still compiles; it no longer counts among those that may");
            }
        }
    }
}

/// Runs `job` on a thread of its own, which holds `place` until the job's end.
///
/// # Errors
/// The operating system gives no thread.
pub fn run(place: Arc<Place>, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let begin = move || {
        job();
        drop(place);
    };
    thread::Builder::new().name("spar-grammar".into()).stack_size(STACK).spawn(begin).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn places_are_few_and_an_overdue_compilation_loses_its_own() {
        let pool = Pool::new(1);
        let mut ends = Vec::new();
        for written_off in 0..=MOST_OVERDUE {
            let place = timeout(Duration::from_secs(5), pool.place()).await.unwrap();
            let (end, ended) = mpsc::channel::<()>();
            run(place, move || ended.recv().unwrap_or(())).unwrap();
            ends.push(end);
            assert!(timeout(Duration::from_millis(10), pool.place()).await.is_err(), "no place beside the one");
            pool.write_off(Duration::ZERO);
            let left = usize::from(written_off < MOST_OVERDUE);
            assert_eq!(pool.places.available_permits(), left, "{written_off} are overdue already");
        }
        drop(ends);
        while pool.overdue.load(Ordering::Relaxed) > 0 || pool.places.available_permits() == 0 {
            thread::yield_now();
        }
        assert_eq!(pool.places.available_permits(), 1, "who lost a place gives none back");
    }

    #[test]
    fn a_thread_has_room_for_deep_recursion() {
        fn deep(levels: usize) -> usize {
            let frame = std::hint::black_box([levels; 256]);
            if levels == 0 { frame[0] } else { deep(levels - 1) + std::hint::black_box(frame[1] - levels) }
        }
        let (said, says) = mpsc::channel();
        let pool = Pool::new(1);
        let place = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(pool.place());
        run(place, move || said.send(deep(15_000)).unwrap()).unwrap();
        assert_eq!(says.recv().unwrap(), 0);
    }
}
