//! The name at the end of a path, such as a model's.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;

use crate::http::error::ApiError;

/// The parameter `id` of a path, its percent-encoding resolved.
pub struct Named(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(Path(name)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(ApiError::invalid(
                "id",
                "`id` in the path must be UTF-8 when its percent-encoding is resolved",
            ));
        };
        Ok(Self(name))
    }
}
