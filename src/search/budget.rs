//! The budgets of one search: calls and tokens are reserved before they are spent.

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::SearchConfig;
use crate::engine::Purpose;

/// Counts by purpose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ByPurpose {
    /// Counts for drafts.
    pub answer: usize,
    /// Counts for critiques.
    pub judge: usize,
    /// Counts for refinements.
    pub refine: usize,
    /// Verdicts that were read as probabilities. Their tokens are prompt tokens: nothing is generated for them.
    pub score: usize,
}

impl ByPurpose {
    /// Calls of every kind.
    pub fn total(self) -> usize {
        self.answer + self.judge + self.refine + self.score
    }

    /// Counts of the purposes that generate text, which is all but `score`.
    pub fn generated(self) -> usize {
        self.answer + self.judge + self.refine
    }

    fn count_mut(&mut self, purpose: Purpose) -> &mut usize {
        match purpose {
            Purpose::Answer => &mut self.answer,
            Purpose::Judge => &mut self.judge,
            Purpose::Refine => &mut self.refine,
        }
    }
}

/// Which budget is spent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spent {
    Calls,
    Tokens,
}

/// What a search has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub calls: ByPurpose,
    pub tokens: ByPurpose,
    pub prompt_tokens: ByPurpose,
    /// Tokens that running calls may still generate.
    reserved: usize,
    /// Calls that run now.
    running: usize,
}

/// One search's budgets.
pub(super) struct Ledger {
    max_calls: usize,
    max_tokens: usize,
    parallel: usize,
    used: Mutex<Used>,
    /// Notified when a call ends, since the tokens that it did not generate are free again.
    freed: Notify,
}

impl Ledger {
    pub fn new(config: &SearchConfig) -> Self {
        Self {
            max_calls: config.max_calls.unwrap_or(usize::MAX),
            max_tokens: config.max_tokens.unwrap_or(usize::MAX),
            parallel: config.parallel.max(1),
            used: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// Counts a draft that was made outside of the search.
    pub fn count_draft(&self, draft: &crate::engine::Completion) {
        let mut used = self.lock();
        used.calls.answer += 1;
        used.tokens.answer += draft.tokens;
        used.prompt_tokens.answer += draft.prompt_tokens;
    }

    /// Reserves up to `calls` sibling calls of up to `tokens` tokens each, at least one call. Waits while a running call may still give
    /// back what is missing. A single call may get fewer tokens than it asks for, namely all that are left.
    pub async fn reserve(&self, purpose: Purpose, calls: usize, tokens: usize) -> Result<Permit<'_>, Spent> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if let Some(permit) = self.try_reserve(purpose, calls, tokens)? {
                return Ok(permit);
            }
            freed.await;
        }
    }

    fn try_reserve(&self, purpose: Purpose, calls: usize, tokens: usize) -> Result<Option<Permit<'_>>, Spent> {
        let mut used = self.lock();
        let left = self.max_calls - used.calls.total().min(self.max_calls);
        if left == 0 {
            return Err(Spent::Calls);
        }
        let mut calls = calls.min(left);
        if used.running > 0 && used.running + calls > self.parallel {
            return Ok(None);
        }
        let free = self.max_tokens.saturating_sub(used.tokens.generated() + used.reserved);
        if calls.saturating_mul(tokens) > free {
            if used.running > 0 {
                return Ok(None);
            }
            if free == 0 {
                return Err(Spent::Tokens);
            }
            calls = (free / tokens.max(1)).max(1);
        }
        let tokens = tokens.min(free);
        *used.calls.count_mut(purpose) += calls;
        used.running += calls;
        used.reserved = used.reserved.saturating_add(calls.saturating_mul(tokens));
        Ok(Some(Permit { ledger: self, purpose, calls, tokens, left: calls.saturating_mul(tokens).into() }))
    }

    /// Counts a call that reads `questions` verdicts.
    pub fn count_reading(&self, questions: usize) -> Result<(), Spent> {
        let mut used = self.lock();
        if used.calls.total() >= self.max_calls {
            return Err(Spent::Calls);
        }
        used.calls.score += questions;
        Ok(())
    }

    /// Counts the prompt tokens of verdicts that were read as probabilities.
    pub fn count_read_tokens(&self, prompt_tokens: usize) {
        self.lock().tokens.score += prompt_tokens;
    }

    pub fn used(&self) -> Used {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to make `calls` sibling calls of `tokens` tokens each. Dropping the permit returns the tokens that were not used.
pub(super) struct Permit<'a> {
    ledger: &'a Ledger,
    purpose: Purpose,
    pub calls: usize,
    pub tokens: usize,
    left: Mutex<usize>,
}

impl Permit<'_> {
    /// Counts generated tokens, but no more than were reserved.
    pub fn spend(&self, tokens: usize) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let tokens = tokens.min(*left);
        *left -= tokens;
        let mut used = self.ledger.lock();
        used.reserved = used.reserved.saturating_sub(tokens);
        *used.tokens.count_mut(self.purpose) += tokens;
    }

    /// Counts a prompt that was sent.
    pub fn count_prompt(&self, prompt_tokens: usize) {
        *self.ledger.lock().prompt_tokens.count_mut(self.purpose) += prompt_tokens;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self.ledger.lock();
        used.reserved = used.reserved.saturating_sub(left);
        used.running -= self.calls;
        drop(used);
        self.ledger.freed.notify_waiters();
    }
}
