//! Shows how far a stage is: a bar on a terminal, and lines in the log with the expected end where standard error is a file.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::engines::bar;

/// Time between two lines in the log.
const INTERVAL: Duration = Duration::from_secs(15);

/// The progress of one stage.
pub struct Progress {
    what: &'static str,
    bar: ProgressBar,
    all: usize,
    /// Items that were finished before this run.
    before: usize,
    done: usize,
    began: Instant,
    logged: Instant,
}

impl Progress {
    /// Starts at `done` of `all` items.
    #[must_use]
    pub fn new(what: &'static str, all: usize, done: usize) -> Self {
        let now = Instant::now();
        Self { what, bar: bar(what, all, done), all, before: done, done, began: now, logged: now }
    }

    /// Counts one more finished item.
    pub fn advance(&mut self) {
        self.bar.inc(1);
        self.done += 1;
        if self.bar.is_hidden() && self.logged.elapsed() >= INTERVAL {
            let (done, all) = (self.done, self.all);
            let left = remaining(self.began.elapsed(), self.done - self.before, all.saturating_sub(done));
            tracing::info!(done, all, seconds_left = left.as_secs(), "{}", self.what);
            self.logged = Instant::now();
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        self.bar.finish_and_clear();
    }
}

/// The time that `left` items take if each takes as long as those that were finished in `elapsed`.
fn remaining(elapsed: Duration, finished: usize, left: usize) -> Duration {
    elapsed.mul_f64(left as f64 / finished.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_time_counts_what_this_run_has_finished() {
        let minute = Duration::from_secs(60);
        for (finished, left, seconds) in [(10, 20, 120), (60, 0, 0), (0, 5, 300)] {
            assert_eq!(remaining(minute, finished, left).as_secs(), seconds, "{finished} {left}");
        }
        let mut progress = Progress::new("counting", 3, 1);
        progress.advance();
        progress.advance();
        assert_eq!((progress.done, progress.before), (3, 1));
        progress.finish();
    }
}
