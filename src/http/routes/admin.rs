//! The admin routes: which generations there are, other weights, back to the weights before; and the same by the body of SGLang.

use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::generation::Role;
use crate::engine::generation::registry::{Ids, Record, State as Phase};
use crate::http::door::body;
use crate::http::error::ApiError;
use crate::http::{AppState, Shared};
use crate::openai::{ErrorBody, GenerationIds};
use crate::swap::{Intent, Mode, NamedAdapter, Order, Part, Report, Scope, SwapError, Swapper, Weights};

/// The roles whose weights are swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// The role that drafts answers.
    Actor,
    /// Who judges and rewrites.
    Refiner,
    /// One generation for both.
    Both,
}

impl From<RoleName> for Scope {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Actor => Self::One(Role::Actor),
            RoleName::Refiner => Self::One(Role::Refiner),
            RoleName::Both => Self::Both,
        }
    }
}

/// A generation of weights.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GenerationInfo {
    /// The id that responses show.
    pub id: String,
    /// What it is or was for.
    pub role: RoleName,
    /// The name that requests have for it, where it is an adapter next to the live pair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub served_as: Option<String>,
    /// Where its weights came from; absent where they did not come from a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceInfo>,
    /// SHA-256 of everything that is computed with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// How far it has come.
    pub state: Phase,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Requests and searches that hold it.
    pub pins: usize,
    /// Seconds since 1970.
    pub loaded_at: u64,
}

/// Where weights came from, as it was named.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SourceInfo {
    /// The model's directory.
    pub model_path: String,
    /// The adapter's directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_path: Option<String>,
    /// What the adapter is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter_name: Option<String>,
}

impl GenerationInfo {
    fn new(record: Record, pins: usize) -> Self {
        let role = match record.roles.as_slice() {
            [Role::Actor] => RoleName::Actor,
            [Role::Refiner] => RoleName::Refiner,
            _ => RoleName::Both,
        };
        let source = record.source.as_ref().map(|source| SourceInfo {
            model_path: source.model_path.display().to_string(),
            adapter_path: source.adapter.as_ref().map(|adapter| adapter.path.display().to_string()),
            adapter_name: source.adapter.as_ref().and_then(|adapter| adapter.name.clone()),
        });
        let sha256 = record.source.as_ref().map(crate::engine::generation::registry::Source::sha256);
        let Record { id, state, reason, loaded_at, served_as, .. } = record;
        Self { id, role, served_as, source, sha256, state, reason, pins, loaded_at }
    }
}

/// All generations of this server.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct GenerationList {
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// The live pair.
    pub live: GenerationIds,
    /// Oldest first; old ones that ended are forgotten after a while.
    pub data: Vec<GenerationInfo>,
}

/// Weights that are to take over. At least one path is needed.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SwapRequest {
    /// The role whose weights are swapped.
    pub role: RoleName,
    /// A model's directory below a configured root; absent: the live model's.
    pub model_path: Option<String>,
    /// A PEFT LoRA adapter's directory below a configured root.
    pub adapter_path: Option<String>,
    /// The generation that must be live, or nothing happens; for `both` the two ids joined by `+`, or the one that serves both.
    pub expected_generation: Option<String>,
    /// Everything but the switch.
    #[serde(default)]
    pub dry_run: bool,
    /// How memory is used.
    #[serde(default)]
    pub mode: Mode,
    /// What may differ from the live model.
    #[serde(default)]
    pub changes: Vec<Part>,
}

/// Back to the weights before.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// The role that goes back; absent: the one that was published last.
    pub role: Option<RoleName>,
    /// The generation that must be live, or nothing happens.
    pub expected_generation: Option<String>,
}

/// The body of SGLang's route that updates weights.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct UpdateWeightsRequest {
    /// A model's directory below a configured root.
    pub model_path: String,
    /// The role that gets the weights; SGLang has no such field. Absent: both roles where one model serves both, else the actor.
    pub role: Option<RoleName>,
}

/// The result of a swap.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct SwapResponse {
    /// `live`, or `checked` after a dry run.
    pub state: &'static str,
    /// The live pair now.
    pub generation: GenerationIds,
    /// The live pair before.
    pub previous: GenerationIds,
    /// SHA-256 of the new weights.
    pub sha256: String,
    /// How memory was used.
    pub mode: Mode,
    /// Servers of a fleet that failed to load the weights and were taken out of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub upstreams_out: Vec<UpstreamOut>,
    /// Milliseconds from the request to the switch.
    pub elapsed_ms: f64,
}

/// A server that was taken out of its fleet.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpstreamOut {
    /// The name of the server.
    pub name: String,
    /// Why it could not load the weights.
    pub reason: String,
}

/// The answer of SGLang's route that updates weights.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpdateWeightsResponse {
    /// Always true; a failure is an error.
    pub success: bool,
    /// A message for people to read.
    pub message: String,
    /// The live pair now; not a field of SGLang's.
    pub generation: GenerationIds,
}

impl From<Report> for SwapResponse {
    fn from(report: Report) -> Self {
        Self {
            state: if report.published { "live" } else { "checked" },
            generation: wire(report.after),
            previous: wire(report.before),
            sha256: report.sha256,
            mode: report.mode,
            upstreams_out: report.out.into_iter().map(|(name, reason)| UpstreamOut { name, reason }).collect(),
            elapsed_ms: report.took.as_secs_f64() * 1e3,
        }
    }
}

fn wire(ids: Ids) -> GenerationIds {
    GenerationIds { actor: ids.actor, refiner: ids.refiner }
}

impl From<SwapError> for ApiError {
    fn from(error: SwapError) -> Self {
        let message = error.to_string();
        match error {
            SwapError::Busy | SwapError::Draining(_) => Self::SwapBusy(message),
            SwapError::NotLive { .. } | SwapError::Ended => Self::Conflict(message),
            SwapError::Missing(_) => Self::NothingThere(message),
            SwapError::Refused(_) | SwapError::TimedOut(_) => Self::BadWeights(message),
        }
    }
}

pub(in crate::http) fn swapper(state: &AppState) -> Result<&std::sync::Arc<Swapper>, ApiError> {
    state.swapper.as_ref().ok_or_else(|| ApiError::BadWeights("this server's weights cannot be swapped".into()))
}

/// Every generation of weights.
#[utoipa::path(
    get, path = "/admin/generations", tag = "admin",
    responses(
        (status = 200, body = GenerationList, description = "The live pair, and every generation that is known"),
        (status = 422, body = ErrorBody, description = "This server's weights cannot be swapped: `weights_refused`"),
    ),
)]
pub async fn generations(State(state): State<Shared>) -> Result<Json<GenerationList>, ApiError> {
    let swapper = swapper(&state)?;
    let data = swapper.list().into_iter().map(|(record, pins)| GenerationInfo::new(record, pins)).collect();
    Ok(Json(GenerationList { object: "list", live: wire(swapper.live()), data }))
}

/// Loads other weights next to the live ones, checks them, tries them out, and switches; requests that run keep the old ones.
#[utoipa::path(
    post, path = "/admin/generations", tag = "admin", request_body = SwapRequest,
    responses(
        (status = 200, body = SwapResponse, description = "The weights are live, or were checked in a dry run"),
        (status = 409, body = ErrorBody, description = "`expected_generation` is not live, or a rollback has ended the swap: `generation_not_live`"),
        (status = 422, body = ErrorBody, description = "The weights are not accepted, or took too long; the old ones stay: `weights_refused`"),
        (status = 429, body = ErrorBody, description = "Another swap runs: `swap_running`"),
    ),
)]
pub async fn publish(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SwapResponse>, ApiError> {
    let asked: SwapRequest = read(&state, &headers, body).await?;
    let adapter = asked.adapter_path.map(|path| NamedAdapter { path: path.into(), name: None });
    let weights = match (asked.model_path, adapter) {
        (Some(model), adapter) => Weights::Model(model.into(), adapter),
        (None, Some(adapter)) => Weights::Adapter(adapter),
        (None, None) => {
            return Err(ApiError::invalid("model_path", "name weights by `model_path`, `adapter_path` or both"));
        }
    };
    let order = Order {
        scope: asked.role.into(),
        weights,
        expected: asked.expected_generation,
        changes: asked.changes,
        mode: asked.mode,
        intent: if asked.dry_run { Intent::DryRun } else { Intent::Publish },
    };
    Ok(Json(swapper(&state)?.swap(order).await?.into()))
}

/// Back to the weights that were live before, which are checked and tried out again. A swap that runs is ended for it.
#[utoipa::path(
    post, path = "/admin/generations/rollback", tag = "admin", request_body = Option<RollbackRequest>,
    responses(
        (status = 200, body = SwapResponse, description = "The weights before are live again"),
        (status = 404, body = ErrorBody, description = "Nothing was live before: `not_found`"),
        (status = 409, body = ErrorBody, description = "`expected_generation` is not live: `generation_not_live`"),
        (status = 415, body = ErrorBody, description = "There is a body that is not declared as JSON: `unsupported_media_type`"),
        (status = 422, body = ErrorBody, description = "The old weights are gone or damaged, or it took too long: `weights_refused`"),
        (status = 429, body = ErrorBody, description = "Another rollback runs; a swap that runs is ended: `swap_running`"),
    ),
)]
pub async fn rollback(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SwapResponse>, ApiError> {
    let most = state.settings.http.max_body;
    let sent = to_bytes(body, most).await.map_err(|_| ApiError::BodyTooLarge(most))?;
    // Nothing to read is the usual rollback; what was sent is read, whatever the headers say.
    let asked: RollbackRequest = match sent.is_empty() {
        true => RollbackRequest::default(),
        false => read(&state, &headers, sent.into()).await?,
    };
    let role = match asked.role.map(Scope::from) {
        Some(Scope::One(role)) => Some(role),
        Some(Scope::Both) | None => None,
    };
    Ok(Json(swapper(&state)?.rollback(role, asked.expected_generation).await?.into()))
}

/// Loads another model.
#[utoipa::path(
    post, path = "/update_weights_from_disk", tag = "admin", request_body = UpdateWeightsRequest,
    responses(
        (status = 200, body = UpdateWeightsResponse, description = "The model is live"),
        (status = 409, body = ErrorBody, description = "A rollback has ended the swap: `generation_not_live`"),
        (status = 422, body = ErrorBody, description = "The model is not accepted; the old one stays: `weights_refused`"),
        (status = 429, body = ErrorBody, description = "Another swap runs: `swap_running`"),
    ),
)]
pub async fn update_weights(
    State(state): State<Shared>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<UpdateWeightsResponse>, ApiError> {
    let asked: UpdateWeightsRequest = read(&state, &headers, body).await?;
    let swapper = swapper(&state)?;
    let live = swapper.live();
    let usual = if live.actor == live.refiner { Scope::Both } else { Scope::One(Role::Actor) };
    let scope = asked.role.map_or(usual, Scope::from);
    let report = swapper.swap(simple(scope, Weights::Model(asked.model_path.into(), None))).await?;
    let message = "Succeeded to update model weights.".to_owned();
    Ok(Json(UpdateWeightsResponse { success: true, message, generation: wire(report.after) }))
}

/// The fields of a body.
pub(in crate::http) async fn read<T: serde::de::DeserializeOwned>(
    state: &AppState,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, ApiError> {
    let max_body = state.settings.http.max_body;
    body::announced(headers, max_body)?;
    body::typed(body::without_mark(&body::read(body, max_body).await?))
}

pub(in crate::http) fn simple(scope: Scope, weights: Weights) -> Order {
    Order { scope, weights, expected: None, changes: Vec::new(), mode: Mode::Auto, intent: Intent::Publish }
}
