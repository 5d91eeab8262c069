//! `search`: refines one failing draft of each prompt in a tree search.

use std::path::Path;

use anyhow::Result;
use serde::Serialize;
use spar::chat::Message;
use spar::engine::reasoning::Reasoning;
use spar::engine::{Completion, FinishReason, derive_seed};
use spar::search::{self, Judgement, Models, SearchConfig, Task};

use super::engines::Engines;
use super::journal::Journal;
use super::manifest::{Record, Stage};
use super::sample::{right, task};
use super::unreadable::Watch;
use crate::recipe::iterate::Search;
use crate::records::{BadLines, Draft, Sampled, Searched, TreeNode, read};

/// Settings that decide the stage's output, in addition to its inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Settings<'a> {
    /// Seed of all random draws.
    pub seed: u64,
    /// Settings of the search.
    pub search: &'a Search,
    /// Maximum number of tokens of further drafts and refined responses.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Number of prompts at a time. The output does not depend on it.
    #[serde(skip)]
    pub parallel: usize,
}

/// The files of the stage.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The judged drafts, one prompt per line.
    pub samples: &'a Path,
    /// The refiner's directory.
    pub refiner: &'a Path,
    /// The search trees, one per line.
    pub out: &'a Path,
}

/// Runs the stage. Lines are written as soon as they are finished; a killed stage resumes after the last one.
///
/// # Errors
/// Fails if a file, a line or a model call fails.
pub async fn search(settings: &Settings<'_>, files: Files<'_>) -> Result<Record> {
    let inputs = [("samples", files.samples), ("refiner", files.refiner)];
    let running = match Stage::begin(&files.out.with_extension("stage.json"), "search", settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let sampled: Vec<Sampled> = read(files.samples, BadLines::Stop, Ok)?.items;
    let roots: Vec<(usize, &Sampled, &Draft)> = sampled
        .iter()
        .enumerate()
        .filter_map(|(i, line)| Some((i, line, failing(line, derive_seed(settings.seed, i as u64))?)))
        .collect();
    let journal = Journal::open(files.out)?;
    let engines = Engines::open(files.refiner, files.refiner)?;
    let config = settings.search.config();
    let tree = |_, &(i, line, draft): &(usize, _, _)| search_draft(engines.models(), settings, &config, i, line, draft);
    let remedy = "the refiner does not put its responses between the marks that its template asks for, or the search's limits are too \
        low for one refinement. Train the refiner first, or raise iterate.search.refine_tokens, or raise iterate.search.unreadable to let \
        the stage go on";
    let mut watch = Watch::new("searches' refinements", settings.search.unreadable, remedy);
    let seen = |tree: &Searched| {
        let refined = usize::from(tree.nodes.len() > 1);
        watch.add(refined, 1 - refined)
    };
    journal.fill_watched("searching", &roots, settings.parallel, tree, seen).await?;
    watch.finish()?;
    let counts = counts(files.out)?;
    running.finish(&counts, Vec::new(), &[("trees", files.out)])
}

/// One of the drafts that the majority rejects, chosen at random.
fn failing(line: &Sampled, seed: u64) -> Option<&Draft> {
    let failing: Vec<&Draft> =
        line.drafts.iter().filter(|draft| draft.value.is_some() && !draft.accepted && !draft.cut).collect();
    let count = u64::try_from(failing.len()).ok().filter(|&count| count > 0)?;
    Some(failing[usize::try_from(seed % count).ok()?])
}

async fn search_draft(
    models: Models<'_>,
    settings: &Settings<'_>,
    config: &SearchConfig,
    index: usize,
    line: &Sampled,
    draft: &Draft,
) -> Result<Searched> {
    let checks = line.asked.checks()?;
    let seed = derive_seed(!settings.seed, index as u64);
    let task = Task { max_tokens: settings.max_tokens, ..task(&[Message::user(&line.asked.prompt)], seed, &checks) };
    let root = Completion {
        text: draft.response.clone(),
        reasoning: Reasoning::default(),
        prompt_tokens: 0,
        cached_tokens: 0,
        tokens: 0,
        logprobs: Vec::new(),
        finish: FinishReason::Stop,
    };
    let judgement = Judgement {
        value: draft.value,
        votes: draft.votes,
        accepted: draft.accepted,
        critique: draft.critique.clone(),
        ..Judgement::default()
    };
    let outcome = search::refine_judged(models, config, &task, root, judgement, &|_| {}).await;
    let nodes = outcome.tree.nodes.iter().map(|node| TreeNode::new(node, right(&checks, &node.response))).collect();
    Ok(Searched { asked: line.asked.clone(), nodes, best: outcome.best.0, accepted: outcome.accepted })
}

fn counts(path: &Path) -> Result<Vec<(&'static str, u64)>> {
    let trees: Vec<Searched> = super::read_lines(path)?.unwrap_or_default();
    let accepted = || trees.iter().filter(|tree| tree.accepted);
    let truth = |truth: bool| accepted().filter(|tree| tree.nodes[tree.best].right == Some(truth)).count() as u64;
    Ok(vec![
        ("trees", trees.len() as u64),
        ("trees without a refinement", trees.iter().filter(|tree| tree.nodes.len() == 1).count() as u64),
        ("nodes", trees.iter().map(|tree| tree.nodes.len() as u64 - 1).sum()),
        ("accepted", accepted().count() as u64),
        ("accepted, right by rules", truth(true)),
        ("accepted, wrong by rules", truth(false)),
        ("roots, right by rules", trees.iter().filter(|tree| tree.nodes[0].right == Some(true)).count() as u64),
    ])
}
