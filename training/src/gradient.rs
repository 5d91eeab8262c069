//! The gradient of one step, computed by several threads.
//!
//! Threads take units from a shared queue, so that a busy neighbour on one core does not hold up the others. Gradients
//! are added in the order of the units whoever computed them: the sum is the same bit for bit for any number of threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Result;

use crate::model::cpu::{Arithmetic, Workspace};
use crate::model::{LlamaConfig, Params};
use crate::tokens::Unit;

/// The threads' workspaces and the sum of gradients, kept from step to step.
#[derive(Debug)]
pub struct GradientWorkers {
    workspaces: Vec<Workspace>,
    sum: Sum,
}

/// What a step's batch says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// `-Σ weight · log p / Σ weight`, in nats.
    pub loss: f64,
    /// Rows computed.
    pub rows: usize,
}

impl GradientWorkers {
    /// `workers` threads, at least one.
    #[must_use]
    pub fn new(config: &LlamaConfig, arithmetic: Arithmetic, workers: usize) -> Self {
        Self {
            workspaces: (0..workers.max(1)).map(|_| Workspace::new(config, arithmetic)).collect(),
            sum: Sum::default(),
        }
    }

    /// The loss of a step; its gradient is in [`GradientWorkers::gradient`] afterwards. `meanwhile` runs on the calling
    /// thread while the workers compute.
    ///
    /// # Errors
    /// When a sequence does not fit the model.
    pub fn compute<T>(
        &mut self,
        params: &Params,
        units: &[Unit],
        meanwhile: impl FnOnce() -> T,
    ) -> Result<(StepLoss, T)> {
        let total: f64 = units.iter().flat_map(|unit| &unit.weights).map(|&weight| f64::from(weight)).sum();
        let scale = if total > 0.0 { (-1.0 / total) as f32 } else { 0.0 };
        self.sum.start(params.data.len());
        let (sum, next) = (Mutex::new(&mut self.sum), AtomicUsize::new(0));
        let work = |workspace: &mut Workspace| -> Result<()> {
            while let Some((index, unit)) = take(&next, units) {
                let coefficients: Vec<f32> = unit.weights.iter().map(|weight| weight * scale).collect();
                let mut gradient = lock(&sum).free.pop().unwrap_or_default();
                gradient.clear();
                gradient.resize(params.data.len(), 0.0);
                workspace.forward(params, &unit.batch)?;
                let log_probs = workspace.backward(params, &unit.batch, &coefficients, &mut gradient);
                let loss = log_probs.iter().zip(&coefficients).map(|(&l, &c)| f64::from(l) * f64::from(c)).sum();
                lock(&sum).add(index, gradient, loss);
            }
            Ok(())
        };
        let other = std::thread::scope(|scope| {
            let threads: Vec<_> = self.workspaces.iter_mut().map(|w| scope.spawn(|| work(w))).collect();
            let other = meanwhile();
            threads.into_iter().try_for_each(|thread| thread.join().expect("a worker panicked"))?;
            anyhow::Ok(other)
        })?;
        let rows = units.iter().map(|unit| unit.batch.rows()).sum();
        Ok((StepLoss { loss: self.sum.loss, rows }, other))
    }

    /// The gradient of the last step, laid out as the parameters.
    pub fn gradient(&mut self) -> &mut [f32] {
        &mut self.sum.gradient
    }
}

fn take<'a>(next: &AtomicUsize, units: &'a [Unit]) -> Option<(usize, &'a Unit)> {
    let index = next.fetch_add(1, Ordering::Relaxed);
    Some((index, units.get(index)?))
}

/// A panic in another worker is reported when it is joined; the data is not used then.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Adds gradients in order, holding back those that come early.
#[derive(Debug, Default)]
struct Sum {
    gradient: Vec<f32>,
    loss: f64,
    next: usize,
    early: BTreeMap<usize, (Vec<f32>, f64)>,
    free: Vec<Vec<f32>>,
}

impl Sum {
    fn start(&mut self, len: usize) {
        self.gradient.clear();
        self.gradient.resize(len, 0.0);
        self.loss = 0.0;
        self.next = 0;
        self.early.clear();
    }

    fn add(&mut self, index: usize, gradient: Vec<f32>, loss: f64) {
        self.early.insert(index, (gradient, loss));
        while let Some((gradient, loss)) = self.early.remove(&self.next) {
            self.gradient.iter_mut().zip(&gradient).for_each(|(sum, x)| *sum += x);
            self.loss += loss;
            self.next += 1;
            self.free.push(gradient);
        }
    }
}
