//! The `[iterate]` section of a recipe: everything that SPaR iterations depend on. Defaults are the paper's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::search::{Judge, Mode, SearchConfig, Strategy};

use crate::loss::Preference;
use crate::publish::Publish;
use crate::records::BadLines;
use crate::trainer::TrainConfig;
use crate::world::Split;

/// The `[iterate]` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iterate {
    /// Decides every draw.
    #[serde(default)]
    pub seed: u64,
    /// Rounds of sampling, searching and training.
    #[serde(default = "three")]
    pub iterations: usize,
    /// The model directory that drafts in the first round.
    pub actor: PathBuf,
    /// The model directory that judges and refines in the first round.
    pub refiner: PathBuf,
    /// What models are asked.
    pub prompts: Prompts,
    /// What happens to a line that cannot be used.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// Drafts and their judgement.
    #[serde(default)]
    pub sample: Sample,
    /// The tree search from failing drafts.
    #[serde(default)]
    pub search: Search,
    /// What becomes training data.
    #[serde(default)]
    pub build: Build,
    /// The actor's training.
    pub dpo: Dpo,
    /// The refiner's training.
    pub sft: Rft,
    /// What a round must not make worse.
    #[serde(default)]
    pub gate: Gate,
    /// The recipe's `[publish]` section: where accepted models go. It decides nothing about the run.
    #[serde(skip)]
    pub publish: Option<Publish>,
}

fn three() -> usize {
    3
}

/// Where prompts come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Source {
    /// A file of lines with `prompt`, and IFEval's fields where it can be checked.
    File(PathBuf),
    /// The seeded world's.
    World {
        /// The split of the world's prompts.
        world: Split,
    },
}

/// Prompts of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prompts {
    /// Every round takes the next ones.
    pub train: Source,
    /// Prompts of a round.
    #[serde(default = "ten_thousand")]
    pub per_iteration: usize,
    /// The gate's; they must be checkable.
    pub validation: Source,
    /// Reported, never decided on.
    #[serde(default)]
    pub held_out: Option<Source>,
    /// How many of the held-out ones.
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
    /// Drafts of a prompt.
    pub per_prompt: usize,
    /// Temperature of the drafts.
    pub temperature: f32,
    /// Nucleus of the drafts.
    pub top_p: f32,
    /// Tokens of a draft at most.
    pub max_tokens: Option<usize>,
    /// Votes on a draft.
    pub votes: usize,
    /// Prompts at a time.
    pub parallel: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self { per_prompt: 5, temperature: 0.9, top_p: 0.9, max_tokens: None, votes: 5, parallel: 64 }
    }
}

/// How failing drafts are refined; the fields are those of the server's search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Search {
    /// Which node is refined next.
    pub strategy: Strategy,
    /// How closely the published reference is followed.
    pub mode: Mode,
    /// The judge: the model, rules or both.
    pub judge: Judge,
    /// Judged refinements at most.
    pub budget: usize,
    /// Children per node.
    pub branch: usize,
    /// Nodes of a level that are refined.
    pub keep: usize,
    /// Refinements from the root to a leaf at most.
    pub depth: usize,
    /// Votes per judgement.
    pub votes: usize,
    /// A node with a value above this is accepted.
    pub threshold: f64,
    /// Temperature of votes.
    pub judge_temperature: f32,
    /// Temperature of refinements.
    pub refine_temperature: f32,
    /// Tokens of one critique at most.
    pub judge_tokens: usize,
    /// Tokens of one refinement at most.
    pub refine_tokens: usize,
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
        }
    }
}

impl Search {
    /// The settings as the search takes them.
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
            ..SearchConfig::by_votes()
        }
    }
}

/// Which pairs the actor learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairing {
    /// The accepted refinement over the draft that it was refined from.
    #[default]
    Refined,
    /// Another draft that was accepted over the same failing draft: the ablation without refinement.
    Independent,
}

/// What becomes training data, and how much at most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// Which pairs are made.
    pub pairing: Pairing,
    /// Pairs at most.
    pub pairs: Option<usize>,
    /// Only pairs whose chosen response every vote accepts.
    pub unanimous: bool,
    /// Mean difference in characters between chosen and rejected responses that is allowed: pairs with the largest
    /// differences of the heavier sign are left out until it is met. `None` leaves all.
    pub length_drift: Option<f64>,
    /// Refinement turns that led to an accepted node.
    pub refinements: usize,
    /// Critiques of tree nodes that accept.
    pub tree_positive: usize,
    /// Critiques of tree nodes that refuse.
    pub tree_negative: usize,
    /// Critiques of drafts that accept.
    pub draft_positive: usize,
    /// Critiques of drafts that refuse.
    pub draft_negative: usize,
    /// Share of the votes that a critique's verdict must have, at least.
    pub agreement: f64,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            pairing: Pairing::Refined,
            pairs: None,
            unanimous: false,
            length_drift: None,
            refinements: 4000,
            tree_positive: 1500,
            tree_negative: 1000,
            draft_positive: 2500,
            draft_negative: 500,
            agreement: 0.5,
        }
    }
}

/// How the actor is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    /// What pairs are compared by.
    #[serde(default)]
    pub preference: Preference,
    /// Whether the actor learns the chosen response's likelihood alone: the ablation of SFT on refined responses.
    #[serde(default)]
    pub chosen_only: bool,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// Passes over the pairs.
    #[serde(default = "one")]
    pub epochs: f64,
    /// Whether the pairs and kept replies of all rounds so far are learned from, instead of the last round's alone.
    #[serde(default)]
    pub replay: bool,
    /// Learning rates from the second round on are multiplied by it.
    #[serde(default = "unchanged")]
    pub later_lr: f64,
    /// The loop; `steps` and `warmup` follow from `epochs`.
    #[serde(default)]
    pub train: TrainConfig,
}

/// How the refiner is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rft {
    /// Whether it is trained at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// Passes over the turns.
    #[serde(default = "one")]
    pub epochs: f64,
    /// Learning rates from the second round on are multiplied by it.
    #[serde(default = "unchanged")]
    pub later_lr: f64,
    /// The loop; `steps` and `warmup` follow from `epochs`.
    #[serde(default)]
    pub train: TrainConfig,
}

fn one() -> f64 {
    1.0
}

fn unchanged() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// When a round's models are taken over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gate {
    /// Whether scores decide; otherwise every round's models are taken over.
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

/// A recipe file, of which the section is read here.
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
    /// Names the file, the field and what it must be.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
        let file: File = toml::from_str(&text).with_context(|| format!("in the recipe {}", path.display()))?;
        file.iterate.check().with_context(|| format!("in the recipe {}", path.display()))?;
        Ok(Self { publish: file.publish, ..file.iterate })
    }

    /// # Errors
    /// Names the field and what it must be.
    pub fn check(&self) -> Result<()> {
        let at_least = |name: &str, value: usize, least: usize| {
            ensure!(value >= least, "iterate.{name} must be at least {least}, got {value}");
            Ok(())
        };
        at_least("iterations", self.iterations, 1)?;
        at_least("prompts.per_iteration", self.prompts.per_iteration, 1)?;
        at_least("sample.per_prompt", self.sample.per_prompt, 1)?;
        at_least("sample.parallel", self.sample.parallel, 1)?;
        at_least("dpo.tokens_per_step", self.dpo.tokens_per_step, 1)?;
        at_least("sft.tokens_per_step", self.sft.tokens_per_step, 1)?;
        at_least("gate.prompts", self.gate.prompts, 1)?;
        at_least("search.budget", self.search.budget, 1)?;
        let within = |name: &str, value: usize, range: std::ops::RangeInclusive<usize>| {
            let (low, high) = (range.start(), range.end());
            ensure!(range.contains(&value), "iterate.{name} must be between {low} and {high}, got {value}");
            Ok(())
        };
        within("sample.votes", self.sample.votes, SearchConfig::VOTES)?;
        within("search.votes", self.search.votes, SearchConfig::VOTES)?;
        within("search.branch", self.search.branch, SearchConfig::BRANCH)?;
        within("search.keep", self.search.keep, SearchConfig::KEEP)?;
        within("search.depth", self.search.depth, SearchConfig::DEPTH)?;
        let positive = |name: &str, value: f64| {
            ensure!(value > 0.0, "iterate.{name} must be above 0, got {value}");
            Ok(())
        };
        positive("dpo.epochs", self.dpo.epochs)?;
        positive("sft.epochs", self.sft.epochs)?;
        positive("dpo.later_lr", self.dpo.later_lr)?;
        positive("sft.later_lr", self.sft.later_lr)?;
        let share = |name: &str, value: f64| {
            ensure!((0.0..=1.0).contains(&value), "iterate.{name} must be between 0 and 1, got {value}");
            Ok(())
        };
        share("build.agreement", self.build.agreement)?;
        share("gate.tolerance", self.gate.tolerance)?;
        self.dpo.preference.check().context("iterate.dpo.preference")
    }
}
