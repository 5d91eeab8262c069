//! A circuit breaker: after a few failures in a row a replica gets no calls for a while, then one that shows whether it works.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it.
const FAILURES: u32 = 3;
/// How long it is open at first; it doubles with every trial that fails.
const FIRST: Duration = Duration::from_secs(1);
/// How long it is open at most.
const LONGEST: Duration = Duration::from_secs(30);

/// Whether a replica is trusted with calls.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Breaker {
    failures: u32,
    /// When it may be tried again; `None` while it is closed.
    open_until: Option<Instant>,
    /// How long it was open last.
    pause: Duration,
    /// The one call that shows whether the replica works again.
    trial: bool,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// All calls pass.
    Closed,
    /// No call passes.
    Open,
    /// One call passes, and decides.
    HalfOpen,
}

impl Circuit {
    /// Every state of a breaker.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name of the state in metrics and answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl Breaker {
    pub fn state(&self, now: Instant) -> Circuit {
        match self.open_until {
            None => Circuit::Closed,
            Some(until) if now < until => Circuit::Open,
            Some(_) => Circuit::HalfOpen,
        }
    }

    /// When a call may pass; `None`: now. Behind the call that is on trial others wait.
    pub fn wait(&self, now: Instant) -> Option<Instant> {
        match self.state(now) {
            Circuit::Closed => None,
            Circuit::Open => self.open_until,
            Circuit::HalfOpen if self.trial => Some(now + FIRST / 4),
            Circuit::HalfOpen => None,
        }
    }

    /// A call passes.
    pub fn admit(&mut self, now: Instant) {
        self.trial |= self.state(now) == Circuit::HalfOpen;
    }

    /// A call went well.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// A call failed. `jitter` is between 0 and 1: several servers in front of one replica should not try it at the same moment.
    pub fn failed(&mut self, now: Instant, jitter: f64) {
        self.failures += 1;
        let on_trial = std::mem::take(&mut self.trial);
        if on_trial || (self.open_until.is_none() && self.failures >= FAILURES) {
            self.pause = if self.pause.is_zero() { FIRST } else { (self.pause * 2).min(LONGEST) };
            self.open_until = Some(now + self.pause.mul_f64(0.75 + jitter / 2.0));
        }
    }

    /// A call was given up by its caller: it says nothing of the replica.
    pub fn abandoned(&mut self) {
        self.trial = false;
    }

    /// The replica answers again, so that the next call may try it.
    pub fn reachable(&mut self, now: Instant) {
        if self.open_until.is_some() {
            self.open_until = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_a_trial_decides() {
        let begin = Instant::now();
        let at = |seconds: f64| begin + Duration::from_secs_f64(seconds);
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(begin, 0.5);
        }
        breaker.succeeded();
        for _ in 0..2 {
            breaker.failed(begin, 0.5);
        }
        assert_eq!(breaker.state(begin), Circuit::Closed, "a success between failures is a new beginning");
        breaker.failed(begin, 0.5);
        assert_eq!((breaker.state(at(0.9)), breaker.wait(at(0.9))), (Circuit::Open, Some(at(1.0))));
        assert_eq!((breaker.state(at(1.1)), breaker.wait(at(1.1))), (Circuit::HalfOpen, None));
        breaker.admit(at(1.1));
        assert!(breaker.wait(at(1.1)).is_some(), "there is one trial at a time");
        breaker.abandoned();
        assert!(breaker.wait(at(1.1)).is_none(), "a trial that was given up decides nothing");
        breaker.admit(at(1.1));
        breaker.failed(at(1.2), 0.5);
        assert_eq!((breaker.state(at(3.1)), breaker.state(at(3.3))), (Circuit::Open, Circuit::HalfOpen));
        breaker.admit(at(3.3));
        breaker.succeeded();
        assert_eq!(breaker.state(at(3.3)), Circuit::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_double_up_to_a_bound_and_end_when_the_replica_is_back() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| breaker.failed(now, 0.0));
        for _ in 0..10 {
            now = breaker.wait(now).unwrap();
            breaker.admit(now);
            breaker.failed(now, 0.5);
        }
        assert_eq!(breaker.wait(now), Some(now + LONGEST));
        breaker.reachable(now);
        assert_eq!(breaker.state(now), Circuit::HalfOpen);
    }
}
