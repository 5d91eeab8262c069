//! The HTTP server: its routes and what they share.

mod account;
mod adapters;
mod admin;
mod admit;
pub mod answer;
mod auth;
mod body;
mod bounds;
mod browsers;
mod chat;
mod checks;
mod chosen;
mod completions;
mod constraint;
mod conversation;
mod decisions;
pub mod drawing;
mod draws;
pub mod echo;
mod embeddings;
mod enter;
mod envelope;
pub mod error;
mod fine;
mod glance;
mod health;
mod hold;
mod hosts;
pub mod job;
mod judge_canary;
mod kept;
mod key_usage;
mod keys;
pub mod limits;
mod messages;
mod metadata;
pub mod models;
mod named;
mod names;
mod observe;
mod on_behalf;
pub mod openapi;
mod page;
pub mod part;
pub mod plan;
mod ranges;
mod refused;
mod responses;
pub mod rules;
mod said;
mod score;
mod search_header;
mod searches;
pub mod serve;
pub mod served;
mod state;
mod stream;
mod strict;
mod tokens;
mod tools;
mod traffic;
mod turns;
mod upstreams;

use std::any::Any;
use std::sync::Arc;

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

use crate::telemetry::traces::Traces;
use error::ApiError;
use hosts::Hosts;
use openapi::Access;
pub use serve::serve;
pub use served::Served;
pub use state::{AppState, Shared};
pub use traffic::Traffic;

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
        .layer(from_fn_with_state(state.traces.clone(), observe::observe))
        .with_state(state)
}

/// What is known of the server from outside of its work: the routes of a port for health alone.
fn health_router(state: Shared) -> Router {
    let (router, _) = open_routes().split_for_parts();
    router
        .fallback(|uri: Uri| async move { ApiError::UnknownRoute(uri.path().to_owned()) })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(Traces::default(), observe::observe))
        .with_state(state)
}

fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    ApiError::Failed(format!("a handler panicked: {}", text.unwrap_or("without a message"))).into_response()
}
