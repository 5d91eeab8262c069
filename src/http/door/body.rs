//! A request body becomes wire types: size, content type, JSON syntax, field types, and fields that are not honoured. It is
//! read from its bytes into the types themselves: what they do not know is passed over without being built.

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, header};
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny};

use super::refused::{IN_CHATS, IN_COMPLETIONS, IN_MESSAGES, IN_RESPONSES, IN_TOKENIZE, NOTHING, Refusal, Refused};
use crate::anthropic::{CountTokensRequest, MessagesRequest};
use crate::http::error::ApiError;
use crate::openai::responses::ResponsesRequest;
use crate::openai::{
    ChatRequest, ChecksRequest, CompletionRequest, DecisionRequest, DetokenizeRequest, DrawingFields, EmbeddingRequest,
    ScoreRequest, TokenizeRequest,
};

/// A body of JSON as a type.
pub trait FromBody: Sized {
    /// Fields that are not honoured.
    const REFUSED: &'static [&'static [Refused]] = NOTHING;

    /// Whether a model answers it.
    const NEEDS_MODEL: bool = true;

    /// The model that it names.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Reads the fields; others are passed over.
    ///
    /// # Errors
    /// Names the field that has the wrong type, is missing, or is there twice.
    fn fields(bytes: &[u8]) -> Result<Self, ApiError>;
}

/// Reads a body from its bytes.
///
/// # Errors
/// It is not JSON or not an object, asks for something that is not served, or a field is at fault.
pub fn parse<T: FromBody>(bytes: &[u8]) -> Result<T, ApiError> {
    let bytes = without_mark(bytes);
    // An object must be one: a list would be read as the values of the fields.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        let message = match serde_json::from_slice::<IgnoredAny>(bytes) {
            Ok(_) => "the body must be a JSON object".into(),
            Err(error) => format!("the body is not JSON: {error}"),
        };
        return Err(ApiError::Invalid { param: None, message });
    }
    refuse(bytes, Refusal(T::REFUSED))?;
    T::fields(bytes)
}

/// A body without the byte order mark that some clients begin it with.
pub fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix("\u{FEFF}".as_bytes()).unwrap_or(bytes)
}

fn refuse(bytes: &[u8], refusal: Refusal) -> Result<(), ApiError> {
    if refusal.is_empty() {
        return Ok(());
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    match refusal.deserialize(&mut json).and_then(|found| json.end().map(|()| found)) {
        Ok(None) => Ok(()),
        Ok(Some(name)) => Err(ApiError::invalid(name, format!("`{name}` is not supported here; leave it out"))),
        Err(error) => Err(failure(bytes, ".", &error)),
    }
}

/// Reads one type from a whole body.
///
/// # Errors
/// As [`FromBody::fields`].
pub fn typed<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut json);
    let read = read.map_err(|error| failure(bytes, &error.path().to_string(), error.inner()))?;
    json.end().map_err(|error| failure(bytes, ".", &error))?;
    Ok(read)
}

impl FromBody for ChatRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_CHATS;

    fn model(&self) -> Option<&str> {
        self.drawing.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        let (drawing, fine, guided) = (typed(bytes)?, typed(bytes)?, typed(bytes)?);
        Ok(Self { drawing, fine, guided, ..typed(bytes)? })
    }
}

impl FromBody for CompletionRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_COMPLETIONS;

    fn model(&self) -> Option<&str> {
        self.drawing.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        let (drawing, fine, guided) = (typed(bytes)?, typed(bytes)?, typed(bytes)?);
        Ok(Self { drawing, fine, guided, ..typed(bytes)? })
    }
}

impl FromBody for ResponsesRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_RESPONSES;

    fn model(&self) -> Option<&str> {
        self.drawing.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        let drawing: DrawingFields = typed(bytes)?;
        Ok(Self { drawing, ..typed(bytes)? })
    }
}

impl FromBody for MessagesRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_MESSAGES;

    fn model(&self) -> Option<&str> {
        self.drawing.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        let drawing: DrawingFields = typed(bytes)?;
        Ok(Self { drawing, prompt: typed(bytes)?, ..typed(bytes)? })
    }
}

impl FromBody for CountTokensRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_MESSAGES;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        Ok(Self { prompt: typed(bytes)?, ..typed(bytes)? })
    }
}

impl FromBody for TokenizeRequest {
    const REFUSED: &'static [&'static [Refused]] = IN_TOKENIZE;

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

impl FromBody for DetokenizeRequest {
    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

impl FromBody for EmbeddingRequest {
    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

impl FromBody for DecisionRequest {
    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

impl FromBody for ScoreRequest {
    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

impl FromBody for ChecksRequest {
    const NEEDS_MODEL: bool = false;

    fn fields(bytes: &[u8]) -> Result<Self, ApiError> {
        typed(bytes)
    }
}

/// Bytes that a body will have at most.
///
/// # Errors
/// It is not declared as JSON, is compressed, or says that it is larger than `max_body`.
pub fn announced(headers: &HeaderMap, max_body: usize) -> Result<usize, ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence != "application/json" && !essence.ends_with("+json") {
        return Err(ApiError::NotJson);
    }
    let codings = headers.get_all(header::CONTENT_ENCODING).into_iter().map(|value| value.to_str().unwrap_or("?"));
    let plain = |coding: &str| coding.is_empty() || coding.eq_ignore_ascii_case("identity");
    if let Some(coding) = codings.map(str::trim).find(|coding| !plain(coding)) {
        return Err(ApiError::Encoded(coding.chars().take(40).collect()));
    }
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    match length {
        Some(length) if length > max_body => Err(ApiError::BodyTooLarge(max_body)),
        length => Ok(length.unwrap_or(max_body)),
    }
}

/// Reads at most `max_body` bytes.
///
/// # Errors
/// There are more, or the connection breaks off.
pub async fn read(body: Body, max_body: usize) -> Result<axum::body::Bytes, ApiError> {
    to_bytes(body, max_body).await.map_err(|error| read_failure(&error, max_body))
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

/// What is wrong with a body, at a path of fields; `.` is the body itself.
fn failure(bytes: &[u8], path: &str, error: &serde_json::Error) -> ApiError {
    // A list where one of a few words is expected is reported as a fault of the syntax, which it is not.
    if !error.is_data() && serde_json::from_slice::<IgnoredAny>(bytes).is_err() {
        return ApiError::Invalid { param: None, message: format!("the body is not JSON: {error}") };
    }
    let text = error.to_string();
    // Clients look for a field, not for a column.
    let place = format!(" at line {} column {}", error.line(), error.column());
    let text = text.strip_suffix(&place).unwrap_or(&text);
    let param = match (path, named(text)) {
        (".", name) => name,
        (path, Some(name)) if text.starts_with("duplicate") => Some(format!("{path}.{name}")),
        (path, _) => Some(path.to_owned()),
    };
    let message = param.as_ref().map_or_else(|| text.to_owned(), |param| format!("`{param}`: {text}"));
    ApiError::Invalid { param, message }
}

/// The field that a message is about, of those for which serde gives no path.
fn named(message: &str) -> Option<String> {
    let rest = message.strip_prefix("missing field `").or_else(|| message.strip_prefix("duplicate field `"))?;
    Some(rest.split('`').next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (Option<String>, String) {
        match parse::<ChatRequest>(text.as_bytes()) {
            Err(ApiError::Invalid { param, message }) => (param, message),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let functions = |count: usize, values: usize| {
            let parameters = format!("{{\"enum\": {:?}}}", vec![0; values]);
            let function = format!("{{\"name\": \"a\", \"parameters\": {parameters}}}");
            format!("[{}]", vec![format!("{{\"type\": \"function\", \"function\": {function}}}"); count].join(","))
        };
        let hello = r#""messages": [{"role": "user", "content": "x"}]"#;
        let table = [
            ("", None, "not JSON: EOF"),
            ("{", None, "not JSON: EOF"),
            ("[1, 2]", None, "must be a JSON object"),
            ("5", None, "must be a JSON object"),
            (&format!("{{{hello}}} x"), None, "not JSON: trailing characters"),
            (&format!("{{{hello}, \"ignored\": [1,}}"), None, "not JSON"),
            ("{}", Some("messages"), "`messages`: missing field `messages`"),
            (&format!("{{{hello}, \"n\": 1, \"n\": 2}}"), Some("n"), "duplicate field `n`"),
            (&format!("{{{hello}, {hello}}}"), Some("messages"), "duplicate field `messages`"),
            (&format!("{{{hello}, \"tools\": [], \"tools\": []}}"), Some("tools"), "duplicate field `tools`"),
            (
                r#"{"messages": [{"role": "user", "role": "system", "content": "x"}]}"#,
                Some("messages[0].role"),
                "duplicate field `role`",
            ),
            (&format!("{{{hello}, \"audio\": {{\"voice\": 1}}}}"), Some("audio"), "`audio` is not supported here"),
            (
                &format!("{{{hello}, \"tools\": {}}}", functions(129, 1)),
                Some("tools"),
                "at most 128 functions, got 129",
            ),
            (
                &format!("{{{hello}, \"tools\": {}}}", functions(1, 2_000)),
                Some("tools[0].function.parameters.enum[1998]"),
                "at most 2000 values",
            ),
            (&format!("{{{hello}, \"modalities\": [\"text\", \"audio\"]}}"), Some("modalities"), "not supported"),
            (
                r#"{"messages": [{"role": "user", "content": [{"text": "x"}]}]}"#,
                Some("messages[0].content[0]"),
                "missing field `type`",
            ),
            (
                &format!("{{{hello}, \"temperature\": \"hot\"}}"),
                Some("temperature"),
                "`temperature`: invalid type: string \"hot\", expected f64",
            ),
            (
                &format!("{{{hello}, \"search\": {{\"checks\": {:?}}}}}", vec![0; 70]).replace('0', "{\"id\":\"a\"}"),
                Some("search.checks"),
                "at most 64 checks, got 70",
            ),
        ];
        for (text, param, expected) in table {
            let (named, message) = refused(text);
            assert_eq!(named.as_deref(), param, "{text}: {message}");
            assert!(message.contains(expected), "{text}: {message}");
            assert!(param.is_none() || !message.contains(" at line "), "{text}: {message}");
        }
    }

    #[test]
    fn fields_of_both_parts_are_read_and_others_are_passed_over() {
        let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
        let text = format!(
            r#" {{"metadata": {deep}, "temperature": 0.5, "modalities": ["text"], "tools": [], "max_tokens": 3, "stop": ["a"],
                "messages": [{{"role": "user", "content": [{{"type": "text", "text": "é"}}]}}], "n": 2}}"#
        );
        let read: ChatRequest = parse(text.as_bytes()).unwrap();
        assert_eq!((read.max_tokens, read.drawing.n, read.drawing.temperature), (Some(3), Some(2), Some(0.5)));
        assert_eq!(read.messages.len(), 1);
    }
}
