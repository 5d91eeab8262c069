//! vLLM's account of what ended an answer.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::FinishReason;

/// The stop string or the stop token that ended an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum StopCause {
    /// One of the request's `stop_token_ids`.
    Token(u32),
    /// One of the request's `stop` strings.
    Text(String),
}

impl StopCause {
    /// What ended an answer whose request has the stop strings `stop`; `None` where the model or a limit ended it.
    pub fn of(reason: FinishReason, stop: &[String]) -> Option<Self> {
        match reason {
            FinishReason::StopString(index) => stop.get(index).cloned().map(Self::Text),
            FinishReason::StopToken(id) => Some(Self::Token(id)),
            FinishReason::Stop | FinishReason::Length => None,
        }
    }
}
