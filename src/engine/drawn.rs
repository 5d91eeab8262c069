//! A drawn token with its log-probabilities.

use crate::kernels;

/// A drawn token.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The token's id.
    pub id: u32,
    /// Natural-log probabilities under the model's own distribution, if asked for.
    pub logprobs: Option<DrawnLogprobs>,
}

/// Natural-log probabilities before bias, penalties, temperature and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawnLogprobs {
    /// The log-probability of the drawn token.
    pub drawn: f32,
    /// The likeliest tokens, best first; of equals, the lower id first.
    pub top: Vec<(u32, f32)>,
    /// The place of the drawn token among all, 1 for the likeliest.
    pub rank: usize,
}

impl DrawnLogprobs {
    /// Log-probabilities of the token `id`, which something else chose, and of the `top` likeliest.
    pub fn new(logits: &[f32], id: u32, top: usize) -> Self {
        Raw::new(logits, top).logprobs(id)
    }
}

/// Log of the sum of exponentials: a logit minus this is the token's natural-log probability.
pub fn log_total(logits: &[f32]) -> f32 {
    let peak = kernels::max(logits);
    let total: f64 = logits.iter().map(|&x| f64::from(x - peak).exp()).sum();
    peak + total.ln() as f32
}

/// What must be remembered of the logits before they are changed.
pub(super) struct Raw {
    /// Log of the sum of exponentials of the logits.
    log_total: f32,
    top: Vec<(u32, f32)>,
    logits: Vec<f32>,
}

impl Raw {
    pub(super) fn new(logits: &[f32], n: usize) -> Self {
        let mut top: Vec<(u32, f32)> = Vec::with_capacity(n + 1);
        for (id, &x) in logits.iter().enumerate() {
            if n > 0 && (top.len() < n || top.last().is_some_and(|&(_, least)| x > least)) {
                let at = top.partition_point(|&(_, y)| y >= x);
                top.insert(at, (id as u32, x));
                top.truncate(n);
            }
        }
        Self { log_total: log_total(logits), top, logits: logits.to_vec() }
    }

    pub(super) fn logprobs(self, id: u32) -> DrawnLogprobs {
        let top = self.top.into_iter().map(|(id, x)| (id, x - self.log_total)).collect();
        let drawn = self.logits[id as usize];
        let rank = 1 + self.logits.iter().filter(|&&other| other > drawn).count();
        DrawnLogprobs { drawn: drawn - self.log_total, top, rank }
    }
}
