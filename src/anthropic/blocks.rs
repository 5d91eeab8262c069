//! The blocks that turns consist of.

use serde::de::Error;
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
    /// The input of a call, an object.
    #[serde(default, deserialize_with = "maybe_object")]
    #[schema(value_type = Option<Object>)]
    pub input: Option<JsonText>,
    /// The call whose result it is.
    pub tool_use_id: Option<String>,
    /// The result of a call: a text, or blocks of text.
    #[schema(no_recursion)]
    pub content: Option<Blocks>,
    /// Whether the call failed; the model then reads `Error: ` in front of the result.
    pub is_error: Option<bool>,
}

/// Reads an object as text, or null.
fn maybe_object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<JsonText>, D::Error> {
    let input = Option::<JsonText>::deserialize(deserializer)?;
    match input {
        Some(JsonText(text)) if !text.starts_with('{') => Err(D::Error::custom("the input of a call is an object")),
        input => Ok(input),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_input_of_a_call_is_an_object() {
        let block = |input| serde_json::from_value::<Block>(json!({"type": "tool_use", "input": input}));
        assert_eq!(block(json!({"a": [1]})).unwrap().input, Some(JsonText(r#"{"a":[1]}"#.into())));
        assert_eq!(block(json!(null)).unwrap().input, None);
        for wrong in [json!([null]), json!("{}"), json!(1), json!(true)] {
            assert!(block(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
