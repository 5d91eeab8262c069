//! `GET /`: a page to try the server with, and nothing that it needs from elsewhere.

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Html;

const PAGE: &str = include_str!("playground.html");

/// The page calls this server only.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'",
);

/// Sends the playground's page.
pub async fn page() -> ([(HeaderName, HeaderValue); 1], Html<&'static str>) {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE))
}
