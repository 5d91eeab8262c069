//! Back to what was live before: still in memory, or loaded again from what was kept.

use std::sync::Arc;

use super::fleet::fleet_of;
use super::order::{Mode, Report, Scope, SwapError, check_expected};
use super::swapper::{Swapper, now};
use super::turns::Limit;
use crate::engine::generation::Role;
use crate::engine::generation::registry::Ids;

impl Swapper {
    pub(super) async fn go_back(
        &self,
        role: Option<Role>,
        expected: Option<String>,
        limit: &Limit,
    ) -> Result<Report, SwapError> {
        let live = self.generations.pin();
        let before = Ids::of(&live);
        check_expected(expected.as_deref(), role.map_or(Scope::Both, Scope::One), &before)?;
        let nothing = || SwapError::Missing("nothing was live before this; there is nothing to go back to".into());
        let target = self.registry().previous(&before, role).ok_or_else(nothing)?;
        limit.within(self.room()).await?;
        let mut next = live.clone();
        let (mut sha256, mut out) = (String::new(), Vec::new());
        for role in Role::ALL {
            let id = target.role(role);
            if id == before.role(role) {
                continue;
            }
            let other = [&next.actor, &next.refiner].into_iter().find(|generation| generation.id == id).cloned();
            let record = self.registry().find(id).cloned();
            let record =
                record.ok_or_else(|| SwapError::Missing(format!("{id} is forgotten; publish its weights again")))?;
            if record.source.is_none() && fleet_of(&live, role).is_some() {
                let weights = self.fleet_generations().get(id).cloned().unwrap_or_default();
                sha256.clone_from(&weights.sha256);
                let generation = match other.or_else(|| record.generation()) {
                    Some(generation) => generation,
                    None => {
                        let spread = limit.within(self.spread(id, &weights, &record.roles, &live)).await?;
                        out.extend(spread.out);
                        spread.generation
                    }
                };
                *next.role_mut(role) = generation;
                continue;
            }
            let lost = || SwapError::Missing(format!("{id} did not come from a directory"));
            let source = record.source.clone().ok_or_else(lost)?;
            sha256 = source.sha256();
            let generation = match other.or_else(|| record.generation()) {
                Some(generation) => generation,
                None => {
                    let known = [&live, &next];
                    let again = async {
                        let candidate = self.again(source.clone(), &known).await?;
                        let generation = self.build(id, candidate).await?;
                        self.canary.try_out(&generation, &[role], &live).await.map_err(SwapError::Refused)?;
                        Ok(generation)
                    };
                    let generation = limit.within(again).await?;
                    self.registry().loaded(&generation, source, now());
                    generation
                }
            };
            *next.role_mut(role) = Arc::clone(&generation);
        }
        self.generations.publish(next.clone());
        {
            let mut registry = self.registry();
            registry.rolled_back(before.clone(), &next);
            self.remember(&registry, &Ids::of(&next));
        }
        Ok(Report { out, ..Report::new(true, Mode::BlueGreen, before, Ids::of(&next), sha256) })
    }
}
