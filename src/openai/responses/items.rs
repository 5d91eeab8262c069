//! The items of a conversation as a client sends them.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::openai::one_or_many::text_or_list;

/// What is asked: a text or a list of items.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ResponsesInput {
    /// A user's message.
    Text(String),
    /// Messages, calls of functions, their results, and reasoning.
    Items(Vec<InputItem>),
}

impl<'de> Deserialize<'de> for ResponsesInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_list(deserializer, "a string or a list of items", Self::Text, Self::Items)
    }
}

/// An item of the conversation. Which fields it has depends on its `type`; items of types that are not served are refused.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct InputItem {
    /// `message`, which is also what an absent type means, `function_call`, `function_call_output` or `reasoning`.
    #[serde(rename = "type")]
    #[schema(pattern = "^(message|function_call|function_call_output|reasoning)$")]
    pub kind: Option<String>,
    /// Who speaks in a message: `system`, `developer`, `user` or `assistant`.
    #[schema(pattern = "^(system|developer|user|assistant)$")]
    pub role: Option<String>,
    /// What a message says, or what was thought.
    pub content: Option<ItemContent>,
    /// The summary of reasoning; it is read where the item has no `content`.
    pub summary: Option<Vec<ItemPart>>,
    /// The id of a call, in the call and in its result.
    pub call_id: Option<String>,
    /// The function that is called.
    pub name: Option<String>,
    /// The arguments of a call, as the text of a JSON object.
    pub arguments: Option<String>,
    /// The result of a call.
    pub output: Option<ItemContent>,
}

/// Text as one string or in parts.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ItemContent {
    /// The text as one string.
    Text(String),
    /// Parts, joined by line breaks.
    Parts(Vec<ItemPart>),
}

impl<'de> Deserialize<'de> for ItemContent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_list(deserializer, "a string or a list of parts", Self::Text, Self::Parts)
    }
}

/// A part of an item. Images, files and sound are refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ItemPart {
    /// `input_text`, `output_text`, `text`, `refusal`, `reasoning_text` or `summary_text`.
    #[serde(rename = "type", default)]
    #[schema(pattern = "^(input_text|output_text|text|refusal|reasoning_text|summary_text)$")]
    pub kind: String,
    /// The part's text.
    pub text: Option<String>,
    /// The text of a refusal.
    pub refusal: Option<String>,
}
