//! API keys: where some are configured, callers must show one. Admin routes need a key of their own.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::Shared;
use super::error::ApiError;

/// Lets requests with a key pass; all of them where no key is configured.
///
/// # Errors
/// [`ApiError::Unauthorized`].
pub async fn require_key(State(state): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    let keys = &state.settings.api_keys;
    if keys.is_empty() || known(keys, shown(&request)) {
        return Ok(next.run(request).await);
    }
    Err(ApiError::Unauthorized)
}

/// Lets requests with the admin key pass; none where none is configured.
///
/// # Errors
/// [`ApiError::Forbidden`] or [`ApiError::NoAdminKey`].
pub async fn require_admin(State(state): State<Shared>, request: Request, next: Next) -> Result<Response, ApiError> {
    match &state.settings.admin_key {
        None => Err(ApiError::Forbidden),
        Some(key) if known(std::slice::from_ref(key), shown(&request)) => Ok(next.run(request).await),
        Some(_) => Err(ApiError::NoAdminKey),
    }
}

fn shown(request: &Request) -> &str {
    let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    header.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default().trim()
}

/// Compares digests of all keys, so that the time tells neither a key's length nor where it differs.
fn known(keys: &[SecretString], shown: &str) -> bool {
    let digest = Sha256::digest(shown);
    let same = |key: &SecretString| Sha256::digest(key.expose_secret()).as_slice().ct_eq(digest.as_slice());
    keys.iter().fold(Choice::from(0), |any, key| any | same(key)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_keys_are_known() {
        let keys = ["alpha", "beta"].map(SecretString::from);
        for (shown, expected) in [("alpha", true), ("beta", true), ("alph", false), ("", false), ("alphabeta", false)] {
            assert_eq!(known(&keys, shown), expected, "{shown}");
        }
    }
}
