//! The seam to a model: a request becomes sibling replies, and dropping a reply cancels it.

pub mod blocking;
#[cfg(feature = "server")]
pub(crate) mod caches;
pub mod counters;
#[cfg(feature = "server")]
pub mod embedded;
pub mod embedding;
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
pub mod reasoning;
pub mod sampling;
pub mod text;
pub mod token_rules;
pub mod tools;
#[cfg(feature = "upstream")]
pub mod upstream;
pub mod writer;

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use futures::StreamExt;

use crate::chat::{Chat, Ending, Message, Thinking};
pub use embedding::{EmbedRequest, Embeddings};
pub use labels::{Label, LabelRequest, LabelScores, LabelSupport, Question, Spelling};
pub use origin::{Conversation, Namespace, Origin, Waits};
use reasoning::{Chunks, Reasoning};
pub use token_rules::{TokenRules, WireSeed};

/// What a call is for; engines schedule by it, metrics label by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A draft or a plain answer.
    Answer,
    /// A critique that ends in a verdict.
    Judge,
    /// A rewrite of a response that was judged wrong.
    Refine,
}

/// How tokens are drawn. Every field is set; `Sampling::default()` is the model's plain distribution.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus: the smallest set of tokens with at least this mass; 1 keeps all.
    pub top_p: f32,
    /// The k likeliest tokens; `None` keeps all.
    pub top_k: Option<usize>,
    /// Tokens with at least this share of the likeliest one's probability; 0 keeps all.
    pub min_p: f32,
    /// Subtracted once per earlier occurrence in the reply.
    pub frequency_penalty: f32,
    /// Subtracted once if the token occurs in the reply.
    pub presence_penalty: f32,
    /// Divides (positive) or multiplies (negative) logits of tokens in prompt and reply; 1 changes nothing.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens before everything else.
    pub logit_bias: Vec<(u32, f32)>,
    /// Fixes the draw: sibling `i` uses stream `i` of it.
    pub seed: u64,
    /// The seed that another server is given, where one draws the reply.
    pub wire_seed: WireSeed,
    /// Keep going after the end-of-sequence token.
    pub ignore_eos: bool,
    /// Rules on single tokens.
    pub rules: TokenRules,
}

/// The model's plain distribution.
static PLAIN: LazyLock<Sampling> = LazyLock::new(Sampling::default);

impl Sampling {
    /// What the penalty on repetition may be: beyond these numbers it leaves nothing of the model's own scores, or makes them
    /// infinite.
    pub const REPETITION_PENALTY: RangeInclusive<f64> = 0.01..=10.0;
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            wire_seed: WireSeed::Derived,
            ignore_eos: false,
            rules: TokenRules::default(),
        }
    }
}

/// What the reply's text must match from its first to its last character.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A regular expression, anchored at both ends.
    Regex(String),
    /// A JSON schema.
    JsonSchema(serde_json::Value),
    /// A Lark grammar in llguidance's dialect.
    Lark(String),
    /// Calls of functions, as a Lark grammar.
    Calls {
        /// The grammar in Lark.
        lark: String,
        /// Whether a plain answer matches as well: it may then begin with reasoning.
        optional: bool,
    },
}

/// What is given to the model: turns that the chat template renders, or raw text.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// Rendered by the model's chat template, ending where the assistant begins to speak.
    Chat(Chat),
    /// Taken as it is, special tokens included.
    Text(String),
    /// The ids of its tokens, taken as they are.
    Tokens(Vec<u32>),
}

impl Input {
    /// A chat whose template is given nothing but the messages.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self::Chat(messages.into())
    }

    /// A chat whose reply should begin with its answer, not with reasoning.
    pub fn chat_without_thinking(messages: Vec<Message>) -> Self {
        Self::Chat(Chat::without_thinking(messages))
    }
}

impl Input {
    /// About how many bytes there are to be tokenized.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Chat(chat) => chat.messages.iter().map(Message::bytes).sum(),
            Self::Text(text) => text.len(),
            Self::Tokens(ids) => size_of_val(ids.as_slice()),
        }
    }

    /// Whether the reply continues it as one text, rather than answering it.
    pub fn is_continued(&self) -> bool {
        match self {
            Self::Chat(chat) => chat.options.ending == Ending::WithinLast,
            Self::Text(_) | Self::Tokens(_) => true,
        }
    }
}

/// One prompt and how many sibling replies to it are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What the call is for.
    pub purpose: Purpose,
    /// What the model is given.
    pub input: Input,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Sibling replies, at least 1. Sibling `i` of a seeded request is always the same text.
    pub samples: usize,
    /// Tokens per reply at most; `None` is what is left of the context.
    pub max_tokens: Option<usize>,
    /// A reply ends before the first of these strings; they are never part of its text.
    pub stop: Vec<String>,
    /// `Some(n)`: every token carries its natural-log probability and the `n` likeliest alternatives.
    pub logprobs: Option<usize>,
    /// What the text must match.
    pub constraint: Option<Constraint>,
    /// The client on whose behalf the call is made.
    pub origin: Origin,
}

impl Request {
    /// One reply to `messages` with the model's plain distribution. A judge and a refiner do not think: what they write is
    /// read for its form, and a critique is reasoning already.
    pub fn chat(purpose: Purpose, messages: Vec<Message>) -> Self {
        let input = match purpose {
            Purpose::Answer => Input::chat(messages),
            Purpose::Judge | Purpose::Refine => Input::chat_without_thinking(messages),
        };
        Self {
            purpose,
            input,
            sampling: Sampling::default(),
            samples: 1,
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            constraint: None,
            origin: Origin::default(),
        }
    }

    /// Whether a grammar holds the reply from its first token on.
    pub(crate) fn leaves_no_room_for_reasoning(&self) -> bool {
        self.constraint.as_ref().is_some_and(|wanted| !matches!(wanted, Constraint::Calls { optional: true, .. }))
    }

    /// The input as an engine should render it whose grammars hold from a reply's first token on. They leave no room for
    /// reasoning, so the prompt must not begin any.
    pub fn constrained_input(&self) -> Cow<'_, Input> {
        match &self.input {
            Input::Chat(chat) if self.leaves_no_room_for_reasoning() && chat.options.thinking != Thinking::Off => {
                let mut chat = chat.clone();
                chat.options.thinking = Thinking::Off;
                Cow::Owned(Input::Chat(chat))
            }
            input => Cow::Borrowed(input),
        }
    }
}

/// One alternative for one position.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenProb {
    /// The token's id.
    pub id: u32,
    /// Its bytes; a token may hold part of a character.
    pub bytes: Vec<u8>,
    /// Natural log of its probability under the model, before temperature and filters.
    pub logprob: f32,
}

/// A sampled token with its logprobs, present when asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// The sampled token.
    pub token: TokenProb,
    /// The likeliest tokens, best first.
    pub top: Vec<TokenProb>,
}

/// Why a reply ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// End of sequence, a complete grammar, or a stop string of an engine that does not say which one.
    Stop,
    /// The stop string of this index in [`Request::stop`].
    StopString(usize),
    /// `max_tokens` or the context was used up.
    Length,
}

/// A step of a reply. The last one has `finish` set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// The reply begins again, on another server: what came of it before does not count. Only calls of searches begin again.
    pub restarts: bool,
    /// New text; may be empty while a character or a stop string is undecided.
    pub text: String,
    /// Reasoning that is new; it is no part of the text.
    pub reasoning: Reasoning,
    /// Tokens generated since the last chunk, those of reasoning included.
    pub tokens: usize,
    /// The log-probabilities of these tokens, if they were asked for; reasoning has none.
    pub logprobs: Vec<TokenLogprobs>,
    /// Set on the last chunk.
    pub finish: Option<FinishReason>,
    /// The prompt's tokens, from engines that learn of them only while they answer; it replaces the [`Reply`]'s counts.
    pub prompt: Option<PromptTokens>,
}

/// Tokens of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PromptTokens {
    /// All tokens of the prompt.
    pub sent: usize,
    /// How many of these were reused rather than computed.
    pub cached: usize,
}

/// A running reply. Dropping it cancels it within one decode step.
pub struct Reply {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of these tokens' keys and values were reused rather than computed.
    pub cached_tokens: usize,
    /// The chunks, ending after the one with `finish`, or with an error.
    pub chunks: Chunks,
}

/// A whole reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// The whole text.
    pub text: String,
    /// What the model thought before; it is no part of the text.
    pub reasoning: Reasoning,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How many of these were reused.
    pub cached_tokens: usize,
    /// Tokens generated, those of reasoning included.
    pub tokens: usize,
    /// Log-probabilities of each token of the text, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Reply {
    /// Waits for all of the reply.
    ///
    /// # Errors
    /// The engine's error; a stream that ends early is [`EngineError::Crashed`].
    pub async fn complete(mut self) -> Result<Completion, EngineError> {
        let mut done = Completion {
            text: String::new(),
            reasoning: Reasoning::default(),
            prompt_tokens: self.prompt_tokens,
            cached_tokens: self.cached_tokens,
            tokens: 0,
            logprobs: Vec::new(),
            finish: FinishReason::Stop,
        };
        while let Some(chunk) = self.chunks.next().await {
            let chunk = chunk?;
            if chunk.restarts {
                done.text.clear();
                done.logprobs.clear();
                (done.reasoning, done.tokens) = (Reasoning::default(), 0);
            }
            done.text.push_str(&chunk.text);
            done.reasoning.add(&chunk.reasoning);
            done.tokens += chunk.tokens;
            if let Some(PromptTokens { sent, cached }) = chunk.prompt {
                (done.prompt_tokens, done.cached_tokens) = (sent, cached);
            }
            done.logprobs.extend(chunk.logprobs);
            if let Some(finish) = chunk.finish {
                done.finish = finish;
                return Ok(done);
            }
        }
        Err(EngineError::Crashed("the reply ended without a finish reason".into()))
    }
}

/// A token of a given text.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    /// The token's id.
    pub id: u32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
    /// Its place among all tokens by their probability, 1 for the likeliest; `None` for the first.
    pub rank: Option<usize>,
    /// What the model expected after the tokens before it; `None` for the first.
    pub logprobs: Option<TokenLogprobs>,
}

/// What a caller can act on when a model call fails.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum EngineError {
    /// The prompt leaves no room for a reply.
    #[error("the prompt has {tokens} tokens, the model's context holds {limit}; send a shorter one")]
    PromptTooLong {
        /// Tokens of the prompt; of one that was not tokenized because it cannot fit, the fewest that it can have.
        tokens: usize,
        /// Tokens of the context.
        limit: usize,
    },
    /// The request asks for something that this engine or model cannot do.
    #[error("{0}")]
    Unsupported(String),
    /// The prompt is at fault: it is empty, it cannot be tokenized, or the chat template refuses it.
    #[error("{0}")]
    Prompt(String),
    /// Something else of the request is at fault, such as a grammar.
    #[error("{0}")]
    Invalid(String),
    /// What the reply must match is at fault: it does not compile, or it asks for too much.
    #[error("the constraint cannot be honoured: {0}")]
    Constraint(String),
    /// Starting up, restarting or shutting down; worth another try.
    #[error("the model is not available: {0}")]
    Unavailable(String),
    /// The engine failed during the call.
    #[error("the model failed: {0}")]
    Crashed(String),
    /// The server that this one asks for its replies failed, in that server's words.
    #[error("{0}")]
    Upstream(String),
}

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

/// Stream `index` of `seed`: how siblings, votes and branches get seeds of their own (SplitMix64's finalizer).
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    let mut z = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
