//! Text completions and tokens on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::one_or_many::text_or_texts;
use super::{ChatMessage, DrawingFields, Finish, Usage, small_value};
use crate::chat::TemplateKwargs;
use crate::engine::TokenLogprobs;

/// The body of `POST /v1/completions`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The text to continue, or several.
    pub prompt: Prompt,
    /// Tokens of a continuation at most; absent: 16. With `echo` 0 continues nothing.
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// Show the prompt in front of its continuations, with `logprobs` also of its tokens.
    pub echo: Option<bool>,
    /// Alternatives per token.
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// How tokens are drawn; read on their own, as a chat's are.
    #[serde(flatten, skip_deserializing)]
    pub drawing: DrawingFields,
}

/// One text or several.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A single prompt.
    One(String),
    /// Several; the continuations of the first come first.
    Many(Vec<String>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_texts(deserializer, Self::One, Self::Many)
    }
}

/// Text completions; in a stream also the shape of every chunk.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompletionResponse {
    /// An id that begins with `cmpl-`.
    pub id: String,
    /// The object's kind, always `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model as it was asked for.
    pub model: String,
    /// The weights that answered.
    pub system_fingerprint: String,
    /// The continuations, by index.
    pub choices: Vec<CompletionChoice>,
    /// Tokens of the whole request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
}

/// One continuation of a prompt.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Index of the choice, from 0.
    pub index: usize,
    /// The continuation's text.
    pub text: String,
    /// Where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<Finish>,
}

/// Logprobs in the older shape.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// The tokens' natural-log probabilities; a prompt's first token has none.
    pub token_logprobs: Vec<Option<f32>>,
    /// Alternatives by text; none for a prompt's first.
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where each token begins, in characters of the text. A token that only the tokenizer adds takes no room.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Adds a token that begins at the character `offset`.
    pub fn push(&mut self, token: &[u8], logprobs: Option<&TokenLogprobs>, offset: usize) {
        let name = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // JSON knows no infinity.
        let finite = |logprob: f32| logprob.max(-9999.0);
        self.tokens.push(name(token));
        self.token_logprobs.push(logprobs.map(|logprobs| finite(logprobs.token.logprob)));
        let top =
            |logprobs: &TokenLogprobs| logprobs.top.iter().map(|top| (name(&top.bytes), finite(top.logprob))).collect();
        self.top_logprobs.push(logprobs.map(top));
        self.text_offset.push(offset);
    }
}

/// The body of `POST /tokenize`: a text or a conversation.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// A served model's name; absent: the served model.
    pub model: Option<String>,
    /// The text to tokenize.
    pub prompt: Option<String>,
    /// The conversation, as the model's chat template renders it.
    pub messages: Option<Vec<ChatMessage>>,
    /// Variables of the chat template, as in a chat.
    #[serde(default, deserialize_with = "small_value::maybe_map")]
    #[schema(value_type = Option<Object>)]
    pub chat_template_kwargs: Option<TemplateKwargs>,
    /// Add what the tokenizer adds around a text; absent: true for a text, false for a conversation, whose template adds it.
    pub add_special_tokens: Option<bool>,
    /// Whether the answer also has the tokens' texts.
    pub return_token_strs: Option<bool>,
}

/// A text's tokens.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TokenizeResponse {
    /// Number of tokens.
    pub count: usize,
    /// Tokens of prompt and answer together.
    pub max_model_len: usize,
    /// The tokens' ids.
    pub tokens: Vec<u32>,
    /// The tokens' texts, where asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The body of `POST /detokenize`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// A served model's name; absent: the served model.
    pub model: Option<String>,
    /// The tokens' ids.
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text that the tokens spell.
    pub prompt: String,
}
