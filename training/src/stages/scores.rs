//! Scores an actor and a refiner on checkable prompts, prompt by prompt, so that two pairs of models can be compared.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::engine::Sampling;
use spar::eval::stats::{Estimate, estimate, paired};
use spar::eval::{self, JudgeScore, Method, Trial};
use spar::search::{Models, SearchConfig};
use spar::verify::data::Prompt;

use super::engines::Engines;
use super::manifest::Stage;
use super::progress::Progress;
use super::write_json;
use crate::recipe::iterate::{Sample, Search};
use crate::records::{Asked, BadLines, read_prompts};

/// The scores of each prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Whether the greedy response follows every instruction, as 0 or 1.
    pub greedy: Vec<f64>,
    /// Whether the search's answer is right, for each prompt.
    pub search: Vec<f64>,
    /// Whether one refinement fixes the response, for each failing greedy response, after the refiner's own critique.
    pub refine_once: Vec<f64>,
    /// The judge's decisions compared with the rules, on greedy and sampled responses.
    pub judge: JudgeScore,
    /// Mean number of characters of greedy responses, which shows a drift in length.
    pub length: f64,
}

/// Means of all scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Score of greedy responses.
    pub greedy: Estimate,
    /// Score of the search's answers.
    pub search: Estimate,
    /// Share of failing responses that one refinement fixes.
    pub refine_once: Estimate,
    /// Mean of the judge's accuracies on right and on wrong responses.
    pub judge: f64,
    /// Mean number of characters of greedy responses.
    pub length: f64,
}

impl Scores {
    /// The scores of an empty set of prompts.
    #[must_use]
    pub fn empty() -> Self {
        let judge = JudgeScore::default();
        Self { greedy: Vec::new(), search: Vec::new(), refine_once: Vec::new(), judge, length: 0.0 }
    }

    /// The means with intervals.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            greedy: estimate(&self.greedy),
            search: estimate(&self.search),
            refine_once: estimate(&self.refine_once),
            judge: self.judge.balanced_accuracy(),
            length: self.length,
        }
    }

    /// Means of `after - self` over the same prompts, for greedy responses and for the search.
    #[must_use]
    pub fn compare(&self, after: &Self) -> (Estimate, Estimate) {
        (paired(&after.greedy, &self.greedy), paired(&after.search, &self.search))
    }
}

/// The settings for measuring scores.
#[derive(Clone, Debug, Serialize)]
pub struct Settings<'a> {
    /// Seed of all random draws.
    pub seed: u64,
    /// Settings of sampled responses.
    pub sample: &'a Sample,
    /// Settings of the search and the judge.
    pub search: &'a Search,
    /// The node budget.
    pub budget: usize,
    /// Maximum number of prompts.
    pub prompts: usize,
}

/// The files of the stage.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// Prompts that rules can check.
    pub prompts: &'a Path,
    /// The actor's directory.
    pub actor: &'a Path,
    /// The refiner's directory.
    pub refiner: &'a Path,
    /// The file that receives the scores.
    pub out: &'a Path,
}

/// Measures the scores. A finished result is read from its file.
///
/// # Errors
/// Fails if a file or a model call fails, or if a prompt cannot be checked.
pub async fn score(settings: &Settings<'_>, files: Files<'_>) -> Result<Scores> {
    let inputs = [("prompts", files.prompts), ("actor", files.actor), ("refiner", files.refiner)];
    let running = match Stage::begin(&files.out.with_extension("stage.json"), "score", settings, &inputs)? {
        Stage::Finished(_) => return super::read_json(files.out),
        Stage::Running(running) => running,
    };
    let asked = read_prompts(files.prompts, BadLines::Stop)?.items;
    let prompts: Vec<Prompt> = asked.iter().take(settings.prompts).map(Asked::to_prompt).collect::<Result<_>>()?;
    for prompt in &prompts {
        ensure!(
            !prompt.checks.is_empty(),
            "{}: prompt {} has no rules to check a response by; give some, or set iterate.gate.enabled = false",
            files.prompts.display(),
            prompt.key
        );
    }
    let engines = Engines::open(files.actor, files.refiner)?;
    let scores = measure(engines.models(), settings, &prompts).await.context("scoring")?;
    write_json(files.out, &scores)?;
    running.finish(&[("prompts", prompts.len() as u64)], Vec::new(), &[("scores", files.out)])?;
    Ok(scores)
}

async fn measure(models: Models<'_>, settings: &Settings<'_>, prompts: &[Prompt]) -> Result<Scores> {
    let (parallel, most) = (settings.sample.parallel, settings.sample.max_tokens);
    let config = SearchConfig { budget: settings.budget, ..settings.search.config() };
    let method = |search, temperature| {
        let sampling = Sampling { temperature, seed: settings.seed, ..Sampling::default() };
        Method { search, sampling, max_tokens: most, checks: eval::Checks::File }
    };
    // Greedy and sampled responses, and answers of the search. Judging and single refinements are not counted.
    let progress = Progress::new("scoring", 3 * prompts.len(), 0);
    let step = || progress.step();
    let greedy = eval::trials(models, &method(None, 0.0), prompts, parallel, &step).await?;
    let sampled = eval::trials(models, &method(None, 1.0), prompts, parallel, &step).await?;
    let responses: Vec<(&Prompt, &str)> = [&greedy, &sampled]
        .into_iter()
        .flat_map(|trials| prompts.iter().zip(trials))
        .map(|(prompt, trial)| (prompt, trial.response.as_str()))
        .collect();
    let judge = eval::score_judge(models, &config, &responses, settings.seed, parallel).await?;
    let failing: Vec<(&Prompt, &str)> = prompts
        .iter()
        .zip(&greedy)
        .filter(|(_, trial)| trial.score() < 1.0)
        .map(|(prompt, trial)| (prompt, trial.response.as_str()))
        .collect();
    let refine_once = eval::refine_once(models, &config, &failing, settings.seed, parallel).await?;
    let search = eval::trials(models, &method(Some(config), 0.0), prompts, parallel, &step).await?;
    progress.finish();
    let scores = |trials: &[Trial]| trials.iter().map(Trial::score).collect::<Vec<_>>();
    let length = greedy.iter().map(|trial| trial.response.chars().count() as f64).sum::<f64>();
    Ok(Scores {
        greedy: scores(&greedy),
        search: scores(&search),
        refine_once,
        judge,
        length: length / greedy.len().max(1) as f64,
    })
}
