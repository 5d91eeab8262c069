//! The words of `POST /v1/checks`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::ChatMessage;

/// The body of `POST /v1/checks`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChecksRequest {
    /// The conversation, oldest turn first; its last user turn is what would be answered.
    pub messages: Vec<ChatMessage>,
}

/// The instructions of a conversation that a rule can check.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChecksResponse {
    /// The checks in the order of the words in which they were found.
    pub checks: Vec<StatedCheck>,
}

/// A check, and where the conversation states it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct StatedCheck {
    /// The instruction id, such as `punctuation:no_comma`.
    pub id: String,
    /// Its keyword arguments.
    #[schema(value_type = Object)]
    pub kwargs: Map<String, Value>,
    /// The span of the conversation that states it.
    pub words: String,
}
