//! What the computing threads share: requests in line, kept prefixes, and sequences that change threads. Each thread steps
//! its own sequences at its own pace and comes here between steps.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use std::{io, thread};

use futures::channel::mpsc;
use tokio_util::sync::CancellationToken;

use super::blocks::{BlockPool, Prefix, PrefixTree};
use super::callers::ByCaller;
use super::compute::Compute;
use super::config::NativeConfig;
use super::job::{Job, Started};
use super::lookup::Lookup;
use super::sequence::{RunningReply, Sequence};
use super::shard::Shard;
use super::variant::Variant;
use crate::engine::counters::EngineCounters;
use crate::engine::{Purpose, Waits};
use crate::kernels::team::Team;

/// Bytes of weights from which on a model is large: more than the caches hold.
const LARGE: usize = 64 << 20;

/// One run of the threads.
pub(super) struct Scheduler {
    model: Arc<Compute>,
    counters: Arc<EngineCounters>,
    config: NativeConfig,
    pool: Arc<BlockPool>,
    state: Mutex<State>,
    /// Rung when there is something to do for a thread that waits.
    bell: Condvar,
    pulses: Vec<Pulse>,
    begun: Instant,
    /// Cancelled when this run is over before its time: its replies fail.
    pub(super) lost: CancellationToken,
}

struct State {
    tree: PrefixTree,
    /// Requests that were ever begun.
    admitted: u64,
    /// Plain requests, and the rest.
    waiting: [VecDeque<Job>; 2],
    threads: Vec<Load>,
    /// The engine is not wanted any more; what runs may end.
    closed: bool,
    #[cfg(test)]
    fault: Option<Box<dyn FnOnce() + Send>>,
}

/// What a thread has to do, as of its last visit.
#[derive(Default)]
struct Load {
    sequences: usize,
    replies: usize,
    callers: ByCaller,
    /// Whether plain replies run on it.
    plain: bool,
    /// Sequences that were sent to it and have not arrived.
    coming: Vec<Sequence>,
}

/// A thread's signs of life.
#[derive(Default)]
struct Pulse {
    /// Milliseconds from the beginning to the last step.
    last_step: AtomicU64,
    busy: AtomicBool,
}

impl Scheduler {
    /// Starts the threads.
    pub(super) fn start(
        model: Arc<Compute>,
        counters: Arc<EngineCounters>,
        config: NativeConfig,
    ) -> io::Result<Arc<Self>> {
        // A large model waits for memory, so that threads are better used on one token's products than on several tokens. Where a
        // device computes these, they draw tokens.
        let one = model.on_device() || model.bytes() >= LARGE;
        let team = if one && config.threads > 1 { Some(Arc::new(Team::new(config.threads)?)) } else { None };
        let threads = if team.is_some() || model.on_device() { 1 } else { config.threads.max(1) };
        let kept = config.cache_bytes / model.block_bytes();
        counters.block_bytes.store(model.block_bytes(), Ordering::Relaxed);
        counters.most_kept.store(kept, Ordering::Relaxed);
        let pool = model.pool(kept, counters.clone());
        let per_reply = model.config.context.div_ceil(super::blocks::BLOCK).max(1);
        let most = pool.free().unwrap_or(per_reply.saturating_mul(config.max_replies));
        counters.most_running.store(most, Ordering::Relaxed);
        let scheduler = Arc::new(Self {
            pool,
            state: Mutex::new(State {
                tree: PrefixTree::new(kept, counters.clone()),
                admitted: 0,
                waiting: [VecDeque::new(), VecDeque::new()],
                threads: (0..threads).map(|_| Load::default()).collect(),
                closed: false,
                #[cfg(test)]
                fault: None,
            }),
            bell: Condvar::new(),
            pulses: (0..threads).map(|_| Pulse::default()).collect(),
            begun: Instant::now(),
            lost: CancellationToken::new(),
            model,
            counters,
            config,
        });
        for index in 0..threads {
            let shard = Shard::new(&scheduler.model, &scheduler.pool, team.clone());
            let (own, shard) = (scheduler.clone(), shard.map_err(io::Error::other)?);
            let work = move || Alarm(own).0.work(index, shard);
            let spawned = thread::Builder::new().name("spar-native".into()).spawn(work);
            spawned.inspect_err(|_| scheduler.abandon())?;
        }
        Ok(scheduler)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a request in line.
    pub(super) fn submit(&self, job: Job) {
        self.state().waiting[usize::from(!job.is_plain())].push_back(job);
        self.bell.notify_all();
    }

    /// Drops the prefixes below a root. It locks the state, so calling it with the lock held is a deadlock.
    pub(super) fn forget(&self, root: Prefix) {
        self.state().tree.forget(root);
    }

    /// Lets the threads end when nothing runs.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.bell.notify_all();
    }

    /// Ends the threads as soon as they notice; replies fail at once.
    pub(super) fn abandon(&self) {
        self.lost.cancel();
        drop(self.state());
        self.bell.notify_all();
    }

    #[cfg(test)]
    pub(super) fn fail(&self, fault: impl FnOnce() + Send + 'static) {
        self.state().fault = Some(Box::new(fault));
        self.bell.notify_all();
    }

    /// How long a thread has had work without making a step, at most.
    pub(super) fn silence(&self) -> Duration {
        let silence = |pulse: &Pulse| {
            let last = Duration::from_millis(pulse.last_step.load(Ordering::Relaxed));
            if pulse.busy.load(Ordering::Relaxed) { self.begun.elapsed().saturating_sub(last) } else { Duration::ZERO }
        };
        self.pulses.iter().map(silence).max().unwrap_or_default()
    }

    fn beat(&self, index: usize) {
        let pulse = &self.pulses[index];
        pulse.last_step.store(self.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
        pulse.busy.store(true, Ordering::Relaxed);
    }

    /// A thread's life: between steps it keeps what was computed, takes and gives work, and rests when there is none.
    fn work(&self, index: usize, mut shard: Shard) {
        let mut gone = Vec::new();
        while self.visit(index, &mut shard, &mut gone) {
            // Here, because the last of a set of weights has its prefixes forgotten.
            gone.clear();
            if let Err(error) = shard.step(&self.model, &self.pool, self.config.step_rows) {
                tracing::error!(error, "a step of the native engine failed");
                return self.abandon();
            }
            let computed = std::mem::take(&mut shard.prompt_tokens) as u64;
            self.counters.prompt_tokens_computed.fetch_add(computed, Ordering::Relaxed);
            let [accepted, rejected] = std::mem::take(&mut shard.speculated).map(|tokens| tokens as u64);
            self.counters.speculated_accepted.fetch_add(accepted, Ordering::Relaxed);
            self.counters.speculated_rejected.fetch_add(rejected, Ordering::Relaxed);
            shard.forget_unheard();
            self.beat(index);
        }
    }

    /// False when the thread's work is over. `gone` holds weights that must not be dropped while the state is held.
    fn visit(&self, index: usize, shard: &mut Shard, gone: &mut Vec<Arc<Variant>>) -> bool {
        let mut state = self.state();
        for sequence in &mut shard.sequences {
            sequence.keep(&mut state.tree);
        }
        for mut sequence in shard.ended.drain(..) {
            sequence.keep_all(&mut state.tree);
            gone.push(sequence.variant);
        }
        loop {
            if self.lost.is_cancelled() {
                return false;
            }
            #[cfg(test)]
            if let Some(fault) = state.fault.take() {
                self.beat(index);
                drop(state);
                fault();
                state = self.state();
                continue;
            }
            shard.sequences.append(&mut state.threads[index].coming);
            state.note(index, shard);
            self.admit(&mut state, index, shard, gone);
            if state.share(index, shard) {
                self.bell.notify_all();
            }
            if !shard.sequences.is_empty() {
                break;
            }
            if !gone.is_empty() {
                drop(state);
                gone.clear();
                state = self.state();
                continue;
            }
            if state.closed {
                return false;
            }
            self.pulses[index].busy.store(false, Ordering::Relaxed);
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.beat(index);
        if let Some(free) = self.pool.free() {
            let due = shard.blocks_due(self.config.step_rows);
            state.tree.release(due.saturating_sub(free));
        }
        let mut reused = 0;
        for sequence in shard.sequences.iter_mut().filter(|s| s.tokens.len() > s.computed + 1) {
            let before = sequence.computed;
            sequence.reuse(&mut state.tree);
            reused += sequence.computed - before;
        }
        self.counters.prompt_tokens_reused.fetch_add(reused as u64, Ordering::Relaxed);
        true
    }

    /// Starts requests while all of their replies fit, and this thread has the least to do; a request alone always fits. Callers
    /// take turns, and none of them may have everything. Requests of searches leave room, so that a plain request need not wait
    /// for one of them to end.
    fn admit(&self, state: &mut State, index: usize, shard: &mut Shard, gone: &mut Vec<Arc<Variant>>) {
        for class in 0..state.waiting.len() {
            state.waiting[class].retain(|job| {
                let wanted = !job.started.is_canceled();
                if !wanted {
                    gone.push(job.variant.clone());
                }
                wanted
            });
            while let Some(next) = state.next(class, self.config.max_replies_of_one()) {
                let job = &state.waiting[class][next];
                let running: usize = state.threads.iter().map(|thread| thread.replies).sum();
                let room = match job.origin.waits {
                    Waits::Plain => self.config.max_replies,
                    Waits::Search => self.config.max_search_replies(),
                };
                if running > 0 && running + job.places() > room {
                    return;
                }
                if state.threads.iter().any(|thread| thread.replies < state.threads[index].replies) {
                    return;
                }
                let Some(job) = state.waiting[class].remove(next) else { return };
                gone.push(job.variant.clone());
                if let Some(mut sequence) = self.begin(job, &mut state.tree) {
                    state.admitted += 1;
                    sequence.born = state.admitted;
                    shard.sequences.push(sequence);
                }
                state.note(index, shard);
            }
        }
    }

    /// Refinements repeat much of what their prompts say.
    fn lookup(&self, purpose: Purpose) -> Option<Lookup> {
        let speculates = purpose == Purpose::Refine && self.config.speculate > 0 && !self.model.on_device();
        speculates.then(|| Lookup::new(self.config.speculate))
    }

    /// `None` when the caller has disconnected.
    fn begin(&self, job: Job, tree: &mut PrefixTree) -> Option<Sequence> {
        let mut sequence = Sequence {
            plain: job.is_plain(),
            caller: job.origin.caller,
            told: job.purpose == Purpose::Answer,
            root: job.variant.root.within(job.origin.namespace),
            variant: job.variant,
            lookup: self.lookup(job.purpose).map(Box::new),
            born: 0,
            served: 0,
            prompt: job.prompt.len(),
            tokens: job.prompt,
            computed: 0,
            blocks: Vec::new(),
            kept: Vec::new(),
            replies: Vec::new(),
            scoring: job.scoring,
            pooled: job.pooled,
            reading: job.reading,
            goes_on: false,
        };
        sequence.reuse(tree);
        self.counters.prompt_tokens_reused.fetch_add(sequence.computed as u64, Ordering::Relaxed);
        let mut started = Started { cached_tokens: sequence.computed, replies: Vec::new() };
        for writer in job.replies {
            let (chunks, listener) = mpsc::unbounded();
            sequence.replies.push(RunningReply::new(writer, chunks));
            started.replies.push(listener);
        }
        drop(job.place);
        job.started.send(started).is_ok().then_some(sequence)
    }
}

impl State {
    fn note(&mut self, index: usize, shard: &Shard) {
        let thread = &mut self.threads[index];
        thread.sequences = shard.sequences.len();
        thread.replies = shard.replies();
        thread.plain = shard.sequences.iter().any(|sequence| sequence.plain);
        thread.callers.clear();
        shard.sequences.iter().for_each(|sequence| thread.callers.add(sequence.caller, sequence.places()));
    }

    /// Which of the waiting requests of a class begins next, where no caller may have more than `most` replies.
    fn next(&self, class: usize, most: usize) -> Option<usize> {
        let waiting = &self.waiting[class];
        if waiting.is_empty() {
            return None;
        }
        let mut running = ByCaller::default();
        self.threads.iter().for_each(|thread| running.add_all(&thread.callers));
        running.next(waiting.iter().map(|job| (job.origin.caller, job.places())), most)
    }

    /// Gives sequences to threads that have less to do. Returns whether something was given.
    fn share(&mut self, index: usize, shard: &mut Shard) -> bool {
        let mut given = false;
        while let Some((to, which)) = self.surplus(index, shard) {
            let sequence = shard.sequences.remove(which);
            let other = &mut self.threads[to];
            other.sequences += 1;
            other.replies += sequence.replies.len();
            other.callers.add(sequence.caller, sequence.places());
            other.plain |= sequence.plain;
            other.coming.push(sequence);
            self.note(index, shard);
            given = true;
        }
        given
    }

    /// A thread that should have more to do, and the sequence that it should be given. Searches keep to threads without
    /// plain replies where there are any; within a kind of threads, none has two more than another.
    fn surplus(&self, index: usize, shard: &Shard) -> Option<(usize, usize)> {
        let least = |plain: bool| {
            let others = self.threads.iter().enumerate().filter(|(other, _)| *other != index);
            others.filter(|(_, thread)| thread.plain == plain).min_by_key(|(_, thread)| thread.sequences)
        };
        let own = &self.threads[index];
        let (to, other) = match (own.plain, least(false)) {
            (true, Some((quiet, thread))) => match shard.sequences.iter().rposition(|sequence| !sequence.plain) {
                Some(search) => return Some((quiet, search)),
                None if thread.sequences == 0 => (quiet, thread),
                None => return None,
            },
            (true, None) => least(true)?,
            (false, quiet) => quiet?,
        };
        (own.sequences >= other.sequences + 2).then(|| (to, shard.sequences.len() - 1))
    }
}

/// Held by a thread; reports when it panics.
struct Alarm(Arc<Scheduler>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a thread of the native engine was lost");
            self.0.abandon();
        }
    }
}
