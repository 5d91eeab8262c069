//! `GET /admin/upstreams`: the servers of the fleet and how they stand.

use axum::Json;
use axum::extract::State;

use crate::engine::upstream::fleet::View;
use crate::http::Shared;
use crate::openai::{UpstreamInfo, UpstreamList};

/// The servers that the models are at, where these are a fleet.
#[utoipa::path(
    get, path = "/admin/upstreams", tag = "admin",
    responses((status = 200, body = UpstreamList, description = "The servers of the fleet")),
)]
pub async fn list(State(state): State<Shared>) -> Json<UpstreamList> {
    let live = state.served.pin();
    let data = live.fleet().map(|fleet| fleet.views().into_iter().map(info).collect()).unwrap_or_default();
    Json(UpstreamList { object: "list", data })
}

fn info(view: View) -> UpstreamInfo {
    let View { name, url, roles, dialect, model, weight, max_in_flight, in_flight, .. } = view;
    let counted = view.counted;
    UpstreamInfo {
        name,
        url,
        role: roles.label(),
        state: view.state.label(),
        reason: view.reason,
        circuit: view.circuit.label(),
        dialect,
        model,
        adapters: view.adapters,
        weight,
        max_in_flight,
        in_flight,
        answered: counted.answered,
        failed: counted.failed,
        retries: counted.retries,
        errors: counted.errors.into_iter().filter(|(_, n)| *n > 0).map(|(kind, n)| (kind.label(), n)).collect(),
    }
}
