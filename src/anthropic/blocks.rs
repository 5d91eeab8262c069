//! The blocks that turns consist of.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::openai::{JsonText, text_or_list};

/// Text as one string, or blocks.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Blocks {
    /// The text as one string.
    Text(String),
    /// Blocks in their order.
    List(Vec<Block>),
}

impl<'de> Deserialize<'de> for Blocks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_list(deserializer, "a string or a list of blocks", Self::Text, Self::List)
    }
}

/// A block of a turn. Which fields it has depends on its `type`; images, documents and other blocks that are not served are
/// refused.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Block {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use` or `tool_result`.
    #[serde(rename = "type", default)]
    #[schema(pattern = "^(text|thinking|redacted_thinking|tool_use|tool_result)$")]
    pub kind: String,
    /// The text of a block of text; several are joined by line breaks.
    pub text: Option<String>,
    /// What an assistant thought; the chat template decides whether the model sees it.
    pub thinking: Option<String>,
    /// The id of a call.
    pub id: Option<String>,
    /// The function that is called.
    pub name: Option<String>,
    /// The input of a call, which must be an object; blocks of other types do not use the field.
    #[schema(value_type = Option<serde_json::Value>)]
    pub input: Option<JsonText>,
    /// The call whose result it is.
    pub tool_use_id: Option<String>,
    /// The result of a call: a text, or blocks of text.
    #[schema(no_recursion)]
    pub content: Option<Blocks>,
    /// Whether the call failed; the model then reads `Error: ` in front of the result.
    pub is_error: Option<bool>,
}
