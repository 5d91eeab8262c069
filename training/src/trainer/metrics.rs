//! The numbers of every step, in memory, in `metrics.jsonl` and for TensorBoard.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::events::Events;
use crate::checkpoint;
use crate::loss::PreferenceMetrics;

/// One line of `metrics.jsonl`. Names are TRL's where TRL has the number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: u64,
    /// Passes over the data so far, if the data has passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<f64>,
    /// Nats per weighted token.
    pub loss: f64,
    /// AdamW's learning rate.
    #[serde(rename = "learning_rate", alias = "lr")]
    pub lr: f64,
    /// Muon's learning rate, if it updates the matrices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon_lr: Option<f64>,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Tokens of this step.
    pub tokens: usize,
    /// Tokens of all steps so far.
    #[serde(default)]
    pub num_tokens: u64,
    /// Tokens of this step over its time.
    pub tokens_per_s: f64,
    /// Time spent training up to here.
    pub seconds: f64,
    /// The loss on data that is not learned from, where it was measured after this step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// The mean margin of rewards of such pairs.
    #[serde(rename = "eval_rewards/margins", default, skip_serializing_if = "Option::is_none")]
    pub eval_margin: Option<f64>,
    /// The share of such pairs whose chosen response has the higher reward.
    #[serde(rename = "eval_rewards/accuracies", default, skip_serializing_if = "Option::is_none")]
    pub eval_accuracy: Option<f64>,
    /// Metrics of pairs, where the step has pairs.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceMetrics>,
}

/// The metrics in memory and in their files, and a line in the log now and then where no bar is shown.
pub(super) struct Metrics {
    file: std::io::BufWriter<std::fs::File>,
    events: Events,
    /// The steps so far.
    pub steps: Vec<StepMetrics>,
    started: Instant,
    first: usize,
    logged: Instant,
}

impl Metrics {
    /// Keeps the lines up to `step`: what came after the resume file is computed again.
    pub fn open(directory: &Path, step: u64) -> Result<Self> {
        let path = directory.join("metrics.jsonl");
        let text = if step > 0 { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let parsed = text.lines().filter_map(|line| Some((line, serde_json::from_str::<StepMetrics>(line).ok()?)));
        let (lines, steps): (Vec<&str>, Vec<_>) = parsed.filter(|(_, metrics)| metrics.step <= step).unzip();
        // Replaced as a whole: a run that is killed again must find these lines again.
        let kept: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        checkpoint::replace(&path, |path| Ok(std::fs::write(path, &kept)?))?;
        let file = std::fs::OpenOptions::new().append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut events = Events::create(directory)?;
        steps.iter().try_for_each(|line| events.add(line.step, line))?;
        let (first, started) = (steps.len(), Instant::now());
        Ok(Self { file: std::io::BufWriter::new(file), events, steps, started, first, logged: started })
    }

    /// Adds a step of a run that has `all` steps.
    pub fn push(&mut self, line: StepMetrics, all: u64) -> Result<()> {
        if self.logged.elapsed() > Duration::from_secs(15) {
            let StepMetrics { step, loss, lr, tokens_per_s, .. } = line;
            let done = (self.steps.len() - self.first + 1) as f64;
            let seconds_left = self.started.elapsed().as_secs_f64() / done * (all.saturating_sub(step)) as f64;
            tracing::info!(step, steps = all, loss, lr, tokens_per_s, seconds_left = seconds_left.round(), "training");
            self.logged = Instant::now();
            self.flush()?;
        }
        serde_json::to_writer(&mut self.file, &line)?;
        writeln!(self.file)?;
        self.events.add(line.step, &line)?;
        self.steps.push(line);
        Ok(())
    }

    pub fn flush(&mut self) -> Result<()> {
        self.events.flush()?;
        Ok(self.file.flush()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: u64) -> StepMetrics {
        let text = format!(
            r#"{{"step":{step},"loss":1.5,"lr":0.1,"grad_norm":2.0,"tokens":3,"tokens_per_s":4.0,"seconds":5.0}}"#
        );
        serde_json::from_str::<StepMetrics>(&text).unwrap()
    }

    #[test]
    fn what_a_resumed_run_keeps_is_on_the_disk_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let mut first = Metrics::open(directory.path(), 0).unwrap();
        (1..=3).for_each(|step| first.push(line(step), 9).unwrap());
        drop(first);
        let mut again = Metrics::open(directory.path(), 2).unwrap();
        again.push(line(3), 9).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().lines().count(),
            2,
            "a kill now loses what is computed again"
        );
        drop(again);
        let steps: Vec<u64> = Metrics::open(directory.path(), 9).unwrap().steps.iter().map(|line| line.step).collect();
        assert_eq!(steps, [1, 2, 3]);
    }

    #[test]
    fn names_are_those_of_trl_and_what_was_not_measured_is_left_out() {
        let measured = StepMetrics {
            epoch: Some(0.5),
            eval_loss: Some(2.0),
            eval_accuracy: Some(1.0),
            preference: Some(PreferenceMetrics::default()),
            ..line(1)
        };
        let text = serde_json::to_string(&measured).unwrap();
        for name in ["learning_rate", "epoch", "num_tokens", "eval_loss", "eval_rewards/accuracies", "rewards/margins"]
        {
            assert!(text.contains(&format!("\"{name}\":")), "{name} is not in {text}");
        }
        assert!(!text.contains("muon_lr") && !serde_json::to_string(&line(1)).unwrap().contains("eval"));
        assert_eq!(serde_json::from_str::<StepMetrics>(&text).unwrap(), measured);
    }
}
