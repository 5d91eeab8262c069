//! The gradient of one step, computed by several workers or on a device.
//!
//! Workers take units from a shared queue, so that a busy core does not hold up the others. Gradients are added in the order of the units,
//! whichever worker computed them, so the sum is bit-identical for any number of workers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use spar::engine::derive_seed;

use crate::loss::{Pair, Preference, PreferenceMetrics, Scores};
use crate::model::DenseConfig;
use crate::model::computing::Computing;
use crate::model::cpu::{Weights, Workspace};
use crate::model::device::DeviceModel;
use crate::tokens::{PairRows, Unit};

/// Computes gradients. Workspaces and the sum are kept from step to step.
#[derive(Debug)]
pub struct GradientWorkers {
    form: Form,
    sum: Sum,
}

#[derive(Debug)]
enum Form {
    /// A workspace for each worker.
    Cpu(Vec<Workspace>),
    /// A device, which computes one unit after the other.
    Device(Box<DeviceModel>),
}

/// The loss of a step's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepLoss {
    /// For sequences, `-Σ weight · log p / Σ weight` in nats. For pairs, their mean loss, plus the loss of the step's sequences with the
    /// weight [`Preference::kept`].
    pub loss: f64,
    /// Number of computed rows.
    pub rows: usize,
    /// Metrics of the pairs, if the step has pairs.
    pub preference: Option<PreferenceMetrics>,
}

impl GradientWorkers {
    /// Makes workspaces for models of a given shape.
    #[must_use]
    pub fn new(config: &DenseConfig, computing: Computing<'_>) -> Self {
        let Computing { arithmetic, lora, keep, workers } = computing;
        let workspaces = (0..workers.max(1)).map(|_| Workspace::with(config, arithmetic, lora, keep)).collect();
        Self { form: Form::Cpu(workspaces), sum: Sum::default() }
    }

    /// Uses a model on a device. It holds its own base weights and takes only the trained ones for each step, or none if there are none.
    #[must_use]
    pub fn on_device(model: DeviceModel) -> Self {
        Self { form: Form::Device(Box::new(model)), sum: Sum::default() }
    }

    /// Computes the loss of a step, after which its gradient is in [`GradientWorkers::gradient`]. `preference` is the loss of pairs.
    /// `meanwhile` runs on the calling thread while the workers compute.
    ///
    /// # Errors
    /// Fails if a sequence does not fit the model.
    pub fn compute<'w, T>(
        &mut self,
        weights: impl Into<Weights<'w>>,
        units: &[Unit],
        preference: &Preference,
        meanwhile: impl FnOnce() -> T,
    ) -> Result<(StepLoss, T)> {
        let weights = weights.into();
        let total: f64 = units.iter().flat_map(|unit| &unit.weights).map(|&weight| f64::from(weight)).sum();
        let pairs: usize = units.iter().map(|unit| unit.pairs.len()).sum();
        let kept = if pairs > 0 { preference.kept } else { 1.0 };
        let scale = if total > 0.0 { (-kept / total) as f32 } else { 0.0 };
        let share = 1.0 / pairs.max(1) as f64;
        let trained = weights.adapter.unwrap_or(weights.base);
        self.sum.start(trained.data.len());
        let dropout = |index: usize| weights.dropout.map(|seed| derive_seed(seed, index as u64));
        let coefficients = |unit: &Unit, part: &mut Part, log_probs: &mut dyn FnMut() -> Result<Vec<f32>>| {
            let mut coefficients: Vec<f32> = unit.weights.iter().map(|weight| weight * scale).collect();
            if !unit.pairs.is_empty() {
                coefficients.resize(unit.batch.rows(), 0.0);
                compare(preference, share, &unit.pairs, &log_probs()?, &mut coefficients, part);
            }
            anyhow::Ok(coefficients)
        };
        let finish = |unit: &Unit, part: &mut Part, log_probs: &[f32], coefficients: &[f32]| {
            if unit.pairs.is_empty() {
                part.loss = log_probs.iter().zip(coefficients).map(|(&l, &c)| f64::from(l) * f64::from(c)).sum();
                part.preference.loss_kept = part.loss;
            }
        };
        let other = match &mut self.form {
            Form::Cpu(workspaces) => {
                let (sum, next) = (Mutex::new(&mut self.sum), AtomicUsize::new(0));
                let work = |workspace: &mut Workspace| -> Result<()> {
                    while let Some((index, unit)) = take(&next, units) {
                        let weights = Weights { dropout: dropout(index), ..weights };
                        let mut part = Part { gradient: lock(&sum).free.pop().unwrap_or_default(), ..Part::default() };
                        part.gradient.clear();
                        part.gradient.resize(trained.data.len(), 0.0);
                        workspace.forward(weights, &unit.batch)?;
                        let mut log_probs = || Ok(workspace.log_probs(weights, &unit.batch));
                        let coefficients = coefficients(unit, &mut part, &mut log_probs)?;
                        let log_probs = workspace.backward(weights, &unit.batch, &coefficients, &mut part.gradient);
                        finish(unit, &mut part, &log_probs, &coefficients);
                        lock(&sum).add(index, part);
                    }
                    Ok(())
                };
                std::thread::scope(|scope| {
                    let handles: Vec<_> = workspaces.iter_mut().map(|w| scope.spawn(|| work(w))).collect();
                    let other = meanwhile();
                    handles.into_iter().try_for_each(|handle| handle.join().expect("a worker panicked"))?;
                    anyhow::Ok(other)
                })?
            }
            Form::Device(model) => {
                if !trained.data.is_empty() {
                    model.take(trained)?;
                }
                for (index, unit) in units.iter().enumerate() {
                    let mut part = Part::default();
                    model.forward(&unit.batch, dropout(index))?;
                    let coefficients = coefficients(unit, &mut part, &mut || model.log_probs_first(&unit.batch))?;
                    let log_probs = model.backward(&unit.batch, &coefficients)?;
                    finish(unit, &mut part, &log_probs, &coefficients);
                    self.sum.add(index, part);
                }
                model.gradient(&mut self.sum.gradient)?;
                meanwhile()
            }
        };
        let rows = units.iter().map(|unit| unit.batch.rows()).sum();
        let preference = (pairs > 0).then_some(self.sum.preference);
        Ok((StepLoss { loss: self.sum.loss, rows, preference }, other))
    }

    /// The summed log-probabilities of both responses of every pair, in the order of the units' pairs.
    ///
    /// # Errors
    /// Fails if a sequence does not fit the model.
    pub fn score<'w>(&mut self, weights: impl Into<Weights<'w>>, units: &[Unit]) -> Result<Vec<Vec<Pair<f64>>>> {
        let weights = weights.into();
        let workspaces = match &mut self.form {
            Form::Cpu(workspaces) => workspaces,
            Form::Device(model) => {
                let trained = weights.adapter.unwrap_or(weights.base);
                if !trained.data.is_empty() {
                    model.take(trained)?;
                }
                let score_unit = |unit: &Unit| {
                    model.forward(&unit.batch, None)?;
                    let log_probs = model.log_probs(&unit.batch)?;
                    Ok(unit.pairs.iter().map(|pair| sums(pair, &log_probs)).collect())
                };
                return units.iter().map(score_unit).collect();
            }
        };
        let next = AtomicUsize::new(0);
        let scores: Vec<Mutex<Vec<Pair<f64>>>> = units.iter().map(|_| Mutex::default()).collect();
        let work = |workspace: &mut Workspace| -> Result<()> {
            while let Some((index, unit)) = take(&next, units) {
                workspace.forward(weights, &unit.batch)?;
                let log_probs = workspace.log_probs(weights, &unit.batch);
                *lock(&scores[index]) = unit.pairs.iter().map(|pair| sums(pair, &log_probs)).collect();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let handles: Vec<_> = workspaces.iter_mut().map(|w| scope.spawn(|| work(w))).collect();
            handles.into_iter().try_for_each(|handle| handle.join().expect("a worker panicked"))
        })?;
        Ok(scores.into_iter().map(|scores| scores.into_inner().unwrap_or_else(PoisonError::into_inner)).collect())
    }

    /// The loss of a batch, without a gradient.
    ///
    /// # Errors
    /// Fails if a sequence does not fit the model.
    pub fn evaluate<'w>(
        &mut self,
        weights: impl Into<Weights<'w>>,
        units: &[Unit],
        preference: &Preference,
    ) -> Result<StepLoss> {
        let weights = weights.into();
        let log_probs: Vec<Vec<f32>> = match &mut self.form {
            Form::Cpu(workspaces) => {
                let next = AtomicUsize::new(0);
                let found: Vec<Mutex<Vec<f32>>> = units.iter().map(|_| Mutex::default()).collect();
                let work = |workspace: &mut Workspace| -> Result<()> {
                    while let Some((index, unit)) = take(&next, units) {
                        workspace.forward(weights, &unit.batch)?;
                        *lock(&found[index]) = workspace.log_probs(weights, &unit.batch);
                    }
                    Ok(())
                };
                std::thread::scope(|scope| {
                    let handles: Vec<_> = workspaces.iter_mut().map(|w| scope.spawn(|| work(w))).collect();
                    handles.into_iter().try_for_each(|handle| handle.join().expect("a worker panicked"))
                })?;
                found.into_iter().map(|found| found.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
            }
            Form::Device(model) => {
                let trained = weights.adapter.unwrap_or(weights.base);
                if !trained.data.is_empty() {
                    model.take(trained)?;
                }
                let of_unit = |unit: &Unit| {
                    model.forward(&unit.batch, None)?;
                    model.log_probs(&unit.batch)
                };
                units.iter().map(of_unit).collect::<Result<_>>()?
            }
        };
        let total: f64 = units.iter().flat_map(|unit| &unit.weights).map(|&weight| f64::from(weight)).sum();
        let pairs: usize = units.iter().map(|unit| unit.pairs.len()).sum();
        let mut sum = Part::default();
        for (unit, log_probs) in units.iter().zip(&log_probs) {
            let mut coefficients = vec![0.0; unit.batch.rows()];
            compare(preference, 1.0 / pairs.max(1) as f64, &unit.pairs, log_probs, &mut coefficients, &mut sum);
            let likelihood: f64 = unit.weights.iter().zip(log_probs).map(|(&w, &l)| f64::from(w) * f64::from(l)).sum();
            sum.loss -= likelihood / if total > 0.0 { total } else { 1.0 };
        }
        let rows = units.iter().map(|unit| unit.batch.rows()).sum();
        Ok(StepLoss { loss: sum.loss, rows, preference: (pairs > 0).then_some(sum.preference) })
    }

    /// The gradient of the last step, in the layout of the parameters.
    pub fn gradient(&mut self) -> &mut [f32] {
        &mut self.sum.gradient
    }
}

fn take<'a>(next: &AtomicUsize, units: &'a [Unit]) -> Option<(usize, &'a Unit)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, units.get(index)?))
}

/// Ignores poisoning: a panic in another worker is reported when it is joined, and the data is not used then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The summed log-probabilities of a pair's responses.
fn sums(pair: &PairRows, log_probs: &[f32]) -> Pair<f64> {
    let sum = |parts: [std::ops::Range<usize>; 2]| {
        parts.into_iter().flat_map(|rows| &log_probs[rows]).map(|&x| f64::from(x)).sum::<f64>()
    };
    let answers = pair.answers();
    Pair { chosen: sum(answers.chosen), rejected: sum(answers.rejected) }
}

/// Adds the loss of some pairs, each with weight `share`, and its derivatives by the log-probability of every row. A row that belongs to
/// both responses gets the sum of both derivatives.
fn compare(
    preference: &Preference,
    share: f64,
    pairs: &[PairRows],
    log_probs: &[f32],
    coefficients: &mut [f32],
    part: &mut Part,
) {
    for pair in pairs {
        let answers = pair.answers();
        let count =
            |parts: &[std::ops::Range<usize>; 2]| parts.iter().map(ExactSizeIterator::len).sum::<usize>() as f64;
        let tokens = Pair { chosen: count(&answers.chosen), rejected: count(&answers.rejected) };
        let policy = sums(pair, log_probs);
        let loss = preference.loss(Scores { policy, reference: pair.reference, tokens });
        part.loss += share * loss.loss;
        part.preference.add(share, policy, &loss);
        for (parts, slope) in [(answers.chosen, loss.slope.chosen), (answers.rejected, loss.slope.rejected)] {
            let slope = (share * slope) as f32;
            parts.into_iter().flatten().for_each(|row| coefficients[row] += slope);
        }
    }
}

/// The contribution of one unit.
#[derive(Debug, Default)]
struct Part {
    gradient: Vec<f32>,
    loss: f64,
    preference: PreferenceMetrics,
}

/// Adds gradients in order. Gradients that are finished early wait for their turn.
#[derive(Debug, Default)]
struct Sum {
    gradient: Vec<f32>,
    loss: f64,
    preference: PreferenceMetrics,
    next: usize,
    early: BTreeMap<usize, Part>,
    free: Vec<Vec<f32>>,
}

impl Sum {
    fn start(&mut self, len: usize) {
        self.gradient.clear();
        self.gradient.resize(len, 0.0);
        self.loss = 0.0;
        self.preference = PreferenceMetrics::default();
        self.next = 0;
        self.early.clear();
    }

    fn add(&mut self, index: usize, part: Part) {
        self.early.insert(index, part);
        while let Some(Part { gradient, loss, preference }) = self.early.remove(&self.next) {
            self.gradient.iter_mut().zip(&gradient).for_each(|(sum, x)| *sum += x);
            self.loss += loss;
            self.preference += preference;
            self.next += 1;
            self.free.push(gradient);
        }
    }
}
