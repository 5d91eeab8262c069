//! The models that are served: what a request pins, and how answers name it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::http::HeaderValue;
use axum::response::Response;

use crate::engine::generation::{Generations, Live, Pinned};
use crate::openai::GenerationIds;
use crate::search::Models;

/// What is served, and since when.
pub struct Served {
    /// The name that clients use.
    pub name: String,
    /// What a request pins.
    generations: Arc<Generations>,
    /// Seconds since 1970.
    pub(super) since: u64,
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
