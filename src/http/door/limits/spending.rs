//! Tokens that a key has used: within the last minute, and in all.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::telemetry::metrics::TokenKind;

/// Tokens are counted over this time.
const WINDOW: Duration = Duration::from_secs(60);
/// Tokens of so much time count as one entry.
const STEP: Duration = Duration::from_secs(1);

/// Tokens by the time when they were used, prompts and replies alike.
#[derive(Debug, Default)]
pub struct Spending {
    window: Mutex<Window>,
    prompt: AtomicU64,
    generated: AtomicU64,
}

/// Tokens that a key has used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// Tokens of prompts since the key has been known.
    pub prompt: u64,
    /// Generated tokens since then.
    pub generated: u64,
    /// Tokens of both kinds within the last minute.
    pub last_minute: u64,
}

#[derive(Debug, Default)]
struct Window {
    entries: VecDeque<(Instant, u64)>,
    total: u64,
}

impl Spending {
    /// So many tokens were used now.
    pub fn add(&self, tokens: usize) {
        if tokens > 0 {
            self.add_at(tokens as u64, Instant::now());
        }
    }

    /// So many tokens of a kind were used now.
    pub fn add_kind(&self, kind: TokenKind, tokens: usize) {
        let total = match kind {
            TokenKind::Prompt => &self.prompt,
            TokenKind::Generated => &self.generated,
        };
        total.fetch_add(tokens as u64, Ordering::Relaxed);
        self.add(tokens);
    }

    /// What was used up to now.
    pub fn spent(&self) -> Spent {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.forget(Instant::now());
        let [prompt, generated] = [&self.prompt, &self.generated].map(|total| total.load(Ordering::Relaxed));
        Spent { prompt, generated, last_minute: window.total }
    }

    /// How long a caller must wait until it has used fewer than `limit` tokens within a minute; `None`: it need not.
    pub fn wait(&self, limit: u64) -> Option<Duration> {
        self.wait_at(limit, Instant::now())
    }

    fn add_at(&self, tokens: u64, now: Instant) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.forget(now);
        window.total += tokens;
        match window.entries.back_mut() {
            Some((begun, sum)) if now.saturating_duration_since(*begun) < STEP => *sum += tokens,
            _ => window.entries.push_back((now, tokens)),
        }
    }

    fn wait_at(&self, limit: u64, now: Instant) -> Option<Duration> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.forget(now);
        let mut left = window.total;
        let mut until = None;
        for (begun, tokens) in &window.entries {
            if left < limit {
                break;
            }
            left -= tokens;
            until = Some(*begun + WINDOW + STEP);
        }
        until.map(|until| until.saturating_duration_since(now))
    }
}

impl Window {
    fn forget(&mut self, now: Instant) {
        while let Some(&(begun, tokens)) = self.entries.front() {
            if now.saturating_duration_since(begun) < WINDOW + STEP {
                break;
            }
            self.total -= tokens;
            self.entries.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_count_for_a_minute() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let spending = Spending::default();
        assert_eq!(spending.wait_at(10, at(0)), None);
        spending.add_at(6, at(0));
        assert_eq!(spending.wait_at(10, at(0)), None);
        spending.add_at(6, at(20));
        let waits = |limit, seconds| spending.wait_at(limit, at(seconds)).map(|wait| wait.as_secs());
        assert_eq!(waits(10, 20), Some(41), "until the first six are forgotten");
        assert_eq!(waits(6, 20), Some(61), "until all are");
        assert_eq!(waits(10, 61), None);
        assert_eq!(waits(6, 61), Some(20));
        assert_eq!(waits(6, 81), None);
    }
}
