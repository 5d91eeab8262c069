//! `sample`: samples drafts of the actor for prompts, each judged by votes of the refiner.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use spar::chat::Message;
use spar::engine::{EngineError, FinishReason, Purpose, Request, Sampling, derive_seed};
use spar::search::{self, Judgement, Models, SearchConfig, Task};
use spar::verify::Check;

use super::engines::Engines;
use super::journal::Journal;
use super::manifest::{Record, Stage};
use super::unreadable::Watch;
use crate::recipe::iterate::{Sample, Search};
use crate::records::{Asked, BadLines, Draft, Sampled, read_prompts};

/// Settings that decide the stage's output, in addition to its inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Settings<'a> {
    /// Seed of all random draws.
    pub seed: u64,
    /// Settings of the drafts.
    pub sample: &'a Sample,
    /// Settings of the votes.
    pub search: &'a Search,
    /// How lines that cannot be used are handled.
    pub bad_lines: BadLines,
}

/// The files of the stage.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The prompts, one per line.
    pub prompts: &'a Path,
    /// The actor's directory.
    pub actor: &'a Path,
    /// The refiner's directory.
    pub refiner: &'a Path,
    /// The judged drafts, one prompt per line.
    pub out: &'a Path,
}

/// Runs the stage. Lines are written as soon as they are finished; a killed stage resumes after the last one.
///
/// # Errors
/// Fails if a file, a line or a model call fails.
pub async fn sample(settings: &Settings<'_>, files: Files<'_>) -> Result<Record> {
    let inputs = [("prompts", files.prompts), ("actor", files.actor), ("refiner", files.refiner)];
    let running = match Stage::begin(&files.out.with_extension("stage.json"), "sample", settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let prompts = read_prompts(files.prompts, settings.bad_lines)?;
    let journal = Journal::open(files.out)?;
    let engines = Engines::open(files.actor, files.refiner)?;
    let config = SearchConfig { votes: settings.sample.votes, ..settings.search.config() };
    let line = |i, asked| sample_prompt(engines.models(), settings, &config, i, asked);
    let remedy = "the refiner does not end its critiques with a verdict as its template asks. Train it to judge first, or set \
        iterate.search.judge = \"rules\", or raise iterate.sample.unreadable to let the stage go on";
    let mut watch = Watch::new("votes", settings.sample.unreadable, remedy);
    let seen = |line: &Sampled| {
        let votes = || line.drafts.iter().map(|draft| draft.votes);
        watch.add(votes().map(|votes| votes.yes + votes.no).sum(), votes().map(|votes| votes.invalid).sum())
    };
    journal.fill_watched("sampling", &prompts.items, settings.sample.parallel, line, seen).await?;
    watch.finish()?;
    let counts = counts(files.out)?;
    running.finish(&counts, prompts.skipped, &[("samples", files.out)])
}

async fn sample_prompt(
    models: Models<'_>,
    settings: &Settings<'_>,
    config: &SearchConfig,
    index: usize,
    asked: &Asked,
) -> Result<Sampled> {
    let seed = derive_seed(settings.seed, index as u64);
    let Sample { per_prompt, temperature, top_p, max_tokens, .. } = *settings.sample;
    let checks = asked.checks()?;
    let messages = vec![Message::user(&asked.prompt)];
    let request = Request {
        samples: per_prompt,
        sampling: Sampling { temperature, top_p, seed, ..Sampling::default() },
        max_tokens,
        ..Request::chat(Purpose::Answer, messages.clone())
    };
    let context = || format!("prompt {}", asked.key);
    let replies = models.actor.start(request).await.with_context(context)?;
    let mut drafts: Vec<Draft> = Vec::with_capacity(per_prompt);
    let replies = futures::future::try_join_all(replies.into_iter().map(|reply| reply.complete()));
    for (i, reply) in replies.await.with_context(context)?.into_iter().enumerate() {
        // Identical drafts are judged once. Drafts that were cut off or leave no room for a critique are not judged.
        let twin = drafts.iter().find(|draft| draft.response == reply.text).cloned();
        let cut = reply.finish == FinishReason::Length;
        let draft = match twin {
            Some(twin) => twin,
            None if cut => judged(reply.text, Judgement::default(), &checks),
            None => {
                let task = task(&messages, derive_seed(seed, i as u64), &checks);
                let judgement = match search::judge(models, config, &task, &reply.text).await {
                    Err(EngineError::PromptTooLong { .. }) => Judgement::default(),
                    judgement => judgement.with_context(context)?,
                };
                judged(reply.text, judgement, &checks)
            }
        };
        drafts.push(Draft { cut, ..draft });
    }
    Ok(Sampled { asked: asked.clone(), drafts })
}

fn judged(response: String, judgement: Judgement, checks: &[Check]) -> Draft {
    Draft {
        right: right(checks, &response),
        response,
        cut: false,
        votes: judgement.votes,
        value: judgement.value,
        accepted: judgement.accepted,
        critique: judgement.critique,
    }
}

/// Whether a response follows the rules, if there are rules.
pub(super) fn right(checks: &[Check], response: &str) -> Option<bool> {
    (!checks.is_empty()).then(|| checks.iter().all(|check| check.strict(response)))
}

/// The task of a search that starts from a given draft.
pub(super) fn task(messages: &[Message], seed: u64, checks: &[Check]) -> Task {
    Task {
        sampling: Sampling { seed, ..Sampling::default() },
        checks: checks.to_vec(),
        ..Task::chat(messages.to_vec())
    }
}

fn counts(path: &Path) -> Result<Vec<(&'static str, u64)>> {
    let sampled: Vec<Sampled> = super::read_lines(path)?.unwrap_or_default();
    let drafts = || sampled.iter().flat_map(|line| &line.drafts);
    let count = |holds: fn(&Draft) -> bool| drafts().filter(|draft| holds(draft)).count() as u64;
    let failing = |line: &&Sampled| line.drafts.iter().any(|draft| draft.value.is_some() && !draft.accepted);
    Ok(vec![
        ("prompts", sampled.len() as u64),
        ("drafts", drafts().count() as u64),
        ("cut off", count(|draft| draft.cut)),
        ("accepted", count(|draft| draft.accepted)),
        ("undecided", count(|draft| draft.value.is_none())),
        ("judged", count(|draft| draft.value.is_some())),
        ("votes", drafts().map(|draft| (draft.votes.yes + draft.votes.no) as u64).sum()),
        ("votes without a verdict", drafts().map(|draft| draft.votes.invalid as u64).sum()),
        ("prompts with a failing draft", sampled.iter().filter(failing).count() as u64),
        ("right by rules", count(|draft| draft.right == Some(true))),
        ("accepted, wrong by rules", count(|draft| draft.accepted && draft.right == Some(false))),
        (
            "refused, right by rules",
            count(|draft| !draft.accepted && draft.value.is_some() && draft.right == Some(true)),
        ),
    ])
}
