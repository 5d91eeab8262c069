//! vLLM's fields for single tokens and for prompts, which OpenAI's own API does not have.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::whole_number;

/// The fields of vLLM that chat and text completions share.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct FineFields {
    /// Tokens after which a reply ends, by their ids; they are not shown. At most 256.
    #[serde(default, deserialize_with = "whole_number::maybe_token_ids")]
    pub stop_token_ids: Option<Vec<u32>>,
    /// The reply neither ends by a token nor at a stop string before it has this many tokens; absent: 0.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0)]
    pub min_tokens: Option<i64>,
    /// Texts that never occur in the reply, not even inside of a longer word. At most 256 of at most 128 bytes each.
    pub bad_words: Option<Vec<String>>,
    /// The only tokens that may be drawn, by their ids. The reply ends by a token only where that is among them.
    #[serde(default, deserialize_with = "whole_number::maybe_token_ids")]
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Whether the stop string or the stop token that ends the reply is shown at its end; absent: it is not.
    pub include_stop_str_in_output: Option<bool>,
    /// Only this many of the prompt's last tokens are given to the model; -1 gives it as many as fit.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = -1)]
    pub truncate_prompt_tokens: Option<i64>,
    /// Shows the log-probability of every token of the prompt, and this many of the likeliest tokens in its place. It needs
    /// a whole answer, not a stream.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0, maximum = 20)]
    pub prompt_logprobs: Option<i64>,
    /// The place among the waiting requests of the same key: the lowest number is answered first, those of one number in the
    /// order in which they come; absent: 0.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    pub priority: Option<i64>,
    /// Becomes the end of the answer's `id`: 1 to 128 letters, digits, dots, colons, underscores and dashes.
    #[schema(pattern = "^[A-Za-z0-9._:-]{1,128}$")]
    pub request_id: Option<String>,
}
