//! The port for health alone, which is served from before the models are loaded until the end.

use std::net::TcpListener as StdListener;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tower::ServiceExt;

use super::accept::{Crowd, each, serve};
use super::connection::Terms;
use super::descriptors;
use crate::http::error::ApiError;
use crate::http::routes::health::healthz;

/// Accepts on the port for health, without TLS; the limit of connections does not apply here.
pub(super) async fn accept(listener: StdListener, terms: Terms) {
    let mut crowd = Crowd::new(descriptors::reserved());
    let serving = |stream| crowd.add(tokio::spawn(serve(stream, None, Instant::now(), terms.clone())).abort_handle());
    each(listener, serving).await;
}

/// The router of the port for health: `routes` once the models are loaded.
pub(super) fn router(routes: Arc<OnceLock<Router>>) -> Router {
    Router::new().fallback(before_or_after).with_state(routes)
}

async fn before_or_after(State(routes): State<Arc<OnceLock<Router>>>, request: Request) -> Response {
    match routes.get() {
        Some(routes) => match routes.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        None if request.uri().path() == "/healthz" => healthz().await.into_response(),
        None => ApiError::Loading.into_response(),
    }
}
