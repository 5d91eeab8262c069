//! What browsers are told: which other sites may call, and that no site may show our pages within its own.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tower_http::cors::{AllowOrigin, Any, CorsLayer};

/// What clients in browsers send. A wildcard does not cover `authorization`, so all are named; OpenAI's client sends those of
/// its own with every request.
const REQUEST_HEADERS: &[&str] = &[
    "accept",
    "authorization",
    "content-type",
    "openai-organization",
    "openai-project",
    "user-agent",
    "x-request-id",
    "x-stainless-arch",
    "x-stainless-async",
    "x-stainless-custom-poll-interval",
    "x-stainless-helper-method",
    "x-stainless-lang",
    "x-stainless-os",
    "x-stainless-package-version",
    "x-stainless-poll-helper",
    "x-stainless-read-timeout",
    "x-stainless-retry-count",
    "x-stainless-runtime",
    "x-stainless-runtime-version",
    "x-stainless-timeout",
];

/// What scripts may read of a response besides its body.
const RESPONSE_HEADERS: &[&str] = &["retry-after", "x-request-id", "x-spar-generation"];

/// Which origins may call, and how. Without origins no headers at all, so browsers keep other sites out.
pub fn cors(origins: &[String]) -> CorsLayer {
    let names = |all: &[&'static str]| all.iter().copied().map(HeaderName::from_static).collect::<Vec<_>>();
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        .allow_headers(names(REQUEST_HEADERS))
        .expose_headers(names(RESPONSE_HEADERS))
        .max_age(Duration::from_secs(600));
    if origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(Any);
    }
    // The settings were checked, so all of them are values of headers.
    let named = origins.iter().filter(|origin| !origin.is_empty()).filter_map(|origin| origin.parse().ok());
    let named: Vec<HeaderValue> = named.collect();
    if named.is_empty() { CorsLayer::new() } else { layer.allow_origin(AllowOrigin::list(named)) }
}

const UNFRAMED: &str = "frame-ancestors 'none'";

/// Pages may not be shown within other pages, where a click could be meant for something else.
pub async fn unframed(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    if !headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html")) {
        return response;
    }
    let before = headers.get(header::CONTENT_SECURITY_POLICY).and_then(|policy| policy.to_str().ok());
    let policy = before.map_or_else(|| UNFRAMED.to_owned(), |before| format!("{before}; {UNFRAMED}"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(policy) = policy.parse() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}
