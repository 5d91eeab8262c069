//! Which model answers for which role: requests pin a generation from start to end, publishing one swaps what comes next.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Engine;
use crate::prompts::Templates;

/// What a model is asked to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers.
    Actor,
    /// Judges and rewrites.
    Refiner,
}

/// One loaded set of weights with the templates that it was trained on.
pub struct Generation {
    /// Names the weights in responses and logs.
    pub id: String,
    /// The loaded model.
    pub engine: Arc<dyn Engine>,
    /// How this model is told to judge and to refine.
    pub templates: Arc<Templates>,
}

/// The pair that one request works with. Cloning is cheap; a generation lives until its last pin is gone.
#[derive(Clone)]
pub struct Pinned {
    /// Answers.
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
}

/// The current generation of each role.
pub struct Generations {
    current: ArcSwap<Pinned>,
}

impl Generations {
    /// Starts with these generations.
    pub fn new(actor: Arc<Generation>, refiner: Arc<Generation>) -> Self {
        Self { current: ArcSwap::from_pointee(Pinned { actor, refiner }) }
    }

    /// One model for both roles.
    pub fn single(generation: Arc<Generation>) -> Self {
        Self::new(Arc::clone(&generation), generation)
    }

    /// The current pair, taken at one instant: a swap in between never mixes old with new.
    pub fn pin(&self) -> Pinned {
        Pinned::clone(&self.current.load())
    }

    /// Makes `generation` the one of `role` for requests that pin from now on; returns the pair that it replaces.
    pub fn publish(&self, role: Role, generation: Arc<Generation>) -> Pinned {
        let before = self.current.rcu(|pinned| {
            let mut next = Pinned::clone(pinned);
            match role {
                Role::Actor => next.actor = Arc::clone(&generation),
                Role::Refiner => next.refiner = Arc::clone(&generation),
            }
            next
        });
        Pinned::clone(&before)
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
        let replaced = generations.publish(Role::Actor, generation("2"));
        assert_eq!((replaced.actor.id.as_str(), replaced.refiner.id.as_str()), ("1", "1"));
        drop(replaced);
        assert_eq!(pinned.role(Role::Actor).id, "1");
        let now = generations.pin();
        assert_eq!((now.role(Role::Actor).id.as_str(), now.role(Role::Refiner).id.as_str()), ("2", "1"));
        generations.publish(Role::Refiner, generation("3"));
        assert_eq!(generations.pin().refiner.id, "3");
        drop(now);
        assert!(watch.upgrade().is_some());
        drop(pinned);
        assert!(watch.upgrade().is_none());
    }
}
