//! A swap where old and new weights do not fit together: requests wait, the old weights go, the new ones come.

use std::sync::{Arc, Weak};
use std::time::Instant;

use tokio::time::{Duration, sleep, timeout};

use super::candidate::Candidate;
use super::order::SwapError;
use super::swapper::{Swapper, now};
use super::turns::Limit;
use crate::engine::generation::registry::Source;
use crate::engine::generation::{Generation, Live, Role};

impl Swapper {
    /// Loads a candidate after the generations of `roles` have left memory. If it is not accepted, they come back.
    pub(super) async fn drained(
        &self,
        id: &str,
        roles: &[Role],
        candidate: Candidate,
        limit: &Limit,
    ) -> Result<(Arc<Generation>, Source), SwapError> {
        let before = self.generations.withdraw(roles);
        let leaving: Vec<(Role, String, Weak<Generation>)> = roles
            .iter()
            .map(|&role| (role, before.pair.role(role).id.clone(), Arc::downgrade(before.pair.role(role))))
            .collect();
        let kept = self.generations.pin();
        self.empty(before, &leaving, limit).await?;
        let result = limit.within(self.loaded(id, roles, candidate, &kept)).await;
        if result.is_err() {
            self.bring_back(&leaving).await;
        }
        result
    }

    /// Waits until nobody holds the leaving generations, nor adapters on their weights. After too long they are put back.
    async fn empty(
        &self,
        before: Live,
        leaving: &[(Role, String, Weak<Generation>)],
        limit: &Limit,
    ) -> Result<(), SwapError> {
        let patience = Instant::now() + self.settings.swap_drain;
        let slow = || {
            let took = self.settings.swap_drain;
            SwapError::Refused(format!("running requests did not end within the {took:?} of --swap-drain"))
        };
        // This copy of the pair is what can be put back.
        let own = |weak: &Weak<Generation>| leaving.iter().filter(|(.., other)| other.ptr_eq(weak)).count();
        // Adapters that leave have the same weights in memory. The list of them is one, and so is its hold on each.
        let kept = self.generations.live().adapters;
        let gone: Vec<_> = before.adapters.iter().filter(|(name, _)| !kept.contains_key(*name)).collect();
        let is_held = || {
            let listed = !gone.is_empty() && Arc::strong_count(&before.adapters) > 1;
            let adapted = gone.iter().any(|(_, generation)| Arc::strong_count(generation) > 1);
            listed || adapted || leaving.iter().any(|(.., weak)| weak.strong_count() > own(weak))
        };
        while is_held() {
            let over = limit.over().or_else(|| (Instant::now() > patience).then(slow));
            if let Some(error) = over {
                self.generations.put_back(&before);
                return Err(error);
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Loads again what was live, as often as it takes: without it nothing is served.
    async fn bring_back(&self, leaving: &[(Role, String, Weak<Generation>)]) {
        let mut pause = Duration::from_millis(50);
        let slow = |_| Err(SwapError::TimedOut(self.settings.swap_timeout));
        while let Err(error) =
            timeout(self.settings.swap_timeout, self.try_bring_back(leaving)).await.unwrap_or_else(slow)
        {
            tracing::error!(%error, "the old weights cannot be loaded again; trying on");
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(10));
        }
    }

    async fn try_bring_back(&self, leaving: &[(Role, String, Weak<Generation>)]) -> Result<(), SwapError> {
        let mut pair = self.generations.pin();
        let mut back: Vec<Arc<Generation>> = Vec::new();
        for (role, id, _) in leaving {
            let generation = match back.iter().find(|generation| generation.id == *id) {
                Some(generation) => Arc::clone(generation),
                None => {
                    let lost = || SwapError::Refused(format!("{id} has no directory"));
                    let source = self.registry().find(id).and_then(|record| record.source.clone()).ok_or_else(lost)?;
                    let generation = self.build(id, self.again(source.clone(), &[&pair]).await?).await?;
                    self.registry().loaded(&generation, source, now());
                    back.push(Arc::clone(&generation));
                    generation
                }
            };
            *pair.role_mut(*role) = generation;
        }
        self.registry().restored(&pair);
        self.generations.publish(pair);
        Ok(())
    }
}
