//! What one search knows of itself while it runs: its budgets, its time, its votes, and whether its judge can be read.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::SearchConfig;
use super::budget::Ledger;
use super::clock::Clock;
use super::outcome::Progress;
use super::tree::Votes;

/// How refinements are held to the patterns of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guidance {
    /// What the rules ask for has to come within the refinement's room.
    Bounded,
    /// It may come at any place.
    Unbounded,
    /// Not at all.
    None,
}

/// One search's state that is not its tree.
pub(super) struct Session<'a> {
    pub ledger: Ledger,
    pub clock: Clock,
    /// The conversation's instructions, once they are listed.
    pub checklist: OnceLock<Vec<String>>,
    /// Hears of every step.
    pub observe: &'a (dyn Fn(Progress<'_>) + Sync),
    votes: Mutex<Votes>,
    read: AtomicBool,
    unreadable: AtomicBool,
    guide: AtomicU8,
    /// Whether a refinement after a reflection was asked for, and whether one could be read.
    reflected: AtomicBool,
    reflection_read: AtomicBool,
}

impl<'a> Session<'a> {
    pub fn start(config: &SearchConfig, observe: &'a (dyn Fn(Progress<'_>) + Sync)) -> Self {
        Self {
            ledger: Ledger::new(config),
            clock: Clock::start(config),
            checklist: OnceLock::new(),
            observe,
            votes: Mutex::default(),
            read: AtomicBool::new(false),
            unreadable: AtomicBool::new(false),
            guide: AtomicU8::new(0),
            reflected: AtomicBool::new(false),
            reflection_read: AtomicBool::new(false),
        }
    }

    /// Keeps the votes of the judgement that runs, for a search that ends in the middle of it.
    pub fn counted(&self, votes: Votes) {
        *self.votes() = votes;
    }

    /// The votes of the last judgement.
    pub fn last_votes(&self) -> Votes {
        *self.votes()
    }

    /// A verdict was read from the refiner.
    pub fn found_readable(&self) {
        self.read.store(true, Ordering::Relaxed);
    }

    /// No verdict could be read from the refiner's first judgement. Once one was read, a later failure is only its own.
    pub fn found_unreadable(&self) {
        self.unreadable.fetch_or(!self.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// A refinement was asked for in the form of a reflection and a response between markers.
    pub fn tried_reflection(&self, was_read: bool) {
        self.reflected.store(true, Ordering::Relaxed);
        self.reflection_read.fetch_or(was_read, Ordering::Relaxed);
    }

    /// Whether the refiner has not once kept to that form.
    pub fn reflections_fail(&self) -> bool {
        self.reflected.load(Ordering::Relaxed) && !self.reflection_read.load(Ordering::Relaxed)
    }

    /// The rules' patterns cost the engine too much: cheaper ones are next, and then none.
    pub fn give_up_guide(&self) {
        self.guide.fetch_add(1, Ordering::Relaxed);
    }

    /// How the rules' patterns are used now.
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
