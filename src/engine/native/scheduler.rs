//! The thread that owns all running sequences: admits requests, deals the work of each step to workers, keeps prefixes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use futures::channel::{mpsc, oneshot};

use super::NativeConfig;
use super::blocks::PrefixTree;
use super::model::Model;
use super::sequence::{RunningReply, Sequence, Shard};
use crate::engine::sampling::Sampler;
use crate::engine::text::ReplyText;
use crate::engine::{Chunk, EngineError};

/// A request that is ready to run.
pub(super) struct Job {
    /// Plain answers go before judging and refining.
    pub(super) plain: bool,
    pub(super) prompt: Vec<u32>,
    pub(super) replies: Vec<(Sampler, ReplyText)>,
    pub(super) started: oneshot::Sender<Started>,
}

/// What an admitted request gets.
pub(super) struct Started {
    pub(super) cached_tokens: usize,
    pub(super) replies: Vec<mpsc::UnboundedReceiver<Result<Chunk, EngineError>>>,
}

/// Starts the owner thread; it ends when the sender is dropped and no reply is left.
pub(super) fn spawn(model: Model, config: NativeConfig) -> std::io::Result<Sender<Job>> {
    let (jobs, inbox) = channel();
    let model = Arc::new(model);
    let workers =
        (1..config.threads).map(|_| Worker::spawn(model.clone(), config.step_rows)).collect::<Result<_, _>>()?;
    let scheduler = Scheduler {
        tree: PrefixTree::new(config.cache_bytes, model.block_shape()),
        shards: (0..config.threads.max(1)).map(|_| Shard::default()).collect(),
        waiting: [VecDeque::new(), VecDeque::new()],
        model,
        config,
        workers,
    };
    thread::Builder::new().name("spar-native".into()).spawn(move || scheduler.run(&inbox))?;
    Ok(jobs)
}

/// A thread that steps a shard and hands it back.
struct Worker {
    work: Sender<Shard>,
    done: Receiver<Shard>,
}

impl Worker {
    fn spawn(model: Arc<Model>, step_rows: usize) -> std::io::Result<Self> {
        let (work, shards) = channel::<Shard>();
        let (finished, done) = channel();
        let run = move || {
            for mut shard in shards {
                shard.step(&model, step_rows);
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
    config: NativeConfig,
    tree: PrefixTree,
    /// The first is this thread's own, the others the workers'.
    shards: Vec<Shard>,
    workers: Vec<Worker>,
    /// Plain requests, and the rest.
    waiting: [VecDeque<Job>; 2],
}

impl Scheduler {
    /// Dropping the scheduler drops every reply's sender: listeners see the end of their stream.
    fn run(mut self, inbox: &Receiver<Job>) {
        loop {
            let idle = self.running() == 0 && self.waiting.iter().all(VecDeque::is_empty);
            if idle {
                let Ok(job) = inbox.recv() else { return };
                self.queue(job);
            }
            while let Ok(job) = inbox.try_recv() {
                self.queue(job);
            }
            self.admit();
            if self.step().is_err() {
                tracing::error!("a worker of the native engine was lost; the engine stops");
                return;
            }
        }
    }

    fn queue(&mut self, job: Job) {
        self.waiting[usize::from(!job.plain)].push_back(job);
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
        let mut sequence =
            Sequence { tokens: job.prompt, computed: 0, blocks: Vec::new(), kept: Vec::new(), replies: Vec::new() };
        sequence.reuse(&mut self.tree);
        let mut started = Started { cached_tokens: sequence.computed, replies: Vec::new() };
        for (sampler, text) in job.replies {
            let (chunks, listener) = mpsc::unbounded();
            sequence.replies.push(RunningReply { sampler, text, chunks });
            started.replies.push(listener);
        }
        // A caller that has gone drops the listeners with the message, and the sequence is forgotten at the next step.
        if job.started.send(started).is_ok()
            && let Some(shard) = self.shards.iter_mut().min_by_key(|shard| shard.replies())
        {
            shard.sequences.push(sequence);
        }
    }

    fn step(&mut self) -> Result<(), WorkerLost> {
        for shard in &mut self.shards {
            for sequence in shard.sequences.iter_mut().filter(|s| s.tokens.len() > s.computed + 1) {
                sequence.reuse(&mut self.tree);
            }
        }
        self.balance();
        let mut away = Vec::new();
        for (index, worker) in (1..).zip(&self.workers) {
            if !self.shards[index].sequences.is_empty() {
                worker.work.send(std::mem::take(&mut self.shards[index])).map_err(|_| WorkerLost)?;
                away.push((index, worker));
            }
        }
        self.shards[0].step(&self.model, self.config.step_rows);
        for (index, worker) in away {
            self.shards[index] = worker.done.recv().map_err(|_| WorkerLost)?;
        }
        for shard in &mut self.shards {
            for sequence in &mut shard.sequences {
                sequence.keep(&mut self.tree);
            }
            shard.forget_unheard();
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
