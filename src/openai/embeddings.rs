//! Embeddings on the wire.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Prompt, whole_number};

/// The body of `POST /v1/embeddings`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    /// The text that becomes a vector, or several; each as text or as its tokens' ids. At most 2048 texts.
    pub input: Prompt,
    /// A served model's name; absent: the served model.
    pub model: Option<String>,
    /// `float`, or `base64` for the bytes of the numbers as little-endian floats of 32 bits; absent: `float`.
    #[schema(pattern = "^(float|base64)$")]
    pub encoding_format: Option<String>,
    /// Numbers of a vector. The served model's vectors cannot be shortened, so only their own length is taken.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 1)]
    pub dimensions: Option<i64>,
    /// How the vectors of a text's tokens become one: `mean` of all, or the `last` one; absent: `mean`.
    #[schema(pattern = "^(mean|last)$")]
    pub pooling: Option<String>,
    /// Who asks; not used.
    pub user: Option<String>,
}

/// Vectors of texts.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EmbeddingResponse {
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// The vectors, in the order of the texts.
    pub data: Vec<Embedding>,
    /// The model as it was asked for.
    pub model: String,
    /// Tokens of all texts.
    pub usage: EmbeddingUsage,
}

/// The vector of one text.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Embedding {
    /// The object's kind, always `embedding`.
    pub object: &'static str,
    /// Index of the text, from 0.
    pub index: usize,
    /// The vector, which has length 1.
    pub embedding: Vector,
}

/// A vector as it was asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// The numbers of the vector.
    Numbers(Vec<f32>),
    /// The bytes of its numbers in base64.
    Base64(String),
}

/// Tokens of a request that generates nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// The number of all tokens, which equals `prompt_tokens`.
    pub total_tokens: usize,
}

impl From<usize> for EmbeddingUsage {
    fn from(tokens: usize) -> Self {
        Self { prompt_tokens: tokens, total_tokens: tokens }
    }
}
