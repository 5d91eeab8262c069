//! `/healthz`, `/health`, `/readyz`, `/version` and `/metrics`, and the canary behind readiness.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, header};
use serde::Serialize;
use utoipa::ToSchema;

use crate::chat::Message;
use crate::engine::generation::registry::Ids;
use crate::engine::load::serves_embedded;
use crate::engine::{Engine, EngineError, EngineExt, Purpose, Request, Sampling};
use crate::http::error::ApiError;
use crate::http::{AppState, Shared, served};
use crate::openai::{ErrorBody, GenerationIds, JudgeState};
use crate::telemetry::metrics;

/// How the server stands.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `ready`.
    pub status: &'static str,
    /// What is known of the judge, where the server is ready: `untried`, `able`, `indifferent` (it rates a wrong answer no
    /// lower than a right one) or `unreadable` (no verdict can be read from it).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub judge: Option<JudgeState>,
}

/// The build and the weights that run.
#[derive(Serialize, ToSchema)]
pub struct Version {
    /// The server's version.
    pub version: &'static str,
    /// The features of the build, separated by commas.
    pub features: &'static str,
    /// The served model.
    pub model: String,
    /// Whether this is the model inside of the program, a demonstration that knows one small invented world only.
    pub embedded: bool,
    /// The live weights.
    pub generation: GenerationIds,
}

/// The process lives.
#[utoipa::path(get, path = "/healthz", tag = "operation", responses((status = 200, body = Health, description = "Always")))]
pub async fn healthz() -> Json<Health> {
    Json(Health { status: "ok", judge: None })
}

/// Answers like `/healthz`, under the name that other servers give it.
#[utoipa::path(get, path = "/health", tag = "operation", responses((status = 200, body = Health, description = "Always")))]
pub async fn health() -> Json<Health> {
    healthz().await
}

/// A canary request was answered, and the server is not shutting down.
#[utoipa::path(
    get, path = "/readyz", tag = "operation",
    responses(
        (status = 200, body = Health, description = "Ready"),
        (status = 503, body = ErrorBody, description = "The server is not ready, shutting down, or between two weights: `loading`, `model_not_available`, `shutting_down` or `swapping`"),
    ),
)]
pub async fn readyz(State(state): State<Shared>) -> Result<Json<Health>, ApiError> {
    if state.gate.is_closing() {
        return Err(ApiError::ShuttingDown);
    }
    if state.served.pin().is_away() {
        return Err(ApiError::Swapping);
    }
    if !state.ready.load(Ordering::Acquire) {
        return Err(ApiError::Unavailable("the canary has not answered yet".into()));
    }
    let pinned = state.served.pin();
    for generation in [&pinned.actor, &pinned.refiner] {
        generation.engine.health().await.map_err(|error| ApiError::Unavailable(error.to_string()))?;
    }
    Ok(Json(Health { status: "ready", judge: Some(state.judge.state()) }))
}

/// Build, model and generation.
#[utoipa::path(get, path = "/version", tag = "operation", responses((status = 200, body = Version, description = "What runs")))]
pub async fn version(State(state): State<Shared>) -> Json<Version> {
    Json(Version {
        version: env!("CARGO_PKG_VERSION"),
        features: metrics::features(),
        model: state.served.name.clone(),
        embedded: serves_embedded(&state.settings.engine),
        generation: served::ids(&state.served.pin()),
    })
}

/// All metrics as Prometheus text.
#[utoipa::path(
    get, path = "/metrics", tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain", description = "Prometheus's text format")),
)]
pub async fn render_metrics(State(state): State<Shared>) -> ([(HeaderName, &'static str); 1], String) {
    metrics::publish_engines();
    metrics::publish_process();
    let (live, model) = (state.served.pin(), &state.served.name);
    let info = metrics::generation_info(&Ids::of(&live), model);
    let mut text = state.metrics.render() + &info + &metrics::prefix_caches(&live) + &metrics::upstreams(&live);
    if state.settings.http.vllm_metrics {
        text += &metrics::vllm_names(&text, model);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

/// Asks the models for one token each, again and again until they answer; then the server is ready.
pub(in crate::http) async fn canary(state: &AppState) {
    let pinned = state.served.pin();
    loop {
        let answered = match one_token(pinned.actor.engine.as_ref()).await {
            Ok(()) if Arc::ptr_eq(&pinned.actor, &pinned.refiner) => Ok(()),
            Ok(()) => one_token(pinned.refiner.engine.as_ref()).await,
            Err(error) => Err(error),
        };
        match answered {
            Ok(()) => {
                state.ready.store(true, Ordering::Release);
                if state.settings.search.try_judge {
                    state.judge.try_out(&state.served, &state.settings.search).await;
                }
                return;
            }
            Err(error) => tracing::error!(%error, "the canary was not answered; not ready"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn one_token(engine: &dyn Engine) -> Result<(), EngineError> {
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request::chat(Purpose::Answer, vec![Message::user("Hello")]);
    engine.generate(Request { sampling, max_tokens: Some(1), ..request }).await.map(drop)
}
