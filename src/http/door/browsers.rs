//! Response headers for browsers: which other sites may call the server, and that no site may frame its pages.

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use std::time::Duration;
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

/// The response headers that scripts may read.
const RESPONSE_HEADERS: &[&str] = &["retry-after", "x-request-id", "x-spar-generation", "x-spar-search"];

/// The CORS headers for `origins`. Without origins there are none, so that browsers keep other sites out.
pub fn cors(origins: &[String]) -> CorsLayer {
    let names = |all: &[&'static str]| all.iter().copied().map(HeaderName::from_static).collect::<Vec<_>>();
    let layer = CorsLayer::new()
        .allow_methods([Method::GET, Method::HEAD, Method::POST])
        // Those that the browser asks for: a wildcard does not cover `authorization`, and clients have headers of their own.
        .allow_headers(AllowHeaders::mirror_request())
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

/// Forbids other sites to show our pages within a frame, where they could misdirect clicks.
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
