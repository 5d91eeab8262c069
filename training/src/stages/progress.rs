//! Shows how far a stage is: a bar on a terminal, a line in the log now and then elsewhere.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// The time between two lines of the log.
const EVERY: Duration = Duration::from_secs(30);

/// The progress of a number of items.
pub(super) struct Progress {
    what: &'static str,
    bar: ProgressBar,
    started: Instant,
    first: u64,
    logged: Mutex<Instant>,
}

impl Progress {
    /// Starts at the number of items that are finished already.
    pub fn new(what: &'static str, all: usize, done: usize) -> Self {
        let style = ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len} [{elapsed_precise} < {eta_precise}]");
        let bar = ProgressBar::new(all as u64).with_message(what);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_position(done as u64);
        bar.reset_eta();
        let started = Instant::now();
        if bar.is_hidden() {
            tracing::info!(done, all, "{what}");
        }
        Self { what, bar, started, first: done as u64, logged: Mutex::new(started) }
    }

    /// One more item is finished.
    pub fn step(&self) {
        self.bar.inc(1);
        if !self.bar.is_hidden() {
            return;
        }
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.elapsed() >= EVERY {
            *logged = Instant::now();
            let (done, all) = (self.bar.position(), self.bar.length().unwrap_or_default());
            let left = seconds_left(self.started.elapsed(), done - self.first, all.saturating_sub(done));
            tracing::info!(done, all, seconds_left = left, "{}", self.what);
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
        if self.bar.is_hidden() {
            tracing::info!(seconds = self.started.elapsed().as_secs(), "finished {}", self.what);
        }
    }
}

/// The time that `left` items need if they take as long as `done` items took.
fn seconds_left(elapsed: Duration, done: u64, left: u64) -> u64 {
    (elapsed.as_secs_f64() / done.max(1) as f64 * left as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_from_the_items_of_this_run() {
        assert_eq!(seconds_left(Duration::from_secs(30), 10, 20), 60);
        assert_eq!(seconds_left(Duration::from_secs(30), 0, 2), 60);
    }
}
