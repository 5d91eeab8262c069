//! Connections: how many are open, which are refused, and which are too slow.

use metrics::{counter, gauge};

use super::Counted;

/// Known label sets start at zero.
pub(super) fn begin() {
    gauge!("spar_connections").increment(0.0);
    counter!("spar_connections_refused_total").increment(0);
    for slow in [TimedOut::Header, TimedOut::Idle, TimedOut::Body, TimedOut::Write, TimedOut::Request] {
        counter!("spar_connection_timeouts_total", "at" => slow.label()).increment(0);
    }
}

/// What a client was too slow at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimedOut {
    /// Sending the headers of a request.
    Header,
    /// Sending another request.
    Idle,
    /// Sending the body of a request.
    Body,
    /// Taking a response.
    Write,
    /// Taking the whole of a streamed response within the time for its request.
    Request,
}

impl TimedOut {
    fn label(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Idle => "idle",
            Self::Body => "body",
            Self::Write => "write",
            Self::Request => "request",
        }
    }
}

/// A client was too slow, so its connection or its request was ended.
pub fn timed_out(at: TimedOut) {
    counter!("spar_connection_timeouts_total", "at" => at.label()).increment(1);
}

/// A connection is beyond the limit.
pub fn connection_refused() {
    counter!("spar_connections_refused_total").increment(1);
}

impl Counted {
    /// A connection.
    pub fn connection() -> Self {
        Self::begin("spar_connections")
    }
}
