//! The record of every generation that was loaded: its origin, its state, and the pairs that were live before.

use std::path::PathBuf;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};

use super::{Generation, Live, Pinned, Role};
use crate::engine::model_dir::Identity;
use crate::weights::store::Stored;

/// Ended generations that are still listed.
const KEPT: usize = 64;
/// Pairs that a rollback can return to.
const HISTORY: usize = 16;

/// What a generation's weights are. Both directories are never changed while it may be loaded again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The model's directory.
    pub model: Stored,
    /// The model's directory as the client or the settings named it.
    pub model_path: PathBuf,
    /// What it reads and writes, to compare with its successor.
    pub identity: Identity,
    /// The adapter on it.
    pub adapter: Option<AdapterSource>,
}

/// An adapter on a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterSource {
    /// The copy of its directory in the store.
    pub stored: Stored,
    /// The adapter's directory as the client or the settings named it.
    pub path: PathBuf,
    /// The name that a client gave it, if one did.
    pub name: Option<String>,
}

impl Source {
    /// SHA-256 of everything that is computed with.
    pub fn sha256(&self) -> String {
        use sha2::{Digest, Sha256};
        let model = self.model.digests.all();
        match &self.adapter {
            None => model,
            Some(adapter) => {
                let both = format!("{model} {}\n", adapter.stored.digests.all());
                crate::weights::digest::hex(&Sha256::digest(both))
            }
        }
    }
}

/// How far a generation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(utoipa::ToSchema))]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Its weights are read and checked.
    Loading,
    /// It is tried out.
    Canary,
    /// New requests pin it.
    Live,
    /// Requests that began with it are still answered.
    Draining,
    /// Nothing of it is left in memory.
    Retired,
    /// It was never live.
    Failed,
}

/// What is known of one generation.
#[derive(Clone, Debug)]
pub struct Record {
    /// Names it in responses.
    pub id: String,
    /// What it is or was for.
    pub roles: Vec<Role>,
    /// Its weights, where they came from a directory.
    pub source: Option<Source>,
    /// How far it has come.
    pub state: State,
    /// Why it failed.
    pub reason: Option<String>,
    /// Seconds since 1970 when it was loaded last.
    pub loaded_at: u64,
    /// The name that requests have for it, where it is an adapter next to the live pair.
    pub served_as: Option<String>,
    generation: Weak<Generation>,
}

impl Record {
    /// The generation, while it is in memory.
    pub fn generation(&self) -> Option<Arc<Generation>> {
        self.generation.upgrade()
    }
}

/// Every generation of this process, oldest first.
#[derive(Debug, Default)]
pub struct Registry {
    records: Vec<Record>,
    /// Live pairs before the current one, oldest first.
    history: Vec<Ids>,
    /// Number of the next id.
    next: u64,
}

/// A live pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The generation that drafts answers.
    pub actor: String,
    /// Who judges and rewrites.
    pub refiner: String,
}

impl Ids {
    /// The ids of a pinned pair.
    pub fn of(pinned: &Pinned) -> Self {
        Self { actor: pinned.actor.id.clone(), refiner: pinned.refiner.id.clone() }
    }

    /// The one of `role`.
    pub fn role(&self, role: Role) -> &str {
        match role {
            Role::Actor => &self.actor,
            Role::Refiner => &self.refiner,
        }
    }
}

impl Registry {
    /// Begins with the live pair and its sources; ids continue from `next`, or from theirs.
    pub fn new(live: &Pinned, sources: [Option<Source>; 2], next: u64, now: u64) -> Self {
        let mut registry = Self { next, ..Self::default() };
        for (role, source) in Role::ALL.into_iter().zip(sources) {
            let generation = live.role(role);
            if let Some(record) = registry.find_mut(&generation.id) {
                record.roles.push(role);
                continue;
            }
            let number = generation.id.strip_prefix("g-").and_then(|number| number.parse().ok()).unwrap_or(0);
            registry.next = registry.next.max(number + 1);
            registry.records.push(Record {
                id: generation.id.clone(),
                roles: vec![role],
                source,
                state: State::Live,
                reason: None,
                loaded_at: now,
                served_as: None,
                generation: Arc::downgrade(generation),
            });
        }
        registry
    }

    /// Adds an adapter that is served as `name` from the beginning.
    pub fn begins_with(&mut self, name: &str, generation: &Arc<Generation>, source: Option<Source>, now: u64) {
        let number = generation.id.strip_prefix("g-").and_then(|number| number.parse().ok()).unwrap_or(0);
        self.next = self.next.max(number + 1);
        self.records.push(Record {
            id: generation.id.clone(),
            roles: vec![Role::Actor],
            source,
            state: State::Live,
            reason: None,
            loaded_at: now,
            served_as: Some(name.to_owned()),
            generation: Arc::downgrade(generation),
        });
    }

    /// A new generation that is being loaded.
    pub fn begin(&mut self, roles: &[Role], now: u64) -> String {
        let id = format!("g-{}", self.next);
        self.next += 1;
        self.records.push(Record {
            id: id.clone(),
            roles: roles.to_vec(),
            source: None,
            state: State::Loading,
            reason: None,
            loaded_at: now,
            served_as: None,
            generation: Weak::new(),
        });
        self.forget_old();
        id
    }

    /// Notes that a generation is served under a name of its own, next to the live pair.
    pub fn serves(&mut self, id: &str, name: &str) {
        if let Some(record) = self.find_mut(id) {
            record.served_as = Some(name.to_owned());
            record.state = State::Live;
        }
    }

    /// The number of the next id.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Notes that a generation is in memory and tried out.
    pub fn loaded(&mut self, generation: &Arc<Generation>, source: Source, now: u64) {
        if let Some(record) = self.find_mut(&generation.id) {
            record.generation = Arc::downgrade(generation);
            record.source = Some(source);
            record.state = State::Canary;
            record.loaded_at = now;
        }
    }

    /// Notes that a generation which is at other servers can be used and is tried out.
    pub fn present(&mut self, generation: &Arc<Generation>, now: u64) {
        if let Some(record) = self.find_mut(&generation.id) {
            record.generation = Arc::downgrade(generation);
            record.state = State::Canary;
            record.loaded_at = now;
        }
    }

    /// Notes that a generation will not be live, and why.
    pub fn failed(&mut self, id: &str, reason: String) {
        if let Some(record) = self.find_mut(id) {
            record.state = State::Failed;
            record.reason = Some(reason);
        }
    }

    /// Forgets a generation that was only tried out.
    pub fn forget(&mut self, id: &str) {
        self.records.retain(|record| record.id != id);
    }

    /// Notes that `live` has replaced `before`, which is kept in the history.
    pub fn published(&mut self, before: Ids, live: &Pinned) {
        self.set_live(live);
        self.history.push(before);
        if self.history.len() > HISTORY {
            self.history.remove(0);
        }
    }

    /// Notes that `live` is back in place of `before`. Where that very pair was live once, what came after it is forgotten.
    pub fn rolled_back(&mut self, before: Ids, live: &Pinned) {
        let ids = Ids::of(live);
        match self.history.iter().rposition(|passed| *passed == ids) {
            Some(place) => {
                self.set_live(live);
                self.history.truncate(place);
            }
            None => self.published(before, live),
        }
    }

    /// Notes that `live`, which was withdrawn, is back.
    pub fn restored(&mut self, live: &Pinned) {
        self.set_live(live);
    }

    fn set_live(&mut self, live: &Pinned) {
        for record in &mut self.records {
            let roles: Vec<_> = Role::ALL.into_iter().filter(|&role| live.role(role).id == record.id).collect();
            if !roles.is_empty() {
                record.roles = roles;
                record.state = State::Live;
            } else if record.served_as.is_none() && matches!(record.state, State::Live | State::Canary) {
                record.state = State::Draining;
            }
        }
    }

    /// The pair that was live before the current one; with `role`, before that role's current one.
    pub fn previous(&self, live: &Ids, role: Option<Role>) -> Option<Ids> {
        match role {
            None => self.history.last().cloned(),
            Some(role) => {
                let earlier = self.history.iter().rev().find(|ids| ids.role(role) != live.role(role))?;
                let mut ids = live.clone();
                match role {
                    Role::Actor => ids.actor.clone_from(&earlier.actor),
                    Role::Refiner => ids.refiner.clone_from(&earlier.refiner),
                }
                Some(ids)
            }
        }
    }

    /// The record of `id`.
    pub fn find(&self, id: &str) -> Option<&Record> {
        self.records.iter().find(|record| record.id == id)
    }

    fn find_mut(&mut self, id: &str) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.id == id)
    }

    /// All records, oldest first, with how many requests hold each.
    pub fn list(&mut self, live: &Live) -> Vec<(Record, usize)> {
        let is_served = |id: &str| live.adapters.values().any(|generation| generation.id == id);
        for record in self.records.iter_mut().filter(|record| record.served_as.is_some()) {
            if record.state == State::Live && !is_served(&record.id) {
                record.state = State::Draining;
            }
        }
        self.settle();
        let held_here = |id: &str| Role::ALL.into_iter().filter(|&role| live.pair.role(role).id == id).count();
        let pins = |record: &Record| {
            // The current pair, and the copy of it that the caller holds; of adapters there is one list.
            let own = 2 * held_here(&record.id) + usize::from(is_served(&record.id));
            record.generation.strong_count().saturating_sub(own)
        };
        self.records.iter().map(|record| (record.clone(), pins(record))).collect()
    }

    /// Generations in memory, apart from adapters with names of their own, which have a limit of their own.
    pub fn in_memory(&mut self) -> usize {
        self.settle();
        let counts = |record: &&Record| record.served_as.is_none() && record.generation.strong_count() > 0;
        self.records.iter().filter(counts).count()
    }

    /// Directories that may be loaded again.
    pub fn directories(&self) -> Vec<PathBuf> {
        let recent: Vec<&Ids> = self.history.iter().rev().take(1).collect();
        let needed = |record: &&Record| {
            // One that failed may take a moment to leave memory.
            record.state != State::Failed && record.generation.strong_count() > 0
                || recent.iter().any(|ids| ids.actor == record.id || ids.refiner == record.id)
        };
        let sources = self.records.iter().filter(needed).filter_map(|record| record.source.as_ref());
        sources
            .flat_map(|source| {
                let adapter = source.adapter.iter().map(|adapter| adapter.stored.path.clone());
                std::iter::once(source.model.path.clone()).chain(adapter)
            })
            .collect()
    }

    /// Generations that no request holds any more are retired.
    fn settle(&mut self) {
        for record in &mut self.records {
            if record.state == State::Draining && record.generation.strong_count() == 0 {
                record.state = State::Retired;
            }
        }
    }

    fn forget_old(&mut self) {
        self.settle();
        let in_history: Vec<String> =
            self.history.iter().flat_map(|ids| [ids.actor.clone(), ids.refiner.clone()]).collect();
        let ended = |record: &Record| {
            matches!(record.state, State::Retired | State::Failed) && !in_history.contains(&record.id)
        };
        let mut surplus = self.records.iter().filter(|record| ended(record)).count().saturating_sub(KEPT);
        self.records.retain(|record| {
            let goes = surplus > 0 && ended(record);
            surplus -= usize::from(goes);
            !goes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::prompts::Templates;
    use crate::weights::Digests;

    fn generation(id: &str) -> Arc<Generation> {
        let engine = Arc::new(FakeEngine::new(|_, _| Ok(String::new())));
        Arc::new(Generation::new(id, engine, Arc::new(Templates::general())))
    }

    fn source(name: &str) -> Source {
        let model = Stored { path: name.into(), digests: Digests::default() };
        Source { model, model_path: name.into(), identity: Identity::default(), adapter: None }
    }

    fn alone(pair: &Pinned) -> Live {
        Live { pair: pair.clone(), adapters: Arc::default() }
    }

    fn states(registry: &mut Registry, live: &Live) -> Vec<(String, State, usize)> {
        registry.list(live).into_iter().map(|(record, pins)| (record.id, record.state, pins)).collect()
    }

    /// Publishes a generation in the way of a swap.
    fn swap(registry: &mut Registry, live: &mut Pinned, role: Role) -> String {
        let id = registry.begin(&[role], 1);
        let next = generation(&id);
        registry.loaded(&next, source(&id), 1);
        let before = Ids::of(live);
        *live.role_mut(role) = next;
        registry.published(before, live);
        id
    }

    #[test]
    fn a_generation_lives_drains_and_retires_with_its_last_pin() {
        let mut live = Pinned { actor: generation("g-1"), refiner: generation("g-2") };
        let mut registry = Registry::new(&live, [Some(source("a")), Some(source("b"))], 0, 0);
        let held = live.actor.clone();
        let id = swap(&mut registry, &mut live, Role::Actor);
        assert_eq!(id, "g-3");
        let listed = |id: &str, state, pins| (id.to_owned(), state, pins);
        let current = alone(&live);
        let expected =
            [listed("g-1", State::Draining, 1), listed("g-2", State::Live, 0), listed("g-3", State::Live, 0)];
        assert_eq!(states(&mut registry, &current), expected);
        assert_eq!(registry.in_memory(), 3);
        drop(held);
        assert_eq!(states(&mut registry, &current)[0], listed("g-1", State::Retired, 0));
        assert_eq!(registry.in_memory(), 2);
        assert_eq!(registry.directories(), [PathBuf::from("a"), "b".into(), "g-3".into()], "the previous one is kept");
    }

    #[test]
    fn going_back_goes_further_back_each_time_and_may_name_a_role() {
        let mut live = Pinned { actor: generation("g-1"), refiner: generation("g-2") };
        let mut registry = Registry::new(&live, [Some(source("a")), Some(source("b"))], 0, 0);
        for role in [Role::Actor, Role::Refiner, Role::Actor] {
            swap(&mut registry, &mut live, role);
        }
        let ids = |actor: &str, refiner: &str| Ids { actor: actor.into(), refiner: refiner.into() };
        assert_eq!(Ids::of(&live), ids("g-5", "g-4"));
        assert_eq!(registry.previous(&Ids::of(&live), Some(Role::Refiner)), Some(ids("g-5", "g-2")));
        for (actor, refiner) in [("g-3", "g-4"), ("g-3", "g-2"), ("g-1", "g-2")] {
            let previous = registry.previous(&Ids::of(&live), None);
            assert_eq!(previous, Some(ids(actor, refiner)));
            let before = Ids::of(&live);
            live = Pinned { actor: generation(actor), refiner: generation(refiner) };
            registry.rolled_back(before, &live);
        }
        assert_eq!(registry.previous(&Ids::of(&live), None), None);
    }

    #[test]
    fn an_adapter_beside_the_live_pair_lives_through_swaps_until_it_is_served_no_more() {
        let mut live = Pinned { actor: generation("g-1"), refiner: generation("g-2") };
        let mut registry = Registry::new(&live, [Some(source("a")), Some(source("b"))], 0, 0);
        let id = registry.begin(&[Role::Actor], 1);
        let adapter = generation(&id);
        registry.loaded(&adapter, source("c"), 1);
        registry.serves(&id, "mine");
        assert_eq!(registry.in_memory(), 2, "it has a limit of its own");
        swap(&mut registry, &mut live, Role::Refiner);
        let adapters = Arc::new([("mine".to_owned(), adapter)].into());
        let served = Live { pair: live.clone(), adapters };
        assert_eq!(states(&mut registry, &served)[2], (id.clone(), State::Live, 0));
        let held = served.adapted("mine").unwrap();
        assert_eq!(states(&mut registry, &served)[2], (id.clone(), State::Live, 1));
        drop(served);
        assert_eq!(states(&mut registry, &alone(&live))[2], (id.clone(), State::Draining, 1));
        drop(held);
        assert_eq!(states(&mut registry, &alone(&live))[2], (id, State::Retired, 0));
    }

    #[test]
    fn one_that_failed_is_listed_with_its_reason_and_lists_are_bounded() {
        let live = Pinned { actor: generation("g-7"), refiner: generation("g-7") };
        let mut registry = Registry::new(&live, [None, None], 3, 0);
        for _ in 0..200 {
            let id = registry.begin(&[Role::Actor], 1);
            registry.failed(&id, "bad".into());
        }
        let records = registry.list(&alone(&live));
        assert!(records.len() <= KEPT + 2, "{}", records.len());
        let (last, _) = records.last().unwrap();
        assert_eq!((last.id.as_str(), last.state, last.reason.as_deref()), ("g-207", State::Failed, Some("bad")));
        assert_eq!(records[0].0.roles, Role::ALL);
    }
}
