//! The thread in front of an engine: admits plain replies and searches alternately, and replaces the engine when it fails.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use candle_core::Tensor;
use mistralrs::Response;

use super::config::{OnRestart, Place, Restart, Source};
use super::hook::{Ended, Event, Job, Ticket, peak};
use super::queue::Queue;
use super::runner::Runner;
use crate::engine::EngineError;

/// How long a probe may take; the first forward pass on a GPU includes setting it up.
const PROBE: Duration = Duration::from_secs(120);

/// How long after a failed load the next one is tried.
const PAUSE: Duration = Duration::from_secs(5);

struct Running {
    job: Job,
    responses: tokio::sync::mpsc::Receiver<Response>,
}

struct Failed {
    job: Job,
    produced: bool,
    reason: String,
}

/// Owns the runner. Every change of its state happens on its own thread.
pub(super) struct Front {
    source: Source,
    runner: Option<Runner>,
    events: Sender<Event>,
    queue: Queue<Job>,
    running: HashMap<u64, Running>,
    failed: Vec<Failed>,
    next_id: u64,
    /// Failures since a sequence last ended as it should.
    failures: usize,
    last_load: Instant,
    on_restart: Option<OnRestart>,
}

impl Front {
    pub(super) fn new(source: Source, runner: Runner, events: Sender<Event>, on_restart: Option<OnRestart>) -> Self {
        Self {
            source,
            runner: Some(runner),
            events,
            queue: Queue::new(),
            running: HashMap::new(),
            failed: Vec::new(),
            next_id: 0,
            failures: 0,
            last_load: Instant::now(),
            on_restart,
        }
    }

    /// Works until [`Event::Close`], then takes the engine down.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        while let Ok(event) = inbox.recv() {
            match event {
                Event::Submit(purpose, jobs) => {
                    self.queue.retain(Job::is_wanted);
                    self.queue.push(purpose, jobs);
                }
                Event::Ended(ended) => self.note_end(ended),
                Event::Close => break,
            }
            while self.running.is_empty() {
                if !self.failed.is_empty() {
                    self.recover();
                } else if let Some(jobs) = self.next_jobs() {
                    self.send(jobs);
                } else {
                    break;
                }
            }
        }
        let waiting = self.queue.drain().chain(self.running.drain().map(|(_, running)| running.job));
        waiting.for_each(|job| job.fail(EngineError::Unavailable("it is shutting down".into())));
    }

    /// Chooses what runs next: one reply on the CPU, where mistral.rs decodes batches wrongly, and one call on CUDA.
    fn next_jobs(&mut self) -> Option<Vec<Job>> {
        match self.source.place {
            Place::Cpu => self.queue.next_reply().map(|job| vec![job]),
            Place::Cuda => self.queue.next_call(),
        }
    }

    fn send(&mut self, jobs: Vec<Job>) {
        if let Err(reason) = self.ensure_runner() {
            jobs.into_iter().for_each(|job| job.fail(EngineError::Unavailable(reason.clone())));
            return;
        }
        for job in jobs.into_iter().filter(Job::is_wanted) {
            let Some(runner) = &mut self.runner else { return };
            self.next_id += 1;
            let hook = job.hook(Ticket::new(self.next_id, self.events.clone()));
            match runner.send(&job.prompt, job.most_tokens, hook) {
                Ok(responses) => _ = self.running.insert(self.next_id, Running { job, responses }),
                Err(reason) => self.failed.push(Failed { job, produced: false, reason }),
            }
        }
    }

    fn note_end(&mut self, ended: Ended) {
        let Some(Running { job, mut responses }) = self.running.remove(&ended.id) else { return };
        if ended.orderly {
            self.failures = 0;
            return;
        }
        let mut reason = String::from("the engine stopped");
        while let Ok(response) = responses.try_recv() {
            match response {
                Response::ValidationError(error) => return job.fail(EngineError::Invalid(error.to_string())),
                Response::InternalError(error) => reason = error.to_string(),
                Response::CompletionModelError(error, _) => reason = error,
                _ => {}
            }
        }
        self.failed.push(Failed { job, produced: ended.produced, reason });
    }

    /// Gets the engine going again; replies that have produced nothing get one more try.
    fn recover(&mut self) {
        let failed = std::mem::take(&mut self.failed);
        tracing::error!(reason = failed[0].reason, "the engine failed");
        if let Err(reason) = self.revive() {
            tracing::error!(reason, "the model cannot be loaded again");
            let jobs = failed.into_iter().map(|failed| failed.job).chain(self.queue.drain());
            jobs.for_each(|job| job.fail(EngineError::Unavailable(reason.clone())));
            return;
        }
        let mut again = Vec::new();
        for Failed { mut job, produced, reason } in failed {
            if produced || job.retried {
                job.fail(EngineError::Crashed(reason));
            } else {
                job.retried = true;
                again.push(job);
            }
        }
        self.send(again);
    }

    /// First another engine on the same weights; if that does not help, the weights again.
    fn revive(&mut self) -> Result<(), String> {
        self.failures += 1;
        if self.failures == 1
            && let Some(runner) = &mut self.runner
            && runner.restart().and_then(|()| probe(runner)).is_ok()
        {
            self.tell(Restart::Engine);
            return Ok(());
        }
        self.reload()
    }

    fn ensure_runner(&mut self) -> Result<(), String> {
        if self.runner.is_some() {
            return Ok(());
        }
        if self.last_load.elapsed() < PAUSE {
            return Err("it failed and could not be loaded again".into());
        }
        self.reload()
    }

    fn reload(&mut self) -> Result<(), String> {
        // The old weights go first: two may not fit.
        self.runner = None;
        self.last_load = Instant::now();
        let mut runner = Runner::load(&self.source)?;
        probe(&mut runner)?;
        self.runner = Some(runner);
        self.tell(Restart::Model);
        Ok(())
    }

    fn tell(&self, restart: Restart) {
        tracing::warn!(?restart, "the model serves again");
        if let Some(on_restart) = &self.on_restart {
            on_restart(restart);
        }
    }
}

/// Runs one prefill and one decode step, and checks that they give numbers.
///
/// # Errors
/// Fails when a step gives none.
pub(super) fn probe(runner: &mut Runner) -> Result<(), String> {
    let ends = runner.loaded().ends.clone();
    let other = (0..).find(|id| !ends.contains(id)).unwrap_or(0);
    let (verdicts, inbox) = mpsc::channel();
    let hook = move |logits: &Tensor, context: &[u32]| -> candle_core::Result<Tensor> {
        let finite = logits.to_vec1::<f32>()?.iter().all(|logit| logit.is_finite());
        // After the prefill a token that continues the reply, after the decode step one that ends it.
        let next = if context.len() == 2 { other } else { ends[0] };
        // After the time limit the receiver is dropped.
        verdicts.send(finite).ok();
        peak(next, logits.elem_count())
    };
    let mut responses = runner.send(&[other, other], 4, Arc::new(hook))?;
    for _ in 0..2 {
        match inbox.recv_timeout(PROBE) {
            Ok(true) => {}
            Ok(false) => return Err("the model computes infinities or not-a-number".into()),
            Err(_) => {
                let reason = std::iter::from_fn(|| responses.try_recv().ok()).find_map(|response| match response {
                    Response::CompletionModelError(reason, _) => Some(reason),
                    Response::ValidationError(error) | Response::InternalError(error) => Some(error.to_string()),
                    _ => None,
                });
                return Err(reason.unwrap_or_else(|| "the engine does not answer".into()));
            }
        }
    }
    Ok(())
}
