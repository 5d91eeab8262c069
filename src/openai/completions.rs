//! Text completions and tokens on the wire.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ChatMessage, DrawingFields, FineFields, Finish, GuidedFields, Prompt, PromptLogprob, PromptLogprobs,
    ResponseFormat, StopCause, StructuredOutputs, Usage, small_value, whole_number,
};
use crate::chat::TemplateKwargs;
use crate::engine::TokenLogprobs;

/// The body of `POST /v1/completions`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The text to continue, or several; each as text or as its tokens' ids.
    pub prompt: Prompt,
    /// Tokens of a continuation at most; absent: 16. With `echo` 0 continues nothing.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0)]
    pub max_tokens: Option<i64>,
    /// Show the prompt in front of its continuations, with `logprobs` also of its tokens.
    pub echo: Option<bool>,
    /// Alternatives per token.
    #[serde(default, deserialize_with = "whole_number::maybe")]
    #[schema(minimum = 0, maximum = 20)]
    pub logprobs: Option<i64>,
    /// What the continuation must be: text, any JSON object, or JSON of a schema.
    pub response_format: Option<ResponseFormat>,
    /// What the continuation must match, where `response_format` cannot say it; the field is vLLM's.
    pub structured_outputs: Option<StructuredOutputs>,
    /// Other servers' fields for the same.
    #[serde(flatten, skip_deserializing)]
    pub guided: GuidedFields,
    /// vLLM's fields for single tokens and for prompts.
    #[serde(flatten, skip_deserializing)]
    pub fine: FineFields,
    /// How tokens are drawn.
    // Read on its own, as a chat's are.
    #[serde(flatten, skip_deserializing)]
    pub drawing: DrawingFields,
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
    /// The stop string or stop token that ended it; `null` where something else did. The field is vLLM's.
    pub stop_reason: Option<StopCause>,
    /// What the model expected in place of each of the prompt's tokens, where `prompt_logprobs` asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Option<BTreeMap<String, PromptLogprob>>>>)]
    pub prompt_logprobs: Option<PromptLogprobs>,
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
        // Parts of characters may have the same name, which the likeliest of them keeps.
        let top = |logprobs: &TokenLogprobs| {
            let mut named = BTreeMap::new();
            for top in &logprobs.top {
                let kept = named.entry(name(&top.bytes)).or_insert(f32::MIN);
                *kept = finite(top.logprob).max(*kept);
            }
            named
        };
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
    /// Whether the rendered conversation ends where the assistant begins to speak; absent: it does, unless
    /// `continue_final_message` is set.
    pub add_generation_prompt: Option<bool>,
    /// Whether the rendered conversation ends within its last message, which is to be continued.
    pub continue_final_message: Option<bool>,
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
    #[serde(deserialize_with = "whole_number::token_ids")]
    pub tokens: Vec<u32>,
}

/// The text of tokens.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DetokenizeResponse {
    /// The text that the tokens spell.
    pub prompt: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TokenProb;

    #[test]
    fn the_likeliest_of_equal_names_is_shown() {
        let token = |id: u32, bytes: &[u8], logprob: f32| TokenProb { id, bytes: bytes.to_vec(), logprob };
        // Two first halves of characters look alike.
        let top = vec![token(1, b"\xc3", -0.5), token(2, b"\xc2", -2.0), token(3, b"a", f32::NEG_INFINITY)];
        for top in [top.clone(), top.into_iter().rev().collect()] {
            let mut logprobs = CompletionLogprobs::default();
            logprobs.push(b"a", Some(&TokenLogprobs { token: token(3, b"a", -1.0), top }), 0);
            let shown = logprobs.top_logprobs[0].as_ref().unwrap();
            let expected = BTreeMap::from([("\u{FFFD}".to_owned(), -0.5), ("a".to_owned(), -9999.0)]);
            assert_eq!(*shown, expected);
        }
    }
}
