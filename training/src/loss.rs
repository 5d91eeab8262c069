//! Losses as functions of log-probabilities, with their derivatives.
//!
//! With `π` the trained model and `π_ref` the one it started from, a sequence's log-probability is
//! `log π(y|x) = Σ_t log π(y_t | x, y_<t)`, and likelihood training (SFT) minimises `-Σ w_t · log π(y_t | …) / Σ w_t`.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// A value for each of two responses to one prompt, the better one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pair<T> {
    /// The value of the better response.
    pub chosen: T,
    /// The value of the worse response.
    pub rejected: T,
}

/// The form of the preference loss, a function of `h = (log π(y_w|x) - log π_ref(y_w|x)) - (log π(y_l|x) - log π_ref(y_l|x))`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Rafailov et al. 2023: `-(1 - ε) log σ(βh) - ε log σ(-βh)`, with label smoothing `ε` (Mitchell 2023).
    #[default]
    Sigmoid,
    /// Azar et al. 2023: `(h - 1 / 2β)²`, with log-probabilities per token.
    Ipo,
    /// Zhao et al. 2023: `max(0, 1 - βh)`.
    Hinge,
}

/// A preference loss: its form and weights.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Preference {
    /// The form of the loss.
    pub form: Form,
    /// How strongly the model is kept near the reference model.
    pub beta: f64,
    /// Weight of the chosen response's mean negative log-probability per token, added to the loss.
    pub sft: f64,
    /// `ε`: the probability that a pair is labelled the wrong way round.
    pub label_smoothing: f64,
    /// Weight of the mean negative log-probability per token of kept replies, added to the loss. Kept replies were right already. What both
    /// replies of a pair do right is shared by them, so preferences alone do not preserve it.
    pub kept: f64,
}

impl Default for Preference {
    /// The paper's settings.
    fn default() -> Self {
        Self { form: Form::Sigmoid, beta: 0.1, sft: 0.1, label_smoothing: 0.0, kept: 0.0 }
    }
}

/// The inputs of a pair's loss: sums of log-probabilities and numbers of tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scores {
    /// Log-probabilities under the trained model.
    pub policy: Pair<f64>,
    /// Log-probabilities under the reference model.
    pub reference: Pair<f64>,
    /// Numbers of tokens of the responses.
    pub tokens: Pair<f64>,
}

/// The loss of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PairLoss {
    /// The loss of the pair.
    pub loss: f64,
    /// The part of it that is the chosen response's likelihood.
    pub sft: f64,
    /// The derivatives by the policy's sums of log-probabilities.
    pub slope: Pair<f64>,
    /// `β (log π - log π_ref)` of each response.
    pub rewards: Pair<f64>,
}

impl Preference {
    /// # Errors
    /// Names the field with an invalid value.
    pub fn check(&self) -> Result<()> {
        ensure!(self.beta > 0.0, "beta must be above 0, got {}", self.beta);
        ensure!(self.sft >= 0.0, "sft must be at least 0, got {}", self.sft);
        ensure!(self.kept >= 0.0, "kept must be at least 0, got {}", self.kept);
        ensure!(
            (0.0..0.5).contains(&self.label_smoothing),
            "label_smoothing must be at least 0 and below 0.5, got {}",
            self.label_smoothing
        );
        ensure!(self.label_smoothing == 0.0 || self.form == Form::Sigmoid, "label_smoothing needs form = \"sigmoid\"");
        Ok(())
    }

    /// The loss of one pair, its derivatives, and the rewards.
    #[must_use]
    pub fn loss(&self, scores: Scores) -> PairLoss {
        let Scores { policy, reference, tokens } = scores;
        // IPO uses means of log-probabilities, the other forms use sums.
        let per = match self.form {
            Form::Ipo => Pair { chosen: 1.0 / tokens.chosen, rejected: 1.0 / tokens.rejected },
            Form::Sigmoid | Form::Hinge => Pair { chosen: 1.0, rejected: 1.0 },
        };
        let gain = Pair {
            chosen: (policy.chosen - reference.chosen) * per.chosen,
            rejected: (policy.rejected - reference.rejected) * per.rejected,
        };
        let (h, beta, smooth) = (gain.chosen - gain.rejected, self.beta, self.label_smoothing);
        let (loss, slope) = match self.form {
            Form::Sigmoid => {
                let loss = -(1.0 - smooth) * log_sigmoid(beta * h) - smooth * log_sigmoid(-beta * h);
                // d log σ(x) / dx = σ(-x)
                (loss, beta * (smooth * sigmoid(beta * h) - (1.0 - smooth) * sigmoid(-beta * h)))
            }
            Form::Ipo => ((h - 0.5 / beta).powi(2), 2.0 * (h - 0.5 / beta)),
            Form::Hinge if beta * h < 1.0 => (1.0 - beta * h, -beta),
            Form::Hinge => (0.0, 0.0),
        };
        let sft = -self.sft * policy.chosen / tokens.chosen;
        PairLoss {
            loss: loss + sft,
            sft,
            slope: Pair { chosen: slope * per.chosen - self.sft / tokens.chosen, rejected: -slope * per.rejected },
            rewards: Pair { chosen: beta * gain.chosen, rejected: beta * gain.rejected },
        }
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `log σ(x) = -log(1 + e^-x)`, without overflow.
fn log_sigmoid(x: f64) -> f64 {
    x.min(0.0) - (-x.abs()).exp().ln_1p()
}

/// The means over the pairs of a step, under TRL's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PreferenceMetrics {
    /// The mean `β (log π - log π_ref)` of the chosen responses.
    #[serde(rename = "rewards/chosen")]
    pub chosen: f64,
    /// The mean reward of the rejected replies.
    #[serde(rename = "rewards/rejected")]
    pub rejected: f64,
    /// The difference of the two rewards.
    #[serde(rename = "rewards/margins")]
    pub margin: f64,
    /// Share of pairs whose chosen response has the higher reward.
    #[serde(rename = "rewards/accuracies")]
    pub accuracy: f64,
    /// The mean log-probability of the chosen responses.
    #[serde(rename = "logps/chosen")]
    pub logps_chosen: f64,
    /// The mean log-probability of the rejected replies.
    #[serde(rename = "logps/rejected")]
    pub logps_rejected: f64,
    /// The part of the loss that compares the two responses.
    #[serde(rename = "loss/preference", default)]
    pub loss_preference: f64,
    /// The part of the loss that is the likelihood of the chosen responses.
    #[serde(rename = "loss/sft", default)]
    pub loss_sft: f64,
    /// The part of the loss that is the likelihood of kept replies.
    #[serde(rename = "loss/kept", default)]
    pub loss_kept: f64,
}

impl PreferenceMetrics {
    /// Adds one pair with weight `share`.
    pub fn add(&mut self, share: f64, policy: Pair<f64>, loss: &PairLoss) {
        let rewards = loss.rewards;
        self.loss_preference += share * (loss.loss - loss.sft);
        self.loss_sft += share * loss.sft;
        self.chosen += share * rewards.chosen;
        self.rejected += share * rewards.rejected;
        self.margin += share * (rewards.chosen - rewards.rejected);
        self.accuracy += if rewards.chosen > rewards.rejected { share } else { 0.0 };
        self.logps_chosen += share * policy.chosen;
        self.logps_rejected += share * policy.rejected;
    }
}

impl std::ops::AddAssign for PreferenceMetrics {
    fn add_assign(&mut self, other: Self) {
        self.chosen += other.chosen;
        self.rejected += other.rejected;
        self.margin += other.margin;
        self.accuracy += other.accuracy;
        self.logps_chosen += other.logps_chosen;
        self.logps_rejected += other.logps_rejected;
        self.loss_preference += other.loss_preference;
        self.loss_sft += other.loss_sft;
        self.loss_kept += other.loss_kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores() -> Scores {
        Scores {
            policy: Pair { chosen: -12.0, rejected: -15.0 },
            reference: Pair { chosen: -13.5, rejected: -14.0 },
            tokens: Pair { chosen: 6.0, rejected: 5.0 },
        }
    }

    #[test]
    fn losses_follow_their_definitions() {
        // h = 1.5 + 1.0 = 2.5; per token 0.25 + 0.2 = 0.45.
        let at = |form, sft, label_smoothing| {
            Preference { form, beta: 0.5, sft, label_smoothing, kept: 0.0 }.loss(scores()).loss
        };
        let cases = [
            (at(Form::Sigmoid, 0.0, 0.0), (1.0f64 + (-1.25f64).exp()).ln()),
            (at(Form::Sigmoid, 0.1, 0.0), (1.0f64 + (-1.25f64).exp()).ln() + 0.1 * 2.0),
            (at(Form::Sigmoid, 0.0, 0.2), 0.8 * (1.0f64 + (-1.25f64).exp()).ln() + 0.2 * (1.0f64 + 1.25f64.exp()).ln()),
            (at(Form::Ipo, 0.0, 0.0), (0.45f64 - 1.0).powi(2)),
            (at(Form::Hinge, 0.0, 0.0), 0.0),
        ];
        for (i, (loss, expected)) in cases.into_iter().enumerate() {
            assert!((loss - expected).abs() < 1e-12, "{i}: {loss} {expected}");
        }
        let hinge =
            Preference { form: Form::Hinge, beta: 0.1, sft: 0.0, label_smoothing: 0.0, kept: 0.0 }.loss(scores());
        assert!((hinge.loss - 0.75).abs() < 1e-12 && (hinge.rewards.chosen - 0.15).abs() < 1e-12);
    }

    #[test]
    fn slopes_are_the_losses_derivatives() {
        for form in [Form::Sigmoid, Form::Ipo, Form::Hinge] {
            for smooth in [0.0, if form == Form::Sigmoid { 0.1 } else { 0.0 }] {
                let preference = Preference { form, beta: 0.2, sft: 0.3, label_smoothing: smooth, kept: 0.0 };
                let loss = |chosen: f64, rejected: f64| {
                    let mut scores = scores();
                    scores.policy.chosen += chosen;
                    scores.policy.rejected += rejected;
                    preference.loss(scores).loss
                };
                let slope = preference.loss(scores()).slope;
                let d = 1e-5;
                let chosen = (loss(d, 0.0) - loss(-d, 0.0)) / (2.0 * d);
                let rejected = (loss(0.0, d) - loss(0.0, -d)) / (2.0 * d);
                assert!((slope.chosen - chosen).abs() < 1e-8, "{form:?}: {} {chosen}", slope.chosen);
                assert!((slope.rejected - rejected).abs() < 1e-8, "{form:?}: {} {rejected}", slope.rejected);
            }
        }
    }

    #[test]
    fn far_margins_do_not_overflow() {
        for shift in [-1e6, 1e6] {
            let mut scores = scores();
            scores.policy.chosen += shift;
            let loss = Preference { sft: 0.0, ..Preference::default() }.loss(scores);
            assert!(loss.loss.is_finite() && loss.slope.chosen.is_finite(), "{loss:?}");
        }
    }
}
