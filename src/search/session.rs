//! The state of one running search apart from its tree: its budgets, its clock, its votes, and whether its judge can be read.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::SearchConfig;
use super::budget::Ledger;
use super::clock::Clock;
use super::outcome::Progress;
use super::tree::Votes;

/// How strictly refinements follow the patterns of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guidance {
    /// A required text must appear within the refinement's room.
    Bounded,
    /// A required text may appear at any place.
    Unbounded,
    /// Refinements are not guided.
    None,
}

/// State of one search that is not its tree.
pub(super) struct Session<'a> {
    pub ledger: Ledger,
    pub clock: Clock,
    /// The conversation's instructions, set once they are listed.
    pub checklist: OnceLock<Vec<String>>,
    /// Whether the judge does not know the conversation's words, set once that was asked.
    pub outside: OnceLock<bool>,
    /// Called for every step of the search.
    pub observe: &'a (dyn Fn(Progress<'_>) + Sync),
    votes: Mutex<Votes>,
    read: AtomicBool,
    unreadable: AtomicBool,
    guide: AtomicU8,
    /// Whether a refinement with a reflection was requested, and whether any could be read.
    reflected: AtomicBool,
    reflection_read: AtomicBool,
}

impl<'a> Session<'a> {
    pub fn start(config: &SearchConfig, observe: &'a (dyn Fn(Progress<'_>) + Sync)) -> Self {
        Self {
            ledger: Ledger::new(config),
            clock: Clock::start(config),
            checklist: OnceLock::new(),
            outside: OnceLock::new(),
            observe,
            votes: Mutex::default(),
            read: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            guide: AtomicU8::new(0),
            reflected: AtomicBool::new(false),
            reflection_read: AtomicBool::new(false),
        }
    }

    /// Stores the votes of the running judgement, for a search that ends in the middle of it.
    pub fn keep_votes(&self, votes: Votes) {
        *self.votes() = votes;
    }

    /// The votes of the last judgement.
    pub fn last_votes(&self) -> Votes {
        *self.votes()
    }

    /// Records that a verdict was read from the refiner.
    pub fn found_readable(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// Records that no verdict could be read from the refiner's first judgement. Once a verdict was read, a later failure has no effect
    /// here.
    pub fn found_unreadable(&self) {
        self.unreadable.fetch_or(!self.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Records that a refinement was requested as a reflection and a response between markers, and whether it could be read.
    pub fn tried_reflection(&self, was_read: bool) {
        self.reflected.store(true, Ordering::Relaxed);
        self.reflection_read.fetch_or(was_read, Ordering::Relaxed);
    }

    /// Whether the refiner was asked for that form and has never followed it.
    pub fn reflections_fail(&self) -> bool {
        self.reflected.load(Ordering::Relaxed) && !self.reflection_read.load(Ordering::Relaxed)
    }

    /// Switches to cheaper patterns, and at the next call to none, because the rules' patterns cost the engine too much.
    pub fn give_up_guide(&self) {
        self.guide.fetch_add(1, Ordering::Relaxed);
    }

    /// How the rules' patterns are used at present.
    pub fn guidance(&self) -> Guidance {
        match self.guide.load(Ordering::Relaxed) {
            0 => Guidance::Bounded,
            1 => Guidance::Unbounded,
            _ => Guidance::None,
        }
    }

    /// Whether no verdict can be read from the refiner.
    pub fn is_unreadable(&self) -> bool {
        self.unreadable.load(Ordering::Relaxed)
    }

    fn votes(&self) -> MutexGuard<'_, Votes> {
        self.votes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
