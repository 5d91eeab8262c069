//! The events of a streamed response.

use serde::Serialize;
use utoipa::ToSchema;

use super::{OutputItem, OutputPart, ResponsesAnswer};
use crate::openai::{ProgressFields, TokenEntry};

/// An event with its place in the stream.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct NumberedEvent {
    /// What has happened.
    #[serde(flatten)]
    pub event: ResponsesEvent,
    /// Counts the events of the stream, from 0.
    pub sequence_number: u64,
}

/// What happened to a response. Every item begins with `response.output_item.added` and ends with
/// `response.output_item.done`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum ResponsesEvent {
    /// The response has begun.
    #[serde(rename = "response.created")]
    Created {
        /// The response so far.
        response: Box<ResponsesAnswer>,
    },
    /// The response is being made.
    #[serde(rename = "response.in_progress")]
    InProgress {
        /// The response so far.
        response: Box<ResponsesAnswer>,
    },
    /// A step of the search, where `search.events` asks for them.
    #[serde(rename = "response.search_progress")]
    SearchProgress(ProgressFields),
    /// An item has begun.
    #[serde(rename = "response.output_item.added")]
    ItemAdded {
        /// The item's place in `output`.
        output_index: usize,
        /// The item, still empty.
        item: OutputItem,
    },
    /// A part of an item has begun.
    #[serde(rename = "response.content_part.added")]
    PartAdded {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The part, still empty.
        part: OutputPart,
    },
    /// The reasoning continues.
    #[serde(rename = "response.reasoning_text.delta")]
    ReasoningDelta {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The new text.
        delta: String,
    },
    /// The reasoning is complete.
    #[serde(rename = "response.reasoning_text.done")]
    ReasoningDone {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The whole text.
        text: String,
    },
    /// The text continues.
    #[serde(rename = "response.output_text.delta")]
    TextDelta {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The new text.
        delta: String,
        /// The probabilities of the new tokens, where asked for.
        logprobs: Vec<TokenEntry>,
    },
    /// The text is complete.
    #[serde(rename = "response.output_text.done")]
    TextDone {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The whole text.
        text: String,
        /// The probabilities of all tokens, where asked for.
        logprobs: Vec<TokenEntry>,
    },
    /// A part of an item is complete.
    #[serde(rename = "response.content_part.done")]
    PartDone {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The part's place in the item.
        content_index: usize,
        /// The whole part.
        part: OutputPart,
    },
    /// The arguments of a call have come. They always come at once.
    #[serde(rename = "response.function_call_arguments.delta")]
    ArgumentsDelta {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The new text.
        delta: String,
    },
    /// The arguments of a call are complete.
    #[serde(rename = "response.function_call_arguments.done")]
    ArgumentsDone {
        /// The item's id.
        item_id: String,
        /// The item's place in `output`.
        output_index: usize,
        /// The function's name.
        name: String,
        /// The whole arguments.
        arguments: String,
    },
    /// An item is complete.
    #[serde(rename = "response.output_item.done")]
    ItemDone {
        /// The item's place in `output`.
        output_index: usize,
        /// The whole item.
        item: OutputItem,
    },
    /// The response is complete.
    #[serde(rename = "response.completed")]
    Completed {
        /// The whole response.
        response: Box<ResponsesAnswer>,
    },
    /// The response was cut off by a limit of tokens.
    #[serde(rename = "response.incomplete")]
    Incomplete {
        /// The response as far as it was written.
        response: Box<ResponsesAnswer>,
    },
    /// The response failed.
    #[serde(rename = "response.failed")]
    Failed {
        /// The response as far as it went.
        response: Box<ResponsesAnswer>,
    },
    /// An error ends the stream; `response.failed` follows.
    #[serde(rename = "error")]
    Error {
        /// A code for programs to read.
        code: Option<String>,
        /// A message for people to read.
        message: String,
        /// The field at fault.
        param: Option<String>,
    },
}
