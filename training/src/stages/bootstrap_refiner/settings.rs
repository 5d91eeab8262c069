//! What `bootstrap-refiner` is asked for: a recipe, whose every field has a default, and flags that replace some of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::lessons::turns::PerPrompt;
use crate::model::LoraConfig;
use crate::optimizer::{OptimizerConfig, Rule};
use crate::records::BadLines;
use crate::trainer::TrainConfig;

/// The command's flags.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The recipe, a TOML file; every setting has a default, and the flags below replace those of the recipe.
    #[arg(long)]
    pub recipe: Option<PathBuf>,
    /// The instruct model that becomes a refiner: a model directory, or a GGUF file, which is unpacked into the run's directory.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// Prompts in IFEval's JSONL format; their rules decide which responses are right.
    #[arg(long)]
    pub prompts: Option<PathBuf>,
    /// Directory of the run; a killed run resumes from it.
    #[arg(long, default_value = "runs/refiner")]
    pub out: PathBuf,
    /// Seed of all random draws.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Maximum number of prompts to use, held-out ones included.
    #[arg(long)]
    pub max_prompts: Option<usize>,
}

/// Everything that the result depends on, apart from the contents of the model and of the prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The instruct model's directory or GGUF file.
    pub model: PathBuf,
    /// The file of prompts.
    pub prompts: PathBuf,
    /// Seed of all random draws.
    pub seed: u64,
    /// Maximum number of prompts to use, held-out ones included.
    pub max_prompts: Option<usize>,
    /// How lines that cannot be used are handled.
    pub bad_lines: BadLines,
    /// Share of the prompts that are never trained on. The judge is calibrated and measured on them.
    pub held_out: f64,
    /// How the model's own responses are sampled.
    pub sample: Sample,
    /// Which turns are made of the responses.
    pub turns: Turns,
    /// How the adapter is trained.
    pub training: Training,
    /// How much is measured.
    pub measure: Measure,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            prompts: PathBuf::new(),
            seed: 0,
            max_prompts: None,
            bad_lines: BadLines::default(),
            held_out: 0.2,
            sample: Sample::default(),
            turns: Turns::default(),
            training: Training::default(),
            measure: Measure::default(),
        }
    }
}

/// How the model's own responses are sampled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sample {
    /// The temperatures; 0 gives one greedy response.
    pub temperatures: Vec<f32>,
    /// Responses per prompt and temperature.
    pub per_temperature: usize,
    /// Maximum tokens of a response. Longer ones are cut at their last whole sentence.
    pub max_tokens: usize,
    /// Maximum tokens of all responses together. The number of prompts is such that the limit holds even if every response has its full length.
    pub max_total_tokens: Option<usize>,
    /// Number of prompts at a time.
    pub parallel: usize,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            temperatures: vec![0.3, 0.7, 1.0],
            per_temperature: 2,
            max_tokens: 256,
            max_total_tokens: None,
            parallel: 16,
        }
    }
}

/// Which turns are made of the responses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Turns {
    /// Repaired responses, and near misses, per prompt.
    pub edits: usize,
    /// Turns per prompt and kind.
    pub per_prompt: PerPrompt,
    /// Maximum number of groups of a kind: pairs of verdicts, pairs of critiques, single refinements.
    pub per_kind: usize,
    /// Maximum number of pairs of verdicts about one kind of instruction.
    pub per_instruction: usize,
    /// Maximum tokens of a turn with its prompt; longer ones are left out.
    pub max_length: usize,
    /// The run ends with an error before any training if there are fewer turns.
    pub least: usize,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            edits: 4,
            per_prompt: PerPrompt::default(),
            per_kind: 4000,
            per_instruction: 400,
            max_length: 1024,
            least: 40,
        }
    }
}

/// How the adapter is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Training {
    /// Passes over the turns.
    pub epochs: f64,
    /// Maximum number of tokens that training computes. It reduces the passes where they would take more.
    pub max_tokens: Option<u64>,
    /// Tokens per update.
    pub tokens_per_step: usize,
    /// The weight of a verdict's tokens in the loss; others have 1. A verdict is one token among the hundreds of a refinement.
    pub verdict_weight: f32,
    /// The training loop. `steps` and `warmup` follow from the passes. AdamW on a LoRA adapter unless it says otherwise.
    pub train: TrainConfig,
}

impl Default for Training {
    fn default() -> Self {
        let optimizer = OptimizerConfig { rule: Rule::AdamW, lr: 3e-4, beta2: 0.999, ..OptimizerConfig::default() };
        let train = TrainConfig {
            optimizer,
            lora: Some(LoraConfig::default()),
            checkpoint_every: 20,
            ..TrainConfig::default()
        };
        Self { epochs: 2.0, max_tokens: None, tokens_per_step: 4096, verdict_weight: 8.0, train }
    }
}

/// How much is measured. The base and the adapter are measured on the same responses to held-out prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Measure {
    /// Maximum number of the model's own responses per held-out prompt that are judged.
    pub own: usize,
    /// Maximum number of near misses and repaired responses per held-out prompt that are judged.
    pub edited: usize,
    /// Maximum number of failing drafts that are refined once.
    pub refinements: usize,
    /// Maximum number of responses that are judged after a written critique, for the calibration.
    pub critiques: usize,
    /// Number of calls at a time.
    pub parallel: usize,
}

impl Default for Measure {
    fn default() -> Self {
        Self { own: 4, edited: 2, refinements: 100, critiques: 60, parallel: 8 }
    }
}

impl Settings {
    /// The recipe with the flags' replacements, checked.
    ///
    /// # Errors
    /// Names the file, the field and the valid values.
    pub fn new(options: &Options) -> Result<Self> {
        let mut settings = options.recipe.as_deref().map_or_else(|| Ok(Self::default()), read)?;
        let Options { model, prompts, seed, max_prompts, .. } = options.clone();
        settings.model = model.unwrap_or(settings.model);
        settings.prompts = prompts.unwrap_or(settings.prompts);
        settings.seed = seed.unwrap_or(settings.seed);
        settings.max_prompts = max_prompts.or(settings.max_prompts);
        settings.check()?;
        Ok(settings)
    }

    /// # Errors
    /// Names the field and the valid values.
    pub fn check(&self) -> Result<()> {
        for (flag, path) in [("--model", &self.model), ("--prompts", &self.prompts)] {
            if path.as_os_str().is_empty() {
                bail!("{flag} is missing: name it on the command line, or as `{}` in the recipe", &flag[2..]);
            }
        }
        let at_least = |name: &str, value: usize| {
            ensure!(value >= 1, "{name} must be at least 1, got {value}");
            Ok(())
        };
        at_least("max_prompts", self.max_prompts.unwrap_or(1))?;
        at_least("sample.per_temperature", self.sample.per_temperature)?;
        at_least("sample.parallel", self.sample.parallel)?;
        at_least("turns.max_length", self.turns.max_length)?;
        at_least("turns.least", self.turns.least)?;
        at_least("turns.per_kind", self.turns.per_kind)?;
        at_least("turns.per_instruction", self.turns.per_instruction)?;
        at_least("training.tokens_per_step", self.training.tokens_per_step)?;
        at_least("measure.own", self.measure.own)?;
        at_least("measure.parallel", self.measure.parallel)?;
        ensure!(self.sample.max_tokens >= 16, "sample.max_tokens must be at least 16, got {}", self.sample.max_tokens);
        ensure!(!self.sample.temperatures.is_empty(), "sample.temperatures must hold at least one temperature");
        for temperature in &self.sample.temperatures {
            ensure!(
                (0.0..=2.0).contains(temperature),
                "sample.temperatures must be between 0 and 2, got {temperature}"
            );
        }
        let between = |name: &str, value: f64, low: f64, high: f64| {
            ensure!((low..=high).contains(&value), "{name} must be between {low} and {high}, got {value}");
            Ok(())
        };
        between("held_out", self.held_out, 0.05, 0.9)?;
        between("turns.per_prompt.checked", self.turns.per_prompt.checked, 0.0, 1.0)?;
        between("training.epochs", self.training.epochs, 0.01, 100.0)?;
        between("training.verdict_weight", f64::from(self.training.verdict_weight), 0.01, 1000.0)?;
        let optimizer = &self.training.train.optimizer;
        ensure!(optimizer.lr > 0.0, "training.train.optimizer.lr must be above 0, got {}", optimizer.lr);
        ensure!(
            self.training.train.clip >= 0.0,
            "training.train.clip must be at least 0, got {}",
            self.training.train.clip
        );
        let Some(lora) = &self.training.train.lora else {
            bail!("training.train.lora is missing: a refiner is an adapter on the model; write `[training.train.lora]`")
        };
        lora.check().context("training.train")
    }

    /// The most tokens that sampling one prompt can take.
    #[must_use]
    pub fn tokens_per_prompt(&self) -> usize {
        self.sample.temperatures.iter().map(|&temperature| self.sample.count(temperature)).sum::<usize>()
            * self.sample.max_tokens
    }
}

impl Sample {
    /// Responses per prompt at a temperature. A greedy one is always the same.
    #[must_use]
    pub fn count(&self, temperature: f32) -> usize {
        if temperature == 0.0 { 1 } else { self.per_temperature }
    }
}

/// Reads a recipe. What it does not say about training is the default of this command, not that of the trainer.
fn read(path: &Path) -> Result<Settings> {
    let named = || format!("in the recipe {}", path.display());
    let text = std::fs::read_to_string(path).with_context(|| format!("reading the recipe {}", path.display()))?;
    let _: Settings = toml::from_str(&text).with_context(named)?;
    let mut values = toml::Table::try_from(Settings::default()).with_context(named)?;
    merge(&mut values, toml::from_str(&text).with_context(named)?);
    values.try_into().with_context(named)
}

/// Replaces values in `defaults` by those of `given`, table by table.
fn merge(defaults: &mut toml::Table, given: toml::Table) {
    for (key, value) in given {
        match (defaults.get_mut(&key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(value)) => merge(inner, value),
            (_, value) => {
                defaults.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(recipe: &Path) -> Options {
        Options {
            recipe: Some(recipe.into()),
            model: Some("model".into()),
            prompts: Some("prompts.jsonl".into()),
            out: "out".into(),
            seed: Some(9),
            max_prompts: None,
        }
    }

    #[test]
    fn a_recipe_replaces_defaults_and_flags_replace_the_recipe() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "seed = 4\nprompts = \"other.jsonl\"\n[training.train.optimizer]\nlr = 1e-3\n[training.train.lora]\nrank = 4";
        std::fs::write(file.path(), text).unwrap();
        let settings = Settings::new(&options(file.path())).unwrap();
        assert_eq!((settings.seed, settings.prompts.to_str()), (9, Some("prompts.jsonl")));
        let train = &settings.training.train;
        assert_eq!((train.optimizer.rule, train.optimizer.lr, train.optimizer.beta2), (Rule::AdamW, 1e-3, 0.999));
        assert_eq!(train.lora.as_ref().map(|lora| (lora.rank, lora.alpha)), Some((4, 32.0)));
        assert_eq!(settings.tokens_per_prompt(), 6 * 256);
    }

    #[test]
    fn what_cannot_be_used_is_named_at_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            ("sead = 1", "unknown field `sead`"),
            ("held_out = 0.0", "held_out must be between 0.05 and 0.9, got 0"),
            ("[sample]\ntemperatures = []", "sample.temperatures must hold at least one"),
            ("[sample]\ntemperatures = [-1.0]", "sample.temperatures must be between 0 and 2, got -1"),
            ("[sample]\nper_temperature = 0", "sample.per_temperature must be at least 1"),
            ("[training]\nepochs = -1.0", "training.epochs must be between"),
            ("[training.train.optimizer]\nlr = -1.0", "training.train.optimizer.lr must be above 0, got -1"),
            ("[training.train.lora]\nrank = 0", "lora.rank must be at least 1"),
            ("[turns.per_prompt]\nchecked = 3.0", "turns.per_prompt.checked must be between 0 and 1, got 3"),
            ("max_prompts = 0", "max_prompts must be at least 1"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let message = format!("{:#}", Settings::new(&options(file.path())).unwrap_err());
            assert!(message.contains(expected), "{text}: {message}");
        }
        let nothing = Options { model: None, recipe: None, ..options(file.path()) };
        let message = Settings::new(&nothing).unwrap_err().to_string();
        assert!(message.contains("--model is missing"), "{message}");
    }
}
