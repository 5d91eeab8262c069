//! The served models: what a request pins, and what `GET /v1/models` lists.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::response::Response;

use super::Shared;
use super::chosen::Chosen;
use super::error::ApiError;
use super::keys::Caller;
use super::named::Named;
use crate::engine::generation::{Generations, Live, Pinned};
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

    /// What a request that starts now may pin and hold to its end. While weights are swapped that do not fit together, it waits.
    pub async fn live_present(&self) -> Live {
        self.generations.live_present().await
    }

    /// Everything that is live now, for looking at it.
    pub fn live(&self) -> Live {
        self.generations.live()
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

/// The card of a model or, with `alias`, of its `:search` alias. An adapter's parent is the model that it is on.
fn card(served: &Served, chosen: &Chosen, alias: bool) -> ModelCard {
    let engine = chosen.pinned.actor.engine.as_ref();
    let base = (chosen.name != served.name).then(|| served.name.clone());
    let (id, parent) = match alias {
        true => (format!("{}:search", chosen.name), Some(chosen.name.clone())),
        false => (chosen.name.clone(), base),
    };
    ModelCard {
        id,
        object: "model",
        created: served.since,
        owned_by: "spar",
        max_model_len: engine.info().context,
        root: chosen.name.clone(),
        parent,
        capabilities: if alias { vec!["chat", "tools", "search"] } else { capabilities(engine) },
    }
}

/// The served models, the adapters on them, and their `:search` aliases; of these, those that the key may use.
#[utoipa::path(get, path = "/v1/models", tag = "models", responses((status = 200, body = ModelList, description = "The models")))]
pub async fn list(State(state): State<Shared>, Caller(tenant): Caller) -> Json<ModelList> {
    let (served, live) = (&state.served, state.served.live());
    let names = std::iter::once(&served.name).chain(live.adapters.keys());
    let chosen = names.filter_map(|name| Chosen::of(&live, &served.name, Some(name), &tenant).ok());
    let data = chosen.flat_map(|chosen| [false, true].map(|alias| card(served, &chosen, alias))).collect();
    Json(ModelList { object: "list", data })
}

/// One served model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models",
    params(("id" = String, Path, description = "The model's name.")),
    responses(
        (status = 200, body = ModelCard, description = "The model"),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn one(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    Named(id): Named,
) -> Result<Json<ModelCard>, ApiError> {
    let served = &state.served;
    let chosen = Chosen::of(&served.live(), &served.name, Some(&id), &tenant)?;
    Ok(Json(card(served, &chosen, id != chosen.name)))
}
