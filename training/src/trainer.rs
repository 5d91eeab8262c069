//! The loop: gradient, clip, update, write down.

mod config;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use spar::engine::derive_seed;

pub use self::config::{Processor, TrainConfig};
use crate::checkpoint::Configuration;
use crate::gradient::{Computing, GradientWorkers, StepLoss};
use crate::loss::{Preference, PreferenceMetrics};
use crate::model::cpu::{Keep, Weights};
use crate::model::device::{self, DeviceModel};
use crate::model::params::Layout;
use crate::model::{DenseConfig, LoraConfig, Params, shape};
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
    /// Those of a model directory of the same shape.
    From(PathBuf),
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// Counted from 1.
    pub step: u64,
    /// Nats per weighted token.
    pub loss: f64,
    /// AdamW's learning rate.
    pub lr: f64,
    /// The gradient's norm before clipping.
    pub grad_norm: f64,
    /// Tokens of this step.
    pub tokens: usize,
    /// Tokens of this step over its time.
    pub tokens_per_s: f64,
    /// Time spent training up to here.
    pub seconds: f64,
    /// Metrics of pairs, where the step has pairs.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub preference: Option<PreferenceMetrics>,
}

/// A finished run in numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Number of updates made.
    pub steps: u64,
    /// Tokens in all.
    pub tokens: u64,
    /// Time spent training, over all restarts.
    pub seconds: f64,
    /// Tokens over time.
    pub tokens_per_s: f64,
    /// Mean loss of the last 2 % of the steps.
    pub loss: f64,
    /// Parameters of the model.
    pub parameters: usize,
}

/// What a run learns.
#[derive(Clone, Debug)]
pub struct Learning<'a> {
    /// The model's shape.
    pub llama: &'a DenseConfig,
    /// Where it starts.
    pub init: Init,
    /// What pairs are compared by.
    pub preference: Preference,
}

/// Trains a model by likelihood and exports it to `out_dir`, with `metrics.jsonl`, `loss.svg` and `resume.safetensors`.
///
/// `data` gives the examples of each step, counted from 0; it must depend on the step only, because a killed run asks
/// again from its last resume file on. It is called for the next step while the workers compute. A run that is
/// finished is not made again.
///
/// # Errors
/// When files cannot be read or written, `data` fails, an example does not fit the model, or the loss is not finite.
pub fn train(
    config: &TrainConfig,
    llama: &DenseConfig,
    init: Init,
    data: &mut dyn FnMut(u64) -> Result<Vec<Example>>,
) -> Result<TrainReport> {
    let learning = Learning { llama, init, preference: Preference::default() };
    learn(config, learning, &mut |step| Ok(units(&data(step)?, config.unit_tokens)))
}

/// Trains like [`train`], from units of work: sequences or pairs. With `config.lora` an adapter is trained and exported
/// next to its base.
///
/// # Errors
/// As [`train`].
pub fn learn(
    config: &TrainConfig,
    learning: Learning<'_>,
    data: &mut dyn FnMut(u64) -> Result<Vec<Unit>>,
) -> Result<TrainReport> {
    shape::check(learning.llama)?;
    learning.preference.check()?;
    config.lora.as_ref().map_or(Ok(()), LoraConfig::check)?;
    std::fs::create_dir_all(&config.out_dir).with_context(|| format!("cannot create {}", config.out_dir.display()))?;
    let (config_of_model, init) = (learning.llama, learning.init.clone());
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
        Some(lora) => adapter::save(&config.out_dir, lora, &run.params)?,
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
    /// The frozen weights under an adapter.
    base: Option<Params>,
    /// What is trained.
    params: Params,
    optimizer: Optimizer,
    workers: GradientWorkers,
    place: Place,
    metrics: Metrics,
    bar: ProgressBar,
}

impl<'a> Run<'a> {
    fn start(config: &'a TrainConfig, learning: Learning<'_>) -> Result<Self> {
        let Learning { llama, init, preference } = learning;
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
            base,
            metrics: Metrics::open(&config.out_dir.join("metrics.jsonl"), place.step)?,
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
        ensure!(loss.is_finite() && grad_norm.is_finite(), "the loss is {loss} at step {}", self.place.step + 1);
        let factor = self.config.schedule.factor(self.place.step, self.config.warmup, self.config.steps);
        let clipped = self.config.clip > 0.0 && grad_norm > self.config.clip;
        let clip = if clipped { (self.config.clip / grad_norm) as f32 } else { 1.0 };
        let update = Update { factor, clip, arithmetic: self.config.arithmetic, workers: self.config.threads() };
        self.optimizer.step(&mut self.params, self.workers.gradient(), update);

        let seconds = started.elapsed().as_secs_f64();
        self.place.step += 1;
        self.place.tokens += rows as u64;
        self.place.seconds += seconds;
        let metrics = StepMetrics {
            step: self.place.step,
            loss,
            lr: self.config.optimizer.lr * factor,
            grad_norm,
            tokens: rows,
            tokens_per_s: rows as f64 / seconds,
            seconds: self.place.seconds,
            preference,
        };
        self.bar.set_message(format!("loss {loss:.4} {:.0} tokens/s", metrics.tokens_per_s));
        self.bar.inc(1);
        self.metrics.push(metrics)?;
        Ok(other)
    }

    /// The curve is written first: a killed run resumes after the step that the resume file names, so all else is written by then.
    fn save(&mut self) -> Result<()> {
        self.metrics.file.flush()?;
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
            parameters: self.params.data.len(),
        }
    }
}

/// The metrics in memory and in their file, and a line in the log now and then where no bar is shown.
struct Metrics {
    file: std::io::BufWriter<std::fs::File>,
    steps: Vec<StepMetrics>,
    logged: Instant,
}

impl Metrics {
    /// Keeps the lines up to `step`: what came after the resume file is computed again.
    fn open(path: &Path, step: u64) -> Result<Self> {
        let text = if step > 0 { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() };
        let parsed = text.lines().filter_map(|line| Some((line, serde_json::from_str::<StepMetrics>(line).ok()?)));
        let (lines, steps): (Vec<&str>, Vec<_>) = parsed.filter(|(_, metrics)| metrics.step <= step).unzip();
        // Replaced as a whole: a run that is killed again must find these lines again.
        let kept: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        checkpoint::replace(path, |path| Ok(std::fs::write(path, &kept)?))?;
        let file = std::fs::OpenOptions::new().append(true).open(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self { file: std::io::BufWriter::new(file), steps, logged: Instant::now() })
    }

    fn push(&mut self, line: StepMetrics) -> Result<()> {
        if self.logged.elapsed() > Duration::from_secs(15) {
            let StepMetrics { step, loss, lr, tokens_per_s, .. } = line;
            tracing::info!(step, loss, lr, tokens_per_s, "training");
            self.logged = Instant::now();
            self.file.flush()?;
        }
        self.write(line)
    }

    fn write(&mut self, line: StepMetrics) -> Result<()> {
        serde_json::to_writer(&mut self.file, &line)?;
        writeln!(self.file)?;
        self.steps.push(line);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resumed_run_keeps_is_on_the_disk_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("metrics.jsonl");
        let line = |step: u64| {
            let text = format!(
                r#"{{"step":{step},"loss":1.5,"lr":0.1,"grad_norm":2.0,"tokens":3,"tokens_per_s":4.0,"seconds":5.0}}"#
            );
            serde_json::from_str::<StepMetrics>(&text).unwrap()
        };
        let mut first = Metrics::open(&path, 0).unwrap();
        (1..=3).for_each(|step| first.push(line(step)).unwrap());
        drop(first);
        let mut again = Metrics::open(&path, 2).unwrap();
        again.push(line(3)).unwrap();
        assert_eq!(
            std::fs::read_to_string(&path).unwrap().lines().count(),
            2,
            "a kill now loses what is computed again"
        );
        drop(again);
        let steps: Vec<u64> = Metrics::open(&path, 9).unwrap().steps.iter().map(|line| line.step).collect();
        assert_eq!(steps, [1, 2, 3]);
    }
}
