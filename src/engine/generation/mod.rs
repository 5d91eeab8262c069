//! Which model answers for which role: requests pin a generation from start to end, publishing one swaps what comes next.

mod away;
pub mod registry;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Engine;
use crate::prompts::Templates;

/// What a model is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The role that drafts answers.
    Actor,
    /// Judges and rewrites.
    Refiner,
}

impl Role {
    /// Both roles in order.
    pub const ALL: [Self; 2] = [Self::Actor, Self::Refiner];
}

/// One loaded set of weights with the templates that it was trained on.
pub struct Generation {
    /// Names the weights in responses and logs.
    pub id: String,
    /// The loaded model.
    pub engine: Arc<dyn Engine>,
    /// The texts that ask this model to judge and to refine.
    pub templates: Arc<Templates>,
}

impl Generation {
    /// Whether both compute with the same weights in memory, adapters aside: they leave it only together.
    pub fn shares_weights(&self, other: &Self) -> bool {
        let natives = self.engine.native().zip(other.engine.native());
        Arc::ptr_eq(&self.engine, &other.engine) || natives.is_some_and(|(one, other)| one.shares_base(other))
    }
}

/// The pair that one request works with. Cloning is cheap; a generation lives until its last pin is dropped.
#[derive(Clone)]
pub struct Pinned {
    /// The generation that drafts answers.
    pub actor: Arc<Generation>,
    /// Judges and rewrites; the actor's own generation where there is one model.
    pub refiner: Arc<Generation>,
}

impl Pinned {
    /// The generation of `role`.
    pub fn role(&self, role: Role) -> &Arc<Generation> {
        match role {
            Role::Actor => &self.actor,
            Role::Refiner => &self.refiner,
        }
    }

    /// The generation of `role`, to be replaced.
    pub fn role_mut(&mut self, role: Role) -> &mut Arc<Generation> {
        match role {
            Role::Actor => &mut self.actor,
            Role::Refiner => &mut self.refiner,
        }
    }

    /// Whether a role's model is out of service.
    pub fn is_away(&self) -> bool {
        [&self.actor, &self.refiner].into_iter().any(|generation| generation.id == away::ID)
    }
}

/// The current generation of each role.
pub struct Generations {
    current: ArcSwap<Pinned>,
    /// How often the current pair changed: those who wait for one look again.
    changes: watch::Sender<u64>,
}

impl Generations {
    /// Starts with these generations.
    pub fn new(actor: Arc<Generation>, refiner: Arc<Generation>) -> Self {
        Self { current: ArcSwap::from_pointee(Pinned { actor, refiner }), changes: watch::Sender::new(0) }
    }

    /// One model for both roles.
    pub fn single(generation: Arc<Generation>) -> Self {
        Self::new(Arc::clone(&generation), generation)
    }

    /// The current pair, taken at one instant: a swap in between never mixes old with new. While a role's model is away, its
    /// engine says so; requests take [`Generations::pin_present`].
    pub fn pin(&self) -> Pinned {
        Pinned::clone(&self.current.load())
    }

    /// The current pair, once both of its models are loaded.
    pub async fn pin_present(&self) -> Pinned {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let pinned = self.pin();
            if !pinned.is_away() {
                return pinned;
            }
            if changes.changed().await.is_err() {
                // The sender is in `self`, so it exists.
                return pinned;
            }
        }
    }

    /// Makes `next` the pair for requests that pin from now on; returns the one that it replaces.
    pub fn publish(&self, next: Pinned) -> Pinned {
        let before = self.current.swap(Arc::new(next));
        self.changes.send_modify(|count| *count += 1);
        Pinned::clone(&before)
    }

    /// Takes the models of `roles` out of service. Running requests keep the old pair; new requests wait. Returns the old pair.
    pub fn withdraw(&self, roles: &[Role]) -> Pinned {
        let live = self.pin();
        self.publish(away::without(&live, roles))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;

    fn generation(id: &str) -> Arc<Generation> {
        let engine = Arc::new(FakeEngine::new(|_, _| Ok(String::new())));
        Arc::new(Generation { id: id.into(), engine, templates: Arc::new(Templates::general()) })
    }

    #[test]
    fn a_pin_outlives_the_swap_and_the_last_pin_frees_the_generation() {
        let first = generation("1");
        let watch = Arc::downgrade(&first);
        let generations = Generations::single(first);
        let pinned = generations.pin();
        let next = |role: Role, id: &str| {
            let mut pinned = generations.pin();
            *pinned.role_mut(role) = generation(id);
            pinned
        };
        let replaced = generations.publish(next(Role::Actor, "2"));
        assert_eq!((replaced.actor.id.as_str(), replaced.refiner.id.as_str()), ("1", "1"));
        drop(replaced);
        assert_eq!(pinned.role(Role::Actor).id, "1");
        let now = generations.pin();
        assert_eq!((now.role(Role::Actor).id.as_str(), now.role(Role::Refiner).id.as_str()), ("2", "1"));
        generations.publish(next(Role::Refiner, "3"));
        assert_eq!(generations.pin().refiner.id, "3");
        drop(now);
        assert!(watch.upgrade().is_some());
        drop(pinned);
        assert!(watch.upgrade().is_none());
    }

    #[tokio::test]
    async fn who_comes_while_a_model_is_away_waits_for_the_next() {
        let generations = Generations::single(generation("1"));
        let held = generations.withdraw(&[Role::Actor]);
        assert_eq!(held.actor.id, "1");
        assert_eq!(generations.pin().refiner.id, "1", "the other role stays");
        assert!(generations.pin().is_away());
        let mut waiting = Box::pin(generations.pin_present());
        assert!(futures::poll!(&mut waiting).is_pending());
        let request = super::super::Request::chat(crate::engine::Purpose::Answer, Vec::new());
        assert!(generations.pin().actor.engine.generate(request).await.is_err());
        let (actor, refiner) = (generation("2"), Arc::clone(&held.refiner));
        generations.publish(Pinned { actor, refiner });
        assert_eq!(waiting.await.actor.id, "2");
    }
}
