//! Which model answers for which role: requests pin a generation from start to end, publishing one swaps what comes next.

mod away;
pub mod registry;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::watch;

use super::Engine;
pub use super::role::Role;
#[cfg(feature = "upstream")]
use super::upstream::fleet::Fleet;
use crate::prompts::Templates;

/// One loaded set of weights with the templates that it was trained on.
pub struct Generation {
    /// Names the weights in responses and logs.
    pub id: String,
    /// The loaded model.
    pub engine: Arc<dyn Engine>,
    /// The texts that ask this model to judge and to refine.
    pub templates: Arc<Templates>,
    /// The servers that compute the model, where these are a fleet.
    #[cfg(feature = "upstream")]
    pub fleet: Option<Arc<Fleet>>,
}

impl Generation {
    /// A model of this process, or of a single server.
    pub fn new(id: impl Into<String>, engine: Arc<dyn Engine>, templates: Arc<Templates>) -> Self {
        Self {
            id: id.into(),
            engine,
            templates,
            #[cfg(feature = "upstream")]
            fleet: None,
        }
    }

    /// A model that the servers of a fleet compute.
    #[cfg(feature = "upstream")]
    pub fn at_fleet(self, fleet: Arc<Fleet>) -> Self {
        Self { fleet: Some(fleet), ..self }
    }

    /// Whether both compute with the same weights in memory, adapters aside: they leave it only together.
    pub fn shares_weights(&self, other: &Self) -> bool {
        let bases = self.engine.base().zip(other.engine.base());
        Arc::ptr_eq(&self.engine, &other.engine) || bases.is_some_and(|(one, other)| one.id() == other.id())
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

    /// The fleet that computes a role's model, where there is one.
    #[cfg(feature = "upstream")]
    pub fn fleet(&self) -> Option<&Arc<Fleet>> {
        [&self.actor, &self.refiner].into_iter().find_map(|generation| generation.fleet.as_ref())
    }

    /// Whether a role's model is out of service.
    pub fn is_away(&self) -> bool {
        [&self.actor, &self.refiner].into_iter().any(|generation| generation.id == away::ID)
    }
}

/// Adapters that are served next to the actor without one, by the names that requests have for them.
pub type Adapters = BTreeMap<String, Arc<Generation>>;

/// Everything that requests can pin at one instant. Cloning is cheap.
#[derive(Clone)]
pub struct Live {
    /// The pair that answers where no adapter is named.
    pub pair: Pinned,
    /// Adapters on the actor's weights.
    pub adapters: Arc<Adapters>,
}

impl Live {
    /// The pair in which the adapter called `name` drafts; `None` where none is called so.
    pub fn adapted(&self, name: &str) -> Option<Pinned> {
        let actor = Arc::clone(self.adapters.get(name)?);
        Some(Pinned { actor, refiner: Arc::clone(&self.pair.refiner) })
    }

    /// Replaces the pair. An adapter belongs to the weights in memory that it was put on, and leaves with them.
    fn with(&self, pair: Pinned) -> Self {
        let stays = |generation: &Arc<Generation>| generation.shares_weights(&pair.actor);
        let adapters = match self.adapters.values().all(stays) {
            true => Arc::clone(&self.adapters),
            false => {
                let staying = self.adapters.iter().filter(|(_, generation)| stays(generation));
                Arc::new(staying.map(|(name, generation)| (name.clone(), Arc::clone(generation))).collect())
            }
        };
        Self { pair, adapters }
    }
}

/// The current generation of each role, and the adapters that are loaded on them.
pub struct Generations {
    current: ArcSwap<Live>,
    /// How often the current pair changed: those who wait for one look again.
    changes: watch::Sender<u64>,
}

impl Generations {
    /// Starts with these generations.
    pub fn new(actor: Arc<Generation>, refiner: Arc<Generation>) -> Self {
        Self::live_with(Live { pair: Pinned { actor, refiner }, adapters: Arc::default() })
    }

    /// Starts with these generations and adapters.
    pub fn live_with(live: Live) -> Self {
        Self { current: ArcSwap::from_pointee(live), changes: watch::Sender::new(0) }
    }

    /// One model for both roles.
    pub fn single(generation: Arc<Generation>) -> Self {
        Self::new(Arc::clone(&generation), generation)
    }

    /// The current pair, taken at one instant: a swap in between never mixes old with new. While a role's model is away, its
    /// engine says so; requests take [`Generations::live_present`].
    pub fn pin(&self) -> Pinned {
        self.current.load().pair.clone()
    }

    /// The current pair and its adapters, read at one instant.
    pub fn live(&self) -> Live {
        Live::clone(&self.current.load())
    }

    /// What is live, once both models of the current pair are loaded.
    pub async fn live_present(&self) -> Live {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let live = self.live();
            if !live.pair.is_away() {
                return live;
            }
            if changes.changed().await.is_err() {
                // The sender is in `self`, so it exists.
                return live;
            }
        }
    }

    /// Makes `next` the pair for requests that pin from now on; returns what it replaces. Adapters whose weights leave with the
    /// actor are not served any more.
    pub fn publish(&self, next: Pinned) -> Live {
        self.change(|live| live.with(next.clone()))
    }

    /// Takes the models of `roles` out of service. Running requests keep the old pair; new requests wait. Returns what was live.
    pub fn withdraw(&self, roles: &[Role]) -> Live {
        self.change(|live| live.with(away::without(&live.pair, roles)))
    }

    /// Makes `live` what requests pin from now on.
    pub fn put_back(&self, live: &Live) {
        self.change(|_| live.clone());
    }

    /// Serves `generation` as an adapter called `name`, or none of that name.
    pub fn serve(&self, name: &str, generation: Option<Arc<Generation>>) {
        self.change(|live| {
            let mut adapters = Adapters::clone(&live.adapters);
            match &generation {
                Some(generation) => adapters.insert(name.to_owned(), Arc::clone(generation)),
                None => adapters.remove(name),
            };
            Live { pair: live.pair.clone(), adapters: Arc::new(adapters) }
        });
    }

    fn change(&self, to: impl Fn(&Live) -> Live) -> Live {
        let before = self.current.rcu(|live| to(live));
        self.changes.send_modify(|count| *count += 1);
        Live::clone(&before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineExt;
    use crate::engine::fake::FakeEngine;

    fn generation(id: &str) -> Arc<Generation> {
        let engine = Arc::new(FakeEngine::new(|_, _| Ok(String::new())));
        Arc::new(Generation::new(id, engine, Arc::new(Templates::general())))
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
        let replaced = generations.publish(next(Role::Actor, "2")).pair;
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
        let held = generations.withdraw(&[Role::Actor]).pair;
        assert_eq!(held.actor.id, "1");
        assert_eq!(generations.pin().refiner.id, "1", "the other role stays");
        assert!(generations.pin().is_away());
        let mut waiting = Box::pin(generations.live_present());
        assert!(futures::poll!(&mut waiting).is_pending());
        let request = super::super::Request::chat(crate::engine::Purpose::Answer, Vec::new());
        assert!(generations.pin().actor.engine.generate(request).await.is_err());
        let (actor, refiner) = (generation("2"), Arc::clone(&held.refiner));
        generations.publish(Pinned { actor, refiner });
        assert_eq!(waiting.await.pair.actor.id, "2");
    }

    #[test]
    fn an_adapter_is_pinned_by_its_name_and_leaves_with_the_weights_that_it_is_on() {
        let base = generation("1");
        let generations = Generations::single(Arc::clone(&base));
        // It shares its engine with the base, as adapters of the native engine share their weights.
        let adapter = |id: &str| {
            let (engine, templates) = (Arc::clone(&base.engine), Arc::clone(&base.templates));
            Arc::new(Generation::new(id, engine, templates))
        };
        for (name, id) in [("one", "2"), ("two", "3"), ("two", "4")] {
            generations.serve(name, Some(adapter(id)));
        }
        generations.serve("absent", None);
        let ids =
            |name: &str| generations.live().adapted(name).map(|pair| (pair.actor.id.clone(), pair.refiner.id.clone()));
        assert_eq!(ids("one"), Some(("2".into(), "1".into())));
        assert_eq!(ids("two"), Some(("4".into(), "1".into())));
        assert_eq!(ids("absent"), None);
        let held = generations.live().adapted("one").unwrap();
        generations.serve("one", None);
        assert_eq!((ids("one"), held.actor.id.as_str()), (None, "2"));
        // Another refiner, and another adapter on the same weights, leave them where they are.
        generations.publish(Pinned { actor: adapter("5"), refiner: generation("6") });
        assert_eq!(ids("two"), Some(("4".into(), "6".into())));
        let before = generations.publish(Pinned { actor: generation("7"), refiner: generation("6") });
        assert_eq!(ids("two"), None);
        generations.put_back(&before);
        assert_eq!(ids("two"), Some(("4".into(), "6".into())));
        generations.withdraw(&[Role::Actor]);
        assert_eq!(ids("two"), None);
    }
}
