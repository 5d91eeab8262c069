//! Scores of given labels on the wire, in the shape of vLLM's generative scoring.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EmbeddingUsage, Prompt, whole_number};

/// The body of `POST /v1/score`: for each item, how likely each label is after the query and the item.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ScoreRequest {
    /// What all items have in common, as text or as its tokens' ids.
    pub query: Prompt,
    /// What is scored: each item follows the query, all as texts or all as their tokens' ids like the query. At most 1024.
    pub items: Prompt,
    /// The labels as token ids, 1 to 64; the score is that of the first one.
    #[serde(default, deserialize_with = "whole_number::maybe_token_ids")]
    pub label_token_ids: Option<Vec<u32>>,
    /// The labels as texts, 1 to 64, instead of `label_token_ids`. A label may have several tokens.
    pub labels: Option<Vec<String>>,
    /// Whether the labels' probabilities are divided by their sum; absent: true. Otherwise they are the model's own, among
    /// all tokens.
    pub apply_softmax: Option<bool>,
    /// Whether each item comes before the query; absent: false.
    pub item_first: Option<bool>,
    /// Whether texts get the tokens that the tokenizer puts around a text; absent: true.
    pub add_special_tokens: Option<bool>,
    /// A served model's name; absent: the served model.
    pub model: Option<String>,
    /// Becomes the end of the answer's `id`, as in a completion.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub request_id: Option<String>,
}

/// The scores of all items.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ScoreResponse {
    /// An id that begins with `score-`.
    pub id: String,
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as it was asked for.
    pub model: String,
    /// The scores, in the order of the items.
    pub data: Vec<ItemScore>,
    /// Tokens of all prompts; those that several items share count once.
    pub usage: EmbeddingUsage,
}

/// The score of one item.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ItemScore {
    /// Index of the item, from 0.
    pub index: usize,
    /// The object's kind, always `score`.
    pub object: &'static str,
    /// The probability of the first label.
    pub score: f64,
    /// The probability of every label, in their order.
    pub probabilities: Vec<f64>,
}
