//! One server of a fleet: whether it can be used, what it does at present, and what it has done.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::time::Instant;

use super::breaker::{Breaker, Circuit};
use super::settings::ReplicaConfig;
use crate::engine::Role;
use crate::engine::upstream::failure::{Failure, Kind};
use crate::engine::upstream::{Siblings, UpstreamEngine};

/// Bounds of the buckets of the time to the first token, in seconds.
pub const SECONDS: [f64; 12] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0];
/// The pause after a refusal for being busy that names none.
const BUSY: Duration = Duration::from_millis(250);

/// A server of a fleet.
pub(super) struct Replica {
    /// Its number where replicas are ranked, from its name: the same in every server in front of it.
    pub id: u64,
    pub config: ArcSwap<ReplicaConfig>,
    /// The server, once it was reached.
    pub server: ArcSwapOption<UpstreamEngine>,
    condition: Mutex<Condition>,
    /// Replies that it has at present.
    pub load: AtomicUsize,
    /// Whether it was seen to ignore `n`.
    pub ignores_n: AtomicBool,
    /// What it has done.
    pub counts: Counts,
}

/// What has been counted of a replica.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub answered: AtomicU64,
    pub failed: AtomicU64,
    pub cancelled: AtomicU64,
    pub errors: [AtomicU64; Kind::ALL.len()],
    pub retries: AtomicU64,
    pub hedges: AtomicU64,
    pub first_token: [AtomicU64; SECONDS.len() + 1],
    pub first_token_micros: AtomicU64,
}

/// Whether a replica can be used.
#[derive(Debug)]
struct Condition {
    breaker: Breaker,
    /// The end of the pause that it asks for.
    busy_until: Option<Instant>,
    /// Why it does not answer.
    down: Option<String>,
    /// Why it is taken out: it failed to load an adapter.
    out: Option<(String, Instant)>,
    /// The time of the server's last answer.
    heard: Instant,
    /// The adapters that it has loaded.
    adapters: Vec<String>,
}

/// Why a replica is not used now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unusable {
    /// When it may be; `None` where that is not known.
    pub until: Option<Instant>,
    pub state: State,
    pub reason: String,
}

/// How a replica stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The replica takes calls.
    Ready,
    /// The replica was not reached yet.
    Connecting,
    /// The replica does not answer.
    Down,
    /// The replica asks for a pause.
    Busy,
    /// The last calls failed, so the replica gets none for a while.
    Failing,
    /// The replica could not load an adapter that is live.
    Out,
}

impl State {
    /// Every state of a replica.
    pub const ALL: [Self; 6] = [Self::Ready, Self::Connecting, Self::Down, Self::Busy, Self::Failing, Self::Out];

    /// The name of the state in metrics and answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Connecting => "connecting",
            Self::Down => "down",
            Self::Busy => "busy",
            Self::Failing => "failing",
            Self::Out => "out",
        }
    }
}

impl Replica {
    pub fn new(config: ReplicaConfig) -> Self {
        let id = crate::engine::Conversation::of_text(config.name.as_bytes()).number(crate::engine::Namespace::SHARED);
        let condition = Condition {
            breaker: Breaker::default(),
            busy_until: None,
            down: None,
            out: None,
            heard: Instant::now(),
            adapters: Vec::new(),
        };
        Self {
            id,
            config: ArcSwap::from_pointee(config),
            server: ArcSwapOption::empty(),
            condition: Mutex::new(condition),
            load: AtomicUsize::new(0),
            ignores_n: AtomicBool::new(false),
            counts: Counts::default(),
        }
    }

    pub fn name(&self) -> String {
        self.config.load().name.clone()
    }

    pub fn has(&self, role: Role) -> bool {
        self.config.load().roles.have(role)
    }

    /// How siblings are asked for.
    pub fn siblings(&self, server: &UpstreamEngine) -> Siblings {
        if self.ignores_n.load(Relaxed) { Siblings::Requests } else { server.siblings }
    }

    /// Whether it can take a call now, and if not, why.
    pub fn check(&self, adapter: Option<&str>, now: Instant) -> Result<(), Unusable> {
        let condition = self.condition();
        let never = |state, reason: &str| Err(Unusable { until: None, state, reason: reason.into() });
        if let Some((reason, _)) = &condition.out {
            return never(State::Out, reason);
        }
        if let Some(reason) = &condition.down {
            let state = if self.server.load().is_some() { State::Down } else { State::Connecting };
            return never(state, reason);
        }
        if self.server.load().is_none() {
            return never(State::Connecting, "it was not reached yet");
        }
        if let Some(name) = adapter
            && !condition.adapters.iter().any(|loaded| loaded == name)
        {
            return never(State::Out, &format!("it has not loaded the adapter {name}"));
        }
        if let Some(until) = condition.busy_until.filter(|until| *until > now) {
            let reason = "it asks for a pause".to_owned();
            return Err(Unusable { until: Some(until), state: State::Busy, reason });
        }
        match condition.breaker.wait(now) {
            Some(until) => {
                let reason = "its last calls failed".to_owned();
                Err(Unusable { until: Some(until), state: State::Failing, reason })
            }
            None => Ok(()),
        }
    }

    pub fn circuit(&self) -> Circuit {
        self.condition().breaker.state(Instant::now())
    }

    pub fn admit(&self, now: Instant) {
        self.condition().breaker.admit(now);
    }

    pub fn abandoned(&self) {
        self.counts.cancelled.fetch_add(1, Relaxed);
        self.condition().breaker.abandoned();
    }

    /// The first token of a call came.
    pub fn began(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = SECONDS.iter().position(|bound| seconds <= *bound).unwrap_or(SECONDS.len());
        self.counts.first_token[bucket].fetch_add(1, Relaxed);
        self.counts.first_token_micros.fetch_add(took.as_micros() as u64, Relaxed);
        self.heard();
    }

    pub fn heard(&self) {
        self.condition().heard = Instant::now();
    }

    pub fn succeeded(&self) {
        self.counts.answered.fetch_add(1, Relaxed);
        let mut condition = self.condition();
        condition.breaker.succeeded();
        condition.busy_until = None;
    }

    pub fn failed(&self, failure: &Failure) {
        let now = Instant::now();
        self.counts.failed.fetch_add(1, Relaxed);
        self.counts.errors[failure.kind as usize].fetch_add(1, Relaxed);
        let mut condition = self.condition();
        match failure.kind {
            Kind::Busy => {
                let pause = failure.retry_after.unwrap_or(BUSY.mul_f64(0.5 + rand::random::<f64>()));
                condition.busy_until = Some(now + pause);
                condition.breaker.abandoned();
            }
            // The server works; the request or the way of asking is at fault.
            Kind::Refused | Kind::Choices => condition.breaker.succeeded(),
            Kind::Unreachable => {
                condition.breaker.failed(now, rand::random());
                condition.down = Some(failure.error.to_string());
            }
            Kind::Failed | Kind::Unreadable | Kind::Cut | Kind::Silent | Kind::Key => {
                condition.breaker.failed(now, rand::random());
            }
        }
    }

    /// A look at it found it well.
    pub fn is_up(&self) {
        let mut condition = self.condition();
        condition.heard = Instant::now();
        if condition.down.take().is_some() {
            condition.breaker.reachable(Instant::now());
            tracing::info!(upstream = self.name(), "the upstream answers");
        }
    }

    /// A look at it found it at fault.
    pub fn is_down(&self, reason: String) {
        let mut condition = self.condition();
        if condition.down.is_none() {
            tracing::warn!(upstream = self.name(), reason, "the upstream cannot be used");
        }
        condition.down = Some(reason);
    }

    /// How long nothing was heard of it.
    pub fn silence(&self) -> Duration {
        self.condition().heard.elapsed()
    }

    /// It has loaded an adapter, or none any more.
    pub fn set_adapter(&self, name: &str, loaded: bool) {
        let mut condition = self.condition();
        condition.adapters.retain(|other| other != name);
        if loaded {
            condition.adapters.push(name.to_owned());
        }
    }

    /// It has only those of its adapters that `keeps` says: a server that was started again has none.
    pub fn keep_adapters(&self, keeps: impl Fn(&str) -> bool) {
        self.condition().adapters.retain(|name| keeps(name));
    }

    pub fn adapters(&self) -> Vec<String> {
        self.condition().adapters.clone()
    }

    /// It is taken out for `reason`, or comes back.
    pub fn take_out(&self, reason: Option<String>) {
        if let Some(reason) = &reason {
            tracing::warn!(upstream = self.name(), reason, "the upstream is taken out of the fleet");
        }
        self.condition().out = reason.map(|reason| (reason, Instant::now()));
    }

    /// How long ago it was taken out, or has failed to come back.
    pub fn out_for(&self) -> Option<Duration> {
        self.condition().out.as_ref().map(|(_, since)| since.elapsed())
    }

    fn condition(&self) -> MutexGuard<'_, Condition> {
        self.condition.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call that a replica has: its replies count as load until it is dropped.
pub(super) struct Place {
    pub replica: Arc<Replica>,
    pub began: Instant,
    replies: usize,
    decided: bool,
    /// Wakes calls that wait for room.
    freed: Arc<tokio::sync::Notify>,
}

impl Place {
    pub fn take(replica: Arc<Replica>, replies: usize, freed: Arc<tokio::sync::Notify>) -> Self {
        let began = Instant::now();
        replica.load.fetch_add(replies, Relaxed);
        replica.admit(began);
        Self { replica, began, replies, decided: false, freed }
    }

    /// The place under its own name, so that this one can be replaced later: what it has is given back with what is returned.
    pub fn hand_over(&mut self) -> Self {
        let replies = std::mem::take(&mut self.replies);
        let (replica, freed) = (Arc::clone(&self.replica), Arc::clone(&self.freed));
        let decided = std::mem::replace(&mut self.decided, true);
        Self { replica, began: self.began, replies, decided, freed }
    }

    pub fn succeeded(&mut self) {
        if !std::mem::replace(&mut self.decided, true) {
            self.replica.succeeded();
        }
    }

    pub fn failed(&mut self, failure: &Failure) {
        if !std::mem::replace(&mut self.decided, true) {
            self.replica.failed(failure);
            let (upstream, kind) = (self.replica.name(), failure.kind.label());
            tracing::debug!(upstream, kind, error = %failure.error, "a call of an upstream failed");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.decided {
            self.replica.abandoned();
        }
        self.replica.load.fetch_sub(self.replies, Relaxed);
        self.freed.notify_waiters();
    }
}
