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
pub mod sampling;
pub mod text;
pub mod token_rules;
pub mod tools;
pub mod trace_context;
#[cfg(feature = "upstream")]
pub mod upstream;
pub mod writer;

use std::sync::{Arc, LazyLock};

use async_trait::async_trait;

use crate::chat::Chat;
pub use embedding::{EmbedRequest, Embeddings};
pub use error::EngineError;
pub use labels::{Label, LabelRequest, LabelScores, LabelSupport, Question, Spelling};
pub use origin::{Conversation, Namespace, Origin, Subject, Waits};
pub use reply::{Chunk, Chunks, Completion, FinishReason, PromptTokens, Reply, ScoredToken, TokenLogprobs, TokenProb};
pub use request::{Constraint, Input, Purpose, Request, Sampling, derive_seed};
pub use token_rules::{TokenRules, WireSeed};
pub use trace_context::TraceContext;

/// The model's plain distribution.
static PLAIN: LazyLock<Sampling> = LazyLock::new(Sampling::default);

/// What is known of a loaded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// The name that clients use.
    pub name: String,
    /// Tokens of prompt and reply together.
    pub context: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
}

/// A loaded model.
#[async_trait]
pub trait Engine: Send + Sync {
    /// Starts `request.samples` sibling replies to one prompt. Dropping a reply cancels it.
    ///
    /// # Errors
    /// [`EngineError`] when no reply can start; an error of a single reply comes in its stream.
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError>;

    /// What is known of the model.
    fn info(&self) -> &ModelInfo;

    /// The tokenizer, where the engine has one.
    fn tokenizer(&self) -> Option<Arc<tokenizers::Tokenizer>> {
        None
    }

    /// Bytes of text that fit into the context at most, whatever they say; `None` where that is not known.
    fn most_bytes(&self) -> Option<usize> {
        None
    }

    /// The text that a chat becomes before it is tokenized, ending where the assistant begins to speak.
    ///
    /// # Errors
    /// [`EngineError::Prompt`] where the template refuses the chat, [`EngineError::Unsupported`] where the engine has none.
    fn render(&self, _chat: &Chat) -> Result<String, EngineError> {
        Err(EngineError::Unsupported("this model's engine has no chat template".into()))
    }

    /// How tokens are drawn where a request does not say.
    fn default_sampling(&self) -> &Sampling {
        &PLAIN
    }

    /// How the model writes calls of functions.
    fn tool_format(&self) -> tools::Format {
        tools::Format::default()
    }

    /// Whether [`Request::constraint`] is honoured; if not, such a request is refused as unsupported.
    fn constrains(&self) -> bool {
        false
    }

    /// Whether at least a JSON schema of an [`Purpose::Answer`] is honoured.
    fn constrains_json(&self) -> bool {
        self.constrains()
    }

    /// Whether a [`Constraint::Regex`] is honoured.
    fn constrains_regex(&self) -> bool {
        self.constrains()
    }

    /// Whether [`Sampling::rules`], and chats that do not end where the assistant begins to speak, are honoured.
    fn keeps_token_rules(&self) -> bool {
        false
    }

    /// Whether the engine gives log-probabilities of a given text: [`Engine::score`].
    fn scores(&self) -> bool {
        false
    }

    /// Which questions [`Engine::read_labels`] answers. An engine may learn only from a call that it answers none.
    fn label_support(&self) -> LabelSupport {
        LabelSupport::Nothing
    }

    /// The probabilities of a few given answers to each question, without generating anything. Dropping the future
    /// cancels the computation.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`EngineError::Unsupported`] for questions beyond [`Engine::label_support`].
    async fn read_labels(&self, _request: LabelRequest) -> Result<LabelScores, EngineError> {
        Err(EngineError::Unsupported("this model's engine does not give probabilities of given answers".into()))
    }

    /// Whether [`Engine::embed`] gives vectors.
    fn embeds(&self) -> bool {
        false
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

    /// The tokens of `input`, each with its log-probability after those before it, and the `top` likeliest in its place.
    ///
    /// # Errors
    /// As [`Engine::start`]; [`EngineError::Unsupported`] where the engine does not score.
    async fn score(&self, _input: Input, _top: usize, _origin: Origin) -> Result<Vec<ScoredToken>, EngineError> {
        Err(EngineError::Unsupported("this model's engine does not give log-probabilities of a given text".into()))
    }

    /// The servers that answer in its place, where these are a fleet.
    #[cfg(feature = "upstream")]
    fn fleet(&self) -> Option<&Arc<upstream::fleet::Fleet>> {
        None
    }

    /// The native engine, where it is one: an adapter can be put on its weights while it runs.
    fn native(&self) -> Option<&native::NativeEngine> {
        None
    }

    /// Starts one reply and waits for all of it.
    ///
    /// # Errors
    /// As [`Engine::start`] and [`Reply::complete`].
    async fn generate(&self, request: Request) -> Result<Completion, EngineError> {
        let mut replies = self.start(Request { samples: 1, ..request }).await?;
        replies.pop().ok_or_else(|| EngineError::Crashed("the engine started no reply".into()))?.complete().await
    }
}
