//! Where a recipe's models are trained: by this program, or by another one on other machines.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;

/// The program that trains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trainer {
    /// This program trains on this machine.
    #[default]
    Own,
    /// Each round writes an export, and its result is imported.
    External,
}

impl Trainer {
    /// Whether it is the usual one.
    #[must_use]
    pub fn is_own(&self) -> bool {
        *self == Self::Own
    }
}

/// A program that an export is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Framework {
    /// The program LLaMA-Factory, with DeepSpeed.
    LlamaFactory,
    /// The library TRL, with accelerate and DeepSpeed.
    Trl,
    /// The program Axolotl, with DeepSpeed.
    Axolotl,
}

impl Framework {
    /// The name that people know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::LlamaFactory => "LLaMA-Factory",
            Self::Trl => "TRL",
            Self::Axolotl => "Axolotl",
        }
    }
}

/// The `[iterate.external]` section: what exports are written for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The program that trains.
    #[serde(rename = "for")]
    pub framework: Framework,
    /// The machines that it trains on.
    #[serde(default)]
    pub cluster: Cluster,
    /// LLaMA-Factory's name of the chat template; without it LLaMA-Factory reads the template of the tokenizer.
    #[serde(default)]
    pub template: Option<String>,
    /// Whether the export includes the adapter that this program would start from, so that both start equal.
    #[serde(default)]
    pub initial_adapter: bool,
}

impl External {
    /// # Errors
    /// Names the field, which is below `section`, and the valid values.
    pub fn check(&self, section: &str) -> Result<()> {
        ensure!(
            self.template.is_none() || self.framework == Framework::LlamaFactory,
            "{section}.template has an effect with for = \"llama-factory\" only; remove it"
        );
        self.cluster.check(&format!("{section}.cluster"))
    }
}
