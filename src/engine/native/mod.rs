//! Our own engine for dense models of the Llama family on the CPU, made for trees of short replies: mixed lengths run in
//! one batch, siblings share their prompt's keys and values, later prompts reuse earlier ones', and a reply is
//! bit-identical alone and in any company.

mod attention;
mod blocks;
mod model;
mod scheduler;
mod sequence;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::mpsc::Sender;

use async_trait::async_trait;
use futures::channel::{mpsc, oneshot};
use futures::{StreamExt, stream};
use tokenizers::Tokenizer;

use self::model::Model;
use self::scheduler::Job;
use super::model_dir::{ModelDir, ModelError};
use super::sampling::Sampler;
use super::text::{ReplyRules, ReplyText};
use super::{Chunk, Engine, EngineError, Input, ModelInfo, Purpose, Reply, Request};
use crate::weights::RopeScaling;

/// How much of the machine the engine uses. Results do not depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NativeConfig {
    /// Threads that compute.
    pub threads: usize,
    /// Replies that run at once; more wait in order, plain answers first.
    pub max_replies: usize,
    /// Bytes of keys and values that are kept for later prompts.
    pub cache_bytes: usize,
    /// Positions that a thread computes per step: a long prompt delays running replies by one such step at a time.
    pub step_rows: usize,
}

impl Default for NativeConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, NonZero::get),
            max_replies: 128,
            cache_bytes: 256 << 20,
            step_rows: 256,
        }
    }
}

/// A loaded model with the threads that run it. They end when the engine is dropped and its replies have ended.
pub struct NativeEngine {
    dir: ModelDir,
    info: ModelInfo,
    jobs: Sender<Job>,
}

impl NativeEngine {
    /// Reads the weights into memory and starts the threads.
    ///
    /// # Errors
    /// The family is not one that this engine computes, a tensor is damaged, or no thread can be started.
    pub fn load(dir: ModelDir, config: NativeConfig) -> Result<Self, ModelError> {
        let unsupported = |reason: String| ModelError::Unsupported { dir: dir.path.clone(), reason };
        let dense = dir.config.dense.as_ref();
        let dense = dense.ok_or_else(|| {
            unsupported(format!("{:?} is not computed by the native engine", dir.config.architecture))
        })?;
        if let RopeScaling::Other(kind) = &dense.rope_scaling {
            return Err(unsupported(format!("rope scaling `{kind}` is not computed by the native engine")));
        }
        let model = Model::load(&dir.config, dense, &dir.weights)?;
        let jobs =
            scheduler::spawn(model, config).map_err(|e| unsupported(format!("no thread can be started: {e}")))?;
        Ok(Self { info: dir.info(), dir, jobs })
    }

    /// The directory that the model was loaded from.
    pub fn dir(&self) -> &ModelDir {
        &self.dir
    }

    fn replies(&self, request: &Request, prompt: &[u32]) -> Vec<(Sampler, ReplyText)> {
        let room = self.info.context - prompt.len();
        let rules = ReplyRules {
            eos: if request.sampling.ignore_eos { Vec::new() } else { self.dir.config.eos.clone() },
            stop: request.stop.clone(),
            max_tokens: request.max_tokens.unwrap_or(room).clamp(1, room),
            continues_text: matches!(request.input, Input::Text(_)),
        };
        let sampler = |index| Sampler::new(&request.sampling, index, prompt, request.logprobs);
        let text = || ReplyText::new(self.dir.pieces.clone(), rules.clone());
        (0..request.samples).map(|index| (sampler(index), text())).collect()
    }
}

#[async_trait]
impl Engine for NativeEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        if request.constraint.is_some() {
            return Err(EngineError::Unsupported("this model's engine does not constrain replies to a grammar".into()));
        }
        let prompt = self.dir.encode(&request.input)?;
        let (prompt_tokens, limit) = (prompt.len(), self.info.context);
        if prompt_tokens >= limit {
            return Err(EngineError::PromptTooLong { tokens: prompt_tokens, limit });
        }
        if let Some(id) = prompt.iter().find(|&&id| id as usize >= self.info.vocabulary) {
            return Err(EngineError::Invalid(format!("token {id} is outside of the model's vocabulary")));
        }
        let stopped = || EngineError::Unavailable("the native engine has stopped".into());
        let (started, admitted) = oneshot::channel();
        let replies = self.replies(&request, &prompt);
        let plain = request.purpose == Purpose::Answer;
        self.jobs.send(Job { plain, prompt, replies, started }).map_err(|_| stopped())?;
        let started = admitted.await.map_err(|_| stopped())?;
        let cached_tokens = started.cached_tokens;
        let reply = |chunks| Reply { prompt_tokens, cached_tokens, chunks: Box::pin(until_the_end(chunks)) };
        Ok(started.replies.into_iter().map(reply).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> Option<Arc<Tokenizer>> {
        Some(self.dir.tokenizer.clone())
    }
}

type Chunks = mpsc::UnboundedReceiver<Result<Chunk, EngineError>>;

/// The chunks up to the last one; if they break off, because the engine's thread is gone, an error.
fn until_the_end(chunks: Chunks) -> impl futures::Stream<Item = Result<Chunk, EngineError>> {
    stream::unfold(Some(chunks), |chunks| async move {
        let mut chunks = chunks?;
        let next = chunks.next().await;
        let lost = || Err(EngineError::Crashed("the native engine stopped during the reply".into()));
        let next = next.unwrap_or_else(lost);
        let over = next.as_ref().is_ok_and(|chunk| chunk.finish.is_some()) || next.is_err();
        Some((next, (!over).then_some(chunks)))
    })
}

#[cfg(test)]
mod tests;
