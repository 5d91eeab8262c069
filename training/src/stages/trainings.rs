//! The trainings of a round as values: what is learned from which data, wherever it is trained.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::training::Eval;
use super::{dpo, sft};
use crate::recipe::iterate::Iterate;
use crate::trainer::{TrainConfig, TrainReport};

/// A training stage with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Training {
    /// Learns preferences from pairs.
    Dpo(Box<dpo::Dpo>),
    /// Learns replies from chats.
    Sft(Box<sft::Sft>),
}

impl Training {
    /// The name of the stage.
    #[must_use]
    pub fn stage(&self) -> &'static str {
        match self {
            Self::Dpo(_) => "dpo",
            Self::Sft(_) => "sft",
        }
    }

    /// The model directory that training starts from.
    #[must_use]
    pub fn base(&self) -> &Path {
        match self {
            Self::Dpo(stage) => &stage.base,
            Self::Sft(stage) => &stage.base,
        }
    }

    /// The data file.
    #[must_use]
    pub fn data(&self) -> &Path {
        match self {
            Self::Dpo(stage) => &stage.data,
            Self::Sft(stage) => &stage.data,
        }
    }

    /// The training loop.
    #[must_use]
    pub fn train(&self) -> &TrainConfig {
        match self {
            Self::Dpo(stage) => &stage.train,
            Self::Sft(stage) => &stage.train,
        }
    }

    /// Replaces the directory of the result.
    #[must_use]
    pub fn written_to(mut self, out: PathBuf) -> Self {
        match &mut self {
            Self::Dpo(stage) => stage.train.out_dir = out,
            Self::Sft(stage) => stage.train.out_dir = out,
        }
        self
    }

    /// Trains on this machine.
    ///
    /// # Errors
    /// Fails like the stage.
    pub fn run(&self) -> Result<TrainReport> {
        match self {
            Self::Dpo(stage) => dpo::dpo(stage),
            Self::Sft(stage) => sft::sft(stage),
        }
    }

    /// Checks what can be checked before a model is loaded.
    ///
    /// # Errors
    /// Names the field and the valid values, or what is missing.
    pub(super) fn check(&self) -> Result<()> {
        let (epochs, tokens) = (self.epochs(), self.tokens_per_step());
        ensure!(self.base().is_dir(), "base: there is no model directory {}", self.base().display());
        ensure!(self.data().is_file(), "data: there is no file {}", self.data().display());
        ensure!(tokens >= 1, "tokens_per_step must be at least 1, got {tokens}");
        ensure!(epochs.is_none_or(|epochs| epochs > 0.0), "epochs must be above 0");
        if let Self::Dpo(stage) = self {
            stage.preference.check().context("preference")?;
        }
        self.train().check("train")
    }

    /// What decides the result, without what only concerns a machine.
    pub(super) fn settings(&self) -> Result<Value> {
        let TrainConfig { steps, warmup, schedule, optimizer, clip, seed, arithmetic, precision, lora, .. } =
            self.train().clone();
        let of = match self {
            Self::Dpo(stage) => json!({ "preference": stage.preference, "chosen_only": stage.chosen_only }),
            Self::Sft(stage) => json!({ "turns": stage.turns }),
        };
        Ok(json!({
            "stage": self.stage(), "of": of, "tokens_per_step": self.tokens_per_step(), "epochs": self.epochs(),
            "steps": steps, "warmup": warmup, "schedule": schedule, "optimizer": optimizer, "clip": clip, "seed": seed,
            "arithmetic": arithmetic, "precision": precision, "lora": lora,
        }))
    }

    /// Whether pairs are compared, rather than replies learned.
    pub(super) fn compares(&self) -> bool {
        matches!(self, Self::Dpo(stage) if !stage.chosen_only)
    }

    pub(super) fn epochs(&self) -> Option<f64> {
        match self {
            Self::Dpo(stage) => stage.epochs,
            Self::Sft(stage) => stage.epochs,
        }
    }

    pub(super) fn tokens_per_step(&self) -> usize {
        match self {
            Self::Dpo(stage) => stage.tokens_per_step,
            Self::Sft(stage) => stage.tokens_per_step,
        }
    }
}

/// The actor's training in round `t`. `data` are its pairs and, where the recipe has them, kept replies.
#[must_use]
pub fn actor_stage(recipe: &Iterate, t: usize, seed: u64, base: &Path, data: (PathBuf, Option<PathBuf>)) -> Training {
    Training::Dpo(Box::new(dpo::Dpo {
        base: base.into(),
        data: data.0,
        kept: data.1.filter(|_| recipe.dpo.preference.kept > 0.0),
        bad_lines: recipe.bad_lines,
        preference: recipe.dpo.preference,
        chosen_only: recipe.dpo.chosen_only,
        tokens_per_step: recipe.dpo.tokens_per_step,
        epochs: Some(recipe.dpo.epochs),
        eval: Eval::default(),
        less_likely: Some(recipe.dpo.less_likely),
        // A path of this run must not be part of what a run elsewhere writes as well.
        base_name: None,
        train: later(&recipe.dpo.train, t, recipe.dpo.later_lr, seed),
    }))
}

/// The refiner's training in round `t`.
#[must_use]
pub fn refiner_stage(recipe: &Iterate, t: usize, seed: u64, base: &Path, data: PathBuf) -> Training {
    Training::Sft(Box::new(sft::Sft {
        base: base.into(),
        data,
        turns: sft::Turns::Last,
        bad_lines: recipe.bad_lines,
        tokens_per_step: recipe.sft.tokens_per_step,
        epochs: Some(recipe.sft.epochs),
        eval: Eval::default(),
        base_name: None,
        train: later(&recipe.sft.train, t, recipe.sft.later_lr, seed),
    }))
}

/// The settings of a round. From the second round on the learning rates are scaled.
fn later(train: &TrainConfig, t: usize, factor: f64, seed: u64) -> TrainConfig {
    let mut train = TrainConfig { seed, ..train.clone() };
    if t > 1 {
        train.optimizer.lr *= factor;
        train.optimizer.muon_lr *= factor;
    }
    train
}
