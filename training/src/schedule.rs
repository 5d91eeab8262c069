//! The schedule of the learning rate over a run.

use serde::{Deserialize, Serialize};

/// The shape of the schedule after the warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// The rate does not decay.
    Constant,
    /// The rate falls linearly to 0 after the last step.
    #[default]
    Linear,
    /// The rate falls to 0 after the last step, along half a cosine.
    Cosine,
}

impl Schedule {
    /// The factor of the learning rate at `step`, counted from 0. It rises linearly during `warmup` steps.
    #[must_use]
    pub fn factor(self, step: u64, warmup: u64, steps: u64) -> f64 {
        if step < warmup {
            return (step + 1) as f64 / (warmup + 1) as f64;
        }
        let done = (step - warmup) as f64 / (steps.saturating_sub(warmup)).max(1) as f64;
        match self {
            Self::Constant => 1.0,
            Self::Linear => (1.0 - done).max(0.0),
            Self::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors_follow_their_definitions() {
        let cases = [
            (Schedule::Constant, 0, 0.2),
            (Schedule::Constant, 3, 0.8),
            (Schedule::Constant, 13, 1.0),
            (Schedule::Linear, 4, 1.0),
            (Schedule::Linear, 9, 0.5),
            (Schedule::Linear, 13, 0.1),
            (Schedule::Linear, 14, 0.0),
            (Schedule::Cosine, 4, 1.0),
            (Schedule::Cosine, 9, 0.5),
            (Schedule::Cosine, 14, 0.0),
        ];
        for (schedule, step, expected) in cases {
            let factor = schedule.factor(step, 4, 14);
            assert!((factor - expected).abs() < 1e-9, "{schedule:?} at {step}: {factor}");
        }
    }
}
