//! The HTTP server.
//!
//! A request comes in at the `door` (connections, keys, admission), becomes a checked `job`, and its `answer` comes in parts, which the
//! handler of its route in `routes` writes as one body or as events. `conversation.rs` is the way that all chats go, whatever API they
//! came by; `state.rs` is what handlers share.

pub mod answer;
mod conversation;
mod door;
pub mod error;
mod examples;
pub mod job;
mod judge_canary;
pub mod openapi;
mod routes;
pub mod serve;
pub mod served;
mod state;

use std::any::Any;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

pub use self::answer::traffic::Traffic;
use self::door::hosts::Hosts;
use self::door::observe::Observing;
use self::door::{auth, browsers, envelope, hosts, observe};
use self::error::ApiError;
use self::openapi::Access;
use self::routes::{
    adapters, admin, chat, checks, completions, decisions, embeddings, health, key_usage, messages, models, page,
    responses, score, searches, tokens, upstreams,
};
pub use self::serve::serve;
pub use self::served::Served;
pub use self::state::{AppState, Shared};
use crate::telemetry::traces::Traces;

/// Everything that the API document describes.
fn routes() -> OpenApiRouter<Shared> {
    open_routes().merge(keyed_routes()).merge(admin_routes())
}

fn keyed_routes() -> OpenApiRouter<Shared> {
    let routes = OpenApiRouter::default()
        .routes(routes!(chat::chat))
        .routes(routes!(checks::checks))
        .routes(routes!(completions::complete))
        .routes(routes!(embeddings::embed))
        .routes(routes!(score::score))
        .routes(routes!(decisions::decide))
        .routes(routes!(messages::answer))
        .routes(routes!(messages::count_tokens))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(responses::respond))
        .routes(routes!(searches::search))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize));
    openapi::complete(Access::Key, routes)
}

fn admin_routes() -> OpenApiRouter<Shared> {
    let routes = OpenApiRouter::default()
        .routes(routes!(admin::generations, admin::publish))
        .routes(routes!(admin::rollback))
        .routes(routes!(key_usage::keys))
        .routes(routes!(upstreams::list))
        .routes(routes!(adapters::load_lora))
        .routes(routes!(adapters::unload_lora))
        .routes(routes!(admin::update_weights));
    openapi::complete(Access::Admin, routes)
}

fn open_routes() -> OpenApiRouter<Shared> {
    let routes = OpenApiRouter::with_openapi(openapi::ApiDoc::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::health))
        .routes(routes!(health::readyz))
        .routes(routes!(health::version))
        .routes(routes!(health::render_metrics));
    openapi::complete(Access::Open, routes)
}

/// The whole application.
pub fn router(state: Shared) -> Router {
    let keyed = keyed_routes().route_layer(from_fn_with_state(Arc::clone(&state), auth::require_key));
    let admin = admin_routes().route_layer(from_fn_with_state(Arc::clone(&state), auth::require_admin));
    let (router, api) = open_routes().merge(keyed).merge(admin).split_for_parts();
    let http = &state.settings.http;
    let cors = browsers::cors(&http.cors_origins);
    let hosts = Arc::new(Hosts::new(http));
    let body_timeout = http.connections.body_timeout;
    router
        .route("/", get(page::index))
        .route("/page/{file}", get(page::file))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .fallback(|uri: Uri| async move { ApiError::UnknownRoute(uri.path().to_owned()) })
        .method_not_allowed_fallback(|uri: Uri| async move { ApiError::WrongMethod(uri.path().to_owned()) })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(envelope::in_envelope))
        .layer(from_fn_with_state(body_timeout, serve::body::in_time))
        .layer(cors)
        .layer(from_fn(browsers::unframed))
        .layer(from_fn_with_state(hosts, hosts::check))
        .layer(from_fn(messages::envelope::in_own_envelope))
        .layer(from_fn_with_state(observing(state.traces.clone()), observe::observe))
        .with_state(state)
}

/// What is known of the server from outside of its work: the routes of a port for health alone.
fn health_router(state: Shared) -> Router {
    let (router, _) = open_routes().split_for_parts();
    router
        .fallback(|uri: Uri| async move { ApiError::UnknownRoute(uri.path().to_owned()) })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(observing(Traces::default()), observe::observe))
        .with_state(state)
}

/// The paths of all routes, from the API document, the page and the document itself.
static PATHS: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let documented = routes().to_openapi().paths.paths.into_keys();
    documented.chain(["/", "/openapi.json"].map(String::from)).collect()
});

fn observing(traces: Traces) -> Observing {
    Observing { routes: &PATHS, traces }
}

fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    ApiError::Failed(format!("a handler panicked: {}", text.unwrap_or("without a message"))).into_response()
}
