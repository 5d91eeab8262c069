//! The `[iterate]` section of a recipe, which contains everything that SPaR iterations depend on. Defaults are the paper's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spar::search::{Judge, Mode, SearchConfig, Strategy};

pub use super::build::{Build, Floor, Pairing};
pub use super::external::{External, Trainer};
use crate::loss::Preference;
use crate::publish::Publish;
use crate::records::BadLines;
use crate::trainer::TrainConfig;
use crate::world::Split;

/// The `[iterate]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iterate {
    /// Seed of all random draws.
    #[serde(default)]
    pub seed: u64,
    /// Rounds of sampling, searching and training.
    #[serde(default = "three")]
    pub iterations: usize,
    /// The model directory that drafts in the first round.
    pub actor: PathBuf,
    /// The model directory that judges and refines in the first round.
    pub refiner: PathBuf,
    /// The prompts for the models.
    pub prompts: Prompts,
    /// How lines that cannot be used are handled.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// How drafts are made and judged.
    #[serde(default)]
    pub sample: Sample,
    /// The tree search from failing drafts.
    #[serde(default)]
    pub search: Search,
    /// Which results become training data.
    #[serde(default)]
    pub build: Build,
    /// The actor's training.
    pub dpo: Dpo,
    /// The refiner's training.
    pub sft: Rft,
    /// Limits on how much worse a round may make the models.
    #[serde(default)]
    pub gate: Gate,
    /// The program that trains the models.
    #[serde(default, skip_serializing_if = "Trainer::is_own")]
    pub trainer: Trainer,
    /// What trains the models with `trainer = "external"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<External>,
    /// Whether a run waits for models that are trained elsewhere, instead of ending. It does not influence the results.
    #[serde(skip)]
    pub wait: bool,
    /// The recipe's `[publish]` section: the server that receives accepted models. It does not influence the run.
    #[serde(skip)]
    pub publish: Option<Publish>,
}

fn three() -> usize {
    3
}

/// The source of prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A file with one prompt per line in the field `prompt`, and IFEval's fields if the prompt can be checked.
    File(PathBuf),
    /// Prompts of the seeded world.
    World {
        /// The split of the world's prompts.
        world: Split,
    },
    /// Generated instructions for real models.
    Instructions {
        /// The split of the instructions.
        instructions: Split,
    },
}

/// The prompts of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Prompts for training. Each round takes the next ones.
    pub train: Source,
    /// The number of prompts per round.
    #[serde(default = "ten_thousand")]
    pub per_iteration: usize,
    /// Files of benchmarks, with one prompt per line. Training prompts that are too close to a benchmark's are left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<PathBuf>,
    /// Prompts of the gate, which must be checkable.
    pub validation: Source,
    /// Prompts whose scores are reported but never decide anything.
    #[serde(default)]
    pub held_out: Option<Source>,
    /// The number of held-out prompts.
    #[serde(default = "five_hundred")]
    pub held_out_count: usize,
}

fn ten_thousand() -> usize {
    10_000
}

fn five_hundred() -> usize {
    500
}

/// How drafts are made and judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// Drafts per prompt.
    pub per_prompt: usize,
    /// Temperature of the drafts.
    pub temperature: f32,
    /// Nucleus probability of the drafts.
    pub top_p: f32,
    /// Maximum number of tokens of a draft.
    pub max_tokens: Option<usize>,
    /// Votes per draft.
    pub votes: usize,
    /// Number of prompts at a time.
    pub parallel: usize,
    /// Share of the votes that may have no verdict. Above it, sampling stops: the refiner does not follow its template.
    pub unreadable: f64,
}

impl Default for Sample {
    fn default() -> Self {
        Self { per_prompt: 5, temperature: 0.9, top_p: 0.9, max_tokens: None, votes: 5, parallel: 64, unreadable: 0.5 }
    }
}

/// How failing drafts are refined. The fields are those of the server's search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// Which node is refined next.
    pub strategy: Strategy,
    /// How closely the published reference is followed.
    pub mode: Mode,
    /// The judge: the model, rules or both.
    pub judge: Judge,
    /// Maximum number of judged refinements.
    pub budget: usize,
    /// Children per node.
    pub branch: usize,
    /// Nodes of a level that are refined.
    pub keep: usize,
    /// Maximum number of refinements from the root to a leaf.
    pub depth: usize,
    /// Votes per judgement.
    pub votes: usize,
    /// A node with a value above this is accepted.
    pub threshold: f64,
    /// Temperature of votes.
    pub judge_temperature: f32,
    /// Temperature of refinements.
    pub refine_temperature: f32,
    /// Maximum number of tokens of one critique.
    pub judge_tokens: usize,
    /// Maximum number of tokens of one refinement.
    pub refine_tokens: usize,
    /// Maximum number of model calls of one search.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<usize>,
    /// Maximum number of tokens that one search generates.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Seconds after which a search ends with what it has. With this limit the results depend on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Share of the searches that may end without any readable refinement. Above it, searching stops.
    pub unreadable: f64,
}

impl Default for Search {
    fn default() -> Self {
        let SearchConfig { strategy, mode, judge, budget, branch, keep, depth, votes, threshold, .. } =
            SearchConfig::by_votes();
        let SearchConfig { judge_temperature, refine_temperature, judge_tokens, refine_tokens, .. } =
            SearchConfig::by_votes();
        Self {
            strategy,
            mode,
            judge,
            budget,
            branch,
            keep,
            depth,
            votes,
            threshold,
            judge_temperature,
            refine_temperature,
            judge_tokens,
            refine_tokens,
            max_calls: None,
            max_tokens: None,
            seconds: None,
            unreadable: 0.5,
        }
    }
}

impl Search {
    /// The settings in the search's own type.
    #[must_use]
    pub fn config(&self) -> SearchConfig {
        SearchConfig {
            strategy: self.strategy,
            mode: self.mode,
            judge: self.judge,
            budget: self.budget,
            branch: self.branch,
            keep: self.keep,
            depth: self.depth,
            votes: self.votes,
            threshold: self.threshold,
            judge_temperature: self.judge_temperature,
            refine_temperature: self.refine_temperature,
            judge_tokens: self.judge_tokens,
            refine_tokens: self.refine_tokens,
            max_calls: self.max_calls,
            max_tokens: self.max_tokens,
            deadline: self.seconds.map(Duration::from_secs_f64),
            ..SearchConfig::by_votes()
        }
    }
}

/// How the actor is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    /// The loss of pairs.
    #[serde(default)]
    pub preference: Preference,
    /// Whether the actor only learns the chosen response's likelihood. This is the ablation of SFT on refined responses.
    #[serde(default)]
    pub chosen_only: bool,
    /// Tokens per update.
    pub tokens_per_step: usize,
    /// Passes over the pairs.
    #[serde(default = "one_pass")]
    pub epochs: f64,
    /// Whether the actor learns from the pairs and kept replies of all rounds so far, instead of the last round's only.
    #[serde(default)]
    pub replay: bool,
    /// Factor of the learning rates from the second round on.
    #[serde(default = "unchanged")]
    pub later_lr: f64,
    /// Pairs are left out whose chosen response is less likely than the rejected one by more than this under the model before the training,
    /// in nats per token.
    #[serde(default = "two")]
    pub less_likely: f64,
    /// The settings of the training loop; `steps` follows from `epochs`.
    #[serde(default)]
    pub train: TrainConfig,
}

/// How the refiner is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rft {
    /// Whether the refiner is trained at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Tokens per update.
    pub tokens_per_step: usize,
    /// Passes over the turns.
    #[serde(default = "one_pass")]
    pub epochs: f64,
    /// Factor of the learning rates from the second round on.
    #[serde(default = "unchanged")]
    pub later_lr: f64,
    /// The settings of the training loop; `steps` follows from `epochs`.
    #[serde(default)]
    pub train: TrainConfig,
}

fn one_pass() -> f64 {
    1.0
}

fn two() -> f64 {
    2.0
}

fn unchanged() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// The conditions for accepting a round's models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Whether scores decide. Otherwise every round's models are accepted.
    pub enabled: bool,
    /// Number of validation prompts.
    pub prompts: usize,
    /// How much worse a score may be.
    pub tolerance: f64,
    /// Node budget of the search that scores refiners.
    pub budget: usize,
}

impl Default for Gate {
    fn default() -> Self {
        Self { enabled: true, prompts: 500, tolerance: 0.0, budget: 16 }
    }
}

/// A recipe file. Only two of its sections are read here.
#[derive(Deserialize)]
struct File {
    iterate: Iterate,
    #[serde(default)]
    publish: Option<Publish>,
}

impl Iterate {
    /// Reads the `[iterate]` section of a recipe.
    ///
    /// # Errors
    /// Names the file, the field and the valid values.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
        let file: File = toml::from_str(&text).with_context(|| format!("in the recipe {}", path.display()))?;
        file.iterate.check().with_context(|| format!("in the recipe {}", path.display()))?;
        Ok(Self { publish: file.publish, ..file.iterate })
    }
}
