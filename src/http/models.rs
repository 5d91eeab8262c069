//! The served models: what a request pins, and what `GET /v1/models` lists.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, State};

use super::Shared;
use super::error::ApiError;
use super::job::resolve;
use crate::engine::Engine;
use crate::openai::{ErrorBody, Generations, ModelCard, ModelList};
use crate::prompts::Templates;
use crate::search::Models;
use crate::telemetry::metrics::{self, GenerationRole};

/// What is served, and since when.
pub struct Served {
    /// The name that clients use.
    pub name: String,
    /// What a request pins.
    pub live: Pinned,
    /// Seconds since 1970.
    pub since: u64,
}

/// The models of one request, held from its start to its end.
#[derive(Clone)]
pub struct Pinned {
    /// Drafts and plain answers.
    pub actor: Arc<dyn Engine>,
    /// Judges and refines.
    pub refiner: Arc<dyn Engine>,
    /// The refiner's templates.
    pub templates: Arc<Templates>,
    /// The actor's generation.
    pub actor_generation: Arc<str>,
    /// The refiner's generation.
    pub refiner_generation: Arc<str>,
}

impl Served {
    /// Serves `actor` under `name`, with `refiner` for searches.
    pub fn new(name: String, actor: Arc<dyn Engine>, refiner: Arc<dyn Engine>, templates: Arc<Templates>) -> Self {
        // Generations count from 1; the first ones are loaded with the server.
        let first: Arc<str> = "g-1".into();
        let refiner_generation = if Arc::ptr_eq(&actor, &refiner) { first.clone() } else { "g-2".into() };
        let live = Pinned { actor, refiner, templates, actor_generation: first, refiner_generation };
        metrics::generation_live(GenerationRole::Actor, &live.actor_generation);
        metrics::generation_live(GenerationRole::Refiner, &live.refiner_generation);
        Self { name, live, since: now() }
    }

    /// What a request that starts now holds.
    pub fn pin(&self) -> Pinned {
        self.live.clone()
    }
}

impl Pinned {
    /// As a search takes them.
    pub fn models(&self) -> Models<'_> {
        Models { actor: self.actor.as_ref(), refiner: self.refiner.as_ref(), templates: &self.templates }
    }

    /// As a response shows them.
    pub fn generations(&self) -> Generations {
        Generations { actor: self.actor_generation.to_string(), refiner: self.refiner_generation.to_string() }
    }

    /// As `system_fingerprint`.
    pub fn fingerprint(&self) -> String {
        format!("{}+{}", self.actor_generation, self.refiner_generation)
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn card(served: &Served, id: &str, parent: Option<&str>) -> ModelCard {
    ModelCard {
        id: id.to_owned(),
        object: "model",
        created: served.since,
        owned_by: "spar",
        max_model_len: served.live.actor.info().context,
        parent: parent.map(str::to_owned),
    }
}

/// The served models and their `:search` aliases.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList)))]
pub async fn list(State(state): State<Shared>) -> Json<ModelList> {
    let served = &state.served;
    let alias = format!("{}:search", served.name);
    Json(ModelList {
        object: "list",
        data: vec![card(served, &served.name, None), card(served, &alias, Some(&served.name))],
    })
}

/// One model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "The model's name")),
    responses((status = 200, body = ModelCard), (status = 404, body = ErrorBody)),
)]
pub async fn one(State(state): State<Shared>, Path(id): Path<String>) -> Result<Json<ModelCard>, ApiError> {
    let served = &state.served;
    let (name, alias) = resolve(Some(&id), &served.name)?;
    Ok(Json(card(served, &name, alias.then_some(served.name.as_str()))))
}
