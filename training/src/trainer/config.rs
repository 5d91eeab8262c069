//! The settings of a training run.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::gradient::{Computing, GradientWorkers};
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
    /// Updates in all.
    pub steps: u64,
    /// Steps over which the learning rate rises.
    pub warmup: u64,
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
    /// Where everything is written.
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
            warmup: 50,
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

    /// Threads that compute.
    #[must_use]
    pub fn threads(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            workers => workers,
        }
    }
}
