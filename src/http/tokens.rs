//! `POST /tokenize` and `/detokenize`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use tokenizers::Tokenizer;

use super::body::{JsonObject, refused_in_tokenize};
use super::error::ApiError;
use super::job::{conversation, resolve, template};
use super::{AppState, Shared};
use crate::chat::Chat;
use crate::openai::{DetokenizeRequest, DetokenizeResponse, ErrorBody, TokenizeRequest, TokenizeResponse};

fn tokenizer(state: &AppState, model: Option<&str>) -> Result<Arc<Tokenizer>, ApiError> {
    resolve(model, &state.served.name)?;
    let none = || ApiError::Invalid { param: None, message: "this model's engine has no tokenizer".into() };
    state.served.pin().actor.engine.tokenizer().ok_or_else(none)
}

/// The tokens of a text or of a conversation.
#[utoipa::path(
    post, path = "/tokenize", tag = "models", request_body = TokenizeRequest,
    responses(
        (status = 200, body = TokenizeResponse, description = "The tokens"),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn tokenize(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<TokenizeResponse>, ApiError> {
    let object = JsonObject::read(&headers, body, state.settings.http.max_body).await?;
    object.refuse(refused_in_tokenize())?;
    let asked: TokenizeRequest = object.fields()?;
    let tokenizer = tokenizer(&state, asked.model.as_deref())?;
    let (param, text, specials) = match (asked.prompt, asked.messages) {
        (Some(text), None) => ("prompt", text, true),
        (None, Some(messages)) => {
            let options = template(asked.chat_template_kwargs.as_ref(), None)?;
            let chat = Chat { messages: conversation(&messages)?, options };
            ("messages", state.served.pin().actor.engine.render(&chat)?, false)
        }
        (Some(_), Some(_)) => return Err(ApiError::invalid("messages", "send `prompt` or `messages`, not both")),
        (None, None) => return Err(ApiError::invalid("prompt", "`prompt` or `messages` is missing")),
    };
    let encoding = tokenizer
        .encode(text, asked.add_special_tokens.unwrap_or(specials))
        .map_err(|error| ApiError::invalid(param, format!("`{param}` cannot be tokenized: {error}")))?;
    Ok(Json(TokenizeResponse {
        count: encoding.len(),
        max_model_len: state.served.pin().actor.engine.info().context,
        tokens: encoding.get_ids().to_vec(),
        token_strs: asked.return_token_strs.unwrap_or(false).then(|| encoding.get_tokens().to_vec()),
    }))
}

/// Tokens' text.
#[utoipa::path(
    post, path = "/detokenize", tag = "models", request_body = DetokenizeRequest,
    responses(
        (status = 200, body = DetokenizeResponse, description = "The text"),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn detokenize(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DetokenizeResponse>, ApiError> {
    let object = JsonObject::read(&headers, body, state.settings.http.max_body).await?;
    let asked: DetokenizeRequest = object.fields()?;
    let tokenizer = tokenizer(&state, asked.model.as_deref())?;
    if let Some(id) = asked.tokens.iter().find(|id| tokenizer.id_to_token(**id).is_none()) {
        return Err(ApiError::invalid("tokens", format!("`tokens` holds {id}, which is not in the vocabulary")));
    }
    let prompt = tokenizer
        .decode(&asked.tokens, false)
        .map_err(|error| ApiError::invalid("tokens", format!("`tokens` cannot be decoded: {error}")))?;
    Ok(Json(DetokenizeResponse { prompt }))
}
