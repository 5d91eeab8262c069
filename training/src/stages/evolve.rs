//! `evolve`: makes prompts harder by asking a model to add constraints of randomly chosen kinds.

use std::path::Path;

use anyhow::{Context, Result};
use rand::seq::index::sample;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spar::engine::{Engine, EngineError, EngineExt, Purpose, Request, Sampling, derive_seed};
use spar::prompts::Templates;
use spar::prompts::evolve::TAXONOMY;

use super::journal::Journal;
use super::manifest::{Record, Stage};
use super::{engines, write_lines};
use crate::records::{Asked, BadLines, read_prompts};

/// Settings that decide the stage's output, in addition to its inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Settings {
    /// Seed of all random draws.
    pub seed: u64,
    /// Maximum number of constraints added to a prompt.
    pub most: usize,
    /// Temperature of the model's replies.
    pub temperature: f32,
    /// How lines that cannot be used are handled.
    pub bad_lines: BadLines,
    /// Number of prompts at a time. The output does not depend on it.
    #[serde(skip)]
    pub parallel: usize,
}

/// The result for one prompt, which is a line of the stage's log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evolved {
    /// The key of the prompt from which it was made.
    pub key: Value,
    /// Kinds of constraints that the model was asked to add.
    pub kinds: Vec<String>,
    /// The prompt it was made from.
    pub from: String,
    /// The harder prompt; `None` if the model's reply contained none or the same prompt.
    pub prompt: Option<String>,
}

/// Writes the harder prompts to `out`, as prompts without rules, and all attempts to `*.log.jsonl` next to it.
///
/// # Errors
/// Fails if a file, a line or a model call fails.
pub async fn evolve(settings: &Settings, prompts: &Path, model: &Path, out: &Path) -> Result<Record> {
    let inputs = [("prompts", prompts), ("model", model)];
    let running = match Stage::begin(&out.with_extension("stage.json"), "evolve", settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let asked = read_prompts(prompts, settings.bad_lines)?;
    let engine = engines::load(model)?;
    let log = out.with_extension("log.jsonl");
    let journal = Journal::open(&log)?;
    let templates = engine.dir().templates.clone();
    let line = |i, asked| evolve_prompt(&engine, &templates, settings, i, asked);
    journal.fill("evolving", &asked.items, settings.parallel, line).await?;
    let tried: Vec<Evolved> = super::read_lines(&log)?.unwrap_or_default();
    let harder: Vec<Asked> = tried
        .iter()
        .filter_map(|line| {
            let prompt = line.prompt.clone()?;
            Some(Asked { key: line.key.clone(), prompt, instruction_id_list: Vec::new(), kwargs: Vec::new() })
        })
        .collect();
    write_lines(out, &harder)?;
    let counts = [("prompts", tried.len() as u64), ("harder", harder.len() as u64)];
    running.finish(&counts, asked.skipped, &[("prompts", out)])
}

async fn evolve_prompt(
    engine: &dyn Engine,
    templates: &Templates,
    settings: &Settings,
    index: usize,
    asked: &Asked,
) -> Result<Evolved> {
    let seed = derive_seed(settings.seed, index as u64);
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let count = rng.random_range(1..=settings.most.clamp(1, TAXONOMY.len()));
    let kinds = sample(&mut rng, TAXONOMY.len(), count).into_vec();
    let request = Request {
        sampling: Sampling { temperature: settings.temperature, seed, ..Sampling::default() },
        ..Request::chat(Purpose::Answer, templates.evolve(&asked.prompt, &kinds)?)
    };
    let reply = match engine.generate(request).await {
        Err(EngineError::PromptTooLong { .. }) => None,
        reply => Some(reply.with_context(|| format!("prompt {}", asked.key))?),
    };
    let prompt = reply.and_then(|reply| templates.parse_refinement(&reply.text)).map(|found| found.response);
    Ok(Evolved {
        key: asked.key.clone(),
        kinds: kinds.iter().map(|&kind| TAXONOMY[kind].0.to_owned()).collect(),
        from: asked.prompt.clone(),
        prompt: prompt.filter(|prompt| *prompt != asked.prompt),
    })
}
