//! Adapters that are served under names of their own, next to the live pair: each is a generation on the actor's weights in memory.

use std::path::PathBuf;
use std::sync::Arc;

use super::Swapper;
use super::order::{Intent, Mode, NamedAdapter, Order, Report, Scope, SwapError, Weights};
use super::turns::Limit;
use crate::engine::generation::Role;
use crate::engine::generation::registry::Ids;

/// What happens to an adapter that has the name already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It stays, and the new one is refused.
    Stays,
    /// It is replaced.
    IsReplaced,
}

impl Swapper {
    /// Serves the adapter at `path` to requests that name `name`.
    ///
    /// # Errors
    /// As [`Swapper::swap`]; also where the name is taken, there are too many, or the engine takes no adapters while it runs.
    pub async fn serve_adapter(
        self: &Arc<Self>,
        name: String,
        path: PathBuf,
        taken: Taken,
    ) -> Result<Report, SwapError> {
        let turn = self.turns.swap(self.settings.swap_timeout);
        let scope = Scope::One(Role::Actor);
        self.alone(scope, turn, move |swapper, limit| async move { swapper.serve(name, path, taken, &limit).await })
            .await
    }

    /// Serves no adapter called `name` any more. Requests that began with it end with it.
    ///
    /// # Errors
    /// [`SwapError::Missing`] where there is none, or another swap runs.
    pub async fn forget_adapter(self: &Arc<Self>, name: String) -> Result<Report, SwapError> {
        let turn = self.turns.swap(self.settings.swap_timeout);
        let scope = Scope::One(Role::Actor);
        self.alone(scope, turn, move |swapper, _limit| async move { swapper.forget(&name) }).await
    }

    /// Whether an adapter called `name` is served next to the live pair.
    pub fn serves_adapter(&self, name: &str) -> bool {
        self.generations.live().adapters.contains_key(name)
    }

    async fn serve(&self, name: String, path: PathBuf, taken: Taken, limit: &Limit) -> Result<Report, SwapError> {
        let live = self.generations.live();
        let most = self.settings.max_adapters;
        match live.adapters.contains_key(&name) {
            true if taken == Taken::Stays => {
                let message =
                    format!("an adapter called {name} is served already; unload it first, or replace it in place");
                return Err(SwapError::Refused(message));
            }
            false if live.adapters.len() >= most => {
                let message = format!("{most} adapters are served, as many as --max-adapters allows; unload one first");
                return Err(SwapError::Refused(message));
            }
            _ => {}
        }
        if live.pair.actor.engine.base().is_none() {
            let message = "this model's engine takes no adapters next to its weights; serve the model with --engine native, or \
                           name a `role` whose weights the adapter changes";
            return Err(SwapError::Refused(message.into()));
        }
        let order = Order {
            scope: Scope::One(Role::Actor),
            weights: Weights::Adapter(NamedAdapter { path, name: Some(name.clone()) }),
            expected: None,
            changes: Vec::new(),
            mode: Mode::BlueGreen,
            intent: Intent::Publish,
        };
        let roles = order.scope.roles();
        self.recorded(roles, |id| async move {
            let candidate = limit.within(self.candidate(&order, &live.pair, limit)).await?;
            let (generation, source) = limit.within(self.loaded(&id, roles, candidate, &live.pair)).await?;
            self.generations.serve(&name, Some(generation));
            let ids = Ids::of(&live.pair);
            let mut registry = self.registry();
            registry.serves(&id, &name);
            self.remember(&registry, &ids);
            Ok(Report::new(true, Mode::BlueGreen, ids.clone(), ids, source.sha256()))
        })
        .await
    }

    fn forget(&self, name: &str) -> Result<Report, SwapError> {
        let live = self.generations.live();
        let Some(generation) = live.adapters.get(name) else {
            return Err(SwapError::Missing(format!("no adapter called {name} is served")));
        };
        let source = self.registry().find(&generation.id).and_then(|record| record.source.clone());
        let sha256 = source.map(|source| source.sha256()).unwrap_or_default();
        self.generations.serve(name, None);
        let ids = Ids::of(&live.pair);
        self.remember(&self.registry(), &ids);
        Ok(Report::new(true, Mode::BlueGreen, ids.clone(), ids, sha256))
    }
}
