//! What an answer must match, in the words of other servers: llama.cpp, SGLang, and vLLM before `structured_outputs`.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::small_value;

/// Other servers' fields for what the answer must match. One of them at most may be sent, and none beside `response_format`
/// or `structured_outputs`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct GuidedFields {
    /// A JSON schema as an object, or as its text: llama.cpp's and SGLang's field.
    #[serde(default, deserialize_with = "small_value::maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub json_schema: Option<Value>,
    /// A grammar in GBNF for the whole answer: llama.cpp's field.
    pub grammar: Option<String>,
    /// A grammar in GBNF for the whole answer: SGLang's field.
    pub ebnf: Option<String>,
    /// A regular expression for the whole answer: SGLang's field.
    pub regex: Option<String>,
    /// A JSON schema as an object, or as its text: vLLM's older field.
    #[serde(default, deserialize_with = "small_value::maybe_value")]
    #[schema(value_type = Option<Object>)]
    pub guided_json: Option<Value>,
    /// A regular expression for the whole answer: vLLM's older field.
    pub guided_regex: Option<String>,
    /// The texts of which the answer is one: vLLM's older field.
    pub guided_choice: Option<Vec<String>>,
    /// A grammar in GBNF for the whole answer: vLLM's older field.
    pub guided_grammar: Option<String>,
}
