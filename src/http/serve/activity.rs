//! What a connection is doing, as its socket and its requests report it, and when it has taken too long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use axum::http::Version;
use futures::task::AtomicWaker;
use tokio::time::Instant;

use super::limits::Limits;
use crate::telemetry::metrics::TimedOut;

/// The state of a connection, shared by its socket, its requests and its timer.
pub(super) struct Activity {
    state: Mutex<State>,
    changed: AtomicWaker,
}

struct State {
    /// Requests whose responses are not complete.
    requests: usize,
    /// When the connection was opened, or its last response was complete.
    since: Instant,
    /// When the first byte after that came.
    begun: Option<Instant>,
    /// Whether no request has arrived yet.
    fresh: bool,
    /// Under HTTP/2 bytes between requests belong to no request.
    multiplexed: bool,
}

impl Activity {
    /// A connection that was opened at `opened`.
    pub fn new(opened: Instant) -> Arc<Self> {
        let state = State { requests: 0, since: opened, begun: None, fresh: true, multiplexed: false };
        Arc::new(Self { state: Mutex::new(state), changed: AtomicWaker::new() })
    }

    /// Bytes have come.
    pub fn received(&self) {
        let mut state = self.state();
        if state.requests == 0 && state.begun.is_none() {
            state.begun = Some(Instant::now());
        }
    }

    /// A request has come; it lasts until the result is dropped.
    pub fn begin(self: &Arc<Self>, version: Version) -> Busy {
        let mut state = self.state();
        state.requests += 1;
        state.begun = None;
        state.fresh = false;
        state.multiplexed = version == Version::HTTP_2;
        drop(state);
        Busy(Arc::clone(self))
    }

    /// When the connection must end unless something happens, and why.
    pub fn deadline(&self, limits: &Limits) -> Option<(Instant, TimedOut)> {
        let state = self.state();
        match (state.requests, state.begun) {
            (1.., _) => None,
            (0, Some(begun)) if !state.multiplexed => Some((begun + limits.header, TimedOut::Header)),
            // The first request must come sooner than a later one.
            (0, _) if state.fresh => Some((state.since + limits.header, TimedOut::Header)),
            (0, _) => Some((state.since + limits.idle, TimedOut::Idle)),
        }
    }

    /// `waker` is woken when [`Activity::deadline`] is to be asked again.
    pub fn watch(&self, waker: &Waker) {
        self.changed.register(waker);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request, until its response is complete.
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.since = Instant::now();
            state.begun = None;
        }
        drop(state);
        self.0.changed.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn headers_and_idle_time_are_limited_and_requests_are_not() {
        let limits = Limits { header: Duration::from_secs(10), idle: Duration::from_secs(75), ..Limits::default() };
        let opened = Instant::now();
        let at = |seconds| opened + Duration::from_secs(seconds);
        let activity = Activity::new(opened);
        assert_eq!(activity.deadline(&limits), Some((at(10), TimedOut::Header)), "nothing was sent");
        tokio::time::advance(Duration::from_secs(5)).await;
        activity.received();
        tokio::time::advance(Duration::from_secs(1)).await;
        activity.received();
        assert_eq!(activity.deadline(&limits), Some((at(15), TimedOut::Header)), "later bytes give no more time");
        let busy = activity.begin(Version::HTTP_11);
        activity.received();
        assert_eq!(activity.deadline(&limits), None);
        drop(busy);
        assert_eq!(activity.deadline(&limits), Some((at(81), TimedOut::Idle)));
        activity.received();
        assert_eq!(activity.deadline(&limits), Some((at(16), TimedOut::Header)));
        let pair = [activity.begin(Version::HTTP_2), activity.begin(Version::HTTP_2)];
        let [one, two] = pair;
        drop(one);
        assert_eq!(activity.deadline(&limits), None);
        drop(two);
        activity.received();
        assert_eq!(activity.deadline(&limits), Some((at(81), TimedOut::Idle)), "a ping begins no request");
    }
}
