//! The words of the Responses API: what is asked, what is answered, and the events of a stream.

mod answer;
mod events;
mod items;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

pub use answer::*;
pub use events::*;
pub use items::*;

use super::{DrawingFields, SearchOptions, StructuredOutputs, bounded_list, small_value, whole_number};
use crate::chat::TemplateKwargs;

/// The body of `POST /v1/responses`. The server keeps no responses, so that every request holds its whole conversation.
/// Unknown fields are ignored, unless ignoring them would change the answer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// What is asked: a text, or the items of the conversation, oldest first.
    pub input: ResponsesInput,
    /// The system's message in front of the conversation.
    pub instructions: Option<String>,
    /// Tokens of the answer at most, those of reasoning included; absent: what is left of the context.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 1)]
    pub max_output_tokens: Option<i64>,
    /// What the text of the answer must be.
    pub text: Option<TextSettings>,
    /// How much the model thinks before it answers.
    pub reasoning: Option<ReasoningSettings>,
    /// The functions that the model may call. Tools of other kinds are refused.
    #[serde(default, deserialize_with = "bounded_list::maybe_functions")]
    pub tools: Option<Vec<ResponsesTool>>,
    /// Whether it has to call one; absent: `auto`.
    pub tool_choice: Option<ResponsesToolChoice>,
    /// Whether one answer may hold several calls; absent: it may.
    pub parallel_tool_calls: Option<bool>,
    /// What else the answer shows. `message.output_text.logprobs` gives the log-probabilities of its text; other values of
    /// OpenAI's are taken, and add nothing.
    pub include: Option<Vec<String>>,
    /// Likeliest alternatives per token; above 0 the answer shows log-probabilities.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Pairs that the answer repeats. `search_budget` and `search` may stand here as text, for clients that cannot add fields.
    #[serde(default, deserialize_with = "small_value::maybe_small_map")]
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Only `false` can be honoured, which is also what an absent value means here.
    pub store: Option<bool>,
    /// Always refused: no response is kept that it could name.
    pub previous_response_id: Option<String>,
    /// `auto` or `disabled`. Nothing is ever cut from a conversation: one that does not fit is refused.
    #[schema(pattern = "^(auto|disabled)$")]
    pub truncation: Option<String>,
    /// Variables of the model's chat template, as in vLLM.
    #[serde(default, deserialize_with = "small_value::maybe_map")]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<TemplateKwargs>,
    /// What the answer must match, where `text.format` cannot say it; the field is vLLM's.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Judged refinements that the answer may cost; 0 or absent is plain decoding.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0)]
    pub search_budget: Option<i64>,
    /// How the search works; alone, it turns the search on with the server's default budget.
    pub search: Option<SearchOptions>,
    /// How tokens are drawn; `n` can only be 1.
    // Read on its own, as a chat's are.
    #[serde(flatten, skip_deserializing)]
    pub drawing: DrawingFields,
}

/// What the text of an answer must be.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct TextSettings {
    /// The format of the text; absent: any text.
    pub format: Option<TextFormat>,
    /// How long the answer should be; not used.
    pub verbosity: Option<String>,
}

/// A format of text. Decoding is constrained to it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TextFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    pub kind: String,
    /// The name of the schema; not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the schema is for; not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The schema of `json_schema`, within the limits of a chat completion's.
    #[serde(default, deserialize_with = "small_value::maybe_value", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Decoding is always constrained, so both values are honoured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// How much the model thinks before it answers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ReasoningSettings {
    /// `none`, `minimal`, `low`, `medium` or `high`, as `reasoning_effort` of a chat completion.
    #[schema(pattern = "^(none|minimal|low|medium|high)$")]
    pub effort: Option<String>,
    /// The length of a summary; not used, since the reasoning itself is shown as the `content` of its item.
    pub summary: Option<String>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponsesTool {
    /// The tool's kind, always `function`.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// The function's name has 1 to 64 letters, digits, underscores, dots and dashes.
    #[serde(default)]
    pub name: String,
    /// The description says to the model what the function does.
    pub description: Option<String>,
    /// JSON schema of its arguments, which are an object; absent: it takes none.
    #[serde(default, deserialize_with = "small_value::maybe_small_value")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Calls always follow the schema where the engine constrains replies, so both values are honoured.
    pub strict: Option<bool>,
}

/// Whether the model has to call a function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected none, auto, required, or an object that names functions")]
pub enum ResponsesToolChoice {
    /// `none`, `auto` or `required`.
    Word(String),
    /// The functions that may be called.
    Chosen(ChosenTools),
}

/// A choice of one function, or of several.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChosenTools {
    /// `function` for the one of this `name`, or `allowed_tools` for those of `tools`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(function|allowed_tools)$")]
    pub kind: String,
    /// The function that must be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `auto` or `required`, where `tools` says which functions may be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(auto|required)$")]
    pub mode: Option<String>,
    /// The functions that may be called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<AllowedTool>>,
}

/// A function that may be called.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AllowedTool {
    /// The tool's kind, always `function`.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// One of the offered functions.
    #[serde(default)]
    pub name: String,
}
