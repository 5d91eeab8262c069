//! The results of a calibration as a table, as JSON and as a plot.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use spar::prompts::{Calibration, Temperatures};

use super::plot;
use super::quality::Quality;
use crate::stages::write_json;

/// The measurements, and the calibration that follows from them.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Number of prompts.
    pub prompts: usize,
    /// Number of responses.
    pub responses: usize,
    /// Number of right responses.
    pub right: usize,
    /// The calibration that is written.
    pub calibration: Calibration,
    /// Whether the scores on the held-out half distinguish right from wrong responses. If not, they decide nothing.
    pub informative: bool,
    /// The verdicts without a critique, then those after one.
    pub kinds: Vec<Kind>,
}

/// Verdicts of one kind. The qualities are measured on prompts that were not used to fit the temperatures.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kind {
    /// `score` or `critique`.
    pub kind: &'static str,
    /// Number of verdicts used to fit the temperatures; 0 if there were too few of one truth and nothing was changed.
    pub fitted_on: usize,
    /// The fitted temperatures.
    pub temperatures: Temperatures,
    /// Quality with temperatures of 1.
    pub before: Quality,
    /// Quality with the fitted temperatures.
    pub after: Quality,
    /// Verdicts in which Yes and No together are too improbable to be read.
    pub unreadable: usize,
    /// Responses that are too long to be judged.
    pub too_long: usize,
    /// Mean probability of Yes and No together.
    pub mass: f64,
    /// Generated tokens per judgement.
    pub generated_tokens: f64,
    /// Prompt tokens per verdict.
    pub read_tokens: f64,
    /// Wall time per judgement. Several judgements run at a time.
    pub milliseconds: f64,
}

impl Report {
    /// Writes `calibration.json` and `reliability.svg` into a directory, which is created if it is missing.
    ///
    /// # Errors
    /// Fails if a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        write_json(&folder.join("calibration.json"), self)?;
        let lines = self.kinds.iter().flat_map(|kind| {
            [("before", &kind.before), ("after", &kind.after)]
                .map(|(when, quality)| (format!("{} {when}", kind.kind), quality.bins.as_slice()))
        });
        let svg = plot::draw(&format!("Verdicts of {}", self.model), &lines.collect::<Vec<_>>())?;
        let path = folder.join("reliability.svg");
        std::fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, prompts, responses, right, calibration, informative, kinds } = self;
        writeln!(f, "{model}: {prompts} prompts, {responses} responses, {right} of them right")?;
        writeln!(f, "Held-out half, with temperatures of 1 and then with the fitted ones:")?;
        writeln!(
            f,
            "verdict   fitted on  T yes   T no     n  right  balanced accuracy   AUC          ECE         Yes+No  \
             unreadable  generated    read      ms"
        )?;
        for kind in kinds {
            writeln!(f, "{kind}")?;
        }
        let Calibration { low, high, .. } = calibration;
        match (informative, low, high) {
            (false, ..) => {
                write!(
                    f,
                    "The score does not distinguish right from wrong responses: every verdict follows a critique."
                )
            }
            (true, 0.0, 1.0) => write!(f, "No score is certain enough: every verdict follows a critique."),
            (true, ..) => write!(
                f,
                "A score below {low:.3} rejects, one from {high:.3} on accepts; between them critiques are written."
            ),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, fitted_on, temperatures: Temperatures { yes, no }, before, after, .. } = self;
        let Self { unreadable, mass, generated_tokens, read_tokens, milliseconds, .. } = self;
        let balanced = [before, after].map(|quality| share(quality.balanced_accuracy));
        let area = [before, after].map(|quality| share(quality.area_under_curve));
        let error = [before, after].map(|quality| share(Some(quality.calibration_error)));
        write!(
            f,
            "{kind:8}  {fitted_on:9}  {yes:5.2}  {no:5.2}  {:4}  {:5}  {:>8} {:>5}  {:>5} {:>5}  {:>5} {:>5}  {mass:6.3}  \
             {unreadable:10}  {generated_tokens:9.1}  {read_tokens:6.1}  {milliseconds:6.1}",
            after.n, after.right, balanced[0], balanced[1], area[0], area[1], error[0], error[1],
        )
    }
}

fn share(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |value| format!("{value:.3}"))
}
