//! Finished searches, kept for a while: `GET /v1/searches/{id}`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Json;
use axum::extract::State;

use super::Shared;
use super::error::ApiError;
use super::named::Named;
use crate::openai::{ErrorBody, SearchReport};

/// The last searches, oldest first; cheap to clone.
#[derive(Clone)]
pub struct KeptSearches {
    room: usize,
    reports: Arc<Mutex<VecDeque<Arc<SearchReport>>>>,
}

impl KeptSearches {
    /// Room for this many; 0 keeps none.
    pub fn new(room: usize) -> Self {
        Self { room, reports: Arc::default() }
    }

    /// Keeps a report in place of the oldest.
    pub fn keep(&self, report: impl FnOnce() -> SearchReport) {
        if self.room == 0 {
            return;
        }
        let report = Arc::new(report());
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        if reports.len() == self.room {
            reports.pop_front();
        }
        reports.push_back(report);
    }

    fn find(&self, id: &str) -> Option<Arc<SearchReport>> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().find(|report| report.id == id).cloned()
    }
}

/// A recent search with all of its tree.
#[utoipa::path(
    get, path = "/v1/searches/{id}", tag = "search",
    params(("id" = String, Path, description = "As in a response's `search.id`")),
    responses(
        (status = 200, body = SearchReport, description = "The search"),
        (status = 404, body = ErrorBody, description = "No such search is kept"),
    ),
)]
pub async fn search(State(state): State<Shared>, Named(id): Named) -> Result<Json<SearchReport>, ApiError> {
    match state.kept.find(&id) {
        Some(report) => Ok(Json(report.as_ref().clone())),
        None => Err(ApiError::UnknownSearch(id)),
    }
}
