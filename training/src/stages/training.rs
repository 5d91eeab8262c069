//! Shared parts of the training stages: data is divided into steps, the reference is computed once, and a model directory is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::manifest::{Record, Stage};
use super::{read_json, read_lines, write_json, write_lines};
use crate::chats::Chats;
use crate::gradient::Computing;
use crate::loss::{Pair, Preference};
use crate::model::cpu::Keep;
use crate::model::params::Layout;
use crate::model::{DenseConfig, Params, shape};
use crate::tokens::{Example, PairExample, Passes, pair_units, pair_units_in_order, units};
use crate::trainer::{self, Init, Learning, Processor, TrainConfig, TrainReport};

/// The training data of a stage.
pub(super) enum Data {
    /// Sequences to learn.
    Examples(Vec<Example>),
    /// Pairs of replies, and replies to keep. One of the latter accompanies each pair, in turn.
    Pairs(Vec<PairExample>, Vec<Example>),
}

impl Data {
    fn rows(&self) -> Vec<usize> {
        match self {
            Self::Examples(examples) => examples.iter().map(Example::rows).collect(),
            Self::Pairs(pairs, _) => pairs.iter().map(PairExample::rows).collect(),
        }
    }
}

/// A training stage.
pub(super) struct Task<'a> {
    pub stage: &'static str,
    pub base: &'a Path,
    pub data: &'a Path,
    /// Replies to keep, in addition to pairs.
    pub kept: Option<&'a Path>,
    pub tokens_per_step: usize,
    pub epochs: Option<f64>,
    pub preference: Preference,
    /// Further settings that determine the result, in addition to those of the loop.
    pub settings: Value,
    pub train: &'a TrainConfig,
}

/// Files that a model directory needs in addition to the weights.
const COMPANION_FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "spar.json"];

/// Trains on the data that `load` reads. `load` receives the tokenizer and the maximum length of a sequence.
pub(super) fn fit(
    task: &Task<'_>,
    load: impl FnOnce(&Chats, usize) -> Result<(Data, Vec<String>)>,
) -> Result<TrainReport> {
    let out = &task.train.out_dir;
    let record = out.join(format!("{}.stage.json", task.stage));
    let mut inputs = vec![("base", task.base), ("data", task.data)];
    inputs.extend(task.kept.map(|kept| ("kept", kept)));
    let report = out.join("report.json");
    let running = match Stage::begin(&record, task.stage, &settings(task), &inputs)? {
        Stage::Finished(_) => {
            remove_resume_file(out)?;
            return read_json(&report);
        }
        Stage::Running(running) => running,
    };
    let llama = shape::load(task.base)?;
    let (mut data, skipped) = load(&Chats::open(task.base)?, llama.context)?;
    let rows = data.rows();
    ensure!(!rows.is_empty(), "{}: nothing to learn from", task.data.display());
    let items = rows.len() as u64;
    let mut passes = Passes::new(rows, task.tokens_per_step, task.train.seed);
    let mut config = task.train.clone();
    if let Some(epochs) = task.epochs {
        config.steps = ((passes.steps as f64 * epochs).ceil() as u64).max(1);
        config.warmup = config.steps / 10;
    }
    if let Data::Pairs(pairs, _) = &mut data {
        refer(&config, &llama, task.base, pairs)?;
    }
    let learning = Learning { llama: &llama, init: Init::From(task.base.into()), preference: task.preference };
    let trained = trainer::learn(&config, learning, &mut |step| {
        let chosen = passes.step(step);
        Ok(match &data {
            Data::Examples(examples) => {
                let chosen: Vec<Example> = chosen.iter().map(|&i| examples[i].clone()).collect();
                units(&chosen, config.unit_tokens)
            }
            Data::Pairs(pairs, kept) => {
                let replies = chosen.iter().filter_map(|&i| kept.get(i % kept.len().max(1)).cloned());
                let replies: Vec<Example> = replies.collect();
                let chosen: Vec<PairExample> = chosen.iter().map(|&i| pairs[i].clone()).collect();
                let mut units_of_step = pair_units(&chosen, config.unit_tokens);
                units_of_step.extend(units(&replies, config.unit_tokens));
                units_of_step
            }
        })
    })?;
    if config.lora.is_none() {
        copy_companion_files(task.base, out)?;
    }
    write_json(&report, &trained)?;
    let counts = [("items", items), ("steps", trained.steps), ("tokens", trained.tokens)];
    running.finish(&counts, skipped, &[("model", out)])?;
    remove_resume_file(out)?;
    Ok(trained)
}

/// Removes the file for resuming. It is large, useless after the end, and contains times that differ between runs.
fn remove_resume_file(out: &Path) -> Result<()> {
    let path = out.join("resume.safetensors");
    if path.exists() {
        std::fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// Copies the other files from the base model.
pub(super) fn copy_companion_files(from: &Path, to: &Path) -> Result<()> {
    for name in COMPANION_FILES.iter().filter(|name| from.join(name).exists()) {
        std::fs::copy(from.join(name), to.join(name)).with_context(|| format!("copying {name}"))?;
    }
    Ok(())
}

/// The settings that determine the result, without those that only concern the machine.
fn settings(task: &Task<'_>) -> Value {
    let free = TrainConfig { keep: Keep::Everything, workers: 0, checkpoint_every: 0, ..task.train.clone() };
    let train = TrainConfig { out_dir: PathBuf::new(), ..free };
    json!({ "of": task.settings, "tokens_per_step": task.tokens_per_step, "epochs": task.epochs, "train": train })
}

/// Computes the summed log-probabilities of every pair under the base model before it is trained, so that only one model is in memory. They
/// are kept in `reference.jsonl` for a run that is killed.
fn refer(config: &TrainConfig, llama: &DenseConfig, base: &Path, pairs: &mut [PairExample]) -> Result<()> {
    std::fs::create_dir_all(&config.out_dir).with_context(|| format!("creating {}", config.out_dir.display()))?;
    let path = config.out_dir.join("reference.jsonl");
    let scores: Vec<Pair<f64>> = match read_lines(&path)? {
        Some(scores) => scores,
        None => {
            let params = match config.device {
                Processor::Cpu => Params::load(llama, base)?,
                Processor::Cuda => Params { layout: Arc::new(Layout::new(llama)), data: Vec::new() },
            };
            let computing =
                Computing { arithmetic: config.arithmetic, lora: None, keep: Keep::Streams, workers: config.threads() };
            let units = pair_units_in_order(pairs, config.unit_tokens);
            let scores = config.workers(llama, computing, base)?.score(&params, &units)?.concat();
            write_lines(&path, &scores)?;
            scores
        }
    };
    ensure!(scores.len() == pairs.len(), "{} belongs to other data: remove it", path.display());
    pairs.iter_mut().zip(scores).for_each(|(pair, score)| pair.reference = score);
    Ok(())
}

/// The record of a finished training stage.
///
/// # Errors
/// Fails if the record cannot be read.
pub fn record(out: &Path, stage: &str) -> Result<Record> {
    read_json(&out.join(format!("{stage}.stage.json")))
}
