//! The limits of every connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::config::HttpArgs;

/// Bytes of responses that wait in memory for slow clients, all together.
const BACKLOG: usize = 64 << 20;

/// The limits of every connection; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Limits {
    /// For the headers of a request, from their first byte on.
    pub header: Duration,
    /// Between requests.
    pub idle: Duration,
    /// For a client to take a byte.
    pub write: Duration,
    /// For a whole response that is streamed.
    pub request: Duration,
    /// Whether a connection may have more than one request.
    pub keep_alive: bool,
    /// Shared room for responses that wait for their clients.
    pub backlog: Backlog,
}

impl Limits {
    /// As configured.
    pub fn of(http: &HttpArgs) -> Self {
        let connections = &http.connections;
        Self {
            header: connections.header_timeout,
            idle: connections.idle_timeout,
            write: connections.write_timeout,
            request: http.request_timeout,
            keep_alive: true,
            backlog: Backlog::new(BACKLOG),
        }
    }

    /// For connections beyond the limit: they carry one request, which must come at once.
    pub fn hurried(&self) -> Self {
        let soon = Duration::from_secs(2);
        let [header, write] = [self.header, self.write].map(|time| time.min(soon));
        Self { header, write, idle: Duration::from_millis(100), keep_alive: false, ..self.clone() }
    }
}

#[cfg(test)]
impl Default for Limits {
    fn default() -> Self {
        let [header, idle, write, request] = [10, 75, 30, 600].map(Duration::from_secs);
        Self { header, idle, write, request, keep_alive: true, backlog: Backlog::new(BACKLOG) }
    }
}

/// Room in memory, shared by everything that clones it.
#[derive(Clone, Debug)]
pub(super) struct Backlog {
    free: Arc<AtomicUsize>,
}

impl Backlog {
    pub fn new(bytes: usize) -> Self {
        Self { free: Arc::new(AtomicUsize::new(bytes)) }
    }

    /// Whether nothing is left. The last frame may exceed the room.
    pub fn is_full(&self) -> bool {
        self.free.load(Ordering::Relaxed) == 0
    }

    /// Takes up to `bytes` and returns how many; the caller gives these back.
    pub fn take(&self, bytes: usize) -> usize {
        let less = |free: usize| Some(free.saturating_sub(bytes));
        let before = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).unwrap_or_default();
        before.min(bytes)
    }

    pub fn give_back(&self, bytes: usize) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_lends_what_it_has() {
        let backlog = Backlog::new(10);
        assert_eq!((backlog.take(8), backlog.is_full()), (8, false));
        assert_eq!((backlog.take(8), backlog.is_full(), backlog.take(1)), (2, true, 0));
        backlog.give_back(10);
        assert_eq!(backlog.take(20), 10);
    }
}
