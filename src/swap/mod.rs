//! Hot swap: other weights take over while requests run. They are copied, checked, loaded next to the live ones, tried out,
//! and published at one instant; requests that began with the old ones end with them. Any failure leaves the old ones live.
//!
//! The map: `order.rs` has orders and reports, `adapters.rs` serves adapters next to the live pair, `candidate.rs` checks weights and makes them loadable, `canary.rs` tries them out,
//! `fleet.rs` has other servers load them, `drain.rs` makes room where both do not fit into memory, `rollback.rs` goes back, `state.rs` and `start.rs` remember across
//! restarts. The methods of [`Swapper`] are spread over these files.
//!
//! - Weights are served from the store only (`weights/store.rs`), whose directories are named after their contents and never
//!   change: mapped files of a directory that is rewritten can fault. A directory in the making holds a lock; the next start
//!   removes those whose lock is free.
//! - A swap runs in a task of its own that its handler awaits, since a caller that disconnects must not leave a role without
//!   a model. Where old and new weights do not fit together, a stand-in replaces the role's engine, requests wait, the old
//!   weights are dropped, and whatever fails then loads them again.
//! - A generation is retired when no request holds it any more, which its `Weak` shows without a message.
//! - A rollback loads the earlier weights again and tries them out, under their old id.
//! - A restart loads the published state as if its directories had been named, and only where the same models and adapters are
//!   named as before.

mod adapters;
mod canary;
mod candidate;
mod drain;
mod fleet;
mod memory;
mod order;
mod rollback;
mod start;
pub mod state;
mod swapper;
mod turns;
mod workplace;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep;

pub use self::adapters::Taken;
use self::candidate::{Candidate, Load};
use self::fleet::fleet_of;
pub use self::order::{Intent, Mode, NamedAdapter, Order, Part, Report, Scope, SwapError, Weights};
pub use self::start::{StartError, Started, start};
pub use self::swapper::Swapper;
use self::swapper::{blocking, now};
use self::turns::{Limit, Turn};
pub use self::workplace::WorkplaceError;
use crate::config::LoraModule;
use crate::engine::generation::registry::{Ids, Record, Registry, Source};
use crate::engine::generation::{Generation, Pinned, Role};
use crate::telemetry::metrics::{self, SwapResult};

impl Swapper {
    /// Carries an order out, or refuses it and leaves everything as it is.
    ///
    /// # Errors
    /// [`SwapError`]: another swap runs, the expected generation is not live, or the weights are not accepted.
    pub async fn swap(self: &Arc<Self>, order: Order) -> Result<Report, SwapError> {
        let scope = order.scope;
        let turn = self.turns.swap(self.settings.swap_timeout);
        self.alone(scope, turn, |swapper, limit| async move { swapper.perform(order, &limit).await }).await
    }

    /// Goes back to what was live before: the whole pair, or one role of it. A swap that runs is ended for it.
    ///
    /// # Errors
    /// As [`Swapper::swap`]; also when there is nothing to go back to.
    pub async fn rollback(self: &Arc<Self>, role: Option<Role>, expected: Option<String>) -> Result<Report, SwapError> {
        let scope = role.map_or(Scope::Both, Scope::One);
        let turn = self.turns.rollback(self.settings.swap_timeout).await;
        self.alone(scope, turn, move |swapper, limit| async move { swapper.go_back(role, expected, &limit).await })
            .await
    }

    /// Every generation that is known, oldest first, and how many requests hold each.
    pub fn list(&self) -> Vec<(Record, usize)> {
        let live = self.generations.live();
        self.registry().list(&live)
    }

    /// The live pair.
    pub fn live(&self) -> Ids {
        Ids::of(&self.generations.pin())
    }

    /// What the live generation of `role` was loaded from.
    pub fn source(&self, role: Role) -> Option<Source> {
        self.registry().find(self.live().role(role))?.source.clone()
    }

    /// Runs one swap at a time, to its end: in a task of its own, since a caller that goes away in the middle must not leave
    /// a role without a model.
    async fn alone<W>(
        self: &Arc<Self>,
        scope: Scope,
        turn: Result<(Turn, Limit), SwapError>,
        work: impl FnOnce(Arc<Self>, Limit) -> W + Send + 'static,
    ) -> Result<Report, SwapError>
    where
        W: Future<Output = Result<Report, SwapError>> + Send + 'static,
    {
        let started = Instant::now();
        let result = match turn {
            Err(error) => Err(error),
            Ok((turn, limit)) => {
                let swapper = Arc::clone(self);
                let task = tokio::spawn(async move {
                    let result = work(swapper, limit).await;
                    drop(turn);
                    result
                });
                task.await.unwrap_or_else(|error| Err(SwapError::Refused(format!("the swap failed: {error}"))))
            }
        };
        let outcome = match &result {
            Ok(report) if report.published => SwapResult::Live,
            Ok(_) => SwapResult::DryRun,
            Err(SwapError::Busy | SwapError::Draining(_)) => SwapResult::Busy,
            Err(SwapError::NotLive { .. } | SwapError::Ended) => SwapResult::Conflict,
            Err(SwapError::Refused(_) | SwapError::Missing(_) | SwapError::TimedOut(_)) => SwapResult::Refused,
        };
        metrics::swap_ended(scope, outcome, started.elapsed());
        match &result {
            Ok(report) => tracing::info!(?report, "swapped"),
            Err(error) => tracing::warn!(%error, "not swapped"),
        }
        result.map(|report| Report { took: started.elapsed(), ..report })
    }

    async fn perform(&self, order: Order, limit: &Limit) -> Result<Report, SwapError> {
        let live = self.generations.pin();
        order.check_expected(&Ids::of(&live))?;
        limit.within(self.room()).await?;
        let roles = order.scope.roles();
        self.recorded(roles, |id| async move { self.attempt(&id, &order, live, limit).await }).await
    }

    /// Does `work` for a generation under a new id. If it fails, the record says why, and what was copied for it is removed.
    async fn recorded<W>(&self, roles: &[Role], work: impl FnOnce(String) -> W) -> Result<Report, SwapError>
    where
        W: Future<Output = Result<Report, SwapError>>,
    {
        let id = self.registry().begin(roles, now());
        let stored = self.store.directories();
        let result = work(id.clone()).await;
        if let Err(error) = &result {
            self.registry().failed(&id, error.to_string());
            let (store, used) = (self.store.clone(), self.registry().directories());
            let removed = blocking(move || {
                store.remove_since(&stored, &used);
                Ok(())
            });
            if let Err(error) = removed.await {
                tracing::warn!(%error, "refused weights stay in the directory for swaps");
            }
        }
        result
    }

    async fn attempt(&self, id: &str, order: &Order, live: Pinned, limit: &Limit) -> Result<Report, SwapError> {
        let roles = order.scope.roles();
        if roles.iter().any(|role| fleet_of(&live, *role).is_some()) {
            return self.attempt_at_fleet(id, order, &live, limit).await;
        }
        let candidate = limit.within(self.candidate(order, &live, limit)).await?;
        let mode = self.mode(order.mode, &candidate);
        if mode == Mode::Drain && roles.len() == 1 && live.actor.shares_weights(&live.refiner) {
            let message = "actor and refiner share the live weights, which can only leave together; swap `both`, or use mode blue_green";
            return Err(SwapError::Refused(message.into()));
        }
        let before = Ids::of(&live);
        let generation = match (mode, order.intent) {
            (Mode::Drain, Intent::Publish) => {
                drop(live);
                self.drained(id, roles, candidate, limit).await?
            }
            _ => limit.within(self.loaded(id, roles, candidate, &live)).await?,
        };
        if order.intent == Intent::DryRun {
            self.registry().forget(id);
            self.store.evict(&self.registry().directories());
            return Ok(Report::new(false, mode, before.clone(), before, generation.1.sha256()));
        }
        let sha256 = generation.1.sha256();
        let after = self.publish(roles, generation.0, &before);
        Ok(Report::new(true, mode, before, after, sha256))
    }

    /// Decides whether the candidate is loaded next to the old weights or instead of them.
    fn mode(&self, asked: Mode, candidate: &Candidate) -> Mode {
        if let Load::OnLive(..) = candidate.load {
            return Mode::BlueGreen;
        }
        if asked != Mode::Auto {
            return asked;
        }
        // In a CUDA build the device decides: a load that does not fit fails, and its message asks for a drain.
        let needed = candidate.needed.total(self.engine.native.kv_cache_bytes as u64);
        match self.settings.swap_memory.or_else(|| crate::memory::now().available) {
            Some(free) if needed > free => Mode::Drain,
            _ => Mode::BlueGreen,
        }
    }

    /// Loads a candidate and tries it out.
    async fn loaded(
        &self,
        id: &str,
        roles: &[Role],
        candidate: Candidate,
        live: &Pinned,
    ) -> Result<(Arc<Generation>, Source), SwapError> {
        let source = candidate.source.clone();
        let generation = self.build(id, candidate).await?;
        self.registry().loaded(&generation, source.clone(), now());
        self.canary.try_out(&generation, roles, live).await.map_err(SwapError::Refused)?;
        Ok((generation, source))
    }

    /// Makes `generation` live in `roles`.
    fn publish(&self, roles: &[Role], generation: Arc<Generation>, before: &Ids) -> Ids {
        let mut next = self.generations.pin();
        for &role in roles {
            *next.role_mut(role) = Arc::clone(&generation);
        }
        self.generations.publish(next.clone());
        let after = Ids::of(&next);
        {
            let mut registry = self.registry();
            registry.published(before.clone(), &next);
            self.remember(&registry, &after);
        }
        self.store.evict(&self.registry().directories());
        after
    }

    /// Waits for room for one more generation in memory.
    async fn room(&self) -> Result<(), SwapError> {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let in_memory = self.registry().in_memory();
            if in_memory < self.settings.max_generations {
                return Ok(());
            }
            if Instant::now() > patience {
                return Err(SwapError::Draining(in_memory));
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn remember(&self, registry: &Registry, live: &Ids) {
        let Some(file) = &self.state else { return };
        let adapters = self.generations.live().adapters;
        let loaded = adapters.iter().filter_map(|(name, generation)| {
            let source = registry.find(&generation.id)?.source.as_ref()?.adapter.clone()?;
            let by_flag = |module: &&LoraModule| module.name == *name && module.path == source.path;
            // What a flag names is loaded again by the flag.
            self.engine.lora_modules.iter().find(by_flag).is_none().then_some((name.clone(), source))
        });
        if let Err(error) = file.save(registry, live, &loaded.collect::<Vec<_>>()) {
            tracing::error!(%error, "what is live cannot be written down; a restart will serve something else");
        }
    }
}
