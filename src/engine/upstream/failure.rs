//! What an upstream refuses, in our words: what the request did wrong, what may pass, and what is broken.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use serde_json::Value;

use crate::engine::EngineError;

/// Characters of a foreign message that are shown.
const SHOWN: usize = 300;
/// The longest pause that a server may ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What went wrong with one call of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The server answered 429 or 503: it works, but not now.
    Busy,
    /// There was no connection, or it broke before the answer began.
    Unreachable,
    /// The server said that it failed.
    Failed,
    /// What the server sent cannot be read.
    Unreadable,
    /// The stream ended before the reply did.
    Cut,
    /// Nothing came for too long.
    Silent,
    /// The server refuses the key.
    Key,
    /// The server refuses the request, as every other server of its kind would.
    Refused,
    /// The server does not honour `n`.
    Choices,
}

impl Kind {
    /// Every kind of failure.
    pub const ALL: [Self; 9] = [
        Self::Busy,
        Self::Unreachable,
        Self::Failed,
        Self::Unreadable,
        Self::Cut,
        Self::Silent,
        Self::Key,
        Self::Refused,
        Self::Choices,
    ];

    /// Its name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Unreachable => "unreachable",
            Self::Failed => "failed",
            Self::Unreadable => "unreadable",
            Self::Cut => "cut",
            Self::Silent => "silent",
            Self::Key => "key",
            Self::Refused => "refused",
            Self::Choices => "choices",
        }
    }
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Failure {
    pub kind: Kind,
    /// The error that the caller is given.
    pub error: EngineError,
    /// The pause that the server asks for.
    pub retry_after: Option<Duration>,
}

impl Failure {
    pub fn new(kind: Kind, error: EngineError) -> Self {
        Self { kind, error, retry_after: None }
    }

    /// No answer at all.
    pub fn unreachable(base: &str, error: &reqwest::Error) -> Self {
        let kind = if error.is_timeout() { Kind::Silent } else { Kind::Unreachable };
        Self::new(kind, unreachable(base, error))
    }

    /// Whether another server, or this one later, may do what this call did not.
    pub fn may_pass(&self) -> bool {
        self.kind != Kind::Refused
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::Unavailable(_) | EngineError::Upstream(_) => Kind::Failed,
            EngineError::Crashed(_) => Kind::Cut,
            _ => Kind::Refused,
        };
        Self::new(kind, error)
    }
}

/// No answer at all.
pub(super) fn unreachable(base: &str, error: &reqwest::Error) -> EngineError {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    EngineError::Unavailable(format!("the upstream {base} cannot be reached: {cause}"))
}

/// Whether another try may help.
pub(super) fn is_busy(response: &Response) -> bool {
    matches!(response.status(), StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// Whether the server works and only refuses this request because of a rate limit.
pub(super) fn is_limited(response: &Response) -> bool {
    response.status() == StatusCode::TOO_MANY_REQUESTS
}

/// What `Retry-After` asks for, within reason.
pub(super) fn asked_pause(response: &Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}

/// An answer that is an error.
pub(super) async fn refused(response: Response) -> EngineError {
    refusal(response).await.error
}

/// An answer that is an error, with what can be done about it.
pub(super) async fn refusal(response: Response) -> Failure {
    let (status, retry_after) = (response.status(), asked_pause(&response));
    Failure { kind: kind(status), error: read(status, response).await, retry_after }
}

fn kind(status: StatusCode) -> Kind {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Kind::Busy,
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => Kind::Refused,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Kind::Key,
        _ => Kind::Failed,
    }
}

async fn read(status: StatusCode, response: Response) -> EngineError {
    let text = response.text().await.unwrap_or_default();
    let body: Option<Value> = serde_json::from_str(&text).ok();
    let message = body.as_ref().and_then(message).unwrap_or_else(|| shorten(&text));
    of(status, message)
}

/// An error in the middle of a stream.
pub(super) fn in_stream(error: &Value) -> EngineError {
    let message = message(error).unwrap_or_else(|| shorten(&error.to_string()));
    EngineError::Upstream(format!("the upstream broke off: {message}"))
}

fn of(status: StatusCode, message: String) -> EngineError {
    match status {
        StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
            EngineError::Invalid(format!("the upstream refuses the request: {message}"))
        }
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            EngineError::Unavailable(format!("the upstream refuses our key (set SPAR_UPSTREAM_KEY): {message}"))
        }
        StatusCode::INTERNAL_SERVER_ERROR => EngineError::Upstream(format!("the upstream failed: {message}")),
        _ => EngineError::Unavailable(format!("the upstream answered {status}: {message}")),
    }
}

/// OpenAI's envelope or a variant of other servers: an object or a text under `error`, `message` or `detail`.
fn message(body: &Value) -> Option<String> {
    let inner = body.get("error").unwrap_or(body);
    let text = inner.as_str().or_else(|| ["message", "detail"].iter().find_map(|name| inner.get(name)?.as_str()));
    text.map(shorten)
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statuses_become_what_a_caller_can_act_on() {
        let kind = |status: u16| match of(StatusCode::from_u16(status).unwrap(), "why".into()) {
            EngineError::Invalid(m) => ("invalid", m),
            EngineError::Unavailable(m) => ("unavailable", m),
            EngineError::Upstream(m) => ("failed", m),
            other => panic!("{other}"),
        };
        for (status, expected) in [
            (400, "invalid"),
            (401, "unavailable"),
            (404, "unavailable"),
            (413, "invalid"),
            (422, "invalid"),
            (429, "unavailable"),
            (500, "failed"),
            (502, "unavailable"),
            (503, "unavailable"),
        ] {
            let (found, message) = kind(status);
            assert!(found == expected && message.ends_with("why"), "{status}: {found}: {message}");
        }
    }

    #[test]
    fn foreign_envelopes_are_read_and_cut() {
        for (body, expected) in [
            (json!({"error": {"message": " why "}}), Some("why")),
            (json!({"error": "why"}), Some("why")),
            (json!({"detail": "why"}), Some("why")),
            (json!({"object": "error", "message": "why"}), Some("why")),
            (json!([1]), None),
        ] {
            assert_eq!(message(&body).as_deref(), expected, "{body}");
        }
        assert_eq!(shorten(&"ä".repeat(400)).chars().count(), SHOWN + 1);
    }
}
