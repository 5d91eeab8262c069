//! Who calls: a key with its name, its limits and what it has used, or anybody where no key is needed.

mod id;
mod ring;
mod tenant;

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

pub use self::id::TenantId;
pub use self::ring::KeyRing;
pub use self::tenant::{Tenant, checked_salt};
use crate::http::Shared;
use crate::http::error::ApiError;

/// The caller of a request, as the middleware has found it out.
pub struct Caller(pub Arc<Tenant>);

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &Shared) -> Result<Self, ApiError> {
        Ok(Self(parts.extensions.get().cloned().unwrap_or_else(|| state.keys.anonymous())))
    }
}
