//! The threads behind an engine: noticed when they are lost or stand still, and started again on the same weights.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use std::{io, thread};

use tokio_util::sync::CancellationToken;

use super::NativeConfig;
use super::blocks::Prefix;
use super::model::Model;
use super::scheduler::{self, Job};
use crate::engine::EngineError;
use crate::engine::counters::EngineCounters;

/// What the owner thread is told.
pub(super) enum Message {
    Job(Job),
    /// The weights below this root are gone.
    Forget(Prefix),
    /// Something that the owner thread does not survive, or not in time.
    #[cfg(test)]
    Fault(Box<dyn FnOnce() + Send>),
}

/// The model with the threads that run it.
pub(super) struct Runtime {
    pub(super) model: Arc<Model>,
    pub(super) counters: Arc<EngineCounters>,
    config: NativeConfig,
    life: Mutex<Life>,
    roots: AtomicU64,
    waiting: Arc<AtomicUsize>,
}

/// One run of the threads.
#[derive(Clone)]
struct Life {
    messages: Sender<Message>,
    pulse: Arc<Pulse>,
}

/// Signs of life of the owner thread.
pub(super) struct Pulse {
    begun: Instant,
    /// Milliseconds from `begun` to the last step.
    last_step: AtomicU64,
    busy: AtomicBool,
    /// Cancelled when this run of the threads is over before its time: its replies fail.
    pub(super) lost: CancellationToken,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self {
            begun: Instant::now(),
            last_step: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            lost: CancellationToken::new(),
        }
    }

    /// Work begins or goes on.
    pub(super) fn beat(&self) {
        self.last_step.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.busy.store(true, Ordering::Relaxed);
    }

    /// There is nothing to do.
    pub(super) fn rest(&self) {
        self.busy.store(false, Ordering::Relaxed);
    }

    /// How long there is work without a step.
    fn silence(&self) -> Duration {
        let last = Duration::from_millis(self.last_step.load(Ordering::Relaxed));
        if self.busy.load(Ordering::Relaxed) { self.begun.elapsed().saturating_sub(last) } else { Duration::ZERO }
    }
}

/// A reply's place among those that wait to begin; given back when dropped.
pub(super) struct Place {
    waiting: Arc<AtomicUsize>,
    replies: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.replies, Ordering::Relaxed);
    }
}

impl Runtime {
    /// Starts the threads, and one that watches over them.
    pub(super) fn start(model: Model, config: NativeConfig) -> io::Result<Arc<Self>> {
        let (model, counters) = (Arc::new(model), Arc::<EngineCounters>::default());
        let life = Mutex::new(Life::start(&model, &counters, &config)?);
        let (roots, waiting) = (AtomicU64::new(0), Arc::default());
        let runtime = Arc::new(Self { model, counters, config, life, roots, waiting });
        let (watched, interval) = (Arc::downgrade(&runtime), runtime.config.stall / 8);
        thread::Builder::new().name("spar-native-watch".into()).spawn(move || watch(&watched, interval))?;
        Ok(runtime)
    }

    pub(super) fn next_root(&self) -> Prefix {
        Prefix::root(self.roots.fetch_add(1, Ordering::Relaxed))
    }

    /// A place in the line, if it is not full.
    pub(super) fn place(&self, replies: usize) -> Result<Place, EngineError> {
        let most = self.config.max_waiting;
        let admit = |waiting: usize| (waiting == 0 || waiting + replies <= most).then_some(waiting + replies);
        match self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admit) {
            Ok(_) => Ok(Place { waiting: self.waiting.clone(), replies }),
            Err(waiting) => Err(EngineError::Unavailable(format!("{waiting} replies wait already; try again later"))),
        }
    }

    /// Hands a job to the owner thread; the token is cancelled if that thread is lost.
    pub(super) fn submit(&self, job: Job) -> Result<CancellationToken, EngineError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if life.pulse.lost.is_cancelled() {
            self.restart(&mut life)?;
        }
        let Err(unsent) = life.messages.send(Message::Job(job)) else { return Ok(life.pulse.lost.clone()) };
        self.restart(&mut life)?;
        let gone = |_| EngineError::Unavailable("the native engine's threads end at once".into());
        life.messages.send(unsent.0).map(|()| life.pulse.lost.clone()).map_err(gone)
    }

    #[cfg(test)]
    pub(super) fn fail(&self, fault: impl FnOnce() + Send + 'static) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.messages.send(Message::Fault(Box::new(fault))).ok();
    }

    /// Drops the prefixes below a root.
    pub(super) fn forget(&self, root: Prefix) {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        // Threads that are gone took their prefixes with them.
        life.messages.send(Message::Forget(root)).ok();
    }

    /// Whether the threads do what there is to do.
    pub(super) fn health(&self) -> Result<(), EngineError> {
        let life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = life.pulse.silence();
        if life.pulse.lost.is_cancelled() {
            return Err(EngineError::Unavailable("the native engine's threads are lost".into()));
        }
        if silence > self.config.stall / 4 {
            let seconds = silence.as_secs_f64();
            return Err(EngineError::Unavailable(format!("the native engine has made no step for {seconds:.1} s")));
        }
        Ok(())
    }

    fn restart(&self, life: &mut Life) -> Result<(), EngineError> {
        life.pulse.lost.cancel();
        let failed =
            |error| EngineError::Unavailable(format!("the native engine's threads cannot be started again: {error}"));
        *life = Life::start(&self.model, &self.counters, &self.config).map_err(failed)?;
        self.counters.restarts.fetch_add(1, Ordering::Relaxed);
        tracing::warn!("the native engine serves again");
        Ok(())
    }
}

impl Life {
    fn start(model: &Arc<Model>, counters: &Arc<EngineCounters>, config: &NativeConfig) -> io::Result<Self> {
        let pulse = Arc::new(Pulse::new());
        let messages = scheduler::spawn(model.clone(), counters.clone(), config.clone(), pulse.clone())?;
        Ok(Self { messages, pulse })
    }
}

/// Replaces threads that are lost or stand still. Ends with the engine.
fn watch(runtime: &Weak<Runtime>, interval: Duration) {
    loop {
        thread::sleep(interval);
        let Some(runtime) = runtime.upgrade() else { return };
        let mut life = runtime.life.lock().unwrap_or_else(PoisonError::into_inner);
        let silence = life.pulse.silence();
        let stuck = silence > runtime.config.stall;
        if stuck {
            tracing::error!(?silence, "the native engine stands still; its replies fail");
        }
        if (stuck || life.pulse.lost.is_cancelled())
            && let Err(error) = runtime.restart(&mut life)
        {
            tracing::error!(%error, "the native engine is down");
        }
    }
}
