//! A response of the Responses API and the items that it consists of.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{ReasoningSettings, ResponsesTool, ResponsesToolChoice, TextSettings};
use crate::openai::{SearchReport, TokenEntry, Usage};

/// A response: whole, or as far as it is known while it is streamed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponsesAnswer {
    /// An id that begins with `resp_`. The response cannot be fetched by it, since none is kept.
    pub id: String,
    /// The object's kind, always `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// When it was complete, in seconds since 1970; null before that.
    pub completed_at: Option<u64>,
    /// How far it is.
    pub status: ResponsesStatus,
    /// Always `false`: no response is made in the background.
    pub background: bool,
    /// Why it failed, where it did.
    pub error: Option<ResponsesFailure>,
    /// Why it is incomplete, where it is.
    pub incomplete_details: Option<IncompleteDetails>,
    /// The instructions of the request.
    pub instructions: Option<String>,
    /// The limit of the request.
    pub max_output_tokens: Option<i64>,
    /// Always null: there are no tools whose calls it would limit.
    pub max_tool_calls: Option<i64>,
    /// The model as it was asked for.
    pub model: String,
    /// What was said and called, in its order.
    pub output: Vec<OutputItem>,
    /// Whether the answer might hold several calls.
    pub parallel_tool_calls: bool,
    /// Always null: no response is kept.
    pub previous_response_id: Option<String>,
    /// The settings of the request.
    pub reasoning: ReasoningSettings,
    /// The class of the service, always `default`.
    pub service_tier: &'static str,
    /// Always `false`: no response is kept.
    pub store: bool,
    /// The temperature at which tokens were drawn.
    pub temperature: f32,
    /// The settings of the request.
    pub text: TextSettings,
    /// The choice of the request.
    pub tool_choice: ResponsesToolChoice,
    /// The functions of the request.
    pub tools: Vec<ResponsesTool>,
    /// The alternatives per token that were asked for.
    pub top_logprobs: i64,
    /// The mass of the tokens that were drawn from.
    pub top_p: f32,
    /// Always `disabled`: nothing is cut from a conversation.
    pub truncation: &'static str,
    /// Tokens of the request; null before its end.
    pub usage: Option<ResponsesUsage>,
    /// The user of the request.
    pub user: Option<String>,
    /// The pairs of the request.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// The search, where the answer was searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
}

/// How far a response or an item is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ResponsesStatus {
    /// It is being made.
    InProgress,
    /// It is complete.
    Completed,
    /// It was cut off by a limit of tokens.
    Incomplete,
    /// It ended with an error.
    Failed,
}

/// Why a response failed.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponsesFailure {
    /// `server_error`, `rate_limit_exceeded` or `invalid_prompt`.
    pub code: &'static str,
    /// A message for people to read.
    pub message: String,
}

/// Why a response is incomplete.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct IncompleteDetails {
    /// The reason, always `max_output_tokens`: the limit of the request or the context was used up.
    pub reason: &'static str,
}

/// An item of a response.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// What the model thought before it answered, where the two can be separated.
    Reasoning {
        /// An id that begins with `rs_`.
        id: String,
        /// Always empty: the reasoning is shown as it is.
        summary: Vec<OutputPart>,
        /// The reasoning, as one part.
        content: Vec<OutputPart>,
        /// How far it is.
        status: ResponsesStatus,
    },
    /// What the model says.
    Message {
        /// An id that begins with `msg_`.
        id: String,
        /// The role, always `assistant`.
        role: &'static str,
        /// How far it is.
        status: ResponsesStatus,
        /// The text, as one part.
        content: Vec<OutputPart>,
    },
    /// A call of a function.
    FunctionCall {
        /// An id that begins with `fc_`.
        id: String,
        /// Names the call; its result refers to it.
        call_id: String,
        /// The function's name.
        name: String,
        /// Its arguments, as the text of a JSON object.
        arguments: String,
        /// How far it is.
        status: ResponsesStatus,
    },
}

impl OutputItem {
    /// The item's id.
    pub fn id(&self) -> &str {
        match self {
            Self::Reasoning { id, .. } | Self::Message { id, .. } | Self::FunctionCall { id, .. } => id,
        }
    }
}

/// A part of an item.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputPart {
    /// Text of the answer.
    OutputText {
        /// The text itself.
        text: String,
        /// Always empty: there are no sources to quote.
        #[schema(value_type = Vec<Object>)]
        annotations: Vec<Value>,
        /// The probability of every token, where asked for.
        logprobs: Vec<TokenEntry>,
    },
    /// Text of the reasoning.
    ReasoningText {
        /// The text itself.
        text: String,
    },
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ResponsesUsage {
    /// Tokens of the prompt, counted once.
    pub input_tokens: usize,
    /// Parts of `input_tokens`.
    pub input_tokens_details: InputTokensDetails,
    /// Generated, a search's critiques and rejected responses included.
    pub output_tokens: usize,
    /// Parts of `output_tokens`.
    pub output_tokens_details: OutputTokensDetails,
    /// Tokens of the prompt and of the answer.
    pub total_tokens: usize,
}

/// Parts of the prompt's tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct InputTokensDetails {
    /// Reused rather than computed.
    pub cached_tokens: usize,
    /// Always 0: keeping a prefix is not counted.
    pub cache_write_tokens: usize,
}

/// Parts of the generated tokens.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct OutputTokensDetails {
    /// Generated but not in the answer.
    pub reasoning_tokens: usize,
}

impl From<Usage> for ResponsesUsage {
    fn from(usage: Usage) -> Self {
        Self {
            input_tokens: usage.prompt_tokens,
            input_tokens_details: InputTokensDetails {
                cached_tokens: usage.prompt_tokens_details.cached_tokens,
                cache_write_tokens: 0,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: OutputTokensDetails {
                reasoning_tokens: usage.completion_tokens_details.reasoning_tokens,
            },
            total_tokens: usage.total_tokens,
        }
    }
}
