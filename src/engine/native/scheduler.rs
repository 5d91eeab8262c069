//! The thread that owns all running sequences: admits requests, deals the work of each step to workers, keeps prefixes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use futures::channel::{mpsc, oneshot};

use super::NativeConfig;
use super::blocks::{BlockPool, PrefixTree};
use super::model::Model;
use super::runtime::{Message, Place, Pulse};
use super::sequence::{RunningReply, Scoring, Sequence, Shard};
use super::variant::Variant;
use crate::engine::counters::EngineCounters;
use crate::engine::writer::Writer;
use crate::engine::{Chunk, EngineError};

/// A request that is ready to run.
pub(super) struct Job {
    /// The weights that compute it.
    pub(super) variant: Arc<Variant>,
    /// Plain answers go before judging and refining.
    pub(super) plain: bool,
    pub(super) prompt: Vec<u32>,
    pub(super) replies: Vec<Writer>,
    /// Where the prompt is scored, without replies.
    pub(super) scoring: Option<Scoring>,
    pub(super) started: oneshot::Sender<Started>,
    pub(super) place: Place,
}

/// What an admitted request gets.
pub(super) struct Started {
    pub(super) cached_tokens: usize,
    pub(super) replies: Vec<mpsc::UnboundedReceiver<Result<Chunk, EngineError>>>,
}

/// Starts the owner thread; it ends when the sender is dropped and no reply is left.
pub(super) fn spawn(
    model: Arc<Model>,
    counters: Arc<EngineCounters>,
    config: NativeConfig,
    pulse: Arc<Pulse>,
) -> std::io::Result<Sender<Message>> {
    let (messages, inbox) = channel();
    let pool = BlockPool::new(model.block_shape(), counters.clone());
    let worker = |_| Worker::spawn(model.clone(), pool.clone(), config.step_rows);
    let scheduler = Scheduler {
        tree: PrefixTree::new(config.cache_bytes, model.block_shape(), counters.clone()),
        shards: (0..config.threads.max(1)).map(|_| Shard::default()).collect(),
        waiting: [VecDeque::new(), VecDeque::new()],
        workers: (1..config.threads).map(worker).collect::<Result<_, _>>()?,
        model,
        counters,
        config,
        pool,
        pulse,
    };
    thread::Builder::new().name("spar-native".into()).spawn(move || {
        let alarm = Alarm(scheduler.pulse.clone());
        if scheduler.run(&inbox).is_ok() {
            std::mem::forget(alarm);
        }
    })?;
    Ok(messages)
}

/// Dropped when the owner thread panics or gives up.
struct Alarm(Arc<Pulse>);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.lost.cancel();
    }
}

/// A thread that steps a shard and hands it back.
struct Worker {
    work: Sender<Shard>,
    done: Receiver<Shard>,
}

impl Worker {
    fn spawn(model: Arc<Model>, pool: Arc<BlockPool>, step_rows: usize) -> std::io::Result<Self> {
        let (work, shards) = channel::<Shard>();
        let (finished, done) = channel();
        let run = move || {
            for mut shard in shards {
                shard.step(&model, &pool, step_rows);
                if finished.send(shard).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("spar-native-worker".into()).spawn(run)?;
        Ok(Self { work, done })
    }
}

/// A worker is gone: it panicked, which the panic hook has told.
struct WorkerLost;

struct Scheduler {
    model: Arc<Model>,
    counters: Arc<EngineCounters>,
    config: NativeConfig,
    tree: PrefixTree,
    pool: Arc<BlockPool>,
    /// The first is this thread's own, the others the workers'.
    shards: Vec<Shard>,
    workers: Vec<Worker>,
    /// Plain requests, and the rest.
    waiting: [VecDeque<Job>; 2],
    pulse: Arc<Pulse>,
}

impl Scheduler {
    /// Dropping the scheduler drops every reply's sender: listeners see the end of their stream.
    fn run(mut self, inbox: &Receiver<Message>) -> Result<(), WorkerLost> {
        // A run that was given up as stuck and goes on after all has been replaced.
        while !self.pulse.lost.is_cancelled() {
            let idle = self.running() == 0 && self.waiting.iter().all(VecDeque::is_empty);
            if idle {
                self.pulse.rest();
                let Ok(message) = inbox.recv() else { return Ok(()) };
                self.pulse.beat();
                self.take(message);
            }
            while let Ok(message) = inbox.try_recv() {
                self.take(message);
            }
            self.admit();
            self.step().inspect_err(|_| tracing::error!("a worker of the native engine was lost"))?;
            self.pulse.beat();
        }
        Ok(())
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Job(job) => self.waiting[usize::from(!job.plain)].push_back(job),
            Message::Forget(root) => self.tree.forget(root),
            #[cfg(test)]
            Message::Fault(fault) => fault(),
        }
    }

    fn running(&self) -> usize {
        self.shards.iter().map(|shard| shard.replies()).sum()
    }

    /// Starts requests in order while all of their replies fit; a request alone always fits.
    fn admit(&mut self) {
        for class in 0..self.waiting.len() {
            self.waiting[class].retain(|job| !job.started.is_canceled());
            while let Some(job) = self.waiting[class].front() {
                let running = self.running();
                if running > 0 && running + job.replies.len() > self.config.max_replies {
                    return;
                }
                let Some(job) = self.waiting[class].pop_front() else { return };
                self.start(job);
            }
        }
    }

    fn start(&mut self, job: Job) {
        let mut sequence = Sequence {
            variant: job.variant,
            prompt: job.prompt.len(),
            tokens: job.prompt,
            computed: 0,
            blocks: Vec::new(),
            kept: Vec::new(),
            replies: Vec::new(),
            scoring: job.scoring,
        };
        sequence.reuse(&mut self.tree);
        self.note_reused(sequence.computed);
        let mut started = Started { cached_tokens: sequence.computed, replies: Vec::new() };
        for writer in job.replies {
            let (chunks, listener) = mpsc::unbounded();
            sequence.replies.push(RunningReply { writer, chunks });
            started.replies.push(listener);
        }
        drop(job.place);
        // A caller that has gone drops the listeners with the message, and the sequence is forgotten at the next step.
        if job.started.send(started).is_ok()
            && let Some(shard) = self.shards.iter_mut().min_by_key(|shard| shard.replies())
        {
            shard.sequences.push(sequence);
        }
    }

    fn note_reused(&self, tokens: usize) {
        self.counters.prompt_tokens_reused.fetch_add(tokens as u64, Ordering::Relaxed);
    }

    fn step(&mut self) -> Result<(), WorkerLost> {
        let mut reused = 0;
        for shard in &mut self.shards {
            for sequence in shard.sequences.iter_mut().filter(|s| s.tokens.len() > s.computed + 1) {
                let before = sequence.computed;
                sequence.reuse(&mut self.tree);
                reused += sequence.computed - before;
            }
        }
        self.note_reused(reused);
        self.balance();
        let mut away = Vec::new();
        for (index, worker) in (1..).zip(&self.workers) {
            if !self.shards[index].sequences.is_empty() {
                worker.work.send(std::mem::take(&mut self.shards[index])).map_err(|_| WorkerLost)?;
                away.push((index, worker));
            }
        }
        self.shards[0].step(&self.model, &self.pool, self.config.step_rows);
        for (index, worker) in away {
            self.shards[index] = worker.done.recv().map_err(|_| WorkerLost)?;
        }
        for shard in &mut self.shards {
            for sequence in &mut shard.sequences {
                sequence.keep(&mut self.tree);
            }
            shard.forget_unheard();
            let computed = std::mem::take(&mut shard.prompt_tokens) as u64;
            self.counters.prompt_tokens_computed.fetch_add(computed, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Moves sequences until no shard has two more than another.
    fn balance(&mut self) {
        loop {
            let size = |&i: &usize| self.shards[i].sequences.len();
            let (Some(least), Some(most)) =
                ((0..self.shards.len()).min_by_key(size), (0..self.shards.len()).max_by_key(size))
            else {
                return;
            };
            if size(&most) < size(&least) + 2 {
                return;
            }
            if let Some(sequence) = self.shards[most].sequences.pop() {
                self.shards[least].sequences.push(sequence);
            }
        }
    }
}
