//! mistral.rs in this process: every architecture that it knows, on the CPU or a GPU, one engine per model directory.
//!
//! mistral.rs computes logits, nothing else. Prompts are rendered and tokenized here, tokens are drawn by our own sampler
//! in a logits processor, text and stop strings are ours, and a front decides which replies run together: it admits work, takes
//! plain answers and searches alternately, and restarts the engine when it fails. The sampler hands mistral.rs a row
//! of logits with a single peak, so that seeds, penalties, log-probabilities and grammars work as in the native engine.
//!
//! Traps of mistral.rs 0.8.1 that this folder works around:
//!
//! - On the CPU batches decode wrongly, since its scratch buffers have no batch index. One sequence runs at a time there, and
//!   the siblings of one call on CUDA.
//! - A whole response whose receiver was dropped makes its engine panic, so responses are always streamed. The engine awaits its
//!   sends, so the channel holds `max_len + 16`. The receiver must live as long as the hook, or a failing forward pass panics.
//! - A mistyped path is taken for a hub name, so directories are checked first. Missing tensors load as placeholders, so names
//!   and shapes are checked here, and two tokens are computed as a probe after every load.
//! - Loading keeps thread-local state and may panic: each load has a fresh thread, and a panic becomes one line.
//! - `MistralRs::new` expects a lock that its own thread may hold: there are three tries. A cached sender dies with its engine,
//!   so `get_sender` is called for each request.
//! - Default sampling has `top_k = 1`, so requests start from `neutral()`. Passing the context limit fails a whole batch, so
//!   limits are enforced here.
//! - The model's own chat template may start parsers, one of which downloads: mistral.rs gets a template without meaning.
//! - A regex constraint runs on to `max_len`: grammars are matched here, and end the reply. End tokens are banned for
//!   `ignore_eos`.
//! - Its prefix cache may pair a key with the wrong token, and automatic device maps may leave layers on the CPU: both are off.
//! - Dropping an engine waits for it, and its weights are freed on its own thread with the CUDA context bound.
//! - On the CPU a Mistral's sliding window gives other replies than `transformers`, with which the native engine agrees.
//! - Shards must be named `model-0000i-of-0000n.safetensors`, and a Qwen3's configuration needs `max_window_layers`.

mod config;
mod front;
mod hook;
mod labels;
mod load;
mod queue;
mod runner;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use async_trait::async_trait;
use tokio::sync::mpsc::unbounded_channel;

use self::config::Source;
pub use self::config::{MistralConfig, OnRestart, Place, Restart};
use self::front::Front;
use self::hook::{Event, Job, ReplyWork, Shared, Work};
use self::runner::Runner;
use super::blocking::blocking;
use super::grammar::ModelGrammars;
use super::model_dir::{ModelDir, ModelError};
use super::reasoning::split_chunks;
use super::sampling::Sampler;
use super::text::ReplyRules;
use super::{
    Capabilities, Chunk, ConstraintSupport, Engine, EngineError, FinishReason, LabelRequest, LabelScores, LabelSupport,
    ModelInfo, Purpose, Reply, Request,
};

/// A model directory served by mistral.rs. Dropping it takes the model down on a thread of its own.
pub struct MistralEngine {
    info: ModelInfo,
    dir: Arc<ModelDir>,
    shared: Arc<Shared>,
    grammars: ModelGrammars,
    events: Sender<Event>,
    front: Option<JoinHandle<()>>,
}

impl MistralEngine {
    /// Loads the directory and computes two tokens. Blocks for as long as that takes.
    ///
    /// # Errors
    /// One line with what mistral.rs does not accept.
    pub fn load(dir: ModelDir, config: MistralConfig) -> Result<Self, ModelError> {
        let refused = |reason| ModelError::Unsupported { dir: dir.path.clone(), reason };
        let eos = dir.config.eos.clone();
        let end_name = dir.tokenizer.id_to_token(eos[0]);
        let end_name =
            end_name.ok_or_else(|| refused(format!("its tokenizer has no token {}, which ends replies", eos[0])))?;
        let source = Source { directory: dir.path.clone(), place: config.place, eos, end_name };
        let mut runner = Runner::load(&source).map_err(|e| refused(format!("mistral.rs cannot load it: {e}")))?;
        front::probe(&mut runner).map_err(|e| refused(format!("mistral.rs cannot run it: {e}")))?;
        let context = dir.config.context.min(runner.loaded().context);
        let shared = Arc::new(Shared {
            ends: runner.loaded().ends.clone(),
            pieces: Arc::clone(&dir.pieces),
            sampled: AtomicU64::new(0),
            #[cfg(test)]
            faults: std::sync::Mutex::default(),
        });
        let (events, inbox) = mpsc::channel();
        let front = Front::new(source, runner, events.clone(), config.on_restart);
        let thread = std::thread::Builder::new().name("spar-mistral".into());
        let front =
            thread.spawn(move || front.run(&inbox)).map_err(|e| refused(format!("no thread for its engine: {e}")))?;
        let grammars = ModelGrammars::new(Arc::clone(&dir.pieces), shared.ends.clone());
        let dir = Arc::new(dir);
        let info = ModelInfo { context, ..ModelInfo::of(Arc::clone(&dir)) };
        Ok(Self { info, dir, shared, grammars, events, front: Some(front) })
    }

    /// The directory that the model was loaded from.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    /// Tokens sampled since the load, those of cancelled replies included.
    pub fn sampled_tokens(&self) -> u64 {
        self.shared.sampled.load(Ordering::Relaxed)
    }

    /// Takes the model down and waits for it. Replies that still run fail as unavailable.
    pub fn close(mut self) {
        self.say_close();
        if let Some(front) = self.front.take()
            && front.join().is_err()
        {
            tracing::error!("the engine's front panicked");
        }
    }

    fn say_close(&self) {
        // A front that has ended needs no notice.
        self.events.send(Event::Close).ok();
    }

    /// Hands the siblings of one call to the front.
    fn submit(&self, purpose: Purpose, siblings: Vec<Job>) -> Result<(), EngineError> {
        let closed = |_| EngineError::Unavailable("its engine has been taken down".into());
        self.events.send(Event::Submit(purpose, siblings)).map_err(closed)
    }

    fn sampling(&self, request: &Request) -> super::Sampling {
        let mut sampling = request.sampling.clone();
        if sampling.ignore_eos {
            // mistral.rs ends a sequence at these tokens no matter what draws them.
            sampling.logit_bias.extend(self.shared.ends.iter().map(|&end| (end, f32::NEG_INFINITY)));
        }
        sampling
    }
}

impl Drop for MistralEngine {
    fn drop(&mut self) {
        self.say_close();
    }
}

#[async_trait]
impl Engine for MistralEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let input = request.constrained_input().into_owned();
        let dir = Arc::clone(&self.dir);
        let tail = request.sampling.rules.prompt_tail;
        let prompt: Arc<[u32]> = blocking(input.bytes(), move || dir.encode_end(&input, tail)).await?.into();
        let splitter = self.dir.splitter(&request, &prompt);
        let limit = self.info.context;
        let room = limit.saturating_sub(prompt.len());
        if room == 0 {
            return Err(EngineError::PromptTooLong { tokens: prompt.len(), limit });
        }
        let max_tokens = request.max_tokens.unwrap_or(room).min(room);
        let mut grammars = match &request.constraint {
            Some(constraint) => self.grammars.matchers(constraint, request.origin.namespace, request.samples).await?,
            None => Vec::new(),
        };
        let rules = ReplyRules::of(&request, &self.shared.ends, max_tokens);
        let sampler = Sampler::new(&self.sampling(&request), 0, &prompt, request.logprobs);
        let sampler = sampler.ruled(&rules.ends(), &self.shared.pieces);
        let (mut replies, mut jobs) = (Vec::new(), Vec::new());
        for index in 0..request.samples {
            let (chunks, mut receiver) = unbounded_channel();
            let received = Box::pin(futures::stream::poll_fn(move |context| receiver.poll_recv(context)));
            replies.push(Reply {
                prompt_tokens: prompt.len(),
                cached_tokens: 0,
                chunks: split_chunks(received, splitter.clone()),
            });
            if max_tokens == 0 {
                let nothing = Chunk { finish: Some(FinishReason::Length), ..Chunk::default() };
                chunks.send(Ok(nothing)).map_err(|_| EngineError::Crashed("a reply lost its end".into()))?;
                continue;
            }
            jobs.push(Job {
                prompt: Arc::clone(&prompt),
                most_tokens: max_tokens,
                work: Work::Reply(Box::new(ReplyWork {
                    rules: rules.clone(),
                    sampler: sampler.sibling(index),
                    grammar: grammars.pop(),
                    chunks,
                })),
                shared: Arc::clone(&self.shared),
                retried: false,
            });
        }
        self.submit(request.purpose, jobs)?;
        Ok(replies)
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constraints: ConstraintSupport::Everything,
            token_rules: true,
            labels: LabelSupport::Replies,
            ..Capabilities::default()
        }
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        self.label_scores(&request).await
    }
}
