//! How long somebody who is refused should wait: measured, not guessed.

use std::time::Duration;

use tokio::time::Instant;

/// A longer wait is not promised to anybody.
const LONGEST: Duration = Duration::from_secs(600);

/// How often places come free, measured while somebody waits for one.
#[derive(Default)]
pub(in crate::http) struct Pace {
    /// When the last place came free, or when somebody began to wait for one.
    since: Option<Instant>,
    /// The mean time between places, the last ones counting most.
    mean: Option<Duration>,
    /// Up to when the places that will come free are promised.
    promised: Option<Instant>,
}

impl Pace {
    /// A request waits.
    pub(in crate::http) fn waits(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Nobody waits any more, though no place came free.
    pub(in crate::http) fn rests(&mut self) {
        self.since = None;
    }

    /// A place came free and was taken by somebody who waited; whether somebody still waits.
    pub(in crate::http) fn freed(&mut self, now: Instant, waiting: bool) {
        if let Some(since) = self.since.take() {
            let took = now.saturating_duration_since(since);
            self.mean = Some(self.mean.map_or(took, |mean| (mean * 7 + took) / 8));
        }
        self.since = waiting.then_some(now);
    }

    /// The time after which a place should be free for one who is refused now. Each who is refused is promised another
    /// place, so that all of them do not come back at once.
    pub(in crate::http) fn promise(&mut self, now: Instant) -> Duration {
        let nothing_for = self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let between = self.mean.unwrap_or_default().max(nothing_for);
        let at = self.promised.map_or(now, |promised| promised.max(now)) + between;
        let at = at.min(now + LONGEST);
        self.promised = Some(at);
        at - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_follows_from_what_was_measured() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut pace = Pace::default();
        assert_eq!(pace.promise(start), Duration::ZERO, "nothing is known yet");
        pace.waits(at(0));
        assert_eq!(pace.promise(at(3)), Duration::from_secs(3), "nothing has come free for so long");
        pace.freed(at(8), true);
        for second in [16, 24, 32] {
            pace.freed(at(second), true);
        }
        let promised: Vec<u64> = (0..3).map(|_| pace.promise(at(32)).as_secs()).collect();
        assert_eq!(promised, [8, 16, 24]);
        assert_eq!(pace.promise(at(40)).as_secs(), 24, "one of the promised places has come free");
        pace.freed(at(40), false);
        let promised: Vec<u64> = (0..100).map(|_| pace.promise(at(500)).as_secs()).collect();
        assert_eq!((promised[0], promised[99]), (8, 600));
    }
}
