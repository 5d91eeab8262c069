//! How the replicas of a fleet stand, for people and for metrics.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tokio::time::Instant;

use super::replica::{Counts, Replica};
use super::{Circuit, Fleet, Kind, Roles, SECONDS, State, without_login};

/// How a replica stands.
#[derive(Clone, Debug)]
pub struct View {
    /// The name of the replica.
    pub name: String,
    /// Its address, without a login.
    pub url: String,
    /// What it answers for.
    pub roles: Roles,
    /// The name of its dialect, once it was reached.
    pub dialect: Option<&'static str>,
    /// The model that it is asked for, once it was reached.
    pub model: Option<String>,
    /// Its share of the calls.
    pub weight: f64,
    /// Replies that it takes at a time.
    pub max_in_flight: Option<usize>,
    /// Replies that it has at present.
    pub in_flight: usize,
    /// Whether it takes calls.
    pub state: State,
    /// Why it takes none.
    pub reason: Option<String>,
    /// The state of its circuit breaker.
    pub circuit: Circuit,
    /// The adapters that it has loaded.
    pub adapters: Vec<String>,
    /// What it has done.
    pub counted: Counted,
}

/// What has been counted of a replica since the server started.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Calls that were answered to their end.
    pub answered: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Calls that their caller gave up.
    pub cancelled: u64,
    /// Failures by their kind.
    pub errors: Vec<(Kind, u64)>,
    /// Failed calls that were sent again.
    pub retries: u64,
    /// Calls that were sent to another replica as well, since this one was slow.
    pub hedges: u64,
    /// Calls by the time to their first token: one count for each bound in [`SECONDS`], and those beyond.
    pub first_token: Vec<u64>,
    /// The sum of these times.
    pub first_token_seconds: f64,
}

impl Fleet {
    /// How every replica stands.
    pub fn views(&self) -> Vec<View> {
        self.replicas.load().iter().map(|replica| view(replica)).collect()
    }

    /// How often a changed list was accepted, and how often one was refused.
    pub fn reloads(&self) -> [u64; 2] {
        [0, 1].map(|index: usize| self.reloads[index].load(Relaxed))
    }
}

fn view(replica: &Replica) -> View {
    let (config, server) = (replica.config.load(), replica.server.load());
    let unusable = replica.check(None, Instant::now()).err();
    View {
        name: config.name.clone(),
        url: without_login(&config.url),
        roles: config.roles,
        dialect: server.as_ref().map(|server| server.dialect.name()),
        model: server.as_ref().map(|server| server.info.name.clone()),
        weight: config.weight,
        max_in_flight: config.max_in_flight,
        in_flight: replica.load.load(Relaxed),
        state: unusable.as_ref().map_or(State::Ready, |unusable| unusable.state),
        reason: unusable.map(|unusable| unusable.reason),
        circuit: replica.circuit(),
        adapters: replica.adapters(),
        counted: counted(&replica.counts),
    }
}

fn counted(counts: &Counts) -> Counted {
    let read = |count: &AtomicU64| count.load(Relaxed);
    debug_assert_eq!(counts.first_token.len(), SECONDS.len() + 1);
    Counted {
        answered: read(&counts.answered),
        failed: read(&counts.failed),
        cancelled: read(&counts.cancelled),
        errors: Kind::ALL.into_iter().map(|kind| (kind, read(&counts.errors[kind as usize]))).collect(),
        retries: read(&counts.retries),
        hedges: read(&counts.hedges),
        first_token: counts.first_token.iter().map(read).collect(),
        first_token_seconds: read(&counts.first_token_micros) as f64 / 1e6,
    }
}
