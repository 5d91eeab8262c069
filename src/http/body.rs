//! A request body becomes wire types: size, content type, JSON syntax, field types, and fields that we do not honour.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::ApiError;

/// A JSON object as it was sent.
pub struct JsonObject(Map<String, Value>);

impl JsonObject {
    /// Reads at most `max_body` bytes.
    ///
    /// # Errors
    /// The body is not declared as JSON, too large, not JSON, or not an object.
    pub async fn read(headers: &HeaderMap, body: Body, max_body: usize) -> Result<Self, ApiError> {
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !essence.ends_with("+json") {
            return Err(ApiError::NotJson);
        }
        let bytes = to_bytes(body, max_body).await.map_err(|error| read_failure(&error, max_body))?;
        Self::parse(&bytes)
    }

    /// Parses a body.
    ///
    /// # Errors
    /// The body is not JSON, or not an object.
    pub fn parse(bytes: &[u8]) -> Result<Self, ApiError> {
        let unreadable = |message: String| ApiError::Invalid { param: None, message };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(unreadable("the body must be a JSON object".into())),
            Err(error) => Err(unreadable(format!("the body is not JSON: {error}"))),
        }
    }

    /// Refuses fields that would change the answer if they were ignored.
    ///
    /// # Errors
    /// Names the field.
    pub fn refuse(&self, refused: &[Refused]) -> Result<(), ApiError> {
        let asked = refused.iter().find(|field| self.0.get(field.name).is_some_and(|value| !(field.harmless)(value)));
        asked.map_or(Ok(()), |field| {
            Err(ApiError::invalid(field.name, format!("`{}` is not supported here; leave it out", field.name)))
        })
    }

    /// The fields as `T`; other fields are ignored.
    ///
    /// # Errors
    /// Names the field that has the wrong type or is missing.
    pub fn fields<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_path_to_error::deserialize(Value::Object(self.0.clone())).map_err(|error| {
            let path = error.path().to_string();
            let param = if path == "." { missing_field(&error.inner().to_string()) } else { Some(path) };
            let message = match &param {
                Some(param) => format!("`{param}`: {}", error.inner()),
                None => error.inner().to_string(),
            };
            ApiError::Invalid { param, message }
        })
    }
}

/// A field that is not honoured, and the values of it that ask for nothing.
pub struct Refused {
    name: &'static str,
    harmless: fn(&Value) -> bool,
}

const fn unless_empty(name: &'static str) -> Refused {
    Refused { name, harmless: is_empty }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

fn is_zero(value: &Value) -> bool {
    value.is_null() || value.as_f64() == Some(0.0)
}

fn is_one(value: &Value) -> bool {
    value.is_null() || value.as_f64() == Some(1.0)
}

fn is_true(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(true))
}

/// Fields that both kinds of completions refuse.
const REFUSED: &[Refused] = &[
    unless_empty("allowed_token_ids"),
    unless_empty("bad_words"),
    unless_empty("guided_choice"),
    unless_empty("guided_grammar"),
    unless_empty("guided_json"),
    unless_empty("guided_regex"),
    unless_empty("include_stop_str_in_output"),
    Refused { name: "length_penalty", harmless: is_one },
    unless_empty("logits_processors"),
    Refused { name: "min_tokens", harmless: is_zero },
    unless_empty("prompt_logprobs"),
    Refused { name: "skip_special_tokens", harmless: is_true },
    Refused { name: "spaces_between_special_tokens", harmless: is_true },
    unless_empty("stop_token_ids"),
    unless_empty("truncate_prompt_tokens"),
    unless_empty("use_beam_search"),
];

const REFUSED_IN_CHATS: &[Refused] = &[
    unless_empty("echo"),
    unless_empty("tools"),
    Refused { name: "tool_choice", harmless: |v| v.is_null() || v == "none" || v == "auto" },
    unless_empty("functions"),
    Refused { name: "function_call", harmless: |v| v.is_null() || v == "none" || v == "auto" },
    Refused {
        name: "modalities",
        harmless: |v| v.is_null() || v.as_array().is_some_and(|all| all.iter().all(|one| one == "text")),
    },
    unless_empty("audio"),
    unless_empty("web_search_options"),
    Refused { name: "add_generation_prompt", harmless: is_true },
    unless_empty("continue_final_message"),
    unless_empty("chat_template"),
    unless_empty("documents"),
];

const REFUSED_IN_COMPLETIONS: &[Refused] = &[
    Refused { name: "best_of", harmless: is_one },
    Refused { name: "suffix", harmless: |v| v.is_null() || v == "" },
    Refused { name: "search_budget", harmless: is_zero },
    unless_empty("search"),
    unless_empty("response_format"),
    unless_empty("structured_outputs"),
];

const REFUSED_IN_TOKENIZE: &[Refused] = &[
    Refused { name: "add_generation_prompt", harmless: is_true },
    unless_empty("continue_final_message"),
    unless_empty("chat_template"),
    unless_empty("tools"),
];

/// What a tokenization must not ask for.
pub fn refused_in_tokenize() -> &'static [Refused] {
    REFUSED_IN_TOKENIZE
}

/// What a chat completion must not ask for.
pub fn refused_in_chats() -> [&'static [Refused]; 2] {
    [REFUSED_IN_CHATS, REFUSED]
}

/// What a text completion must not ask for.
pub fn refused_in_completions() -> [&'static [Refused]; 2] {
    [REFUSED_IN_COMPLETIONS, REFUSED]
}

fn read_failure(error: &axum::Error, max_body: usize) -> ApiError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(one) = cause {
        if one.is::<http_body_util::LengthLimitError>() {
            return ApiError::BodyTooLarge(max_body);
        }
        cause = one.source();
    }
    ApiError::Invalid { param: None, message: format!("the body could not be read: {error}") }
}

/// Serde gives no path for a missing field, but its name.
fn missing_field(message: &str) -> Option<String> {
    let name = message.strip_prefix("missing field `")?.split('`').next()?;
    Some(name.to_owned())
}
