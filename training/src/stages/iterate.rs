//! `iterate`: runs rounds of sample, search, build, train and gate. It only calls stages, each of which resumes on its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::engine::derive_seed;
use spar::engine::model_dir::ModelDir;

use super::external::{self, Waiting};
use super::gate::{self, Decision};
use super::manifest::{Record, digest};
use super::prompts::{self, Part};
use super::scores::{self, Scores, Summary};
use super::trainings::{Training, actor_stage, refiner_stage};
use super::{build, merge, sample, search, training, write_json};
use crate::checkpoint::replace;
use crate::publish::publish_round;
use crate::recipe::iterate::Iterate;
use crate::trainer::TrainConfig;

/// All data that is needed to repeat a run and to check its results. It is equal for the same recipe on any machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The version of the trainer.
    pub version: String,
    /// The recipe, seeds included.
    pub recipe: Iterate,
    /// Scores on the validation prompts before the first round.
    pub start: Option<Summary>,
    /// Scores on the held-out prompts before the first round and after each. After a round that changed nothing, the last scores are
    /// repeated.
    pub held_out: Vec<Summary>,
    /// The counts and the decision of each round.
    pub rounds: Vec<Round>,
    /// SHA-256 of the final models.
    pub sha256: BTreeMap<String, String>,
}

/// The manifest's file.
pub const FINISHED: &str = "manifest.json";
/// The manifest's file while there are rounds to come.
pub const UNFINISHED: &str = "unfinished.json";

/// The result of one round.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Round {
    /// Counts by stage.
    pub counts: BTreeMap<String, BTreeMap<String, u64>>,
    /// The gate's decision.
    pub gate: Option<Decision>,
}

/// The models in use.
#[derive(Clone, Debug, PartialEq)]
struct Current {
    actor: PathBuf,
    refiner: PathBuf,
}

struct Run<'a> {
    recipe: &'a Iterate,
    out: &'a Path,
    /// Seconds per stage.
    times: BTreeMap<String, f64>,
}

/// Runs all rounds of `recipe` in `out` and writes `final/` (both models), `manifest.json` and `times.json`.
///
/// # Errors
/// Returns the error of the first failing stage, which it names.
pub async fn iterate(recipe: &Iterate, out: &Path) -> Result<Manifest> {
    recipe.check()?;
    recipe.check_files()?;
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut run = Run { recipe, out, times: read_times(out) };
    let mut current = Current { actor: recipe.actor.clone(), refiner: recipe.refiner.clone() };
    prompts::write(recipe, Part::Validation, &out.join("validation.jsonl")).context("the validation prompts")?;
    if recipe.prompts.held_out.is_some() {
        prompts::write(recipe, Part::HeldOut, &out.join("held-out.jsonl")).context("the held-out prompts")?;
    }
    tracing::info!("{} rounds of {} prompts in {}", recipe.iterations, recipe.prompts.per_iteration, out.display());
    let start = run.validate(&current, "start").await?;
    let mut held_out: Vec<Summary> = run.hold_out(&current, "start").await?.into_iter().collect();
    let mut before = start.clone();
    let mut manifest = Manifest {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        recipe: recipe.clone(),
        start: recipe.gate.enabled.then(|| start.summary()),
        held_out: Vec::new(),
        rounds: Vec::new(),
        sha256: BTreeMap::new(),
    };
    for t in 1..=recipe.iterations {
        let folder = out.join(format!("iter-{t}"));
        std::fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let live = current.clone();
        tracing::info!("round {t} of {}", recipe.iterations);
        let round = run.round(t, &folder, &mut current, &mut before).await.with_context(|| format!("round {t}"))?;
        if let Some(publish) = &recipe.publish {
            let both = [("actor", &live.actor, &current.actor), ("refiner", &live.refiner, &current.refiner)];
            let new = both.into_iter().filter(|(_, old, new)| old != new);
            let new: Vec<(&str, &Path)> = new.map(|(role, _, new)| (role, new.as_path())).collect();
            publish_round(publish, &new, &folder.join("published.json")).await.with_context(|| format!("round {t}"))?;
        }
        held_out.extend(match held_out.last() {
            Some(&last) if current == live => Some(last),
            _ => run.hold_out(&current, &format!("iter-{t}")).await?,
        });
        manifest.rounds.push(round);
        manifest.held_out.clone_from(&held_out);
        // A report may be wanted long before the end.
        write_json(&out.join(UNFINISHED), &manifest)?;
        crate::report::write(out)?;
        tracing::info!("finished round {t} of {}: {}", recipe.iterations, out.join("index.html").display());
    }
    for (role, from) in [("actor", &current.actor), ("refiner", &current.refiner)] {
        let to = out.join("final").join(role);
        copy_model(from, &to)?;
        manifest.sha256.insert(role.to_owned(), digest(&to)?);
    }
    write_json(&out.join(FINISHED), &manifest)?;
    std::fs::remove_file(out.join(UNFINISHED)).with_context(|| format!("removing {UNFINISHED}"))?;
    crate::report::write(out)?;
    Ok(manifest)
}

impl Run<'_> {
    async fn round(&mut self, t: usize, folder: &Path, current: &mut Current, before: &mut Scores) -> Result<Round> {
        let recipe = self.recipe;
        let seed = |stage: u64| derive_seed(recipe.seed, 16 * t as u64 + stage);
        let mut counts = BTreeMap::new();
        let mut keep = |record: &Record| counts.insert(record.stage.clone(), record.counts.clone());

        let asked = folder.join("prompts.jsonl");
        prompts::write(recipe, Part::Round(t), &asked).context("the prompts")?;
        let (samples, trees) = (folder.join("samples.jsonl"), folder.join("trees.jsonl"));
        let settings = sample::Settings {
            seed: seed(1),
            sample: &recipe.sample,
            search: &recipe.search,
            bad_lines: recipe.bad_lines,
        };
        let files = sample::Files { prompts: &asked, actor: &current.actor, refiner: &current.refiner, out: &samples };
        let record = self.timed("sample", sample::sample(&settings, files)).await.context("sampling")?;
        keep(&record);

        let sampled = record;
        let settings = search::Settings {
            seed: seed(2),
            search: &recipe.search,
            max_tokens: recipe.sample.max_tokens,
            parallel: recipe.sample.parallel,
        };
        let files = search::Files { samples: &samples, refiner: &current.refiner, out: &trees };
        let record = self.timed("search", search::search(&settings, files)).await.context("searching")?;
        keep(&record);

        let settings = build::Settings { seed: seed(3), build: &recipe.build };
        let files = build::Files { samples: &samples, trees: &trees, refiner: &current.refiner, out: folder };
        let templates = ModelDir::open(current.refiner.clone())?.templates;
        let built = build::build(&settings, files, &templates).context("building")?;
        keep(&built);
        build::ensure_data(recipe, &[&sampled, &record, &built])?;

        let actor = (built.counts["pairs"] > 0).then(|| folder.join("actor"));
        let turns = std::fs::metadata(folder.join("sft.jsonl"))?.len() > 0;
        let refiner = (recipe.sft.enabled && turns).then(|| folder.join("refiner"));
        let mut trainings = Vec::new();
        if let Some(actor) = &actor {
            let kept = (recipe.dpo.preference.kept > 0.0).then(|| self.learned(t, "kept.jsonl")).transpose()?;
            let data = (self.learned(t, "dpo.jsonl")?, kept);
            trainings.push((actor_stage(recipe, t, seed(4), &current.actor, data), actor));
        }
        if let Some(refiner) = &refiner {
            let data = folder.join("sft.jsonl");
            trainings.push((refiner_stage(recipe, t, seed(5), &current.refiner, data), refiner));
        }
        for record in self.train(trainings).await? {
            keep(&record);
        }
        let gate = self.gate(t, current, before, Trained { actor, refiner }).await.context("at the gate")?;
        if let Some(gate) = &gate {
            write_json(&folder.join("gate.json"), gate)?;
        }
        Ok(Round { counts, gate })
    }

    /// Trains the models of a round, here or elsewhere, and returns the records of their stages.
    async fn train(&mut self, trainings: Vec<(Training, &PathBuf)>) -> Result<Vec<Record>> {
        let mut records = Vec::new();
        let recipe = self.recipe;
        let Some(external) = recipe.external.as_ref().filter(|_| !recipe.trainer.is_own()) else {
            for (training, model) in trainings {
                let out = trained_to(model, training.train());
                let training = training.written_to(out);
                let role = model.file_name().unwrap_or_default().to_string_lossy();
                let stage = training.stage();
                self.timed(stage, async { training.run() }).await.with_context(|| format!("training the {role}"))?;
                records.push(training::record(&training.train().out_dir, stage)?);
                merge_adapter(training.base(), training.train(), model)?;
            }
            return Ok(records);
        };
        loop {
            records.clear();
            let mut exports = Vec::new();
            for (training, model) in &trainings {
                let role = model.file_name().unwrap_or_default().to_string_lossy();
                let record = external::trained(training, external, model);
                match record.with_context(|| format!("exporting the training of the {role}"))? {
                    Some(record) => records.push(record),
                    None => exports.push(external::export_of(model)),
                }
            }
            if exports.is_empty() {
                return Ok(records);
            }
            if !recipe.wait {
                return Err(Waiting { exports }.into());
            }
            external::wait(&exports).await?;
        }
    }

    /// The actor's training data in round `t`: the round's own file, or with `dpo.replay` a file with the lines of all rounds so far.
    fn learned(&self, t: usize, name: &str) -> Result<PathBuf> {
        let file = |round: usize| self.out.join(format!("iter-{round}")).join(name);
        if t == 1 || !self.recipe.dpo.replay {
            return Ok(file(t));
        }
        let all: Vec<String> = (1..=t)
            .map(file)
            .map(|path| std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display())))
            .collect::<Result<_>>()?;
        let path = file(t).with_file_name(format!("replayed-{name}"));
        replace(&path, |to| std::fs::write(to, all.concat()).with_context(|| format!("writing {}", path.display())))?;
        Ok(path)
    }

    /// Accepts the models that are not worse: first the actor, then the refiner together with the accepted actor.
    async fn gate(
        &mut self,
        t: usize,
        current: &mut Current,
        before: &mut Scores,
        trained: Trained,
    ) -> Result<Option<Decision>> {
        let (recipe, enabled) = (self.recipe, self.recipe.gate.enabled);
        if !enabled {
            current.actor = trained.actor.unwrap_or(current.actor.clone());
            current.refiner = trained.refiner.unwrap_or(current.refiner.clone());
            return Ok(None);
        }
        let (mut actor_comparison, mut actor_accepted) = (None, false);
        if let Some(actor) = trained.actor {
            let next = Current { actor, ..current.clone() };
            let after = self.validate(&next, &format!("iter-{t}/actor")).await?;
            let (found, holds) = gate::actor(&recipe.gate, before, &after);
            (actor_comparison, actor_accepted) = (Some(found), holds);
            if holds {
                (*current, *before) = (next, after);
            }
        }
        let (mut refiner_comparison, mut judge_scores, mut refiner_accepted) = (None, None, false);
        if let Some(refiner) = trained.refiner {
            let next = Current { refiner, ..current.clone() };
            let after = self.validate(&next, &format!("iter-{t}/refiner")).await?;
            let (found, judge, holds) = gate::refiner(&recipe.gate, before, &after);
            (refiner_comparison, judge_scores, refiner_accepted) = (Some(found), Some(judge), holds);
            if holds {
                (*current, *before) = (next, after);
            }
        }
        Ok(Some(Decision {
            actor: actor_comparison,
            actor_accepted,
            refiner: refiner_comparison,
            judge: judge_scores,
            refiner_accepted,
            scores: before.summary(),
        }))
    }

    /// Scores on the validation prompts; empty if there is no gate.
    async fn validate(&mut self, models: &Current, name: &str) -> Result<Scores> {
        if !self.recipe.gate.enabled {
            return Ok(Scores::empty());
        }
        self.score(models, "validation", name, self.recipe.gate.prompts).await
    }

    async fn hold_out(&mut self, models: &Current, name: &str) -> Result<Option<Summary>> {
        if self.recipe.prompts.held_out.is_none() {
            return Ok(None);
        }
        let scores = self.score(models, "held-out", name, self.recipe.prompts.held_out_count).await?;
        Ok(Some(scores.summary()))
    }

    async fn score(&mut self, models: &Current, set: &str, name: &str, prompts: usize) -> Result<Scores> {
        let recipe = self.recipe;
        let settings = scores::Settings {
            seed: recipe.seed,
            sample: &recipe.sample,
            search: &recipe.search,
            budget: recipe.gate.budget,
            prompts,
        };
        let (prompts, out) =
            (self.out.join(format!("{set}.jsonl")), self.out.join("scores").join(set).join(format!("{name}.json")));
        let files = scores::Files { prompts: &prompts, actor: &models.actor, refiner: &models.refiner, out: &out };
        self.timed("score", scores::score(&settings, files)).await.with_context(|| format!("scoring {set} at {name}"))
    }

    /// Adds the duration of a step to the time of its stage. A step that was finished before adds almost nothing.
    async fn timed<T>(&mut self, stage: &str, step: impl Future<Output = Result<T>>) -> Result<T> {
        let started = Instant::now();
        // An error of the step matters more than one of the record of times, which a full disk causes as well.
        let result = step.await?;
        *self.times.entry(stage.to_owned()).or_default() += started.elapsed().as_secs_f64();
        write_json(&self.out.join("times.json"), &self.times)?;
        Ok(result)
    }
}

/// The models that a round has trained.
struct Trained {
    actor: Option<PathBuf>,
    refiner: Option<PathBuf>,
}

/// The output directory of a training stage. An adapter is written next to the model it is merged into.
fn trained_to(model: &Path, train: &TrainConfig) -> PathBuf {
    if train.lora.is_none() { model.into() } else { model.with_extension("adapter") }
}

fn merge_adapter(base: &Path, train: &TrainConfig, model: &Path) -> Result<()> {
    if train.lora.is_some() {
        merge::merge(base, &train.out_dir, model).context("merging the adapter")?;
    }
    Ok(())
}

fn read_times(out: &Path) -> BTreeMap<String, f64> {
    super::read_json(&out.join("times.json")).unwrap_or_default()
}

/// Copies the files of a model directory that determine its results.
fn copy_model(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("creating {}", to.display()))?;
    let mut copied = 0;
    for entry in std::fs::read_dir(from).with_context(|| format!("reading {}", from.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if super::manifest::is_of_model(&name) {
            std::fs::copy(&path, to.join(&name)).with_context(|| format!("copying {}", path.display()))?;
            copied += 1;
        }
    }
    ensure!(copied > 0, "{} holds no model", from.display());
    Ok(())
}
