//! Measures a refiner on responses to held-out prompts: its verdicts about whole prompts and about single instructions, and how many
//! failing drafts one refinement fixes.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spar::chat::Message;
use spar::engine::reasoning::Reasoning;
use spar::engine::{
    Completion, Engine, EngineError, FinishReason, LabelRequest, Origin, Purpose, Sampling, derive_seed,
};
use spar::prompts::{Templates, verdict_labels};
use spar::search::{self, Judge, Models, SearchConfig, Strategy, Task};

use super::settings::{Measure, Settings};
use crate::lessons::cases::Case;
use crate::lessons::critique::item;
use crate::stages::journal::Journal;
use crate::stages::manifest::Stage;
use crate::stages::read_lines;

/// The value used for the log-probability of a label that has none.
const LEAST: f64 = -50.0;

/// The models and files of a measurement.
#[derive(Clone, Copy)]
pub struct Measuring<'a> {
    /// Settings of the run.
    pub settings: &'a Settings,
    /// The refiner that is measured.
    pub engine: &'a dyn Engine,
    /// The refiner's templates.
    pub templates: &'a Templates,
    /// What the measurement depends on, by role.
    pub inputs: &'a [(&'a str, &'a Path)],
    /// The held-out cases.
    pub cases: &'a [Case],
}

/// A response of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The position of the case.
    pub case: usize,
    /// The position of the response in the case.
    pub response: usize,
}

/// Log-probabilities of Yes and No about a response. They are absent where the question does not fit into the context.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Whether it follows the whole prompt.
    pub score: Option<[f64; 2]>,
    /// Whether it follows each instruction; empty if the templates have no question about one instruction.
    pub items: Vec<[f64; 2]>,
}

/// The outcome of one refinement of a failing draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Refined {
    /// Whether the refined response follows every rule.
    pub right: bool,
    /// The refined response, if there is a readable one.
    pub response: Option<String>,
    /// Tokens that were generated.
    pub tokens: usize,
}

/// The responses that are judged: the model's own ones first, then edited ones, each up to its limit per prompt.
#[must_use]
pub fn subjects(cases: &[Case], measure: &Measure) -> Vec<Subject> {
    let of_case = |(case, found): (usize, &Case)| {
        let places = |own: bool, most: usize| {
            let responses = found.responses.iter().enumerate().filter(move |(_, response)| response.is_own() == own);
            responses.take(most).map(move |(response, _)| Subject { case, response }).collect::<Vec<_>>()
        };
        [places(true, measure.own), places(false, measure.edited)].concat()
    };
    cases.iter().enumerate().flat_map(of_case).collect()
}

/// Failing drafts of the model's own, one of each prompt before a second one of any.
#[must_use]
pub fn failing(cases: &[Case], most: usize) -> Vec<Subject> {
    let drafts: Vec<Vec<Subject>> = cases
        .iter()
        .enumerate()
        .map(|(case, found)| {
            let wrong = found.responses.iter().enumerate().filter(|(_, r)| r.is_own() && !r.right());
            wrong.map(|(response, _)| Subject { case, response }).collect()
        })
        .collect();
    let rounds = drafts.iter().map(Vec::len).max().unwrap_or_default();
    (0..rounds).flat_map(|round| drafts.iter().filter_map(move |of| of.get(round).copied())).take(most).collect()
}

impl Measuring<'_> {
    /// Reads the verdicts about `subjects` into `out`.
    ///
    /// # Errors
    /// Fails if a file or a model call fails.
    pub async fn judge(&self, subjects: &[Subject], out: &Path) -> Result<Vec<Verdicts>> {
        let running = match self.begin("judged", out)? {
            None => return lines(out),
            Some(running) => running,
        };
        let line = |_, subject: &Subject| self.verdicts(*subject);
        Journal::open(out)?.fill("judging", subjects, self.settings.measure.parallel, line).await?;
        running.finish(&[("responses", subjects.len() as u64)], Vec::new(), &[("verdicts", out)])?;
        lines(out)
    }

    /// Refines each of `drafts` once into `out`.
    ///
    /// # Errors
    /// Fails if a file or a model call fails.
    pub async fn refine(&self, drafts: &[Subject], out: &Path) -> Result<Vec<Refined>> {
        let running = match self.begin("refined", out)? {
            None => return lines(out),
            Some(running) => running,
        };
        let line = |i, draft: &Subject| self.refined(i, *draft);
        Journal::open(out)?.fill("refining", drafts, self.settings.measure.parallel, line).await?;
        running.finish(&[("drafts", drafts.len() as u64)], Vec::new(), &[("refined", out)])?;
        lines(out)
    }

    fn begin(&self, stage: &str, out: &Path) -> Result<Option<crate::stages::manifest::Running>> {
        let Settings { seed, held_out, turns, measure, .. } = *self.settings;
        let decides = (seed, held_out, turns.edits, Measure { parallel: 0, ..measure });
        Ok(match Stage::begin(&out.with_extension("stage.json"), stage, &decides, self.inputs)? {
            Stage::Finished(_) => None,
            Stage::Running(running) => Some(running),
        })
    }

    async fn verdicts(&self, subject: Subject) -> Result<Verdicts> {
        let case = &self.cases[subject.case];
        let (conversation, text) = ([Message::user(&case.prompt)], &case.responses[subject.response].text);
        let mut questions = vec![self.templates.score(&conversation, text, &[])];
        questions.extend(
            case.checks.iter().filter_map(|check| self.templates.score_item(&conversation, text, &item(check))),
        );
        let request =
            LabelRequest { purpose: Purpose::Judge, questions, labels: verdict_labels(), origin: Origin::default() };
        let scores = match self.engine.read_labels(request).await {
            Err(EngineError::PromptTooLong { .. }) => return Ok(Verdicts::default()),
            scores => scores.context("reading verdicts")?,
        };
        let mut pairs = scores.logprobs.iter().map(|found| {
            let logprob = |i: usize| found.get(i).map_or(LEAST, |&value| f64::from(value).max(LEAST));
            [logprob(0), logprob(1)]
        });
        Ok(Verdicts { score: pairs.next(), items: pairs.collect() })
    }

    /// One refinement as a search makes it whose rules have judged the draft, without a grammar that enforces the rules.
    async fn refined(&self, index: usize, draft: Subject) -> Result<Refined> {
        let case = &self.cases[draft.case];
        let config = SearchConfig {
            judge: Judge::Rules,
            strategy: Strategy::RefineChain,
            budget: 1,
            guided: false,
            ..SearchConfig::default()
        };
        let seed = derive_seed(derive_seed(self.settings.seed, 3), index as u64);
        let task = Task {
            sampling: Sampling { seed, ..Sampling::default() },
            checks: case.checks.clone(),
            ..Task::chat(vec![Message::user(&case.prompt)])
        };
        let given = Completion {
            text: case.responses[draft.response].text.clone(),
            reasoning: Reasoning::default(),
            prompt_tokens: 0,
            cached_tokens: 0,
            tokens: 0,
            logprobs: Vec::new(),
            finish: FinishReason::Stop,
        };
        let models = Models { actor: self.engine, refiner: self.engine, templates: self.templates };
        let outcome = search::refine(models, &config, &task, given, &|_| {}).await;
        let refined = outcome.tree.nodes.get(1).map(|node| node.response.clone());
        let right = refined.as_ref().is_some_and(|text| case.checks.iter().all(|check| check.strict(text)));
        Ok(Refined { right, response: refined, tokens: outcome.tokens.refine })
    }
}

fn lines<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    read_lines(path)?.with_context(|| format!("{} is missing", path.display()))
}

#[cfg(test)]
mod tests {
    use spar::engine::fake::FakeEngine;

    use super::*;
    use crate::lessons::cases::tests::case;

    #[test]
    fn own_responses_are_judged_first_and_each_prompt_has_its_turn() {
        let cases = vec![case(), case()];
        let measure = Measure { own: 2, edited: 1, ..Measure::default() };
        let found = subjects(&cases, &measure);
        assert_eq!(found.iter().map(|s| s.case).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 1]);
        assert!(!cases[0].responses[found[2].response].is_own());
        let drafts = failing(&cases, 3);
        assert_eq!(drafts.iter().map(|s| s.case).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(drafts.iter().all(|s| !cases[s.case].responses[s.response].right()));
    }

    #[tokio::test]
    async fn one_refinement_is_counted_and_verdicts_are_read_for_every_instruction() {
        let fixed = "The quiet river waits for the town. Good night.";
        let engine = FakeEngine::new(move |request, _| {
            assert_eq!(request.purpose, Purpose::Refine);
            Ok(fixed.into())
        });
        let engine = engine.reading(|_, index| Ok(vec![-0.1 - index as f32, -2.0]));
        let (templates, settings, cases) = (Templates::general(), Settings::default(), vec![case()]);
        let folder = tempfile::tempdir().unwrap();
        let measuring =
            Measuring { settings: &settings, engine: &engine, templates: &templates, inputs: &[], cases: &cases };
        let drafts = failing(&cases, 2);
        let refined = measuring.refine(&drafts, &folder.path().join("refined.jsonl")).await.unwrap();
        assert_eq!(refined.len(), 2);
        assert!(refined.iter().all(|line| line.right && line.response.as_deref() == Some(fixed)), "{refined:?}");
        let subjects = subjects(&cases, &settings.measure);
        let out = folder.path().join("judged.jsonl");
        let verdicts = measuring.judge(&subjects, &out).await.unwrap();
        assert_eq!((verdicts.len(), verdicts[0].items.len()), (subjects.len(), 2));
        assert!((verdicts[0].items[1][0] - -2.1).abs() < 1e-6, "{verdicts:?}");
        assert_eq!(measuring.judge(&subjects, &out).await.unwrap(), verdicts, "a finished stage is read");
    }
}
