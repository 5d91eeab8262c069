//! What `GET /v1/models` lists.

use axum::Json;
use axum::extract::State;

use crate::engine::{Engine, LabelSupport};
use crate::http::Shared;
use crate::http::door::chosen::Chosen;
use crate::http::door::keys::Caller;
use crate::http::door::named::Named;
use crate::http::error::ApiError;
use crate::http::served::Served;
use crate::openai::{ErrorBody, ModelCard, ModelList};

/// What a model is good for.
fn capabilities(engine: &dyn Engine) -> Vec<&'static str> {
    let can = engine.capabilities();
    [
        ("completion", true),
        ("chat", true),
        ("tools", true),
        ("structured_outputs", can.constrains_json()),
        ("prompt_logprobs", can.scores),
        ("score", can.labels != LabelSupport::Nothing),
        ("embedding", can.embeds),
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
