//! Texts as vectors: what the model's last layer holds of them, pooled into one vector each.

use super::{Input, Origin};

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all tokens' vectors.
    #[default]
    Mean,
    /// The vector of the last token, which has seen all the others.
    Last,
}

/// Texts that become vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct EmbedRequest {
    /// The texts, at least one.
    pub inputs: Vec<Input>,
    /// How the vectors of each text's tokens become one.
    pub pooling: Pooling,
    /// The client on whose behalf the call is made.
    pub origin: Origin,
}

/// The answer to an [`EmbedRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// A vector of length 1 for each text, in their order.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts.
    pub prompt_tokens: usize,
}
