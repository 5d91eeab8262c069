//! The workers behind an engine: noticed when they panic or stall, and started again on the same weights.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio_util::sync::CancellationToken;

use super::adapter::Adapter;
use super::blocks::Prefix;
use super::compute::Compute;
use super::config::NativeConfig;
use super::job::Job;
use super::place::Place;
use super::scheduler::Scheduler;
use super::variant::{PrefixKeeper, Variant};
use crate::engine::EngineError;
use crate::engine::counters::EngineCounters;

/// The model with the threads that run it.
pub(super) struct Runtime {
    pub(super) model: Arc<Compute>,
    pub(super) counters: Arc<EngineCounters>,
    config: NativeConfig,
    scheduler: Mutex<Arc<Scheduler>>,
    roots: AtomicU64,
    waiting: Arc<AtomicUsize>,
    /// Dropped with the engine, which ends the thread that watches.
    _watched: mpsc::Sender<()>,
}

impl Runtime {
    /// Starts the threads, and one that watches over them.
    pub(super) fn start(model: Compute, config: NativeConfig) -> io::Result<Arc<Self>> {
        let (model, counters) = (Arc::new(model), Arc::<EngineCounters>::default());
        let scheduler = Mutex::new(Scheduler::start(model.clone(), counters.clone(), config.clone())?);
        let (roots, waiting) = (AtomicU64::new(0), Arc::default());
        let (_watched, end) = mpsc::channel();
        let runtime = Arc::new(Self { model, counters, config, scheduler, roots, waiting, _watched });
        let (watched, interval) = (Arc::downgrade(&runtime), runtime.config.stall / 8);
        thread::Builder::new().name("spar-native-watch".into()).spawn(move || watch(&watched, &end, interval))?;
        Ok(runtime)
    }

    fn scheduler(&self) -> MutexGuard<'_, Arc<Scheduler>> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weights with this adapter, with a root of their own for prefixes.
    pub(super) fn variant(self: &Arc<Self>, adapter: Option<Adapter>) -> Arc<Variant> {
        let root = Prefix::root(self.roots.fetch_add(1, Ordering::Relaxed));
        Variant::new(Arc::<Self>::clone(self), root, adapter)
    }

    /// A place in the line, if it is not full.
    pub(super) fn place(&self, replies: usize) -> Result<Place, EngineError> {
        Place::take(&self.waiting, replies, self.config.max_waiting)
    }

    /// Hands a job to the threads; the token is cancelled if they are lost.
    pub(super) fn submit(&self, job: Job) -> Result<CancellationToken, EngineError> {
        let mut scheduler = self.scheduler();
        if scheduler.lost.is_cancelled() {
            self.restart(&mut scheduler)?;
        }
        scheduler.submit(job);
        Ok(scheduler.lost.clone())
    }

    #[cfg(test)]
    pub(super) fn fail(&self, fault: impl FnOnce() + Send + 'static) {
        self.scheduler().fail(fault);
    }

    /// Whether the threads do what there is to do.
    pub(super) fn health(&self) -> Result<(), EngineError> {
        let scheduler = self.scheduler().clone();
        if scheduler.lost.is_cancelled() {
            return Err(EngineError::Unavailable("the native engine's threads are lost".into()));
        }
        let silence = scheduler.silence();
        if silence > self.config.stall / 4 {
            let seconds = silence.as_secs_f64();
            return Err(EngineError::Unavailable(format!("the native engine has made no step for {seconds:.1} s")));
        }
        Ok(())
    }

    fn restart(&self, scheduler: &mut Arc<Scheduler>) -> Result<(), EngineError> {
        scheduler.abandon();
        let failed =
            |error| EngineError::Unavailable(format!("the native engine's threads cannot be started again: {error}"));
        *scheduler =
            Scheduler::start(self.model.clone(), self.counters.clone(), self.config.clone()).map_err(failed)?;
        self.counters.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the native engine serves again");
        Ok(())
    }
}

impl PrefixKeeper for Runtime {
    fn forget(&self, root: Prefix) {
        let scheduler = self.scheduler().clone();
        scheduler.forget(root);
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.scheduler().close();
    }
}

/// Replaces workers that panicked or stalled. Ends with the engine.
fn watch(runtime: &Weak<Runtime>, end: &mpsc::Receiver<()>, interval: Duration) {
    let (mut excuse, mut looked) = (Excuse::default(), Instant::now());
    while end.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
        let Some(runtime) = runtime.upgrade() else { return };
        let mut scheduler = runtime.scheduler();
        let gap = looked.elapsed();
        looked += gap;
        let silence = excuse.taken(scheduler.silence(), gap, interval);
        let stuck = silence > runtime.config.stall;
        if stuck {
            tracing::error!(?silence, "the native engine stands still; its replies fail");
        }
        if (stuck || scheduler.lost.is_cancelled())
            && let Err(error) = runtime.restart(&mut scheduler)
        {
            tracing::error!(%error, "the native engine is down");
        }
    }
}

/// Time in which the whole process was stopped (by a signal, or the machine slept), which is not the threads' fault.
#[derive(Default)]
struct Excuse(Duration);

impl Excuse {
    /// The rest of a silence that counts as a stall, checked `gap` after the last time where `interval` was meant.
    fn taken(&mut self, silence: Duration, gap: Duration, interval: Duration) -> Duration {
        let stood = gap.saturating_sub(interval * 2);
        // A step was made since the last check, so an earlier stall is over.
        self.0 = if silence < gap { stood } else { self.0 + stood };
        silence.saturating_sub(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_which_the_process_stood_is_no_silence() {
        // Each check has the silence, the gap since the last check, and what counts as a stall. An interval is 10.
        let table: [(&str, &[[u64; 3]]); 5] = [
            ("steps", &[[1, 10, 1], [9, 10, 9]]),
            ("a hang", &[[5, 10, 5], [15, 10, 15], [95, 10, 95]]),
            ("stopped", &[[5, 10, 5], [505, 500, 25], [515, 10, 35], [1, 10, 1], [15, 10, 15]]),
            ("stopped right after a step", &[[5, 10, 5], [499, 500, 19], [509, 10, 29]]),
            ("stopped twice in a hang", &[[5, 10, 5], [105, 100, 25], [205, 100, 45], [285, 10, 125]]),
        ];
        for (name, looks) in table {
            let mut excuse = Excuse::default();
            for &[silence, gap, counts] in looks {
                let [silence, gap, counts, interval] = [silence, gap, counts, 10].map(Duration::from_secs);
                assert_eq!(excuse.taken(silence, gap, interval), counts, "{name}");
            }
        }
    }
}
