//! What goes wrong, as status codes and OpenAI's error envelope: the only place that knows status codes of errors.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::limits::whole_seconds;
use crate::engine::EngineError;
use crate::openai::{ErrorBody, ErrorDetail};

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
    #[error("{0}")]
    TooLong(String),
    /// No key was sent, or an unknown one.
    #[error("a valid API key is needed: send it as `authorization: Bearer KEY`")]
    Unauthorized,
    /// No admin key, or not one of ours.
    #[error(
        "a valid admin key is needed: send it as `authorization: Bearer KEY`; API keys open these routes only with the admin role"
    )]
    AdminUnauthorized,
    /// A key that may do other things.
    #[error(
        "this API key has no admin role: send the admin key, or give the key's entry in --api-keys-file `admin = true`"
    )]
    NotAdmin,
    /// Nobody may.
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
    /// The body is too large.
    #[error("the body must not be larger than {0} bytes")]
    BodyTooLarge(usize),
    /// The body is not declared as JSON.
    #[error("send the body as JSON, with the header `content-type: application/json`")]
    NotJson,
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
    /// On the way out.
    #[error("the server is shutting down; try again elsewhere")]
    ShuttingDown,
    /// The model cannot answer now.
    #[error("the model is not available at the moment; try again in a moment")]
    Unavailable(String),
    /// Our fault; the cause is for the log.
    #[error("the model failed while it answered; try again")]
    Failed(String),
}

impl ApiError {
    /// `param` is at fault.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Invalid { param: Some(param.into()), message: message.into() }
    }

    /// The same error; where a constraint is at fault, that of the field `param`.
    pub fn of_constraint(self, param: &str) -> Self {
        match self {
            Self::Constraint(reason) => Self::invalid(param, format!("`{param}` cannot be honoured: {reason}")),
            other => other,
        }
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Invalid { .. } | Self::Constraint(_) | Self::TooLong(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized | Self::AdminUnauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden | Self::NotAdmin => StatusCode::FORBIDDEN,
            Self::Conflict(_) => StatusCode::CONFLICT,
            Self::BadWeights(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::UnknownModel(_) | Self::UnknownSearch(_) | Self::UnknownRoute(_) | Self::NothingThere(_) => {
                StatusCode::NOT_FOUND
            }
            Self::WrongMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Deadline => StatusCode::REQUEST_TIMEOUT,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::QueueFull { .. } | Self::TokensSpent { .. } | Self::SwapBusy(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::ShuttingDown | Self::Swapping | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// After how many seconds another try is worth it, where one is.
    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::QueueFull { retry_after, .. } | Self::TokensSpent { retry_after, .. } => {
                Some(whole_seconds(*retry_after))
            }
            Self::SwapBusy(_) | Self::ShuttingDown | Self::Swapping | Self::Unavailable(_) => Some(1),
            _ => None,
        }
    }

    /// OpenAI's envelope.
    pub fn body(&self) -> ErrorBody {
        let (code, param) = match self {
            Self::Invalid { param, .. } => ("invalid_value", param.clone()),
            Self::Constraint(_) => ("invalid_value", None),
            Self::TooLong(_) => ("context_length_exceeded", Some("messages".to_owned())),
            Self::Unauthorized => ("invalid_api_key", None),
            Self::AdminUnauthorized => ("invalid_admin_key", None),
            Self::NotAdmin => ("not_admin", None),
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
            Self::BodyTooLarge(_) => ("body_too_large", None),
            Self::NotJson => ("unsupported_media_type", None),
            Self::QueueFull { .. } => ("queue_full", None),
            Self::TokensSpent { .. } => ("tokens_per_minute", None),
            Self::ShuttingDown => ("shutting_down", None),
            Self::Unavailable(_) => ("model_not_available", None),
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
            EngineError::PromptTooLong { .. } => Self::TooLong(error.to_string()),
            EngineError::Unsupported(message) | EngineError::Invalid(message) => Self::Invalid { param: None, message },
            EngineError::Constraint(reason) => Self::Constraint(reason),
            EngineError::Unavailable(cause) => Self::Unavailable(cause),
            EngineError::Crashed(cause) => Self::Failed(cause),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match &self {
            Self::Failed(cause) => tracing::error!(cause, "the model failed"),
            Self::Unavailable(cause) => tracing::warn!(cause, "the model is not available"),
            _ => tracing::debug!(error = %self, "refused"),
        }
        let status = self.status();
        let mut response = (status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
