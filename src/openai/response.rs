//! Chat answers on the wire: whole, in chunks, and errors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::StopCause;
use super::prompt::{PromptLogprob, PromptLogprobs};
use super::search::{SearchEvent, SearchReport, TreeNode};
use super::tools::{ToolCallDelta, ToolCallEntry};
use crate::engine::{FinishReason, TokenLogprobs, TokenProb};
use crate::search::StopReason;

/// A whole chat answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    /// An id that begins with `chatcmpl-`.
    pub id: String,
    /// The object's kind, always `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as it was asked for.
    pub model: String,
    /// The weights that answered.
    pub system_fingerprint: String,
    /// The answers, by index.
    pub choices: Vec<ChatChoice>,
    /// Tokens of the whole request.
    pub usage: Usage,
    /// What the model expected in place of each of the prompt's tokens, where `prompt_logprobs` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// The search; of the first choice where `n` is above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// Every choice's search where `n` is above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searches: Option<Vec<SearchReport>>,
}

/// One answer to the conversation.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Index of the choice, from 0.
    pub index: usize,
    /// What the model says.
    pub message: AnswerMessage,
    /// Where asked for, and where the answer is the draft itself.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Finish,
    /// The stop string or stop token that ended it; `null` where something else did. The field is vLLM's.
    pub stop_reason: Option<StopCause>,
}

/// What the model says.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AnswerMessage {
    /// The role, always `assistant`.
    pub role: String,
    /// The answer's text; `null` where the answer is calls alone.
    pub content: Option<String>,
    /// What the model thought before its answer, where the two can be separated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The functions that the model calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallEntry>,
    /// The refusal, always `null`.
    pub refusal: Option<String>,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// End of sequence, a stop string, or a complete grammar.
    Stop,
    /// `max_tokens` or the context was used up.
    Length,
    /// The answer calls functions.
    #[serde(rename = "tool_calls")]
    ToolCalls,
}

impl From<FinishReason> for Finish {
    fn from(reason: FinishReason) -> Self {
        match reason {
            FinishReason::Stop | FinishReason::StopString(_) | FinishReason::StopToken(_) => Self::Stop,
            FinishReason::Length => Self::Length,
        }
    }
}

/// Logprobs of an answer's tokens.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatLogprobs {
    /// One entry per token.
    pub content: Vec<TokenEntry>,
    /// The refusal's tokens, always `null`.
    pub refusal: Option<Vec<TokenEntry>>,
}

/// A sampled token and its alternatives.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenEntry {
    /// The token itself.
    #[serde(flatten)]
    pub token: TokenText,
    /// The likeliest tokens, best first.
    pub top_logprobs: Vec<TokenText>,
}

/// A token with its probability.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenText {
    /// Its text; a token may hold part of a character.
    pub token: String,
    /// Natural log, -9999 where it is zero.
    pub logprob: f32,
    /// The token's bytes.
    pub bytes: Vec<u8>,
}

impl From<&TokenProb> for TokenText {
    fn from(token: &TokenProb) -> Self {
        let text = String::from_utf8_lossy(&token.bytes).into_owned();
        // JSON has no infinity; OpenAI writes -9999.
        Self { token: text, logprob: token.logprob.max(-9999.0), bytes: token.bytes.clone() }
    }
}

impl ChatLogprobs {
    /// OpenAI's shape of `tokens`.
    pub fn new(tokens: &[TokenLogprobs]) -> Self {
        let entry = |token: &TokenLogprobs| TokenEntry {
            token: (&token.token).into(),
            top_logprobs: token.top.iter().map(TokenText::from).collect(),
        };
        Self { content: tokens.iter().map(entry).collect(), refusal: None }
    }
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Tokens of the prompt, counted once.
    pub prompt_tokens: usize,
    /// Generated, a search's critiques and rejected responses included.
    pub completion_tokens: usize,
    /// Tokens of the prompt and of the completion.
    pub total_tokens: usize,
    /// Parts of `completion_tokens`.
    pub completion_tokens_details: CompletionDetails,
    /// Parts of `prompt_tokens`.
    pub prompt_tokens_details: PromptDetails,
}

/// Parts of the completion's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CompletionDetails {
    /// Generated but not in the answer.
    pub reasoning_tokens: usize,
}

/// Parts of the prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PromptDetails {
    /// Reused rather than computed.
    pub cached_tokens: usize,
}

/// One event of a streamed chat answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// An id that all chunks of an answer share.
    pub id: String,
    /// The object's kind, always `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as it was asked for.
    pub model: String,
    /// The weights that answer.
    pub system_fingerprint: String,
    /// Empty in usage and progress chunks.
    pub choices: Vec<ChunkChoice>,
    /// The usage, on the last chunk, where asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The search, on the chunk with `usage`, else on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// Every choice's search where `n` is above 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searches: Option<Vec<SearchReport>>,
    /// The step that a progress chunk reports.
    #[serde(flatten)]
    pub progress: Option<ProgressFields>,
}

/// The step that a progress chunk reports.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ProgressFields {
    /// The step that was taken.
    pub search_event: SearchEvent,
    /// The choice whose search it is.
    pub search_choice: usize,
    /// The node that it happened to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_node: Option<TreeNode>,
    /// The votes of the judgement that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search_votes: Option<super::VoteCounts>,
    /// Why the search stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub search_stop_reason: Option<StopReason>,
}

/// A step of one answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Index of the choice, from 0.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// Log-probabilities of the new tokens.
    pub logprobs: Option<ChatLogprobs>,
    /// Why the answer ends, on its last chunk.
    pub finish_reason: Option<Finish>,
    /// The stop string or stop token that ended it, where one did, on its last chunk. The field is vLLM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<StopCause>,
}

/// What is new in an answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Delta {
    /// The role, on the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// New text of the reasoning before the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The new text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// The new calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// OpenAI's error envelope.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// What is wrong.
    pub error: ErrorDetail,
}

/// What went wrong, and what to do.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// A message for people to read.
    pub message: String,
    /// The class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault.
    pub param: Option<String>,
    /// A code for programs to read.
    pub code: Option<String>,
}

/// The answer of `GET /v1/models`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// The models and their aliases.
    pub data: Vec<ModelCard>,
}

/// A served model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ModelCard {
    /// The name that requests use.
    pub id: String,
    /// The object's kind, always `model`.
    pub object: &'static str,
    /// When the server started, in seconds since 1970.
    pub created: u64,
    /// The owner, always `spar`.
    pub owned_by: &'static str,
    /// Tokens of prompt and answer together.
    pub max_model_len: usize,
    /// The model behind the name: itself, or what a `:search` alias stands for.
    pub root: String,
    /// The model that an adapter is on, or what a `:search` alias stands for.
    pub parent: Option<String>,
    /// What the name is good for: `completion`, `chat`, `tools`, `structured_outputs` (JSON schemas at least), `prompt_logprobs`,
    /// `score`, `embedding`; a `:search` alias is good for `chat`, `tools` and `search`.
    pub capabilities: Vec<&'static str>,
}

/// What is known of the judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgeState {
    /// It was not tried yet, or could not be.
    #[default]
    Untried,
    /// It rates a right answer clearly above a wrong one.
    Able,
    /// Its verdicts can be read, but it rates a wrong answer about as high as a right one: where rules are found they decide
    /// alone, unless a request names the judge.
    Indifferent,
    /// No verdict can be read from it: searches need rules.
    Unreadable,
}
