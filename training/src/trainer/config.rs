//! The settings of a training run.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::gradient::GradientWorkers;
use crate::model::computing::Computing;
use crate::model::cpu::{Arithmetic, Keep};
use crate::model::device::{self, DeviceModel};
use crate::model::params::Precision;
use crate::model::{DenseConfig, LoraConfig};
use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;

/// What computes gradients; updates are always made on the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Processor {
    /// The CPU's threads.
    #[default]
    Cpu,
    /// The first CUDA device, in a build for CUDA.
    Cuda,
}

impl Processor {
    /// Whether it is the usual one.
    #[must_use]
    pub fn is_cpu(&self) -> bool {
        *self == Self::Cpu
    }
}

/// The settings of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainConfig {
    /// The number of updates.
    pub steps: u64,
    /// Steps over which the learning rate rises; a tenth of all steps without it.
    pub warmup: Option<u64>,
    /// The learning rate after that.
    pub schedule: Schedule,
    /// The rules of the updates.
    pub optimizer: OptimizerConfig,
    /// The gradient's norm is reduced to this where it is larger; 0 turns it off.
    pub clip: f64,
    /// Seed of the first weights.
    pub seed: u64,
    /// The precision of matrix products while training.
    pub arithmetic: Arithmetic,
    /// Threads; 0 means as many as the machine has. The result does not depend on it.
    pub workers: usize,
    /// What computes gradients.
    #[serde(skip_serializing_if = "Processor::is_cpu")]
    pub device: Processor,
    /// Tokens that a worker computes at once: less needs less memory, more makes larger products.
    pub unit_tokens: usize,
    /// Steps between two resume files; 0 means at the end only.
    pub checkpoint_every: u64,
    /// The directory to which the run writes all its files.
    pub out_dir: PathBuf,
    /// Element type of the exported weights.
    pub precision: Precision,
    /// Trains a LoRA adapter on frozen weights.
    pub lora: Option<LoraConfig>,
    /// What is kept for the backward pass: less needs less memory and a third more time. The result does not depend on it.
    pub keep: Keep,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            steps: 1000,
            warmup: None,
            schedule: Schedule::Linear,
            optimizer: OptimizerConfig::default(),
            clip: 1.0,
            seed: 0,
            arithmetic: Arithmetic::F32,
            workers: 0,
            device: Processor::Cpu,
            unit_tokens: 1024,
            checkpoint_every: 200,
            out_dir: PathBuf::from("runs/train"),
            precision: Precision::F32,
            lora: None,
            keep: Keep::Everything,
        }
    }
}

impl TrainConfig {
    /// What computes gradients for the model in a directory.
    ///
    /// # Errors
    /// There is no such device, or it has no room for the model.
    pub fn workers(&self, llama: &DenseConfig, computing: Computing<'_>, directory: &Path) -> Result<GradientWorkers> {
        Ok(match self.device {
            Processor::Cpu => GradientWorkers::new(llama, computing),
            Processor::Cuda => {
                GradientWorkers::on_device(DeviceModel::open(llama, computing, &device::cuda()?, directory)?)
            }
        })
    }

    /// Steps over which the learning rate rises.
    #[must_use]
    pub fn warmup(&self) -> u64 {
        self.warmup.unwrap_or(self.steps / 10)
    }

    /// Checks what can be checked before a model is loaded.
    ///
    /// # Errors
    /// Names the field, which is below `section`, and the valid values.
    pub fn check(&self, section: &str) -> Result<()> {
        ensure!(self.steps >= 1, "{section}.steps must be at least 1, got {}", self.steps);
        ensure!(self.unit_tokens >= 1, "{section}.unit_tokens must be at least 1, got {}", self.unit_tokens);
        let clip = self.clip;
        ensure!(clip >= 0.0 && clip.is_finite(), "{section}.clip must be at least 0, and 0 turns it off, got {clip}");
        self.optimizer.check(&format!("{section}.optimizer"))?;
        if let Some(lora) = &self.lora {
            lora.check().map_err(|error| anyhow::anyhow!("{section}.{error}"))?;
            if let Some(from) = &lora.from {
                ensure!(from.is_dir(), "{section}.lora.from: there is no directory {}", from.display());
            }
        }
        Ok(())
    }

    /// Checks that this program can use the device. A plan can be made without it.
    ///
    /// # Errors
    /// Names the field, which is below `section`, and what to do.
    pub fn check_device(&self, section: &str) -> Result<()> {
        ensure!(
            self.device == Processor::Cpu || cfg!(feature = "cuda"),
            "{section}.device is \"cuda\", but this program was built without CUDA: build it with --features cuda, or remove `device`"
        );
        Ok(())
    }

    /// Threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LoraConfig;

    #[test]
    fn the_warm_up_is_a_tenth_of_the_steps_unless_it_is_given() {
        let config = |text| toml::from_str::<TrainConfig>(text).unwrap().warmup();
        assert_eq!((config("steps = 1"), config("steps = 200"), config("steps = 200\nwarmup = 0")), (0, 20, 0));
    }

    #[test]
    fn what_cannot_work_is_named_before_a_model_is_loaded() {
        let default = TrainConfig::default();
        default.check("train").unwrap();
        let lora = |rank| Some(LoraConfig { rank, ..LoraConfig::default() });
        let missing = LoraConfig { from: Some("no/such/adapter".into()), ..LoraConfig::default() };
        for (config, expected) in [
            (TrainConfig { steps: 0, ..default.clone() }, "train.steps must be at least 1"),
            (TrainConfig { unit_tokens: 0, ..default.clone() }, "train.unit_tokens must be at least 1"),
            (TrainConfig { clip: -1.0, ..default.clone() }, "train.clip must be at least 0"),
            (TrainConfig { lora: lora(0), ..default.clone() }, "train.lora.rank must be at least 1"),
            (TrainConfig { lora: Some(missing), ..default.clone() }, "no directory no/such/adapter"),
        ] {
            let message = config.check("train").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let device = TrainConfig { device: Processor::Cuda, ..default };
        device.check("train").unwrap();
        assert_eq!(device.check_device("train").is_ok(), cfg!(feature = "cuda"));
    }
}
