//! Swaps of a model that is at a fleet: its servers load the adapter by their own routes, and when all have answered, calls name it. The
//! adapter before it is unloaded when the last request that began with it has ended. A server that fails to load it is taken out.
//!
//! An adapter's directory must be at the same path here and on the servers, as it is on storage that they share: it is looked for
//! below the configured roots, and its digest is what is here.

use std::sync::Arc;

use super::order::{Intent, Mode, NamedAdapter, Order, Report, SwapError, Weights};
use super::swapper::{AtFleet, Swapper, blocking, now};
use super::turns::Limit;
use crate::engine::EngineError;
use crate::engine::generation::registry::Ids;
use crate::engine::generation::{Generation, Pinned, Role};
use crate::engine::metered::Metered;
use crate::engine::upstream::fleet::{Fleet, FleetEngine};
use crate::weights::Digests;

/// A generation that every server has loaded, but for those that have failed.
pub(super) struct Spread {
    pub generation: Arc<Generation>,
    /// Servers that were taken out, and why.
    pub out: Vec<(String, String)>,
}

/// The fleet that a role's live model is at.
pub(super) fn fleet_of(live: &Pinned, role: Role) -> Option<Arc<Fleet>> {
    live.role(role).fleet.clone()
}

impl Swapper {
    /// Carries an order out at the fleet that the live model is at: its servers load the adapter.
    pub(super) async fn attempt_at_fleet(
        &self,
        id: &str,
        order: &Order,
        live: &Pinned,
        limit: &Limit,
    ) -> Result<Report, SwapError> {
        let roles = order.scope.roles();
        if !roles.iter().all(|role| fleet_of(live, *role).is_some()) {
            let message =
                "one role's model is at upstreams and the other's is this server's own; swap one role at a time";
            return Err(SwapError::Refused(message.into()));
        }
        let adapter = match &order.weights {
            Weights::Adapter(adapter) => Some(adapter.clone()),
            Weights::Bare => None,
            Weights::Model(..) => {
                let message = "upstreams load LoRA adapters while they run, but no models; send `adapter_path` alone";
                return Err(SwapError::Refused(message.into()));
            }
        };
        if order.mode == Mode::Drain {
            let message = "mode `drain` is for weights in this server's memory; leave `mode` out";
            return Err(SwapError::Refused(message.into()));
        }
        let weights = limit.within(self.at_fleet(adapter)).await?;
        let sha256 = weights.sha256.clone();
        let spread = limit.within(self.spread(id, &weights, roles, live)).await?;
        let before = Ids::of(live);
        if order.intent == Intent::DryRun {
            self.registry().forget(id);
            let report = Report::new(false, Mode::BlueGreen, before.clone(), before, sha256);
            return Ok(Report { out: spread.out, ..report });
        }
        self.fleet_generations().insert(id.to_owned(), weights);
        let after = self.publish(roles, spread.generation, &before);
        Ok(Report { out: spread.out, ..Report::new(true, Mode::BlueGreen, before, after, sha256) })
    }

    /// Checks the adapter's directory.
    async fn at_fleet(&self, adapter: Option<NamedAdapter>) -> Result<AtFleet, SwapError> {
        let Some(adapter) = adapter else { return Ok(AtFleet::default()) };
        let roots = self.roots.clone();
        blocking(move || {
            let directory = roots.resolve(&adapter.path).map_err(|error| SwapError::Refused(error.to_string()))?;
            let sha256 = Digests::of(&directory)?.all();
            let path = if adapter.path.is_absolute() { adapter.path } else { directory };
            Ok(AtFleet { adapter: Some(NamedAdapter { path, ..adapter }), sha256 })
        })
        .await
    }

    /// Loads a generation on the servers of its roles and tries it out.
    pub(super) async fn spread(
        &self,
        id: &str,
        weights: &AtFleet,
        roles: &[Role],
        live: &Pinned,
    ) -> Result<Spread, SwapError> {
        let refused = |error: EngineError| SwapError::Refused(error.to_string());
        let gone = || SwapError::Refused("the live model is not at upstreams".into());
        let fleet = roles.first().and_then(|role| fleet_of(live, *role)).ok_or_else(gone)?;
        let (lease, out) = match &weights.adapter {
            None => (None, Vec::new()),
            Some(adapter) => {
                // A name of its own: under one that was given before, a server would go on with what it has.
                let name = adapter.name.as_deref().unwrap_or("spar");
                let name = format!("{name}-{id}-{:08x}", rand::random::<u32>());
                let loaded = fleet.load_adapter(&name, &adapter.path.display().to_string(), roles).await;
                let loaded = loaded.map_err(|error| SwapError::Refused(error.to_string()))?;
                (Some(loaded.lease), loaded.failed)
            }
        };
        let role = match roles {
            [role] => Some(*role),
            _ => None,
        };
        let engine = Arc::new(Metered(Arc::new(FleetEngine::new(&fleet, role, lease).map_err(refused)?)));
        let templates = Arc::clone(&live.role(roles.last().copied().unwrap_or(Role::Actor)).templates);
        let generation = Arc::new(Generation::new(id, engine, templates).at_fleet(fleet));
        self.registry().present(&generation, now());
        self.canary.try_out(&generation, roles, live).await.map_err(SwapError::Refused)?;
        Ok(Spread { generation, out })
    }

    /// The name that a client gave the adapter which is live in `role`.
    pub fn adapter_name(&self, role: Role) -> Option<String> {
        let own = self.source(role).and_then(|source| source.adapter?.name);
        own.or_else(|| self.fleet_generations().get(self.live().role(role))?.adapter.as_ref()?.name.clone())
    }
}
