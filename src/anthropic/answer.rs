//! An answer of the Messages API: whole, in events, and errors.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::openai::{ProgressFields, SearchReport, Usage};

/// A whole answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesAnswer {
    /// An id that begins with `msg_`.
    pub id: String,
    /// The object's kind, always `message`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The role, always `assistant`.
    pub role: &'static str,
    /// The model as it was asked for.
    pub model: String,
    /// What was thought, said and called, in its order.
    pub content: Vec<AnswerBlock>,
    /// Why it ended; null while it is streamed.
    pub stop_reason: Option<MessagesStop>,
    /// The string of `stop_sequences` at which it ended, where it did.
    pub stop_sequence: Option<String>,
    /// Tokens of the request.
    pub usage: MessagesUsage,
    /// The search, where the answer was searched for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
}

/// A block of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerBlock {
    /// What the model thought before it answered, where the two can be separated.
    Thinking {
        /// The thinking itself; empty where `thinking.display` is `omitted`.
        thinking: String,
        /// Always empty: thinking is not signed, and taken back as it is.
        signature: String,
    },
    /// What the model says.
    Text {
        /// The text itself.
        text: String,
    },
    /// A call of a function.
    ToolUse {
        /// Names the call; its result refers to it by `tool_use_id`.
        id: String,
        /// The function's name.
        name: String,
        /// The input of the call.
        #[schema(value_type = Object)]
        input: Map<String, Value>,
    },
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum MessagesStop {
    /// The model has said everything.
    EndTurn,
    /// `max_tokens` or the context was used up.
    MaxTokens,
    /// It reached a string of `stop_sequences`.
    StopSequence,
    /// It calls functions.
    ToolUse,
}

/// Tokens of a request.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct MessagesUsage {
    /// Tokens of the prompt that were computed; in `message_start` they are not known yet.
    pub input_tokens: usize,
    /// Always 0: keeping a prefix is not counted.
    pub cache_creation_input_tokens: usize,
    /// Tokens of the prompt that were reused rather than computed.
    pub cache_read_input_tokens: usize,
    /// Generated, a search's critiques and rejected responses included.
    pub output_tokens: usize,
    /// Parts of `output_tokens`.
    pub output_tokens_details: ThinkingTokens,
}

/// Parts of the generated tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct ThinkingTokens {
    /// Generated but not in the answer.
    pub thinking_tokens: usize,
}

impl From<Usage> for MessagesUsage {
    fn from(usage: Usage) -> Self {
        let cached = usage.prompt_tokens_details.cached_tokens;
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: 0,
            cache_read_input_tokens: cached,
            output_tokens: usage.completion_tokens,
            output_tokens_details: ThinkingTokens { thinking_tokens: usage.completion_tokens_details.reasoning_tokens },
        }
    }
}

/// An event of a streamed answer. Every block begins with `content_block_start` and ends with `content_block_stop`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum MessagesEvent {
    /// The answer has begun.
    MessageStart {
        /// The answer, without blocks yet.
        message: Box<MessagesAnswer>,
    },
    /// A block has begun.
    ContentBlockStart {
        /// The block's place in `content`.
        index: usize,
        /// The block, still empty.
        content_block: AnswerBlock,
    },
    /// A block continues.
    ContentBlockDelta {
        /// The block's place in `content`.
        index: usize,
        /// What is new.
        delta: BlockDelta,
    },
    /// A block is complete.
    ContentBlockStop {
        /// The block's place in `content`.
        index: usize,
    },
    /// The answer has ended.
    MessageDelta {
        /// Why it ended.
        delta: StopDelta,
        /// Tokens of the whole request.
        usage: MessagesUsage,
        /// The search, where the answer was searched for.
        #[serde(skip_serializing_if = "Option::is_none")]
        search: Option<Box<SearchReport>>,
    },
    /// The stream is complete.
    MessageStop {},
    /// A sign of life during a search; with `search.events` also its steps.
    Ping(Ping),
    /// An error ends the stream.
    Error {
        /// What went wrong, and what to do.
        error: MessagesErrorDetail,
    },
}

/// A sign of life.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Ping {
    /// The step of the search that was taken.
    #[serde(flatten)]
    pub progress: Option<ProgressFields>,
}

/// What is new in a block.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum BlockDelta {
    /// The text continues.
    TextDelta {
        /// The new text.
        text: String,
    },
    /// The input of a call has come. It always comes at once.
    InputJsonDelta {
        /// The input as JSON.
        partial_json: String,
    },
    /// The thinking continues.
    ThinkingDelta {
        /// The new text.
        thinking: String,
    },
    /// Thinking is complete.
    SignatureDelta {
        /// Always empty: thinking is not signed.
        signature: String,
    },
}

/// Why a streamed answer ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StopDelta {
    /// The reason of its end.
    pub stop_reason: MessagesStop,
    /// The string of `stop_sequences` at which it ended, where it did.
    pub stop_sequence: Option<String>,
}

/// The answer of `POST /v1/messages/count_tokens`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CountTokensAnswer {
    /// Tokens of the prompt: of its messages, its system's message and its functions.
    pub input_tokens: usize,
}

/// Anthropic's error envelope.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesErrorBody {
    /// The object's kind, always `error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// What went wrong, and what to do.
    pub error: MessagesErrorDetail,
}

/// What went wrong, and what to do.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessagesErrorDetail {
    /// The class, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// A message for people to read.
    pub message: String,
    /// The field at fault; an addition to Anthropic's fields.
    pub param: Option<String>,
    /// A code for programs to read; an addition to Anthropic's fields.
    pub code: Option<String>,
}
