//! What goes wrong, as status codes and OpenAI's error envelope: the only place that knows status codes of errors.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::engine::EngineError;
use crate::openai::{ErrorBody, ErrorDetail};

/// The status of an answer without a body, where the caller already has the file.
pub const NOT_MODIFIED: StatusCode = StatusCode::NOT_MODIFIED;

/// Why a request is not answered. The message says what to do.
#[derive(Clone, Debug, thiserror::Error, PartialEq)]
pub enum ApiError {
    /// A field is at fault.
    #[error("{message}")]
    Invalid {
        /// The field, as a path such as `search.branch`.
        param: Option<String>,
        /// What it must be.
        message: String,
    },
    /// What the answer must match is at fault; [`ApiError::of_constraint`] names the field that says it.
    #[error("the constraint cannot be honoured: {0}")]
    Constraint(String),
    /// The prompt does not fit.
    #[error("{message}")]
    TooLong {
        /// The field that holds it.
        param: &'static str,
        /// How long it is, and what fits.
        message: String,
    },
    /// The prompt cannot be given to the model.
    #[error("`{param}`: {message}")]
    BadPrompt {
        /// The field that holds it.
        param: &'static str,
        /// Why the prompt cannot be used.
        message: String,
    },
    /// No key was sent, or an unknown one.
    #[error("a valid API key is needed: send it as `authorization: Bearer KEY`")]
    Unauthorized,
    /// No admin key was sent, or an unknown one.
    #[error(
        "a valid admin key is needed: send it as `authorization: Bearer KEY`; API keys open these routes only with the admin role"
    )]
    AdminUnauthorized,
    /// An API key without the admin role was sent.
    #[error(
        "this API key has no admin role: send the admin key, or give the key's entry in --api-keys-file `admin = true`"
    )]
    NotAdmin,
    /// The key may not use the model.
    #[error("this API key may not use the model `{model}`; it may use {}", allowed.join(", "))]
    ModelNotAllowed {
        /// The model that was asked for.
        model: String,
        /// What the key may use.
        allowed: Vec<String>,
    },
    /// The admin routes are off.
    #[error(
        "the admin routes are off: start the server with SPAR_ADMIN_KEY, --admin-key-file, or a key in --api-keys-file that has `admin = true`"
    )]
    Forbidden,
    /// Another generation is live than the caller thinks.
    #[error("{0}")]
    Conflict(String),
    /// There is no such adapter, or nothing to go back to.
    #[error("{0}")]
    NothingThere(String),
    /// The weights are not accepted.
    #[error("{0}")]
    BadWeights(String),
    /// One swap at a time.
    #[error("{0}")]
    SwapBusy(String),
    /// Requests wait for other weights.
    #[error("weights are being swapped; requests wait until the new ones are there")]
    Swapping,
    /// No such model.
    #[error("the model `{0}` is not served here; GET /v1/models lists what is")]
    UnknownModel(String),
    /// No such search.
    #[error("no search `{0}` is kept here: it is too old, or keeping is switched off by --kept-searches 0")]
    UnknownSearch(String),
    /// No such route.
    #[error("no route {0}; GET /docs lists what is served")]
    UnknownRoute(String),
    /// The route exists, the method does not.
    #[error("{0} is not served with this method; GET /docs lists what is")]
    WrongMethod(String),
    /// Time was up before there was any answer.
    #[error("the deadline passed before there was an answer; ask for less, or give more time")]
    Deadline,
    /// The body did not arrive in time.
    #[error("the body did not arrive within {0:?}; send it faster, or start the server with a longer --body-timeout")]
    BodyTooSlow(Duration),
    /// The request names a host that is not served here.
    #[error(
        "this server does not serve the host {0:?}: call it as localhost or by its address, or start it with --allowed-hosts"
    )]
    WrongHost(String),
    /// The body is too large.
    #[error("the body must not be larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body is not declared as JSON.
    #[error("send the body as JSON, with the header `content-type: application/json`")]
    NotJson,
    /// The body is compressed, or coded in another way.
    #[error("a body with `content-encoding: {0}` is not taken; send it as it is, without that header")]
    Encoded(String),
    /// Too many requests wait already, of this key or of all.
    #[error("{waiting} requests are waiting already; try again after {} s", whole_seconds(*retry_after))]
    QueueFull {
        /// How many wait.
        waiting: usize,
        /// When a place should be free.
        retry_after: Duration,
    },
    /// The key has used its tokens.
    #[error("this key has used its {limit} tokens per minute; try again after {} s", whole_seconds(*retry_after))]
    TokensSpent {
        /// Tokens per minute.
        limit: u64,
        /// When it may use more.
        retry_after: Duration,
    },
    /// All connections are taken.
    #[error("all {0} connections of this server are taken (--max-connections); try again in a moment")]
    TooManyConnections(usize),
    /// The model is still being loaded.
    #[error("the model is being loaded; try again in a moment")]
    Loading,
    /// The server is shutting down.
    #[error("the server is shutting down; try again elsewhere")]
    ShuttingDown,
    /// The model cannot answer now.
    #[error("the model is not available at the moment; try again in a moment")]
    Unavailable(String),
    /// What something below the handlers refuses.
    #[error("{message}")]
    Refused {
        /// The status of the refusal.
        status: StatusCode,
        /// The message of the refusal.
        message: String,
    },
    /// The server that this one asks failed.
    #[error("{0}")]
    Upstream(String),
    /// Our fault; the cause is for the log.
    #[error("the model failed while it answered; try again")]
    Failed(String),
}

impl ApiError {
    /// `param` is at fault.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: Some(param.into()), message: message.into() }
    }

    /// This error; where a constraint is at fault, that of the field `param`.
    pub fn of_constraint(self, param: &str) -> Self {
        match self {
            Self::Constraint(reason) => Self::invalid(param, format!("`{param}` cannot be honoured: {reason}")),
            other => other,
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::Constraint(_) | Self::TooLong { .. } | Self::BadPrompt { .. } => {
                StatusCode::BAD_REQUEST
            }
            Self::Unauthorized | Self::AdminUnauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::NotAdmin | Self::ModelNotAllowed { .. } => StatusCode::FORBIDDEN,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::BadWeights(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UnknownModel(_) | Self::UnknownSearch(_) | Self::UnknownRoute(_) | Self::NothingThere(_) => {
                StatusCode::NOT_FOUND
            }
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Deadline | Self::BodyTooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::WrongHost(_) => StatusCode::MISDIRECTED_REQUEST,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson | Self::Encoded(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull { .. } | Self::TokensSpent { .. } | Self::SwapBusy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::TooManyConnections(_)
            | Self::Loading
            | Self::ShuttingDown
            | Self::Swapping
            | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Refused { status, .. } => *status,
            Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The seconds after which another try is worth it, where one is.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::TokensSpent { retry_after, .. } => {
                Some(whole_seconds(*retry_after))
            }
            Self::SwapBusy(_)
            | Self::TooManyConnections(_)
            | Self::Loading
            | Self::ShuttingDown
            | Self::Swapping
            | Self::Unavailable(_) => Some(1),
            _ => None,
        }
    }

    /// This error for a request whose text is in the field `param` and not in `messages`.
    pub fn about(self, field: &'static str) -> Self {
        match self {
            Self::TooLong { message, .. } => Self::TooLong { param: field, message },
            Self::BadPrompt { message, .. } => Self::BadPrompt { param: field, message },
            other => other,
        }
    }

    /// An error of something that knows nothing of the envelope: its status, the path that was asked for, and its words.
    pub(super) fn bare(status: StatusCode, path: &str, words: &str) -> Self {
        let path = path.to_owned();
        match (status, words.trim()) {
            (StatusCode::NOT_FOUND, _) => Self::UnknownRoute(path),
            (StatusCode::METHOD_NOT_ALLOWED, _) => Self::WrongMethod(path),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, "") => Self::NotJson,
            (StatusCode::SERVICE_UNAVAILABLE, words) => Self::Unavailable(words.to_owned()),
            (status, words) if status.is_server_error() => Self::Failed(format!("{path}: {status}: {words}")),
            (status, "") => {
                let reason = status.canonical_reason().unwrap_or("the request was refused");
                Self::Refused { status, message: format!("{path}: {reason}") }
            }
            (status, words) => Self::Refused { status, message: words.to_owned() },
        }
    }

    /// The class of the error in Anthropic's words.
    pub fn anthropic_class(&self) -> &'static str {
        match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::REQUEST_TIMEOUT => "timeout_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        }
    }

    /// The code of a response that this error ends, of those that the Responses API knows.
    pub fn code_of_response(&self) -> &'static str {
        match self.status() {
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
            StatusCode::BAD_REQUEST => "invalid_prompt",
            _ => "server_error",
        }
    }

    /// The error in OpenAI's envelope.
    pub fn body(&self) -> ErrorBody {
        let (code, param) = match self {
            Self::Invalid { param, .. } => ("invalid_value", param.clone()),
            Self::Constraint(_) => ("invalid_value", None),
            Self::TooLong { param, .. } => ("context_length_exceeded", Some((*param).to_owned())),
            Self::BadPrompt { param, .. } => ("invalid_value", Some((*param).to_owned())),
            Self::Unauthorized => ("invalid_api_key", None),
            Self::AdminUnauthorized => ("invalid_admin_key", None),
            Self::NotAdmin => ("not_admin", None),
            Self::ModelNotAllowed { .. } => ("model_not_allowed", Some("model".to_owned())),
            Self::Forbidden => ("admin_is_off", None),
            Self::Conflict(_) => ("generation_not_live", Some("expected_generation".to_owned())),
            Self::NothingThere(_) => ("not_found", None),
            Self::BadWeights(_) => ("weights_refused", None),
            Self::SwapBusy(_) => ("swap_running", None),
            Self::Swapping => ("swapping", None),
            Self::UnknownModel(_) => ("model_not_found", Some("model".to_owned())),
            Self::UnknownSearch(_) => ("search_not_found", None),
            Self::UnknownRoute(_) => ("route_not_found", None),
            Self::WrongMethod(_) => ("method_not_allowed", None),
            Self::Deadline => ("deadline_exceeded", None),
            Self::BodyTooSlow(_) => ("body_timeout", None),
            Self::WrongHost(_) => ("host_not_allowed", None),
            Self::BodyTooLarge(_) => ("body_too_large", None),
            Self::NotJson => ("unsupported_media_type", None),
            Self::Encoded(_) => ("unsupported_content_encoding", None),
            Self::QueueFull { .. } => ("queue_full", None),
            Self::TokensSpent { .. } => ("tokens_per_minute", None),
            Self::TooManyConnections(_) => ("too_many_connections", None),
            Self::Loading => ("loading", None),
            Self::ShuttingDown => ("shutting_down", None),
            Self::Unavailable(_) => ("model_not_available", None),
            Self::Refused { .. } => ("request_refused", None),
            Self::Upstream(_) => ("upstream_failed", None),
            Self::Failed(_) => ("model_failed", None),
        };
        let kind = match self.status() {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::CONFLICT => "conflict_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::REQUEST_TIMEOUT => "timeout_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let error =
            ErrorDetail { message: self.to_string(), kind: kind.to_owned(), param, code: Some(code.to_owned()) };
        ErrorBody { error }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::PromptTooLong { .. } => Self::TooLong { param: "messages", message: error.to_string() },
            EngineError::Prompt(message) => Self::BadPrompt { param: "messages", message },
            EngineError::Unsupported(message) | EngineError::Invalid(message) => Self::Invalid { param: None, message },
            EngineError::Constraint(reason) => Self::Constraint(reason),
            EngineError::Unavailable(cause) => Self::Unavailable(cause),
            EngineError::Crashed(cause) => Self::Failed(cause),
            EngineError::Upstream(words) => Self::Upstream(words),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match &self {
            Self::Failed(cause) => tracing::error!(cause, "the model failed"),
            Self::Unavailable(cause) => tracing::warn!(cause, "the model is not available"),
            Self::Upstream(words) => tracing::warn!(words, "the upstream failed"),
            _ => tracing::debug!(error = %self, "refused"),
        }
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        // For routes that have another envelope.
        response.extensions_mut().insert(self.clone());
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::Encoded(_) = &self {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Whole seconds, at least one, as `Retry-After` says them.
pub fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_said_in_whole_seconds() {
        for (millis, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (61_500, 62)] {
            assert_eq!(whole_seconds(Duration::from_millis(millis)), seconds);
        }
    }
}
