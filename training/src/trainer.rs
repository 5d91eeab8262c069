//! The training loop: compute gradients, clip, update, record metrics.

mod config;
mod events;
mod metrics;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use spar::engine::derive_seed;

pub use self::config::{Processor, TrainConfig};
use self::metrics::Metrics;
pub use self::metrics::StepMetrics;
use crate::checkpoint::Configuration;
use crate::gradient::{GradientWorkers, StepLoss};
use crate::loss::Preference;
use crate::model::computing::Computing;
use crate::model::cpu::{Keep, Weights};
use crate::model::device::{self, DeviceModel};
use crate::model::params::Layout;
use crate::model::{DenseConfig, LoraConfig, Params, shape};
use crate::optimizer::Rule;
use crate::optimizer::{Optimizer, Update, norm};
use crate::resume::{self, Place};
use crate::tokens::{Example, Unit, units};
use crate::{adapter, checkpoint, curve};

/// The first weights.
#[derive(Clone, Debug)]
pub enum Init {
    /// Random, by the run's seed; texts of the new model begin and end with `end`.
    Fresh {
        /// The token that begins and ends texts.
        end: Option<u32>,
    },
    /// The weights of a model directory of the same shape.
    From(PathBuf),
}

/// A finished run in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Number of updates made.
    pub steps: u64,
    /// Tokens of all steps.
    pub tokens: u64,
    /// Time spent training, over all restarts.
    pub seconds: f64,
    /// Tokens over time.
    pub tokens_per_s: f64,
    /// Mean loss of the last 2 % of the steps.
    pub loss: f64,
    /// The last loss on data that is not learned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eval_loss: Option<f64>,
    /// Parameters of the model.
    pub parameters: usize,
    /// Parameters that are trained, which are the adapter's where one is trained; 0 in reports of earlier versions.
    #[serde(default)]
    pub trained: usize,
}

/// What a run learns.
#[derive(Clone, Debug)]
pub struct Learning<'a> {
    /// The model's shape.
    pub llama: &'a DenseConfig,
    /// The weights from which the run starts.
    pub init: Init,
    /// The objective by which pairs are compared.
    pub preference: Preference,
    /// What is measured during the training without being learned.
    pub eval: Option<Evaluation>,
    /// Steps of one pass over the data, if it has passes.
    pub steps_per_epoch: Option<u64>,
    /// What an adapter's configuration states as its base.
    pub base_name: Option<&'a str>,
}

/// Data whose loss is measured during the training.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// The data to measure.
    pub units: Vec<Unit>,
    /// Steps between two measurements, at least 1.
    pub every: u64,
}

/// Trains a model by likelihood and exports it to `out_dir`, with `metrics.jsonl`, `loss.svg` and `resume.safetensors`.
///
/// `data` gives the examples of each step, counted from 0; it must depend on the step only, because a killed run requests
/// the steps after its last resume file again. It is called for the next step while the workers compute. A finished run
/// is not repeated.
///
/// # Errors
/// Fails when files cannot be read or written, `data` fails, an example does not fit the model, or the loss is not finite.
pub fn train(
    config: &TrainConfig,
    llama: &DenseConfig,
    init: Init,
    data: &mut dyn FnMut(u64) -> Result<Vec<Example>>,
) -> Result<TrainReport> {
    let preference = Preference::default();
    let learning = Learning { llama, init, preference, eval: None, steps_per_epoch: None, base_name: None };
    learn(config, learning, &mut |step| Ok(units(&data(step)?, config.unit_tokens)))
}

/// Trains like [`train`], from units of work: sequences or pairs. With `config.lora` an adapter is trained and exported
/// next to its base.
///
/// # Errors
/// Fails as [`train`] does.
pub fn learn(
    config: &TrainConfig,
    learning: Learning<'_>,
    data: &mut dyn FnMut(u64) -> Result<Vec<Unit>>,
) -> Result<TrainReport> {
    shape::check(learning.llama)?;
    learning.preference.check()?;
    config.lora.as_ref().map_or(Ok(()), LoraConfig::check)?;
    std::fs::create_dir_all(&config.out_dir).with_context(|| format!("cannot create {}", config.out_dir.display()))?;
    let (config_of_model, init, base_name) = (learning.llama, learning.init.clone(), learning.base_name);
    let mut run = Run::start(config, learning)?;
    let mut next = if run.place.step < config.steps { data(run.place.step)? } else { Vec::new() };
    let mut saved = run.place.step;
    while run.place.step < config.steps {
        let following = run.place.step + 1;
        let units = run.step(&next, || if following < config.steps { data(following) } else { Ok(Vec::new()) })?;
        if config.checkpoint_every > 0 && run.place.step % config.checkpoint_every == 0 {
            run.save()?;
            saved = run.place.step;
        }
        next = units?;
    }
    if saved < run.place.step {
        run.save()?;
    }
    run.bar.finish();
    match &config.lora {
        Some(lora) => adapter::save(&config.out_dir, lora, &run.params, base_name)?,
        None => {
            let configuration = match &init {
                Init::Fresh { end } => Configuration::New { config: config_of_model, end: *end },
                Init::From(base) => Configuration::Of(base),
            };
            checkpoint::export(&config.out_dir, configuration, &run.params, config.precision)?;
        }
    }
    Ok(run.report())
}

/// A run in memory.
struct Run<'a> {
    config: &'a TrainConfig,
    preference: Preference,
    eval: Option<Evaluation>,
    steps_per_epoch: Option<u64>,
    /// The frozen weights under an adapter.
    base: Option<Params>,
    /// The trained parameters.
    params: Params,
    /// Parameters of the whole model.
    parameters: usize,
    optimizer: Optimizer,
    workers: GradientWorkers,
    place: Place,
    metrics: Metrics,
    bar: ProgressBar,
}

impl<'a> Run<'a> {
    fn start(config: &'a TrainConfig, learning: Learning<'_>) -> Result<Self> {
        let Learning { llama, init, preference, eval, steps_per_epoch, .. } = learning;
        let computing = Computing {
            arithmetic: config.arithmetic,
            lora: config.lora.as_ref(),
            keep: config.keep,
            workers: config.threads(),
        };
        let frozen = config.device != Processor::Cpu && config.lora.is_some();
        let (model, workers) = match init {
            Init::Fresh { .. } => {
                let model = Params::random(llama, config.seed);
                let workers = match config.device {
                    Processor::Cpu => GradientWorkers::new(llama, computing),
                    Processor::Cuda => {
                        let model = DeviceModel::from_params(llama, computing, &device::cuda()?, &model)?;
                        GradientWorkers::on_device(model)
                    }
                };
                (model, workers)
            }
            Init::From(directory) => {
                // The device alone holds weights that stay as they are.
                let model = match frozen {
                    true => Params { layout: Arc::new(Layout::new(llama)), data: Vec::new() },
                    false => Params::load(llama, &directory)?,
                };
                (model, config.workers(llama, computing, &directory)?)
            }
        };
        let (base, mut params) = match &config.lora {
            Some(lora) => {
                let adapter = match &lora.from {
                    Some(directory) => adapter::load(directory, lora, llama)?,
                    None => lora.fresh(llama, config.seed),
                };
                (Some(model), adapter)
            }
            None => (None, model),
        };
        let mut optimizer = Optimizer::new(config.optimizer, &params.layout);
        // What does not change the result may change between two parts of a run.
        let free = TrainConfig { keep: Keep::Everything, workers: 0, checkpoint_every: 0, ..config.clone() };
        let fixed = TrainConfig { out_dir: PathBuf::new(), ..free };
        let description = serde_json::to_string(&(format!("{llama:?}"), fixed, preference))?;
        let path = config.out_dir.join("resume.safetensors");
        let place = if path.exists() {
            resume::load(&path, &description, &mut params, &mut optimizer)?
        } else {
            Place { run: description, ..Place::default() }
        };
        let style = "{bar:30} {pos}/{len} {msg} [{elapsed_precise} < {eta_precise}]";
        let bar = ProgressBar::new(config.steps).with_style(ProgressStyle::with_template(style)?);
        bar.set_position(place.step);
        bar.reset_eta();
        Ok(Self {
            config,
            workers,
            preference,
            eval,
            steps_per_epoch,
            base,
            parameters: Layout::new(llama).len(),
            metrics: Metrics::open(&config.out_dir, place.step)?,
            params,
            optimizer,
            place,
            bar,
        })
    }

    fn step<T>(&mut self, units: &[Unit], meanwhile: impl FnOnce() -> T) -> Result<T> {
        let started = Instant::now();
        let weights = match &self.base {
            Some(base) => {
                let dropout = Some(derive_seed(self.config.seed, self.place.step));
                Weights { base, adapter: Some(&self.params), dropout }
            }
            None => Weights::from(&self.params),
        };
        let (step, other) = self.workers.compute(weights, units, &self.preference, meanwhile)?;
        let StepLoss { loss, rows, preference } = step;
        let grad_norm = norm(self.workers.gradient());
        let number = self.place.step + 1;
        ensure!(loss.is_finite(), "the loss is {loss} at step {number}; lower the learning rate");
        ensure!(
            grad_norm.is_finite(),
            "the gradient's norm is {grad_norm} at step {number}, although the loss is {loss:.4}; lower the learning rate"
        );
        let factor = self.config.schedule.factor(self.place.step, self.config.warmup(), self.config.steps);
        let clipped = self.config.clip > 0.0 && grad_norm > self.config.clip;
        let clip = if clipped { (self.config.clip / grad_norm) as f32 } else { 1.0 };
        let update = Update { factor, clip, arithmetic: self.config.arithmetic, workers: self.config.threads() };
        self.optimizer.step(&mut self.params, self.workers.gradient(), update);
        self.place.step += 1;
        let evaluation = self.evaluate()?;

        let seconds = started.elapsed().as_secs_f64();
        self.place.tokens += rows as u64;
        self.place.seconds += seconds;
        let optimizer = self.config.optimizer;
        let metrics = StepMetrics {
            step: self.place.step,
            epoch: self.steps_per_epoch.map(|steps| self.place.step as f64 / steps.max(1) as f64),
            loss,
            lr: optimizer.lr * factor,
            muon_lr: (optimizer.rule == Rule::Muon).then_some(optimizer.muon_lr * factor),
            grad_norm,
            tokens: rows,
            num_tokens: self.place.tokens,
            tokens_per_s: rows as f64 / seconds,
            seconds: self.place.seconds,
            eval_loss: evaluation.map(|eval| eval.loss),
            eval_margin: evaluation.and_then(|eval| Some(eval.preference?.margin)),
            eval_accuracy: evaluation.and_then(|eval| Some(eval.preference?.accuracy)),
            preference,
        };
        self.bar.set_message(format!("loss {loss:.4} {:.0} tokens/s", metrics.tokens_per_s));
        self.bar.inc(1);
        self.metrics.push(metrics, self.config.steps)?;
        Ok(other)
    }

    /// The loss on data that is not learned from. It is measured after every `every` steps and after the last step.
    fn evaluate(&mut self) -> Result<Option<StepLoss>> {
        let (step, last) = (self.place.step, self.config.steps);
        let Some(eval) = self.eval.as_ref().filter(|eval| step.is_multiple_of(eval.every) || step == last) else {
            return Ok(None);
        };
        let weights = match &self.base {
            Some(base) => Weights { base, adapter: Some(&self.params), dropout: None },
            None => Weights::from(&self.params),
        };
        self.workers.evaluate(weights, &eval.units, &self.preference).map(Some)
    }

    /// The curve is written first: a killed run resumes after the step that the resume file names, so all else is written by then.
    fn save(&mut self) -> Result<()> {
        self.metrics.flush()?;
        let points: Vec<_> = self.metrics.steps.iter().map(|line| (line.step, line.loss)).collect();
        checkpoint::replace(&self.config.out_dir.join("loss.svg"), |path| curve::draw(path, &points))?;
        resume::save(&self.config.out_dir.join("resume.safetensors"), &self.params, &self.optimizer, &self.place)
    }

    fn report(&self) -> TrainReport {
        let steps = &self.metrics.steps;
        let last = &steps[steps.len() - (steps.len() / 50 + 1).min(steps.len())..];
        TrainReport {
            steps: self.place.step,
            tokens: self.place.tokens,
            seconds: self.place.seconds,
            tokens_per_s: self.place.tokens as f64 / self.place.seconds.max(f64::MIN_POSITIVE),
            loss: last.iter().map(|line| line.loss).sum::<f64>() / last.len().max(1) as f64,
            eval_loss: steps.iter().rev().find_map(|line| line.eval_loss),
            parameters: self.parameters,
            trained: self.params.data.len(),
        }
    }
}
