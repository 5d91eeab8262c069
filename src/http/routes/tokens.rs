//! `POST /tokenize` and `/detokenize`. They wait for their turn as plain requests do, and a long text is tokenized where that
//! holds nobody up.

use std::sync::Arc;

use axum::Json;
use tokenizers::Tokenizer;

use crate::chat::Chat;
use crate::engine::blocking::blocking;
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::http::job::fine::{PromptEnd, ending};
use crate::http::job::turns::{conversation, template};
use crate::openai::{DetokenizeRequest, DetokenizeResponse, ErrorBody, TokenizeRequest, TokenizeResponse};

fn tokenizer(chosen: &Chosen) -> Result<Arc<Tokenizer>, ApiError> {
    let none = || ApiError::Invalid { param: None, message: "this model's engine has no tokenizer".into() };
    chosen.pinned.actor.engine.info().tokenizer().cloned().ok_or_else(none)
}

/// What is tokenized.
enum Source {
    Text(String),
    Chat(Chat),
}

impl Source {
    /// What is asked for, of an engine that may honour where a conversation's prompt ends.
    fn of(asked: &mut TokenizeRequest, honoured: bool) -> Result<Self, ApiError> {
        match (asked.prompt.take(), asked.messages.take()) {
            (Some(text), None) => Ok(Self::Text(text)),
            (None, Some(messages)) => {
                let mut options = template(asked.chat_template_kwargs.as_ref(), None)?;
                let TokenizeRequest { add_generation_prompt, continue_final_message, .. } = *asked;
                options.ending = ending(PromptEnd { add_generation_prompt, continue_final_message }, honoured)?;
                Ok(Self::Chat(Chat { messages: conversation(&messages)?, options }))
            }
            (Some(_), Some(_)) => Err(ApiError::invalid("messages", "send `prompt` or `messages`, not both")),
            (None, None) => Err(ApiError::invalid("prompt", "`prompt` or `messages` is missing")),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Chat(chat) => chat.messages.iter().map(crate::chat::Message::bytes).sum(),
        }
    }
}

/// The tokens of a text or of a conversation.
#[utoipa::path(
    post, path = "/tokenize", tag = "models", request_body = TokenizeRequest,
    responses(
        (status = 200, body = TokenizeResponse, description = "The tokens"),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn tokenize(call: Call) -> Result<Json<TokenizeResponse>, ApiError> {
    let make = |mut asked: TokenizeRequest, chosen: &Chosen| {
        let source = Source::of(&mut asked, chosen.pinned.actor.engine.capabilities().token_rules)?;
        let bytes = source.bytes();
        Ok(Made::plain((source, asked, bytes), bytes))
    };
    let entered = enter(call, make).await?;
    let Entered { job: (source, asked, bytes), chosen, clock, permit: _permit, .. } = entered;
    let (tokenizer, actor) = (tokenizer(&chosen)?, chosen.pinned.actor);
    let max_model_len = actor.engine.info().context;
    let work = move || {
        let (param, text, specials) = match source {
            Source::Text(text) => ("prompt", text, true),
            Source::Chat(chat) => ("messages", actor.engine.info().render(&chat)?, false),
        };
        let encoding = tokenizer
            .encode(text, asked.add_special_tokens.unwrap_or(specials))
            .map_err(|error| ApiError::invalid(param, format!("`{param}` cannot be tokenized: {error}")))?;
        Ok::<_, ApiError>(TokenizeResponse {
            count: encoding.len(),
            max_model_len,
            tokens: encoding.get_ids().to_vec(),
            token_strs: asked.return_token_strs.unwrap_or(false).then(|| encoding.get_tokens().to_vec()),
        })
    };
    Ok(Json(clock.bound(blocking(bytes, work)).await?))
}

/// Turns tokens into text.
#[utoipa::path(
    post, path = "/detokenize", tag = "models", request_body = DetokenizeRequest,
    responses(
        (status = 200, body = DetokenizeResponse, description = "The text"),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn detokenize(call: Call) -> Result<Json<DetokenizeResponse>, ApiError> {
    let make = |asked: DetokenizeRequest, _: &Chosen| {
        let bytes = asked.tokens.len() * size_of::<u32>();
        Ok(Made::plain((asked, bytes), bytes))
    };
    let entered = enter(call, make).await?;
    let Entered { job: (asked, bytes), chosen, clock, permit: _permit, .. } = entered;
    let tokenizer = tokenizer(&chosen)?;
    let work = move || {
        if let Some(id) = asked.tokens.iter().find(|id| tokenizer.id_to_token(**id).is_none()) {
            return Err(ApiError::invalid("tokens", format!("`tokens` holds {id}, which is not in the vocabulary")));
        }
        tokenizer
            .decode(&asked.tokens, false)
            .map_err(|error| ApiError::invalid("tokens", format!("`tokens` cannot be decoded: {error}")))
    };
    Ok(Json(DetokenizeResponse { prompt: clock.bound(blocking(bytes, work)).await? }))
}
