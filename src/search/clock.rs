//! The clock of one search: its deadline, and an estimate of how long a step takes from the speed so far.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::SearchConfig;

/// The divisor that gives the part of a deadline reserved for judging an unfinished draft.
const JUDGING_SHARE: u32 = 10;
/// The longest time that is reserved for judging.
const MAX_JUDGING_TIME: Duration = Duration::from_secs(2);

/// The start and the deadline of a search, and the speed of its model.
pub(super) struct Clock {
    pub started: Instant,
    pub deadline: Option<Instant>,
    speed: Mutex<Speed>,
}

#[derive(Clone, Copy, Default)]
struct Speed {
    tokens: usize,
    generating: Duration,
    /// How long the last judgement took.
    judging: Duration,
}

impl Clock {
    pub fn start(config: &SearchConfig) -> Self {
        let started = Instant::now();
        let deadline = config.deadline.and_then(|deadline| started.checked_add(deadline));
        Self { started, deadline, speed: Mutex::default() }
    }

    /// The time at which a draft is cut off, so that enough time is left to judge it.
    pub fn draft_until(&self) -> Option<Instant> {
        let deadline = self.deadline?;
        let all = deadline - self.started;
        Some(deadline - (all / JUDGING_SHARE).min(MAX_JUDGING_TIME))
    }

    /// Records that a reply of `tokens` took `time`.
    pub fn generated(&self, tokens: usize, time: Duration) {
        let mut speed = self.speed();
        speed.tokens += tokens;
        speed.generating += time;
    }

    /// Records that a judgement took `time`.
    pub fn judged(&self, time: Duration) {
        self.speed().judging = time;
    }

    /// Whether a reply of `tokens` and its judgement would end after the deadline at the speed measured so far.
    pub fn is_too_late_for(&self, tokens: usize) -> bool {
        let Some(deadline) = self.deadline else { return false };
        let Speed { tokens: measured, generating, judging } = *self.speed();
        if measured == 0 {
            return false;
        }
        let expected = generating.mul_f64(tokens as f64 / measured as f64) + judging;
        Instant::now().checked_add(expected).is_none_or(|end| end > deadline)
    }

    fn speed(&self) -> MutexGuard<'_, Speed> {
        self.speed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_cannot_end_in_time_is_known() {
        let clock = Clock::start(&SearchConfig { deadline: Some(Duration::from_secs(10)), ..SearchConfig::default() });
        assert_eq!(clock.draft_until(), Some(clock.started + Duration::from_secs(9)));
        assert!(!clock.is_too_late_for(1_000_000), "nothing was measured yet");
        clock.generated(100, Duration::from_secs(4));
        clock.judged(Duration::from_secs(1));
        tokio::time::advance(Duration::from_secs(5)).await;
        // A token takes 0.04 s and the judgement 1 s; 5 s are left.
        for (tokens, expected) in [(100, false), (101, true)] {
            assert_eq!(clock.is_too_late_for(tokens), expected, "{tokens}");
        }
        let endless = Clock::start(&SearchConfig::default());
        endless.generated(1, Duration::from_secs(4));
        assert!(!endless.is_too_late_for(1_000_000) && endless.draft_until().is_none());
    }
}
