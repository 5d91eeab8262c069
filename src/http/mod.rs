//! The HTTP server: its routes and what they share.

mod account;
mod adapters;
mod admin;
mod admit;
pub mod answer;
mod auth;
mod body;
mod browsers;
mod chat;
mod checks;
mod chosen;
mod completions;
mod constraint;
mod conversation;
mod decisions;
mod draws;
pub mod echo;
mod embeddings;
mod enter;
mod envelope;
pub mod error;
mod examples;
mod fine;
mod glance;
mod health;
mod hosts;
pub mod job;
mod judge_canary;
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
pub mod plan;
mod refused;
mod responses;
pub mod rules;
mod said;
mod score;
mod search_header;
mod searches;
pub mod serve;
mod stream;
mod strict;
mod tokens;
mod tools;
mod traffic;
mod turns;
mod upstreams;

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::http::{HeaderMap, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::config::Settings;
use crate::engine::{Namespace, Origin, Waits};
use crate::swap::Swapper;
use crate::telemetry::traces::Traces;
use chosen::Chosen;
use error::ApiError;
use hosts::Hosts;
use job::{Constrains, Limits};
use judge_canary::JudgeCanary;
use keys::{KeyRing, Tenant};
use limits::{ByteBudget, Gate, Kind};
pub use models::Served;
use on_behalf::Behalf;
use openapi::Access;
use searches::{KeptSearches, Room};
pub use serve::serve;
pub use traffic::Traffic;

/// What all handlers share.
pub struct AppState {
    /// The settings of this server, checked.
    pub settings: Settings,
    /// The models that are served.
    pub served: Served,
    /// What swaps their weights, where that is allowed.
    pub swapper: Option<Arc<Swapper>>,
    /// Admission of requests.
    pub gate: Arc<Gate>,
    /// Bytes of bodies in memory.
    bytes: ByteBudget,
    /// Who may call.
    keys: KeyRing,
    /// What makes namespaces of prefixes unguessable.
    namespaces: [u8; 32],
    /// Where accepted searches are kept as training data, if anywhere.
    pub traffic: Option<Arc<Traffic>>,
    /// Where spans are recorded.
    pub traces: Traces,
    /// Searches that have finished.
    kept: KeptSearches,
    /// Whether a canary was answered.
    ready: AtomicBool,
    /// Whether the judge can be read.
    judge: JudgeCanary,
    /// Ends running answers.
    abort: CancellationToken,
    /// Renders the metrics as text.
    metrics: PrometheusHandle,
}

/// The state as handlers take it.
pub type Shared = Arc<AppState>;

impl AppState {
    /// A server's state before its first request.
    pub fn new(settings: Settings, served: Served, metrics: PrometheusHandle) -> Self {
        let http = &settings.http;
        Self {
            gate: Gate::new(http.capacity()),
            bytes: ByteBudget::new(http.max_body_bytes_in_flight, http.max_body),
            keys: KeyRing::new(&settings.api_keys, http),
            namespaces: rand::random(),
            kept: KeptSearches::new(Room { searches: http.kept_searches, bytes: http.kept_search_bytes }),
            ready: AtomicBool::new(false),
            judge: JudgeCanary::default(),
            abort: CancellationToken::new(),
            metrics,
            swapper: None,
            traffic: None,
            traces: Traces::default(),
            served,
            settings,
        }
    }

    /// The client on whose behalf an answer's calls are made.
    fn behalf(&self, tenant: Arc<Tenant>, headers: &HeaderMap, salt: Option<&str>, kind: Kind) -> Behalf {
        let namespace = tenant.namespace(salt, self.settings.http.shared_prefix_cache, &self.namespaces);
        let waits = match kind {
            Kind::Plain => Waits::Plain,
            Kind::Search => Waits::Search,
        };
        // A caller that may take all places of the gate may take all of an engine, too.
        let shares = tenant.share.running < self.settings.http.max_running;
        let caller = if shares { tenant.namespace(None, false, &self.namespaces) } else { Namespace::SHARED };
        let origin = Origin { namespace, caller, waits, ..Origin::default() };
        Behalf { tenant, origin, spans: self.traces.within(headers) }
    }

    /// What requests are checked against.
    fn limits<'a>(&'a self, chosen: &'a Chosen) -> Limits<'a> {
        let Chosen { name, pinned } = chosen;
        let actor = pinned.actor.engine.as_ref();
        let (model, constrains, scores) = (actor.info(), Constrains::of(actor), actor.scores());
        let token_rules = actor.keeps_token_rules() && pinned.refiner.engine.keeps_token_rules();
        let (judge, tool_format) = (self.judge.state(), actor.tool_format());
        let sampling = actor.default_sampling();
        let settings = &self.settings;
        Limits { model, name, constrains, scores, sampling, token_rules, tool_format, judge, settings }
    }
}

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
