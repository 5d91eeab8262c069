//! The served models: what a request pins, and what `GET /v1/models` lists.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::Response;

use super::Shared;
use super::error::ApiError;
use super::job::resolve;
use super::named::Named;
use crate::engine::generation::{Generations, Pinned};
use crate::engine::{Engine, LabelSupport};
use crate::openai::{ErrorBody, GenerationIds, ModelCard, ModelList};
use crate::search::Models;

/// What is served, and since when.
pub struct Served {
    /// The name that clients use.
    pub name: String,
    /// What a request pins.
    generations: Arc<Generations>,
    /// Seconds since 1970.
    since: u64,
}

impl Served {
    /// Serves `generations` under `name`.
    pub fn new(name: String, generations: impl Into<Arc<Generations>>) -> Self {
        let generations = generations.into();
        Self { name, generations, since: now() }
    }

    /// What is live now, for looking at it.
    pub fn pin(&self) -> Pinned {
        self.generations.pin()
    }

    /// What a request that starts now holds to its end. While weights are swapped that do not fit together, it waits.
    pub async fn pin_present(&self) -> Pinned {
        self.generations.pin_present().await
    }
}

/// The pinned models as a search takes them.
pub fn of(pinned: &Pinned) -> Models<'_> {
    let Pinned { actor, refiner } = pinned;
    Models { actor: actor.engine.as_ref(), refiner: refiner.engine.as_ref(), templates: &refiner.templates }
}

/// The pinned generations' ids as a response shows them.
pub fn ids(pinned: &Pinned) -> GenerationIds {
    GenerationIds { actor: pinned.actor.id.clone(), refiner: pinned.refiner.id.clone() }
}

/// The pinned generations as a `system_fingerprint`.
pub fn fingerprint(pinned: &Pinned) -> String {
    format!("{}+{}", pinned.actor.id, pinned.refiner.id)
}

/// Tells a caller which weights answered.
pub fn show_generations(response: &mut Response, ids: &GenerationIds) {
    let GenerationIds { actor, refiner } = ids;
    if let Ok(value) = HeaderValue::try_from(format!("actor={actor}, refiner={refiner}")) {
        response.headers_mut().insert("x-spar-generation", value);
    }
}

/// The id of an answer: its kind, and what the caller chose or a new number.
pub fn answer_id(kind: &str, chosen: Option<&str>) -> String {
    match chosen {
        Some(chosen) => format!("{kind}-{chosen}"),
        None => format!("{kind}-{}", uuid::Uuid::new_v4().simple()),
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What a model is good for.
fn capabilities(engine: &dyn Engine) -> Vec<&'static str> {
    [
        ("completion", true),
        ("chat", true),
        ("tools", true),
        ("structured_outputs", engine.constrains_json()),
        ("prompt_logprobs", engine.scores()),
        ("score", engine.label_support() != LabelSupport::Nothing),
        ("embedding", engine.embeds()),
    ]
    .into_iter()
    .filter_map(|(name, able)| able.then_some(name))
    .collect()
}

fn card(served: &Served, id: &str, parent: Option<&str>) -> ModelCard {
    let pinned = served.pin();
    let engine = pinned.actor.engine.as_ref();
    ModelCard {
        id: id.to_owned(),
        object: "model",
        created: served.since,
        owned_by: "spar",
        max_model_len: engine.info().context,
        root: parent.unwrap_or(id).to_owned(),
        parent: parent.map(str::to_owned),
        capabilities: match parent {
            None => capabilities(engine),
            Some(_) => vec!["chat", "tools", "search"],
        },
    }
}

/// The served models and their `:search` aliases.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList, description = "The models")))]
pub async fn list(State(state): State<Shared>) -> Json<ModelList> {
    let served = &state.served;
    let alias = format!("{}:search", served.name);
    Json(ModelList {
        object: "list",
        data: vec![card(served, &served.name, None), card(served, &alias, Some(&served.name))],
    })
}

/// One served model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "The model's name")),
    responses(
        (status = 200, body = ModelCard, description = "The model"),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn one(State(state): State<Shared>, Named(id): Named) -> Result<Json<ModelCard>, ApiError> {
    let served = &state.served;
    let (name, alias) = resolve(Some(&id), &served.name)?;
    Ok(Json(card(served, &name, alias.then_some(served.name.as_str()))))
}
