//! OpenAI's words on the wire, both directions, with the search's extras; nothing here is checked or defaulted.

mod bounded_list;
mod checks;
mod completions;
mod decisions;
mod embeddings;
mod fine;
mod guided;
mod json_text;
mod key_usage;
mod one_or_many;
mod prompt;
mod response;
pub mod responses;
mod scores;
mod search;
mod small_value;
mod stop_cause;
mod tools;
mod upstreams;
mod whole_number;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::chat::TemplateKwargs;

use one_or_many::text_or_texts;

pub(crate) use bounded_list::maybe_functions;
pub use checks::*;
pub use completions::*;
pub use decisions::*;
pub use embeddings::*;
pub use fine::*;
pub use guided::*;
pub(crate) use json_text::JsonText;
pub use key_usage::*;
pub(crate) use one_or_many::{Entry, text_or_list};
pub use prompt::*;
pub use response::*;
pub use scores::*;
pub use search::*;
pub(crate) use small_value::{maybe_map, maybe_small_map, maybe_small_value, maybe_value};
pub use stop_cause::*;
pub use tools::*;
pub use upstreams::*;
pub(crate) use whole_number::{maybe as maybe_whole, required as whole};

/// The body of `POST /v1/chat/completions`. Unknown fields are ignored, unless ignoring them would change the answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// The conversation, oldest turn first.
    pub messages: Vec<ChatMessage>,
    /// Older name of `max_completion_tokens`.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 1)]
    pub max_tokens: Option<i64>,
    /// Tokens of the answer at most; absent: what is left of the context.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<i64>,
    /// Give every token's natural-log probability.
    pub logprobs: Option<bool>,
    /// Likeliest alternatives per token; needs `logprobs`.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0, maximum = 20)]
    pub top_logprobs: Option<i64>,
    /// Variables of the model's chat template, as in vLLM; `{"enable_thinking": false}` turns the reasoning of many models off.
    #[serde(default, deserialize_with = "small_value::maybe_map")]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<TemplateKwargs>,
    /// `none`, `minimal`, `low`, `medium` or `high`: a variable of the chat template; `none` also turns reasoning off. In a
    /// search, replies think only if this or `chat_template_kwargs` asks for it.
    #[schema(pattern = "^(none|minimal|low|medium|high)$")]
    pub reasoning_effort: Option<String>,
    /// What the answer must be: text, any JSON object, or JSON of a schema.
    pub response_format: Option<ResponseFormat>,
    /// What the answer must match, where `response_format` cannot say it; the field is vLLM's.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Other servers' fields for the same.
    #[serde(flatten, skip_deserializing)]
    pub guided: GuidedFields,
    /// Judged refinements that the answer may cost; 0 or absent is plain decoding.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0)]
    pub search_budget: Option<i64>,
    /// How the search goes about it; alone, it turns the search on with the server's default budget.
    pub search: Option<SearchOptions>,
    /// The functions that the model may call.
    #[serde(default, deserialize_with = "bounded_list::maybe_functions")]
    pub tools: Option<Vec<ToolSpec>>,
    /// Whether it has to call one; absent: `auto`.
    pub tool_choice: Option<ToolChoice>,
    /// Whether one answer may hold several calls; absent: it may.
    pub parallel_tool_calls: Option<bool>,
    /// Whether the prompt ends where the assistant begins to speak, as in vLLM; absent: it does, unless
    /// `continue_final_message` is set.
    pub add_generation_prompt: Option<bool>,
    /// Continues the last message instead of answering it, as in vLLM: the reply is what follows its content.
    pub continue_final_message: Option<bool>,
    /// vLLM's fields for single tokens and for prompts.
    #[serde(flatten, skip_deserializing)]
    pub fine: FineFields,
    /// How tokens are drawn.
    // Read on its own: to read flattened fields, serde would collect every unknown field of the body first.
    #[serde(flatten, skip_deserializing)]
    pub drawing: DrawingFields,
}

/// The fields that chat and text completions share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DrawingFields {
    /// A served model's name, or its `:search` alias; absent: the served model.
    pub model: Option<String>,
    /// The temperature of drawing, 0 being greedy; absent: the model's default, else 1.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f64>,
    /// Nucleus: the smallest set of tokens with at least this mass; 0 is the likeliest token alone; absent: the model's
    /// default, else 1.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f64>,
    /// The k likeliest tokens; -1 or 0: all; absent: the model's default, else all.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Tokens with at least this share of the likeliest one's probability; absent: the model's default, else 0.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f64>,
    /// Subtracted once per earlier occurrence in the reply; absent: 0.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f64>,
    /// Subtracted once if the token occurs in the reply; absent: 0.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f64>,
    /// Divides or multiplies logits of tokens in prompt and reply; absent: the model's default, else 1.
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f64>,
    /// Token id to what is added to its logit, -100 to 100; at most 4096 tokens.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Answers to give.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 1)]
    pub n: Option<i64>,
    /// Fixes the draw, and a whole search.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    pub seed: Option<i64>,
    /// Where an answer ends; not part of it. At most 64 strings of at most 1024 bytes.
    pub stop: Option<Stop>,
    /// Keep going after the end-of-sequence token.
    pub ignore_eos: Option<bool>,
    /// Server-sent events instead of one body.
    pub stream: Option<bool>,
    /// What else a stream carries.
    pub stream_options: Option<StreamOptions>,
    /// Who asks; not used.
    pub user: Option<String>,
    /// Keeps this request's prefixes apart from those of requests with another salt, as in vLLM. Those of different keys are
    /// kept apart in any case.
    #[schema(min_length = 1, max_length = 256)]
    pub cache_salt: Option<String>,
}

/// One turn as a client sends it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    #[schema(pattern = "^(system|developer|user|assistant|tool)$")]
    pub role: String,
    /// What is said.
    pub content: Option<Content>,
    /// What an assistant thought before it said that; the chat template decides whether the model sees it.
    pub reasoning_content: Option<String>,
    /// The calls of an assistant's turn; its content may then be absent.
    pub tool_calls: Option<Vec<ToolCallEntry>>,
    /// The call whose result a function's turn is.
    pub tool_call_id: Option<String>,
    /// The name of the function whose result it is, for templates that show it.
    pub name: Option<String>,
}

/// A turn's content.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Content {
    /// Text as one string.
    Text(String),
    /// Text in parts, joined by line breaks.
    Parts(Vec<ContentPart>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_list(deserializer, "a string or a list of text parts", Self::Text, Self::Parts)
    }
}

/// A part of a turn.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ContentPart {
    /// Only `text` is served, and in an assistant's turn also `refusal`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|refusal)$")]
    pub kind: String,
    /// The part's text.
    pub text: Option<String>,
    /// The text of a part of type `refusal`.
    pub refusal: Option<String>,
}

/// One stop string or several.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Stop {
    /// A single stop string.
    One(String),
    /// Up to 64 of them.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_texts(deserializer, Self::One, Self::Many)
    }
}

/// What else a stream carries.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Ends the stream with a chunk that has `usage`.
    pub include_usage: Option<bool>,
}

/// What the answer must be.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(text|json_object|json_schema)$")]
    pub kind: String,
    /// The schema of `json_schema`.
    pub json_schema: Option<JsonSchemaFormat>,
    /// The schema of `json_object`, as llama.cpp and others take it; absent: any JSON object. Within the limits of
    /// `structured_outputs.json`.
    #[serde(default, deserialize_with = "small_value::maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
}

/// What the answer must match: exactly one of these.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StructuredOutputs {
    /// A JSON schema of at most 256 KiB, with numbers between -(2^53 - 1) and 2^53 - 1; an object, or its text. A `format`
    /// that is not known is an annotation.
    #[serde(default, deserialize_with = "small_value::maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub json: Option<Value>,
    /// A regular expression for the whole answer, of at most 8 KiB.
    pub regex: Option<String>,
    /// One of these texts: at most 4000, of at most 64 KiB together.
    pub choice: Option<Vec<String>>,
    /// A grammar for the whole answer in GBNF, the notation of llama.cpp and XGrammar, of at most 64 KiB.
    pub grammar: Option<String>,
    /// `true`: any JSON object.
    pub json_object: Option<bool>,
    /// `true`: the JSON of `json` and `json_object` holds no white space between its parts.
    pub disable_any_whitespace: Option<bool>,
}

/// A named JSON schema.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JsonSchemaFormat {
    /// Its name; not used.
    pub name: Option<String>,
    /// The schema, within the limits of `structured_outputs.json`; absent: any JSON object.
    #[serde(default, deserialize_with = "small_value::maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub schema: Option<Value>,
    /// Decoding is always constrained. `true` also closes each object that names its properties and does not say whether there may
    /// be others.
    pub strict: Option<bool>,
}
