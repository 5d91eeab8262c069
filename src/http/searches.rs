//! Finished searches, kept for a while: `GET /v1/searches/{id}`.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;

use super::Shared;
use super::error::ApiError;
use super::keys::{Caller, TenantId};
use super::named::Named;
use crate::openai::{ErrorBody, SearchReport};
use crate::telemetry::metrics;

/// How many searches are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Searches of one key.
    pub searches: usize,
    /// Bytes of the searches of all keys.
    pub bytes: usize,
}

/// The last searches of every key, as one caller sees them; cheap to clone.
#[derive(Clone)]
pub struct KeptSearches {
    owner: TenantId,
    room: Room,
    shelves: Arc<Mutex<Shelves>>,
}

/// The searches of all keys.
#[derive(Default)]
struct Shelves {
    by_owner: HashMap<TenantId, Shelf>,
    bytes: usize,
}

/// The searches of one key, oldest first.
#[derive(Default)]
struct Shelf {
    reports: VecDeque<Kept>,
    bytes: usize,
}

struct Kept {
    id: String,
    /// The report as JSON, whose size is known exactly.
    json: Bytes,
}

impl KeptSearches {
    /// No searches yet, and room for some.
    pub fn new(room: Room) -> Self {
        Self { owner: TenantId::default(), room, shelves: Arc::default() }
    }

    /// The searches that this caller sees: its own.
    pub fn of(&self, owner: TenantId) -> Self {
        Self { owner, ..self.clone() }
    }

    /// Keeps a report. The caller's oldest ones make room by their number; by bytes those of the key that holds the most,
    /// so that no key loses its searches to one that holds more.
    pub fn keep(&self, report: impl FnOnce() -> SearchReport) {
        if self.room.searches == 0 {
            return;
        }
        let report = report();
        let json = serde_json::to_vec(&report).expect("a report is always JSON").into();
        self.place(Kept { id: report.id, json });
    }

    fn place(&self, kept: Kept) {
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        shelves.push(self.owner, kept);
        if shelves.by_owner[&self.owner].reports.len() > self.room.searches {
            shelves.pop(self.owner);
        }
        while shelves.bytes > self.room.bytes
            && let Some(largest) = shelves.largest()
        {
            shelves.pop(largest);
        }
        metrics::kept_searches(shelves.bytes);
    }

    fn find(&self, id: &str) -> Option<Bytes> {
        let shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        let own = shelves.by_owner.get(&self.owner)?;
        own.reports.iter().find(|kept| kept.id == id).map(|kept| kept.json.clone())
    }
}

impl Shelves {
    fn push(&mut self, owner: TenantId, kept: Kept) {
        let shelf = self.by_owner.entry(owner).or_default();
        self.bytes += kept.json.len();
        shelf.bytes += kept.json.len();
        shelf.reports.push_back(kept);
    }

    /// Drops the oldest search of a key.
    fn pop(&mut self, owner: TenantId) {
        let Some(shelf) = self.by_owner.get_mut(&owner) else { return };
        if let Some(oldest) = shelf.reports.pop_front() {
            shelf.bytes -= oldest.json.len();
            self.bytes -= oldest.json.len();
        }
        if shelf.reports.is_empty() {
            self.by_owner.remove(&owner);
        }
    }

    /// The key whose searches take the most bytes.
    fn largest(&self) -> Option<TenantId> {
        self.by_owner.iter().max_by_key(|(_, shelf)| shelf.bytes).map(|(owner, _)| *owner)
    }
}

/// A recent search of the same key, with all of its tree.
#[utoipa::path(
    get, path = "/v1/searches/{id}", tag = "search",
    params(("id" = String, Path, description = "The `search.id` of a response.")),
    responses(
        (status = 200, body = SearchReport, description = "The search"),
        (status = 404, body = ErrorBody, description = "No such search is kept for this key: `search_not_found`"),
    ),
)]
pub async fn search(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    Named(id): Named,
) -> Result<impl IntoResponse, ApiError> {
    match state.kept.of(tenant.id).find(&id) {
        Some(json) => Ok(([(header::CONTENT_TYPE, "application/json")], json)),
        None => Err(ApiError::UnknownSearch(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId([1; 32]);
    const B: TenantId = TenantId([2; 32]);

    /// Reports of some bytes, whose ids are their numbers.
    fn shelves(searches: &[(TenantId, usize)], room: Room) -> KeptSearches {
        let kept = KeptSearches::new(room);
        for (number, &(owner, bytes)) in searches.iter().enumerate() {
            kept.of(owner).place(Kept { id: number.to_string(), json: vec![b' '; bytes].into() });
        }
        kept
    }

    #[test]
    fn a_key_does_not_lose_its_searches_to_another_key() {
        let many = |owner, count, bytes| vec![(owner, bytes); count];
        for (searches, room, expected) in [
            // By number every key has room of its own.
            (
                [many(B, 2, 10), many(A, 50, 10)].concat(),
                Room { searches: 3, bytes: 1 << 20 },
                vec!["0", "1", "49", "50", "51"],
            ),
            // By bytes the key goes first that holds the most.
            (
                [many(B, 1, 5_000), many(A, 50, 10_000)].concat(),
                Room { searches: 99, bytes: 30_000 },
                vec!["0", "49", "50"],
            ),
            // One that is too large alone is not kept, and nothing of others goes for it.
            ([many(B, 2, 10), many(A, 1, 90_000)].concat(), Room { searches: 9, bytes: 30_000 }, vec!["0", "1"]),
        ] {
            let kept = shelves(&searches, room);
            let own = |number: &usize| kept.of(searches[*number].0).find(&number.to_string()).is_some();
            let found: Vec<String> = (0..searches.len()).filter(own).map(|number| number.to_string()).collect();
            assert_eq!(found, expected);
            let held = kept.shelves.lock().unwrap();
            let sum: usize = held.by_owner.values().map(|shelf| shelf.bytes).sum();
            assert!(held.bytes == sum && sum <= room.bytes, "{sum}");
        }
    }
}
