//! API keys: where some are configured, callers must show one. Admin routes need the admin key, or a key with that role.

use axum::extract::{Request, State};
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use crate::config::digest;
use crate::http::Shared;
use crate::http::error::ApiError;

/// Lets requests with a key pass; all of them where no key is configured. Handlers find the caller in the extensions.
///
/// # Errors
/// [`ApiError::Unauthorized`].
pub async fn require_key(State(state): State<Shared>, mut request: Request, next: Next) -> Result<Response, ApiError> {
    if !state.keys.is_open() {
        let tenant = state.keys.find(shown(&request)).ok_or(ApiError::Unauthorized)?;
        request.extensions_mut().insert(tenant);
    }
    Ok(next.run(request).await)
}

/// Lets requests with the admin key pass, or with a key that has the role; none where there is neither.
///
/// # Errors
/// [`ApiError::Forbidden`], [`ApiError::NotAdmin`] or [`ApiError::AdminUnauthorized`].
pub async fn require_admin(
    State(state): State<Shared>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let admin = state.settings.admin_key.as_ref();
    if admin.is_none() && !state.keys.has_admin() {
        return Err(ApiError::Forbidden);
    }
    let shown = shown(&request);
    if admin.is_some_and(|key| is(key, shown)) {
        return Ok(next.run(request).await);
    }
    match state.keys.find(shown) {
        Some(tenant) if tenant.admin => {
            request.extensions_mut().insert(tenant);
            Ok(next.run(request).await)
        }
        Some(_) => Err(ApiError::NotAdmin),
        None => Err(ApiError::AdminUnauthorized),
    }
}

/// The header in which Anthropic's clients show their key.
const X_API_KEY: &str = "x-api-key";

/// The key that a request shows: as a bearer token, or else in `x-api-key`. The name of the scheme has no case.
fn shown(request: &Request) -> &str {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (scheme, key) = header(header::AUTHORIZATION.as_str()).split_once(' ').unwrap_or_default();
    if scheme.eq_ignore_ascii_case("bearer") { key.trim() } else { header(X_API_KEY).trim() }
}

/// Compares digests, so that the time tells neither the key's length nor where it differs.
fn is(key: &SecretString, shown: &str) -> bool {
    digest(key.expose_secret()).ct_eq(&digest(shown)).into()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn a_key_is_shown_as_a_bearer_token() {
        let table = [
            ("Bearer alpha", "alpha"),
            ("bearer alpha", "alpha"),
            ("BEARER  alpha ", "alpha"),
            ("Basic alpha", ""),
            ("alpha", ""),
            ("Beareralpha", ""),
            ("", ""),
        ];
        for (header, expected) in table {
            let request = Request::builder().header(header::AUTHORIZATION, header).body(Body::empty()).unwrap();
            assert_eq!(shown(&request), expected, "{header:?}");
            let request = Request::builder().header(header::AUTHORIZATION, header).header(X_API_KEY, " beta");
            let expected = if expected.is_empty() { "beta" } else { expected };
            assert_eq!(shown(&request.body(Body::empty()).unwrap()), expected, "{header:?}");
        }
        assert!(is(&"alpha".into(), "alpha") && !is(&"alpha".into(), "alph"));
    }
}
