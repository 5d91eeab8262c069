//! The seam to a model: a request becomes sibling replies, and dropping a reply cancels it.

pub mod blocking;
#[cfg(feature = "server")]
pub(crate) mod caches;
pub mod counters;
pub mod drawn;
#[cfg(feature = "server")]
pub mod embedded;
pub mod embedding;
pub mod error;
pub mod fake;
pub mod generation;
pub mod grammar;
pub mod info;
pub mod labels;
#[cfg(feature = "server")]
pub mod load;
#[cfg(feature = "server")]
pub mod metered;
#[cfg(feature = "mistral")]
pub mod mistral;
pub mod model_dir;
pub mod native;
pub mod origin;
pub mod pieces;
pub mod reasoning;
pub mod reply;
pub mod request;
pub mod role;
pub mod sampling;
pub mod text;
pub mod token_rules;
pub mod tools;
pub mod trace_context;
#[cfg(feature = "upstream")]
pub mod upstream;
pub mod writer;

use std::sync::Arc;

use async_trait::async_trait;

pub use crate::constraint::Constraint;
pub use crate::question::{Input, Label, Question, Spelling};
pub use embedding::{EmbedRequest, Embeddings};
pub use error::EngineError;
pub use info::{Capabilities, ConstraintSupport, ModelInfo};
pub use labels::{LabelRequest, LabelScores, LabelSupport};
pub use origin::{Conversation, Namespace, Origin, Subject, Waits};
pub use reply::{Chunk, Chunks, Completion, FinishReason, PromptTokens, Reply, ScoredToken, TokenLogprobs, TokenProb};
pub use request::{Purpose, Request, Sampling, derive_seed};
pub use role::Role;
pub use token_rules::{TokenRules, WireSeed};
pub use trace_context::TraceContext;

use crate::weights::{LowRanks, ModelError};

/// A loaded model.
#[async_trait]
pub trait Engine: Send + Sync {
    /// What the model is.
    fn info(&self) -> &ModelInfo;

    /// What the engine can do. An engine may learn of a limit only from a call that meets it.
    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    /// The weights, where adapters can be put on them while they run.
    fn base(&self) -> Option<&dyn SharedBase> {
        None
    }

    /// Starts `request.samples` sibling replies to one prompt. Dropping a reply cancels it.
    ///
    /// # Errors
    /// [`EngineError`] when no reply can start; an error of a single reply comes in its stream.
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError>;

    /// The tokens of `input`, each with its log-probability after those before it, and the `top` likeliest in its place.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`EngineError::Unsupported`] where the engine does not score.
    async fn score(&self, _input: Input, _top: usize, _origin: Origin) -> Result<Vec<ScoredToken>, EngineError> {
        Err(EngineError::Unsupported("this model's engine does not give log-probabilities of a given text".into()))
    }

    /// The probabilities of a few given answers to each question, without generating anything. Dropping the future
    /// cancels the computation.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`EngineError::Unsupported`] for questions beyond [`Capabilities::labels`].
    async fn read_labels(&self, _request: LabelRequest) -> Result<LabelScores, EngineError> {
        Err(EngineError::Unsupported("this model's engine does not give probabilities of given answers".into()))
    }

    /// A vector for each of a few texts, without generating anything. Dropping the future cancels the computation.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`EngineError::Unsupported`] where the engine gives no vectors.
    async fn embed(&self, _request: EmbedRequest) -> Result<Embeddings, EngineError> {
        Err(EngineError::Unsupported("this model's engine gives no embeddings".into()))
    }

    /// Whether the engine can work now. The answer comes within a second and may be a few seconds old.
    ///
    /// # Errors
    /// The error says what prevents it.
    async fn health(&self) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Calls that every engine has, built on the methods of [`Engine`].
pub trait EngineExt: Engine {
    /// Starts one reply and waits for all of it.
    ///
    /// # Errors
    /// Fails as [`Engine::start`] and [`Reply::complete`] does.
    fn generate(&self, request: Request) -> impl Future<Output = Result<Completion, EngineError>> + Send {
        async move {
            let mut replies = self.start(Request { samples: 1, ..request }).await?;
            let none = || EngineError::Crashed("the engine started no reply".into());
            replies.pop().ok_or_else(none)?.complete().await
        }
    }
}

impl<E: Engine + ?Sized> EngineExt for E {}

/// Weights in memory that several engines share, each with an adapter of its own or without one.
pub trait SharedBase: Send + Sync {
    /// Another engine on the same weights, with an adapter or without one. Dropping the engine frees the adapter, once its last
    /// reply has ended.
    ///
    /// # Errors
    /// A module that the model does not have, or whose sizes do not fit.
    fn adapted(&self, modules: Option<&LowRanks>) -> Result<Arc<dyn Engine>, ModelError>;

    /// Equal for engines on the same weights in memory, and for no others.
    fn id(&self) -> usize;

    /// Bytes of keys and values that are kept for later prompts, and how many may be.
    fn prefix_cache_bytes(&self) -> [u64; 2];
}
