//! Finished searches, kept for a while: `GET /v1/searches/{id}`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::{Path, State};

use super::Shared;
use super::error::ApiError;
use super::keys::{Caller, TenantId};
use crate::openai::{ErrorBody, SearchReport};

/// The last searches, oldest first, as one caller sees them; cheap to clone.
#[derive(Clone)]
pub struct KeptSearches {
    owner: TenantId,
    room: usize,
    reports: Arc<Mutex<VecDeque<Kept>>>,
}

struct Kept {
    owner: TenantId,
    report: Arc<SearchReport>,
}

impl KeptSearches {
    /// Room for this many; 0 keeps none.
    pub fn new(room: usize) -> Self {
        Self { owner: TenantId::default(), room, reports: Arc::default() }
    }

    /// As this caller sees them: its own.
    pub fn of(&self, owner: TenantId) -> Self {
        Self { owner, ..self.clone() }
    }

    /// Keeps a report in place of the oldest.
    pub fn keep(&self, report: impl FnOnce() -> SearchReport) {
        if self.room == 0 {
            return;
        }
        let kept = Kept { owner: self.owner, report: Arc::new(report()) };
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == self.room {
            reports.pop_front();
        }
        reports.push_back(kept);
    }

    fn find(&self, id: &str) -> Option<Arc<SearchReport>> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |kept: &&Kept| kept.report.id == id && kept.owner == self.owner;
        reports.iter().find(own).map(|kept| Arc::clone(&kept.report))
    }
}

/// A recent search of the same key, with all of its tree.
#[utoipa::path(
    get, path = "/v1/searches/{id}", tag = "search",
    params(("id" = String, Path, description = "The `search.id` of a response")),
    responses((status = 200, body = SearchReport), (status = 404, body = ErrorBody)),
)]
pub async fn search(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    Path(id): Path<String>,
) -> Result<Json<SearchReport>, ApiError> {
    match state.kept.of(tenant.id).find(&id) {
        Some(report) => Ok(Json(report.as_ref().clone())),
        None => Err(ApiError::UnknownSearch(id)),
    }
}
