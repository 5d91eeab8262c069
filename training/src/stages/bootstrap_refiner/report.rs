//! The results of a run as a table and as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use spar::eval::stats::Estimate;
use spar::prompts::Calibration;

use super::data::Funnel;
use super::quality::Agreement;
use crate::trainer::TrainReport;

/// One row: the base and the adapter on the same responses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// What is judged.
    pub what: String,
    /// The untrained model.
    pub base: Agreement,
    /// The model with the adapter.
    pub trained: Agreement,
    /// The difference of the balanced accuracies with its interval over prompts.
    pub difference: Option<Estimate>,
}

/// How many failing drafts one refinement fixes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Refinements {
    /// Share that the untrained model fixes.
    pub base: Estimate,
    /// Share that the model with the adapter fixes.
    pub trained: Estimate,
    /// The difference, by draft.
    pub difference: Estimate,
    /// Mean number of tokens that one refinement generates, without and with the adapter.
    pub tokens: [f64; 2],
}

/// The calibration of the adapter's verdicts, or why there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Calibrated {
    /// Why no calibration is written.
    pub missing: Option<String>,
    /// The calibration in the adapter's spar.json.
    pub calibration: Option<Calibration>,
    /// Whether the scores distinguish right from wrong responses.
    pub informative: bool,
    /// Number of responses on which the errors are measured.
    pub n: usize,
    /// Expected calibration error with temperatures of 1, and with the fitted ones.
    pub error: [f64; 2],
    /// Balanced accuracy with temperatures of 1, and with the fitted ones.
    pub balanced_accuracy: [Option<f64>; 2],
}

/// The results of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Number of prompts for training, and of held-out ones.
    pub prompts: [usize; 2],
    /// Counts from the prompts to the turns.
    pub funnel: Funnel,
    /// The training in numbers.
    pub training: TrainReport,
    /// Verdicts about whole prompts and about single instructions.
    pub judging: Vec<Row>,
    /// Verdicts that could not be read, without and with the adapter.
    pub unreadable: [usize; 2],
    /// Refinements of failing drafts.
    pub refinements: Refinements,
    /// The calibration of the verdicts.
    pub calibration: Calibrated,
    /// Whether the adapter judges better than the base beyond the interval.
    pub judges_better: bool,
    /// The command that serves the result.
    pub serve: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, prompts: [train, held_out], funnel, training, .. } = self;
        writeln!(f, "{model}: {train} prompts for training, {held_out} held out")?;
        write!(f, "{}", super::data::show(funnel))?;
        let TrainReport { steps, tokens, loss, seconds, .. } = training;
        writeln!(f, "trained: {steps} steps, {tokens} tokens, loss {loss:.3}, {seconds:.0} s")?;
        writeln!(f)?;
        writeln!(
            f,
            "{:44} {:>5} {:>6}  {:22} {:22} {:26} {:>11}",
            "held-out verdicts, balanced accuracy", "n", "right", "base", "trained", "difference", "AUC"
        )?;
        for row in &self.judging {
            writeln!(f, "{row}")?;
        }
        let [base, trained] = self.unreadable;
        writeln!(f, "unreadable verdicts: {base} of the base, {trained} of the adapter")?;
        writeln!(f)?;
        writeln!(f, "{}", self.refinements)?;
        writeln!(f, "{}", self.calibration)?;
        match self.judges_better {
            true => writeln!(f, "The adapter judges better than the base on held-out prompts.")?,
            false => {
                writeln!(f, "The adapter does NOT judge better than the base beyond the interval; do not serve it.")?
            }
        }
        write!(f, "Serve it: {}", self.serve)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, base, trained, difference } = self;
        let shown = |estimate: Option<Estimate>| estimate.map_or_else(|| "–".into(), |estimate| estimate.to_string());
        let signed = difference.map_or_else(|| "–".into(), |difference| format!("{difference:+}"));
        let area =
            |agreement: &Agreement| agreement.area_under_curve.map_or_else(|| "–".into(), |area| format!("{area:.2}"));
        write!(
            f,
            "{what:44} {:5} {:6}  {:22} {:22} {signed:26} {:>4} → {:>4}",
            base.n,
            base.right,
            shown(base.balanced_accuracy),
            shown(trained.balanced_accuracy),
            area(base),
            area(trained)
        )
    }
}

impl fmt::Display for Refinements {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { base, trained, difference, tokens: [before, after] } = self;
        write!(
            f,
            "one refinement fixes, of {} failing drafts: base {base}, trained {trained}, difference {difference:+}; {before:.0} and \
             {after:.0} tokens each",
            base.n
        )
    }
}

impl fmt::Display for Calibrated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(Calibration { low, high, .. }), None) = (self.calibration, &self.missing) else {
            return write!(f, "no calibration: {}", self.missing.as_deref().unwrap_or("none was made"));
        };
        let [before, after] = self.error;
        let balanced =
            self.balanced_accuracy.map(|value| value.map_or_else(|| "–".into(), |value| format!("{value:.3}")));
        write!(
            f,
            "calibrated on own responses, {} held out from the fit: calibration error {before:.3} → {after:.3}, balanced accuracy {} → {}, \
             band {low:.2} to {high:.2}{}",
            self.n,
            balanced[0],
            balanced[1],
            if self.informative {
                ""
            } else {
                "; the score alone is not informative, so every verdict follows a critique"
            }
        )
    }
}
