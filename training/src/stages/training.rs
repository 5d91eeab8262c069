//! Shared parts of the training stages: data is divided into steps, the reference is computed once, and a model directory is written.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::manifest::{Record, Stage};
use super::{read_json, read_lines, write_json, write_lines};
use crate::chats::Chats;
use crate::loss::{Pair, Preference};
use crate::model::computing::Computing;
use crate::model::cpu::Keep;
use crate::model::params::Layout;
use crate::model::{DenseConfig, Params, shape};
use crate::recipe::checks::positive;
use crate::tokens::{Example, PairExample, Passes, Unit, pair_units, pair_units_in_order, units};
use crate::trainer::{self, Evaluation, Init, Learning, Processor, TrainConfig, TrainReport};

/// The training data of a stage.
pub(super) enum Data {
    /// Sequences to learn.
    Examples(Vec<Example>),
    /// Pairs of replies, and replies to keep. One of the latter accompanies each pair, in turn.
    Pairs(Vec<PairExample>, Vec<Example>),
}

impl Data {
    /// Sets a share of the items apart, evenly spread over the file, and at least one if the share is not 0.
    fn set_apart(&mut self, share: f64) -> Option<Self> {
        fn split<T>(items: &mut Vec<T>, share: f64) -> Vec<T> {
            let count = |items: usize| (items as f64 * share).floor() as usize;
            let (all, last) = (count(items.len()), items.len().saturating_sub(1));
            let (mut apart, mut kept) = (Vec::new(), Vec::new());
            for (i, item) in items.drain(..).enumerate() {
                let chosen = if all == 0 { i == last } else { count(i + 1) > count(i) };
                if chosen { apart.push(item) } else { kept.push(item) }
            }
            *items = kept;
            apart
        }
        (share > 0.0).then(|| match self {
            Self::Examples(examples) => Self::Examples(split(examples, share)),
            Self::Pairs(pairs, _) => Self::Pairs(split(pairs, share), Vec::new()),
        })
    }

    fn units(&self, unit_tokens: usize) -> Vec<Unit> {
        match self {
            Self::Examples(examples) => units(examples, unit_tokens),
            Self::Pairs(pairs, _) => pair_units(pairs, unit_tokens),
        }
    }

    fn rows(&self) -> Vec<usize> {
        match self {
            Self::Examples(examples) => examples.iter().map(Example::rows).collect(),
            Self::Pairs(pairs, _) => pairs.iter().map(PairExample::rows).collect(),
        }
    }
}

/// The `[eval]` section: data that is not learned from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Eval {
    /// A file in the formats of the training data.
    pub data: Option<PathBuf>,
    /// The share of the training data that is set apart instead of being learned, if there is no file.
    pub share: f64,
    /// Steps between two measurements; a tenth of all steps without it. The last step is always measured.
    pub every: Option<u64>,
}

impl Eval {
    pub(super) fn check(&self) -> Result<()> {
        ensure!((0.0..1.0).contains(&self.share), "eval.share must be at least 0 and below 1, got {}", self.share);
        ensure!(self.every != Some(0), "eval.every must be at least 1, got 0");
        if let Some(data) = &self.data {
            ensure!(data.exists(), "eval.data: there is no {}", data.display());
            ensure!(self.share == 0.0, "eval.data and eval.share exclude each other; remove one");
        }
        Ok(())
    }
}

/// Checks a fine-tuning recipe's common fields.
pub(super) fn check(
    base: &Path,
    files: &[(&str, Option<&PathBuf>)],
    tokens_per_step: usize,
    epochs: Option<f64>,
) -> Result<()> {
    ensure!(base.is_dir(), "base: there is no model directory {}", base.display());
    for (name, file) in files {
        if let Some(file) = file {
            ensure!(file.exists(), "{name}: there is no file {}", file.display());
        }
    }
    ensure!(tokens_per_step >= 1, "tokens_per_step must be at least 1, got {tokens_per_step}");
    epochs.map_or(Ok(()), |epochs| positive("epochs", epochs))
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
    pub eval: &'a Eval,
    /// What an adapter's configuration states as its base.
    pub base_name: Option<&'a str>,
    /// How much less likely the chosen reply of a pair may be than the rejected one, in nats per token.
    pub less_likely: Option<f64>,
    pub train: &'a TrainConfig,
}

/// Files that a model directory needs in addition to the weights.
const COMPANION_FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "spar.json"];

/// Trains on the data that `load` reads. `load` receives the tokenizer, the maximum length of a sequence and the file.
pub(super) fn fit(
    task: &Task<'_>,
    load: impl Fn(&Chats, usize, &Path) -> Result<(Data, Vec<String>)>,
) -> Result<TrainReport> {
    let out = &task.train.out_dir;
    let record = out.join(format!("{}.stage.json", task.stage));
    let mut inputs = vec![("base", task.base), ("data", task.data)];
    inputs.extend(task.kept.map(|kept| ("kept", kept)));
    inputs.extend(task.eval.data.as_deref().map(|eval| ("eval", eval)));
    let report = out.join("report.json");
    let running = match Stage::begin(&record, task.stage, &settings(task), &inputs)? {
        Stage::Finished(_) => {
            remove_resume_file(out)?;
            return read_json(&report);
        }
        Stage::Running(running) => running,
    };
    let llama = shape::load(task.base)?;
    let chats = Chats::open(task.base)?;
    let (mut data, mut skipped) = load(&chats, llama.context, task.data)?;
    let mut apart = match &task.eval.data {
        Some(file) => {
            let (apart, lines) = load(&chats, llama.context, file)?;
            skipped.extend(lines);
            Some(apart)
        }
        None => data.set_apart(task.eval.share),
    };
    let mut config = task.train.clone();
    let mut unlikely = 0;
    if let Data::Pairs(pairs, _) = &mut data {
        refer(&config, &llama, task.base, pairs, "reference.jsonl")?;
        let before = pairs.len();
        pairs.retain(|pair| task.less_likely.is_none_or(|most| pair.less_likely() <= most));
        unlikely = before - pairs.len();
    }
    if let Some(Data::Pairs(pairs, _)) = &mut apart {
        refer(&config, &llama, task.base, pairs, "reference-eval.jsonl")?;
    }
    let rows = data.rows();
    ensure!(
        !rows.is_empty(),
        "{}: nothing to learn from{}",
        task.data.display(),
        if unlikely > 0 { format!("; {unlikely} pairs are left out by `less_likely`") } else { String::new() }
    );
    let items = rows.len() as u64;
    let mut passes = Passes::new(rows, task.tokens_per_step, task.train.seed);
    if let Some(epochs) = task.epochs {
        config.steps = ((passes.steps as f64 * epochs).ceil() as u64).max(1);
    }
    let eval = apart.as_ref().filter(|data| !data.rows().is_empty()).map(|data| Evaluation {
        units: data.units(config.unit_tokens),
        every: task.eval.every.unwrap_or(config.steps / 10).max(1),
    });
    let measured = apart.as_ref().map_or(0, |data| data.rows().len() as u64);
    let learning = Learning {
        llama: &llama,
        init: Init::From(task.base.into()),
        preference: task.preference,
        eval,
        steps_per_epoch: Some(passes.steps),
        base_name: task.base_name,
    };
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
    let mut counts = vec![("items", items), ("steps", trained.steps), ("tokens", trained.tokens)];
    counts.extend((measured > 0).then_some(("eval items", measured)));
    counts.extend((unlikely > 0).then_some(("pairs below the floor of likelihood", unlikely as u64)));
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
    let mut settings =
        json!({ "of": task.settings, "tokens_per_step": task.tokens_per_step, "epochs": task.epochs, "train": train });
    if *task.eval != Eval::default() {
        settings["eval"] = json!({ "share": task.eval.share, "every": task.eval.every });
    }
    settings
}

/// Computes the summed log-probabilities of every pair under the base model before it is trained, so that only one model is in memory. They
/// are kept in the file `name` for a run that is killed.
fn refer(config: &TrainConfig, llama: &DenseConfig, base: &Path, pairs: &mut [PairExample], name: &str) -> Result<()> {
    std::fs::create_dir_all(&config.out_dir).with_context(|| format!("creating {}", config.out_dir.display()))?;
    let path = config.out_dir.join(name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_data_is_set_apart_evenly() {
        for (items, share, expected) in
            [(6, 0.34, vec![2, 5]), (6, 0.5, vec![1, 3, 5]), (3, 0.05, vec![2]), (4, 0.9, vec![1, 2, 3])]
        {
            let example = |i| Example { tokens: vec![i, i], weights: vec![1.0; 2] };
            let mut data = Data::Examples((0..items).map(example).collect());
            let Some(Data::Examples(apart)) = data.set_apart(share) else { panic!("a share is set apart") };
            assert_eq!(apart.iter().map(|example| example.tokens[0]).collect::<Vec<_>>(), expected, "{items} {share}");
            assert_eq!(data.rows().len() + apart.len(), items as usize);
        }
        assert!(Data::Examples(Vec::new()).set_apart(0.0).is_none());
    }
}
