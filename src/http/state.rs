//! What the handlers of all routes share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::http::HeaderMap;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Settings;
use crate::engine::{Namespace, Origin, Waits};
use crate::http::answer::kept::{KeptSearches, Room};
use crate::http::answer::on_behalf::Behalf;
use crate::http::answer::traffic::Traffic;
use crate::http::door::chosen::Chosen;
use crate::http::door::keys::{KeyRing, Tenant};
use crate::http::door::limits::{ByteBudget, Gate, Kind};
use crate::http::job::bounds::Bounds;
use crate::http::judge_canary::JudgeCanary;
use crate::http::served::Served;
use crate::swap::Swapper;
use crate::telemetry::traces::Traces;

/// What all handlers share.
pub struct AppState {
    /// The settings of this server, checked.
    pub settings: Settings,
    /// The models that are served.
    pub served: Served,
    /// What swaps their weights, where that is allowed.
    pub swapper: Option<Arc<Swapper>>,
    /// Admission of requests.
    pub gate: Arc<Gate>,
    /// Bytes of bodies in memory.
    pub(super) bytes: ByteBudget,
    /// Who may call.
    pub(super) keys: KeyRing,
    /// What makes namespaces of prefixes unguessable.
    pub(super) namespaces: [u8; 32],
    /// Where accepted searches are kept as training data, if anywhere.
    pub traffic: Option<Arc<Traffic>>,
    /// Where spans are recorded.
    pub traces: Traces,
    /// Searches that have finished.
    pub(super) kept: KeptSearches,
    /// Whether a canary was answered.
    pub(super) ready: AtomicBool,
    /// Whether the judge can be read.
    pub(super) judge: JudgeCanary,
    /// Ends running answers.
    pub(super) abort: CancellationToken,
    /// Renders the metrics as text.
    pub(super) metrics: PrometheusHandle,
}

/// The state as handlers take it.
pub type Shared = Arc<AppState>;

impl AppState {
    /// A server's state before its first request.
    pub fn new(settings: Settings, served: Served, metrics: PrometheusHandle) -> Self {
        let http = &settings.http;
        Self {
            gate: Gate::new(http.capacity()),
            bytes: ByteBudget::new(http.max_body_bytes_in_flight, http.max_body),
            keys: KeyRing::new(&settings.api_keys, http),
            namespaces: rand::random(),
            kept: KeptSearches::new(Room { searches: http.kept_searches, bytes: http.kept_search_bytes }),
            ready: AtomicBool::new(false),
            judge: JudgeCanary::default(),
            abort: CancellationToken::new(),
            metrics,
            swapper: None,
            traffic: None,
            traces: Traces::default(),
            served,
            settings,
        }
    }

    /// The client on whose behalf an answer's calls are made.
    pub(super) fn behalf(&self, tenant: Arc<Tenant>, headers: &HeaderMap, salt: Option<&str>, kind: Kind) -> Behalf {
        let namespace = tenant.namespace(salt, self.settings.http.shared_prefix_cache, &self.namespaces);
        let waits = match kind {
            Kind::Plain => Waits::Plain,
            Kind::Search => Waits::Search,
        };
        // A caller that may take all places of the gate may take all of an engine, too.
        let shares = tenant.share.running < self.settings.http.max_running;
        let caller = if shares { tenant.namespace(None, false, &self.namespaces) } else { Namespace::SHARED };
        let origin = Origin { namespace, caller, waits, ..Origin::default() };
        Behalf { tenant, origin, spans: self.traces.within(headers) }
    }

    /// What requests are checked against.
    pub(super) fn bounds<'a>(&'a self, chosen: &'a Chosen) -> Bounds<'a> {
        let Chosen { name, pinned } = chosen;
        let actor = pinned.actor.engine.as_ref();
        let (model, can) = (actor.info(), actor.capabilities());
        let token_rules = can.token_rules && pinned.refiner.engine.capabilities().token_rules;
        let (judge, settings) = (self.judge.state(), &self.settings);
        Bounds { model, name, constraints: can.constraints, scores: can.scores, token_rules, judge, settings }
    }
}
