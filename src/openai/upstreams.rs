//! The servers of a fleet, as the admin route shows them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// The answer of `GET /admin/upstreams`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpstreamList {
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// The servers in the order of the settings; none where this server's models are not at a fleet.
    pub data: Vec<UpstreamInfo>,
}

/// A server of a fleet. Its key is never shown.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpstreamInfo {
    /// Its name, which is also the label of its metrics.
    pub name: String,
    /// Its address, without a login.
    pub url: String,
    /// What it answers for: `actor`, `refiner` or `both`.
    pub role: &'static str,
    /// `ready`, `connecting`, `down`, `busy`, `failing` or `out`.
    pub state: &'static str,
    /// Why it takes no calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Its circuit breaker: `closed`, `open` or `half_open`.
    pub circuit: &'static str,
    /// The fields that it knows: `openai`, `spar`, `vllm`, `sglang`, `llamacpp` or `tgi`; absent until it was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialect: Option<&'static str>,
    /// The model that it is asked for; absent until it was reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The adapters that were loaded on it.
    pub adapters: Vec<String>,
    /// Its share of the calls.
    pub weight: f64,
    /// Replies that it takes at a time; absent: as many as come.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_in_flight: Option<usize>,
    /// Replies that it has at present.
    pub in_flight: usize,
    /// Calls that were answered to their end.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Failed calls that were sent again.
    pub retries: u64,
    /// Failures by what went wrong; kinds that never occurred are left out.
    pub errors: BTreeMap<&'static str, u64>,
}
