//! Replies of a model, while they run and as a whole.

use futures::StreamExt;
use futures::stream::BoxStream;

use super::error::EngineError;
use super::reasoning::Reasoning;

/// A reply as it comes.
pub type Chunks = BoxStream<'static, Result<Chunk, EngineError>>;

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
    /// The stop string of this index in [`Request::stop`](super::Request::stop).
    StopString(usize),
    /// This token, one of [`TokenRules::stop_tokens`](super::TokenRules::stop_tokens).
    StopToken(u32),
    /// `max_tokens` or the context was used up.
    Length,
}

/// A step of a reply. The last one has `finish` set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chunk {
    /// The reply begins again on another server; its chunks so far do not count. Only calls of searches begin again.
    pub restarts: bool,
    /// New text; may be empty while a character or a stop string is undecided.
    pub text: String,
    /// Reasoning that is new; it is no part of the text.
    pub reasoning: Reasoning,
    /// Tokens generated since the last chunk, reasoning included.
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
    /// Tokens generated, reasoning included.
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
