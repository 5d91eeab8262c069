//! Compares the judge's verdicts with the rules, and measures how often one refinement fixes a response.

use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};

use super::task;
use crate::engine::{EngineError, EngineExt, Purpose, Request, Sampling, derive_seed};
use crate::search::{self, Judgement, Models, SearchConfig};
use crate::verify::data::Prompt;

/// Compares a judge's decisions with the truth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JudgeScore {
    /// Right responses that the judge accepts.
    pub true_yes: usize,
    /// Wrong responses that the judge accepts.
    pub false_yes: usize,
    /// Wrong responses that the judge rejects.
    pub true_no: usize,
    /// Right responses that the judge rejects.
    pub false_no: usize,
    /// Undecided verdicts on right responses, which count as errors.
    pub undecided_yes: usize,
    /// Undecided verdicts on wrong responses, which count as errors.
    pub undecided_no: usize,
}

impl JudgeScore {
    /// The mean of the accuracies on right and on wrong responses.
    pub fn balanced_accuracy(&self) -> f64 {
        let share = |good: usize, bad: usize| good as f64 / (good + bad).max(1) as f64;
        let right = share(self.true_yes, self.false_no + self.undecided_yes);
        let wrong = share(self.true_no, self.false_yes + self.undecided_no);
        f64::midpoint(right, wrong)
    }

    fn count(&mut self, right: bool, judgement: &Judgement) {
        *match (right, judgement.value.map(|_| judgement.accepted)) {
            (true, Some(true)) => &mut self.true_yes,
            (true, Some(false)) => &mut self.false_no,
            (false, Some(true)) => &mut self.false_yes,
            (false, Some(false)) => &mut self.true_no,
            (true, None) => &mut self.undecided_yes,
            (false, None) => &mut self.undecided_no,
        } += 1;
    }
}

/// Whether `response` follows every instruction of `case` strictly.
fn is_right(case: &Prompt, response: &str) -> bool {
    case.checks.iter().all(|check| check.strict(response))
}

/// Judges `response` as a search would judge its draft.
async fn judge(
    models: Models<'_>,
    config: &SearchConfig,
    (case, response): (&Prompt, &str),
    seed: u64,
) -> Result<Judgement, EngineError> {
    let task = task(case, Sampling { seed, ..Sampling::default() });
    search::judge(models, config, &task, response).await
}

/// Scores the judge on `responses` by comparing its decisions with the rules.
///
/// # Errors
/// Returns the error of the first failing call.
pub async fn score_judge(
    models: Models<'_>,
    config: &SearchConfig,
    responses: &[(&Prompt, &str)],
    seed: u64,
    parallel: usize,
) -> Result<JudgeScore, EngineError> {
    let judged: Vec<_> = stream::iter(responses.iter().enumerate())
        .map(|(i, response)| judge(models, config, *response, derive_seed(seed, i as u64)))
        .buffered(parallel)
        .collect()
        .await;
    let mut score = JudgeScore::default();
    for ((case, response), judgement) in responses.iter().zip(judged) {
        score.count(is_right(case, response), &judgement?);
    }
    Ok(score)
}

/// Refines each failing response once, after the refiner's own critique. The score is 1 if the result follows every instruction. A critique
/// that wrongly accepts scores 0.
///
/// # Errors
/// Returns the error of the first failing call.
pub async fn refine_once(
    models: Models<'_>,
    config: &SearchConfig,
    failing: &[(&Prompt, &str)],
    seed: u64,
    parallel: usize,
) -> Result<Vec<f64>, EngineError> {
    let scores: Vec<Result<f64, EngineError>> = stream::iter(failing.iter().enumerate())
        .map(|(i, (case, response))| async move {
            let seed = derive_seed(seed, i as u64);
            let judgement = judge(models, config, (case, response), seed).await?;
            if judgement.accepted {
                return Ok(0.0);
            }
            let conversation = task(case, Sampling::default()).messages;
            let request = Request {
                sampling: Sampling { temperature: config.refine_temperature, seed, ..Sampling::default() },
                max_tokens: Some(config.refine_tokens),
                ..Request::chat(Purpose::Refine, models.templates.refine(&conversation, response, &judgement.critique))
            };
            let reply = models.refiner.generate(request).await?;
            let refined = models.templates.parse_refinement(&reply.text);
            Ok(f64::from(u8::from(refined.is_some_and(|refined| is_right(case, &refined.response)))))
        })
        .buffered(parallel)
        .collect()
        .await;
    scores.into_iter().collect()
}
