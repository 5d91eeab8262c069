//! The HTTP server: routes, what they share, and its life from the first connection to the last.

mod admin;
mod admit;
pub mod answer;
mod auth;
mod body;
mod chat;
mod checks;
mod completions;
mod constraint;
pub mod echo;
pub mod error;
mod glance;
mod health;
pub mod job;
mod judge_canary;
mod keys;
pub mod limits;
pub mod models;
mod observe;
mod on_behalf;
pub mod openapi;
pub mod plan;
mod playground;
mod refused;
pub mod rules;
mod searches;
mod stream;
mod tokens;
mod tools;
mod traffic;

use std::any::Any;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderValue, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, Any as AnyValue, CorsLayer};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::config::Settings;
use crate::engine::generation::Pinned;
use crate::engine::{Origin, Waits, grammar};
use crate::swap::Swapper;
use error::ApiError;
use job::{Constrains, Limits};
use judge_canary::JudgeCanary;
use keys::{KeyRing, Tenant};
use limits::{ByteBudget, Gate, Kind};
pub use models::Served;
use on_behalf::Behalf;
use searches::KeptSearches;
pub use traffic::Traffic;

/// What all handlers share.
pub struct AppState {
    /// The settings of this server, checked.
    pub settings: Settings,
    /// The models that are served.
    pub served: Served,
    /// What swaps their weights, where that is allowed.
    pub swapper: Option<Arc<Swapper>>,
    /// Admission.
    pub gate: Arc<Gate>,
    /// Bytes of bodies in memory.
    bytes: ByteBudget,
    /// Who may call.
    keys: KeyRing,
    /// What makes namespaces of prefixes unguessable.
    namespaces: [u8; 32],
    /// Where accepted searches are kept as training data, if anywhere.
    pub traffic: Option<Arc<Traffic>>,
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
            kept: KeptSearches::new(settings.http.kept_searches),
            ready: AtomicBool::new(false),
            judge: JudgeCanary::default(),
            abort: CancellationToken::new(),
            metrics,
            swapper: None,
            traffic: None,
            served,
            settings,
        }
    }

    /// On whose behalf an answer's calls are made.
    fn behalf(&self, tenant: Arc<Tenant>, salt: Option<&str>, kind: Kind) -> Behalf {
        let namespace = tenant.namespace(salt, self.settings.http.shared_prefix_cache, &self.namespaces);
        let waits = match kind {
            Kind::Plain => Waits::Plain,
            Kind::Search => Waits::Search,
        };
        Behalf { tenant, origin: Origin { namespace, waits } }
    }

    /// What requests are checked against.
    fn limits<'a>(&'a self, pinned: &'a Pinned) -> Limits<'a> {
        let actor = pinned.actor.engine.as_ref();
        let (model, constrains, scores) = (actor.info(), Constrains::of(actor), actor.scores());
        let (name, judge, tool_format) = (&self.served.name, self.judge.state(), actor.tool_format());
        Limits { model, name, constrains, scores, tool_format, judge, settings: &self.settings }
    }
}

/// Everything that the API document describes.
fn routes() -> OpenApiRouter<Shared> {
    open_routes().merge(keyed_routes()).merge(admin_routes())
}

fn keyed_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(chat::chat))
        .routes(routes!(checks::checks))
        .routes(routes!(completions::complete))
        .routes(routes!(models::list))
        .routes(routes!(models::one))
        .routes(routes!(searches::search))
        .routes(routes!(tokens::tokenize))
        .routes(routes!(tokens::detokenize))
}

fn admin_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::default()
        .routes(routes!(admin::generations, admin::publish))
        .routes(routes!(admin::rollback))
        .routes(routes!(admin::load_lora))
        .routes(routes!(admin::unload_lora))
        .routes(routes!(admin::update_weights))
}

fn open_routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(openapi::ApiDoc::openapi())
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::version))
        .routes(routes!(health::render_metrics))
}

/// The whole application.
pub fn router(state: Shared) -> Router {
    let keyed = keyed_routes().route_layer(from_fn_with_state(Arc::clone(&state), auth::require_key));
    let admin = admin_routes().route_layer(from_fn_with_state(Arc::clone(&state), auth::require_admin));
    let (router, api) = open_routes().merge(keyed).merge(admin).split_for_parts();
    let cors = cors(&state.settings.http.cors_origins);
    router
        .route("/", get(playground::page))
        .merge(SwaggerUi::new("/docs").url("/openapi.json", api))
        .fallback(|uri: Uri| async move { ApiError::UnknownRoute(uri.path().to_owned()) })
        .method_not_allowed_fallback(|uri: Uri| async move { ApiError::WrongMethod(uri.path().to_owned()) })
        .layer(CatchPanicLayer::custom(panicked))
        .layer(cors)
        .layer(from_fn(observe::observe))
        .with_state(state)
}

fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    ApiError::Failed(format!("a handler panicked: {}", text.unwrap_or("without a message"))).into_response()
}

/// The CORS layer. Without origins it sends no headers at all, so browsers keep other sites out.
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let layer = CorsLayer::new().allow_methods(AnyValue).allow_headers(AnyValue);
    if origins.iter().any(|origin| origin == "*") {
        return layer.allow_origin(AnyValue);
    }
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|origin| origin.parse().ok()).collect();
    layer.allow_origin(AllowOrigin::list(origins))
}

/// Serves until `shutdown` resolves; then refuses new requests, lets running ones end within the grace period, and drops
/// what is left.
///
/// # Errors
/// The listener fails.
pub async fn serve(
    listener: TcpListener,
    state: Shared,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let closed = CancellationToken::new();
    // Events must not wait for more bytes.
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let server =
        axum::serve(listener, router(Arc::clone(&state))).with_graceful_shutdown(closed.clone().cancelled_owned());
    tokio::select! {
        ended = server.into_future() => ended,
        () = drain(&state, shutdown, &closed) => Ok(()),
        () = upkeep(&state) => Ok(()),
        () = state.keys.follow() => Ok(()),
    }
}

async fn drain(state: &AppState, shutdown: impl Future<Output = ()>, closed: &CancellationToken) {
    shutdown.await;
    let grace = state.settings.http.shutdown_grace;
    tracing::info!(?grace, "shutting down: running requests may end");
    state.gate.close();
    if tokio::time::timeout(grace, state.gate.empty()).await.is_err() {
        tracing::warn!("the grace period is over: running requests are dropped");
        state.abort.cancel();
    }
    closed.cancel();
    // The last bytes go out; a client that does not read them is not waited for.
    tokio::time::sleep(Duration::from_secs(1)).await;
}

/// Never ends: readiness, and then the housekeeping of histograms and grammars, and trials of a judge that was swapped.
async fn upkeep(state: &AppState) {
    health::canary(state).await;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        state.metrics.run_upkeep();
        grammar::drop_unused();
        judge_canary::try_new_judge(state).await;
    }
}
