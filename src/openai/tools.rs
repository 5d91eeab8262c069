//! The words of calls: functions that are offered, and calls in turns, answers and streams.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::small_value;
use crate::chat::{CalledFunction, ToolCall};

/// A function that the model may call.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolSpec {
    /// The tool's kind, always `function`.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// The function that may be called.
    pub function: FunctionSpec,
}

/// What a function is called, what it does, and what it takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FunctionSpec {
    /// The function's name has 1 to 64 letters, digits, underscores, dots and dashes.
    pub name: String,
    /// The description says to the model what the function does.
    pub description: Option<String>,
    /// JSON schema of its arguments, which are an object; absent: it takes none.
    #[serde(default, deserialize_with = "small_value::maybe_small_value")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Calls always follow the schema where the engine constrains replies. `true` also closes each object that names its properties
    /// and does not say whether there may be others.
    pub strict: Option<bool>,
}

/// Whether the model has to call a function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected none, auto, required, or an object that names a function")]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Word(String),
    /// The function of this name.
    Named(NamedTool),
    /// Some of the functions.
    Allowed(AllowedTools),
}

/// A choice among some of the functions.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AllowedTools {
    /// The choice's kind, always `allowed_tools`.
    #[serde(rename = "type")]
    #[schema(pattern = "^allowed_tools$")]
    pub kind: String,
    /// The functions, and whether one of them must be called.
    pub allowed_tools: AllowedSet,
}

/// The functions that may be called.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AllowedSet {
    /// Whether the model decides, `auto`, or has to call one of them, `required`.
    #[schema(pattern = "^(auto|required)$")]
    pub mode: String,
    /// Some of the offered functions, by name.
    pub tools: Vec<NamedTool>,
}

/// A choice of one function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NamedTool {
    /// The tool's kind, always `function`.
    #[serde(rename = "type")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// The function that must be called.
    pub function: ToolName,
}

/// The name of a function.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolName {
    /// One of the offered functions.
    pub name: String,
}

/// A call in an assistant's turn, or in an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ToolCallEntry {
    /// Names the call; its result refers to it by `tool_call_id`.
    pub id: String,
    /// The call's kind, always `function`.
    #[serde(rename = "type", default = "function")]
    #[schema(pattern = "^function$")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// The function of a call, with its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FunctionCall {
    /// The function's name.
    pub name: String,
    /// Its arguments as the text of a JSON object.
    pub arguments: String,
}

/// A call in a stream. Every call comes whole, in one chunk.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ToolCallDelta {
    /// Counts the answer's calls, from 0.
    pub index: usize,
    /// The call as a whole.
    #[serde(flatten)]
    pub call: ToolCallEntry,
}

fn function() -> String {
    "function".into()
}

impl From<&ToolCallEntry> for ToolCall {
    fn from(entry: &ToolCallEntry) -> Self {
        let FunctionCall { name, arguments } = entry.function.clone();
        Self::new(entry.id.clone(), CalledFunction { name, arguments })
    }
}
