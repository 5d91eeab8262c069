//! Anthropic's words on the wire: the Messages API, what is asked and what is answered; nothing here is checked or defaulted.

mod answer;
mod blocks;

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use answer::*;
pub use blocks::*;

use crate::chat::TemplateKwargs;
use crate::openai::{
    DrawingFields, SearchOptions, maybe_functions, maybe_map, maybe_small_map, maybe_small_value, maybe_value,
    maybe_whole, whole,
};

/// The body of `POST /v1/messages`. Unknown fields are ignored, unless ignoring them would change the answer.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct MessagesRequest {
    /// Tokens of the answer at most, those of thinking included.
    #[serde(deserialize_with = "whole")]
    #[schema(minimum = 1)]
    pub max_tokens: i64,
    /// What leads to the answer.
    #[serde(flatten, skip_deserializing)]
    pub prompt: MessagesPrompt,
    /// Strings at which an answer ends; never part of it. At most 64 strings of at most 1024 bytes.
    pub stop_sequences: Option<Vec<String>>,
    /// Pairs about the request. `search_budget` and `search` may stand here as text, for clients that cannot add fields; other
    /// pairs, such as `user_id`, are not used.
    #[serde(default, deserialize_with = "maybe_small_map")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Judged refinements that the answer may cost; 0 or absent is plain decoding.
    #[serde(default, deserialize_with = "maybe_whole")]
    #[schema(minimum = 0)]
    pub search_budget: Option<i64>,
    /// How the search works; alone, it turns the search on with the server's default budget.
    pub search: Option<SearchOptions>,
    /// How tokens are drawn; `n` can only be 1.
    #[serde(flatten, skip_deserializing)]
    pub drawing: DrawingFields,
}

/// The body of `POST /v1/messages/count_tokens`.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CountTokensRequest {
    /// A served model's name, or its `:search` alias; absent: the served model.
    pub model: Option<String>,
    /// What is counted.
    #[serde(flatten, skip_deserializing)]
    pub prompt: MessagesPrompt,
}

/// The fields of a prompt.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct MessagesPrompt {
    /// The conversation, oldest turn first; it ends with the user's turn.
    pub messages: Vec<InputMessage>,
    /// The system's message: a text, or blocks of text.
    pub system: Option<Blocks>,
    /// The functions that the model may call. Tools of other kinds are refused.
    #[serde(default, deserialize_with = "maybe_functions")]
    pub tools: Option<Vec<MessagesTool>>,
    /// Whether it has to call one; absent: `auto`.
    pub tool_choice: Option<MessagesToolChoice>,
    /// Whether the model thinks before it answers; absent: its chat template decides.
    pub thinking: Option<ThinkingSettings>,
    /// How much work goes into the answer, and which form it has.
    pub output_config: Option<OutputSettings>,
    /// Variables of the model's chat template, as in vLLM.
    #[serde(default, deserialize_with = "maybe_map")]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<TemplateKwargs>,
}

/// A turn of the conversation.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct InputMessage {
    /// `user`, `assistant` or `system`.
    #[schema(pattern = "^(user|assistant|system)$")]
    pub role: String,
    /// What is said: a text, or blocks.
    pub content: Blocks,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct MessagesTool {
    /// The tool's kind, `custom` or absent.
    #[serde(rename = "type")]
    #[schema(pattern = "^custom$")]
    pub kind: Option<String>,
    /// The function's name has 1 to 64 letters, digits, underscores, dots and dashes.
    #[serde(default)]
    pub name: String,
    /// The description says to the model what the function does.
    pub description: Option<String>,
    /// JSON schema of its input, which is an object.
    #[serde(default, deserialize_with = "maybe_small_value")]
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
}

/// Whether the model has to call a function.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct MessagesToolChoice {
    /// `auto`, `any` (one of them must be called), `tool` (the one of this `name` must) or `none`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(auto|any|tool|none)$")]
    pub kind: String,
    /// The function that must be called.
    pub name: Option<String>,
    /// Whether one answer may hold one call only.
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether the model thinks before it answers.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ThinkingSettings {
    /// `enabled`, `disabled`, or `adaptive`, which leaves it to the chat template.
    #[serde(rename = "type")]
    #[schema(pattern = "^(enabled|disabled|adaptive)$")]
    pub kind: String,
    /// How many tokens the model should think at most; only `max_tokens` limits it here.
    #[serde(default, deserialize_with = "maybe_whole")]
    pub budget_tokens: Option<i64>,
    /// `omitted` leaves the text of the thinking out of the answer; `summarized` shows all of it, as an absent value does.
    #[schema(pattern = "^(summarized|omitted)$")]
    pub display: Option<String>,
}

/// How much work goes into the answer, and which form it has.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct OutputSettings {
    /// `low`, `medium` or `high`, as `reasoning_effort` of a chat completion.
    #[schema(pattern = "^(low|medium|high)$")]
    pub effort: Option<String>,
    /// The form of the text; absent: any text.
    pub format: Option<OutputFormat>,
}

/// A form of text. Decoding is constrained to it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct OutputFormat {
    /// The kind of the form, always `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^json_schema$")]
    pub kind: String,
    /// The schema, within the limits of a chat completion's.
    #[serde(default, deserialize_with = "maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}
