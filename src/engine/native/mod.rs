//! Our own engine for dense models of the Llama family and its relatives, on the CPU or with tensors on a device, made for trees of short
//! replies: mixed lengths run in one batch, siblings share their prompt's keys and values, later prompts reuse earlier
//! ones', and on the CPU a reply is bit-identical alone and in any batch.
//!
//! - **Weights** stay in the checkpoint's type or become 8 bits at load, in panels of 32 columns, and are multiplied as `f32`.
//!   Every element of every product is one chain of fused multiply-adds in a fixed order, which is why batches change no bit.
//! - **Keys and values** lie in blocks of 32 positions (`blocks.rs`), each mapped from the operating system by itself, so that a
//!   dropped engine leaves no memory behind. Siblings share their prompt's blocks and copy them on write. A tree of prefixes
//!   per set of weights keeps blocks for later prompts, which reuse what they have in common to the token; the least recently
//!   used blocks are evicted.
//! - **Scheduling** (`scheduler.rs`, `shard.rs`): each worker steps its own sequences at its own pace and takes the shared lock
//!   between steps, to keep and find prefixes, admit requests, and balance sequences among workers. Where plain replies run
//!   on a worker, searches move to others, or get as many positions per step as the plain replies. A model that no
//!   processor cache holds (64 MB and more) has one worker, and a fork-join pool (`kernels::team`) computes its products.
//! - **Speculation** (`lookup.rs`): a refinement mostly repeats its parent, which is in its prompt. What follows its last tokens
//!   there is proposed and checked by further rows of the same step. Each row draws with the reply's own stream; the first draw
//!   that differs is kept and the rows after it are dropped, so that replies are the same without speculation.
//! - **Labels** (`labels.rs`): `read_labels` generates nothing. The questions of a call and the spellings of its labels become a
//!   tree of token sequences; what several begin with is computed once, unless another step would take longer.
//! - **Embeddings** (`embedding.rs`): the rows that leave the last layer are pooled there; nothing is multiplied with the head.
//! - **Adapters** (`adapter.rs`, `variant.rs`): `NativeEngine::with_adapter` gives another handle on the same weights, workers and
//!   blocks; a step groups its rows by adapter.
//! - **Devices** (`compute.rs`, `tensors/`): the forward pass on CUDA is candle's matrix products with one custom kernel between
//!   them, since a step of few rows waits for launches. One cache holds all keys and values; where it is full, unused
//!   prefixes are evicted first, then younger sequences give their blocks back and compute them again. Devices do
//!   not speculate, because a row's rounding depends on the number of rows there.
//! - **Faults** (`runtime.rs`): workers that panic or stall are replaced on the same weights, and their replies fail.

mod adapter;
mod attention;
mod batch;
mod blocks;
mod callers;
mod compute;
mod config;
mod embedding;
mod job;
mod labels;
mod linear;
mod load_error;
mod lookup;
mod model;
mod place;
mod pooled;
mod reading;
mod residual;
mod runtime;
mod scheduler;
mod scratch;
mod sequence;
mod shard;
mod slots;
#[cfg(feature = "tensors")]
mod tensors;
mod turns;
mod variant;

use std::sync::Arc;

use async_trait::async_trait;
use futures::channel::{mpsc, oneshot};
use futures::{StreamExt, stream};

use tokio_util::sync::CancellationToken;

use self::adapter::Adapter;
use self::compute::Compute;
pub use self::config::{NativeConfig, Processor, Quantize};
use self::job::{Job, Started};
use self::load_error::LoadError;
use self::pooled::Pooled;
use self::runtime::Runtime;
use self::sequence::{Chunks, Scoring};
use self::variant::Variant;
use super::blocking::{SHORT, blocking};
use super::counters::EngineCounters;
use super::grammar::ModelGrammars;
use super::model_dir::{ModelDir, ModelError, check_vocabulary};
use super::reasoning::split_chunks;
use super::sampling::Sampler;
use super::text::{ReplyRules, ReplyText};
use super::writer::Writer;
use super::{
    Capabilities, Chunk, ConstraintSupport, EmbedRequest, Embeddings, Engine, EngineError, Input, LabelRequest,
    LabelScores, LabelSupport, ModelInfo, Origin, Purpose, Reply, Request, ScoredToken, SharedBase, TokenLogprobs,
    TokenProb,
};
use crate::weights::{DenseConfig, LowRanks, ModelConfig, known_families};

/// A loaded model, or an adapter on it, with the threads that run it. They end when the last such handle is dropped and
/// its replies have ended.
pub struct NativeEngine {
    dir: Arc<ModelDir>,
    info: ModelInfo,
    grammars: ModelGrammars,
    runtime: Arc<Runtime>,
    variant: Arc<Variant>,
}

impl NativeEngine {
    /// The shape of a model, if this engine computes its family.
    ///
    /// # Errors
    /// A sentence that says what it does not compute.
    pub fn computes(config: &ModelConfig) -> Result<&DenseConfig, String> {
        config.dense.as_ref().ok_or_else(|| {
            format!(
                "the native engine computes {}, not {}; a build with mistral.rs knows more",
                known_families(),
                config.architecture
            )
        })
    }

    /// Reads the weights into memory and starts the threads.
    ///
    /// # Errors
    /// The family is not one that this engine computes, a tensor is damaged, or no thread can be started.
    pub fn load(dir: ModelDir, config: NativeConfig) -> Result<Self, ModelError> {
        let unsupported = |reason: String| ModelError::Unsupported { dir: dir.path.clone(), reason };
        let dense = Self::computes(&dir.config).map_err(unsupported)?;
        let model = Compute::load(dense, &dir.weights, &config).map_err(|error| match error {
            LoadError::Model(error) => error,
            #[cfg(feature = "tensors")]
            LoadError::Device(reason) => unsupported(reason),
        })?;
        dir.weights.rest();
        let runtime =
            Runtime::start(model, config).map_err(|e| unsupported(format!("no thread can be started: {e}")))?;
        let grammars = ModelGrammars::new(dir.pieces.clone(), dir.config.eos.clone());
        let dir = Arc::new(dir);
        let info = ModelInfo::of(Arc::clone(&dir));
        Ok(Self { info, grammars, dir, variant: runtime.variant(None), runtime })
    }

    /// Puts an adapter on the same base: another handle on the same weights, threads and blocks, whose replies are computed
    /// with the adapter. Dropping the handle frees the adapter, once its last reply has ended.
    ///
    /// # Errors
    /// A module that the model does not have, or whose sizes do not fit.
    pub fn with_adapter(&self, modules: &LowRanks) -> Result<Self, ModelError> {
        let adapter = self
            .runtime
            .model
            .adapter(modules)
            .map_err(|reason| ModelError::Unsupported { dir: self.dir.path.clone(), reason })?;
        Ok(self.another(Some(adapter)))
    }

    fn another(&self, adapter: Option<Adapter>) -> Self {
        Self {
            dir: self.dir.clone(),
            info: self.info.clone(),
            grammars: self.grammars.clone(),
            variant: self.runtime.variant(adapter),
            runtime: self.runtime.clone(),
        }
    }

    /// The directory that the model was loaded from.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    /// What the engine counts; handles with adapters share it.
    pub fn counters(&self) -> &Arc<EngineCounters> {
        &self.runtime.counters
    }

    /// The tokens of a prompt, or its last `tail` ones. Long prompts are tokenized where they delay no other task.
    async fn encode(&self, input: &Input, tail: Option<usize>) -> Result<Vec<u32>, EngineError> {
        let tokens = match input.bytes() {
            bytes if bytes < SHORT => self.dir.encode_end(input, tail)?,
            bytes => {
                let (dir, input) = (Arc::clone(&self.dir), input.clone());
                blocking(bytes, move || dir.encode_end(&input, tail)).await?
            }
        };
        check_vocabulary(&tokens, self.info.vocabulary)?;
        Ok(tokens)
    }

    /// Hands work to the threads and waits until it begins; the token is cancelled if they are lost.
    async fn run(
        &self,
        (purpose, origin): (Purpose, Origin),
        prompt: Vec<u32>,
        work: Work,
    ) -> Result<(Started, CancellationToken), EngineError> {
        let runtime = &self.runtime;
        let (replies, scoring, pooled) = match work {
            Work::Replies(replies) => (replies, None, None),
            Work::Scored(scoring) => (Vec::new(), Some(scoring), None),
            Work::Pooled(pooled) => (Vec::new(), None, Some(pooled)),
        };
        let place = runtime.place(replies.len().max(1))?;
        let (started, admitted) = oneshot::channel();
        let variant = self.variant.clone();
        let lost = runtime.submit(Job {
            variant,
            purpose,
            origin,
            prompt,
            replies,
            scoring,
            pooled,
            reading: None,
            started,
            place,
        })?;
        let stopped = || EngineError::Unavailable("the native engine stopped before the reply began".into());
        let started = tokio::select! {
            started = admitted => started.map_err(|_| stopped())?,
            () = lost.cancelled() => return Err(stopped()),
        };
        Ok((started, lost))
    }

    async fn replies(&self, request: &Request, prompt: &[u32]) -> Result<Vec<Writer>, EngineError> {
        let room = self.info.context - prompt.len();
        let most = request.max_tokens.unwrap_or(room).clamp(1, room);
        let rules = ReplyRules::of(request, &self.dir.config.eos, most);
        let first = Sampler::new(&request.sampling, 0, prompt, request.logprobs);
        let first = first.ruled(&rules.ends(), &self.dir.pieces);
        let sampler = |index| first.sibling(index);
        let text = || ReplyText::new(self.dir.pieces.clone(), rules.clone());
        let mut grammars = match &request.constraint {
            Some(constraint) => self.grammars.matchers(constraint, request.origin.namespace, request.samples).await?,
            None => Vec::new(),
        };
        Ok((0..request.samples).map(|index| Writer::new(sampler(index), text(), grammars.pop())).collect())
    }
}

#[async_trait]
impl Engine for NativeEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let prompt = self.encode(&request.constrained_input(), request.sampling.rules.prompt_tail).await?;
        let splitter = self.dir.splitter(&request, &prompt);
        let (prompt_tokens, limit) = (prompt.len(), self.info.context);
        if prompt_tokens >= limit {
            return Err(EngineError::PromptTooLong { tokens: prompt_tokens, limit });
        }
        let replies = self.replies(&request, &prompt).await?;
        let (started, lost) = self.run((request.purpose, request.origin), prompt, Work::Replies(replies)).await?;
        let cached_tokens = started.cached_tokens;
        let reply = |chunks| {
            let chunks = split_chunks(Box::pin(until_the_end(chunks, lost.clone())), splitter.clone());
            Reply { prompt_tokens, cached_tokens, chunks }
        };
        Ok(started.replies.into_iter().map(reply).collect())
    }

    async fn score(&self, input: Input, top: usize, origin: Origin) -> Result<Vec<ScoredToken>, EngineError> {
        let mut tokens = self.encode(&input, None).await?;
        let limit = self.info.context;
        if tokens.len() > limit {
            return Err(EngineError::PromptTooLong { tokens: tokens.len(), limit });
        }
        let Some(&first) = tokens.first() else { return Ok(Vec::new()) };
        let targets = tokens.split_off(1);
        let bytes = self.dir.pieces.bytes(first).to_vec();
        let mut scored = vec![ScoredToken { id: first, bytes, rank: None, logprobs: None }];
        if targets.is_empty() {
            return Ok(scored);
        }
        tokens.extend_from_slice(&targets[..targets.len() - 1]);
        let (done, found) = oneshot::channel();
        let scoring = Scoring { targets: targets.clone(), top, found: Vec::with_capacity(targets.len()), done };
        let (_, lost) = self.run((Purpose::Answer, origin), tokens, Work::Scored(scoring)).await?;
        let stopped = || EngineError::Crashed("the native engine stopped while it scored".into());
        let found = tokio::select! {
            found = found => found.map_err(|_| stopped())?,
            () = lost.cancelled() => return Err(stopped()),
        };
        let token = |id: u32, logprob| TokenProb { id, bytes: self.dir.pieces.bytes(id).to_vec(), logprob };
        scored.extend(targets.into_iter().zip(found).map(|(id, found)| {
            let top = found.top.into_iter().map(|(id, logprob)| token(id, logprob)).collect();
            let token = token(id, found.drawn);
            let (bytes, rank) = (token.bytes.clone(), Some(found.rank));
            ScoredToken { id, bytes, rank, logprobs: Some(TokenLogprobs { token, top }) }
        }));
        Ok(scored)
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            constraints: ConstraintSupport::Everything,
            token_rules: true,
            scores: true,
            labels: LabelSupport::Replies,
            embeds: !self.runtime.model.on_device(),
        }
    }

    fn base(&self) -> Option<&dyn SharedBase> {
        Some(self)
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        self.embeddings(request).await
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        self.label_scores(&request).await
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.runtime.health()
    }
}

impl SharedBase for NativeEngine {
    fn adapted(&self, modules: Option<&LowRanks>) -> Result<Arc<dyn Engine>, ModelError> {
        Ok(Arc::new(match modules {
            Some(modules) => self.with_adapter(modules)?,
            None => self.another(None),
        }))
    }

    fn id(&self) -> usize {
        Arc::as_ptr(&self.runtime).addr()
    }

    fn prefix_cache_bytes(&self) -> [u64; 2] {
        self.runtime.counters.kept_bytes()
    }
}

/// What is done with a prompt.
enum Work {
    /// It is replied to.
    Replies(Vec<Writer>),
    /// The prompt's tokens are scored.
    Scored(Scoring),
    /// It becomes a vector.
    Pooled(Pooled),
}

/// The chunks up to the last one; an error if they break off because the engine's threads are lost.
fn until_the_end(
    chunks: mpsc::UnboundedReceiver<Chunks>,
    lost: CancellationToken,
) -> impl futures::Stream<Item = Result<Chunk, EngineError>> {
    let there = Vec::new().into_iter();
    stream::unfold(Some((chunks, lost, there)), |running| async move {
        let (mut chunks, lost, mut there) = running?;
        let next = match there.next() {
            Some(next) => next,
            None => {
                let more = tokio::select! {
                    biased;
                    more = chunks.next() => more,
                    () = lost.cancelled() => None,
                };
                there = more.unwrap_or_default().into_iter();
                let stopped = || Err(EngineError::Crashed("the native engine stopped during the reply".into()));
                there.next().unwrap_or_else(stopped)
            }
        };
        let over = next.as_ref().is_ok_and(|chunk| chunk.finish.is_some()) || next.is_err();
        Some((next, (!over).then_some((chunks, lost, there))))
    })
}

#[cfg(test)]
mod measures;
#[cfg(test)]
mod tests;
