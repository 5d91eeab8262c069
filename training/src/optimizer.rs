//! The optimizers: AdamW, and Muon for the matrices inside layers.

mod config;

use std::sync::{Mutex, PoisonError};

use spar::kernels::Matrix;

pub use self::config::{OptimizerConfig, Rule};
use crate::model::cpu::{Arithmetic, Products};
use crate::model::params::{Entry, Kind, Layout, Params};

/// The moving averages of one tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// AdamW's first moment or Muon's momentum.
    pub first: Vec<f32>,
    /// AdamW's second moment; empty with Muon.
    pub second: Vec<f32>,
}

/// The optimizer and its state.
#[derive(Clone, Debug)]
pub struct Optimizer {
    config: OptimizerConfig,
    /// Moments in the order of the layout's entries.
    pub moments: Vec<Moments>,
    /// Number of updates made.
    pub steps: u64,
}

/// The parameters of one step.
#[derive(Clone, Copy, Debug)]
pub struct Update {
    /// The schedule's factor for both learning rates.
    pub factor: f64,
    /// The factor of every gradient, which is below 1 if the norm is clipped.
    pub clip: f32,
    /// The precision of Muon's products.
    pub arithmetic: Arithmetic,
    /// The number of workers. They take whole tensors, so the result does not depend on their number.
    pub workers: usize,
}

struct Job<'a> {
    entry: &'a Entry,
    weights: &'a mut [f32],
    gradient: &'a [f32],
    moments: &'a mut Moments,
}

impl Optimizer {
    /// Makes an optimizer with all averages at 0.
    #[must_use]
    pub fn new(config: OptimizerConfig, layout: &Layout) -> Self {
        let moments = layout.entries.iter().map(|entry| Moments {
            first: vec![0.0; entry.range.len()],
            second: vec![0.0; if uses_muon(config.rule, entry.kind) { 0 } else { entry.range.len() }],
        });
        Self { config, moments: moments.collect(), steps: 0 }
    }

    /// Updates all weights.
    pub fn step(&mut self, params: &mut Params, gradient: &[f32], update: Update) {
        self.steps += 1;
        let (config, steps) = (self.config, self.steps);
        let mut rest = params.data.as_mut_slice();
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for (entry, moments) in params.layout.entries.iter().zip(&mut self.moments) {
            let weights = rest.split_off_mut(..entry.range.len()).expect("entries cover the vector");
            jobs.push(Job { entry, weights, gradient: &gradient[entry.range.clone()], moments });
        }
        // Jobs are taken from the end, the largest first.
        jobs.sort_by_key(|job| job.weights.len());
        let jobs = Mutex::new(jobs);
        let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::thread::scope(|scope| {
            for _ in 0..update.workers.max(1) {
                scope.spawn(|| {
                    let mut products = Products::new(update.arithmetic);
                    while let Some(job) = next() {
                        if uses_muon(config.rule, job.entry.kind) {
                            muon(job, config, update, &mut products);
                        } else {
                            adamw(job, config, update, steps);
                        }
                    }
                });
            }
        });
    }
}

fn uses_muon(rule: Rule, kind: Kind) -> bool {
    rule == Rule::Muon && kind == Kind::Matrix
}

/// `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`, `w -= lr · (m̂ / (sqrt(v̂) + ε) + decay · w)`, where both averages are corrected for their
/// start at 0.
fn adamw(job: Job<'_>, config: OptimizerConfig, update: Update, steps: u64) {
    let lr = config.lr * update.factor;
    let keep =
        if matches!(job.entry.kind, Kind::Norm | Kind::Bias) { 1.0 } else { (1.0 - lr * config.weight_decay) as f32 };
    let (beta1, beta2) = (config.beta1 as f32, config.beta2 as f32);
    let correction = |beta: f64| 1.0 - beta.powf(steps as f64);
    let rate = (lr / correction(config.beta1)) as f32;
    let divisor = (1.0 / correction(config.beta2)).sqrt() as f32;
    let eps = config.eps as f32;
    let moments = job.moments.first.iter_mut().zip(&mut job.moments.second);
    for ((w, g), (m, v)) in job.weights.iter_mut().zip(job.gradient).zip(moments) {
        let g = g * update.clip;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *w = *w * keep - rate * *m / (v.sqrt() * divisor + eps);
    }
}

/// `m = βm + g`, `w -= lr · sqrt(max(1, out / in)) · orthogonal(g + βm)`.
fn muon(job: Job<'_>, config: OptimizerConfig, update: Update, products: &mut Products) {
    let beta = config.momentum as f32;
    let lr = config.muon_lr * update.factor;
    let (out, input) = (job.entry.shape[0], job.entry.shape[1]);
    let mut ahead = vec![0.0; job.gradient.len()];
    for ((m, g), ahead) in job.moments.first.iter_mut().zip(job.gradient).zip(&mut ahead) {
        let g = g * update.clip;
        *m = beta * *m + g;
        *ahead = g + beta * *m;
    }
    let direction = orthogonal(products, &ahead, out, input);
    let rate = (lr * (out as f64 / input as f64).max(1.0).sqrt()) as f32;
    let keep = (1.0 - lr * config.weight_decay) as f32;
    job.weights.iter_mut().zip(&direction).for_each(|(w, d)| *w = *w * keep - rate * d);
}

/// Makes five steps of `X = aX + (bA + cA²)X` with `A = XXᵀ`, starting from `X / |X|`. Singular values end between about 0.7 and 1.2. The
/// coefficients are Jordan's, and the shorter side becomes the rows.
fn orthogonal(products: &mut Products, x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    const A: f32 = 3.4445;
    const B: f32 = -4.775;
    const C: f32 = 2.0315;
    if rows > columns {
        return transpose(&orthogonal(products, &transpose(x, rows, columns), columns, rows), columns, rows);
    }
    let norm = (x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt() + 1e-7) as f32;
    let mut x: Vec<f32> = x.iter().map(|x| x / norm).collect();
    let mut next = x.clone();
    let (mut a, mut scaled) = (vec![0.0; rows * rows], vec![0.0; rows * rows]);
    let mut polynomial = scaled.clone();
    for _ in 0..5 {
        let wide = Matrix::row_major(&x, rows, columns);
        products.matmul(&mut a, 0.0, wide, wide.transposed());
        scaled.iter_mut().zip(&a).for_each(|(scaled, a)| *scaled = C * a);
        polynomial.copy_from_slice(&a);
        products.matmul(&mut polynomial, B, Matrix::row_major(&scaled, rows, rows), Matrix::row_major(&a, rows, rows));
        next.copy_from_slice(&x);
        products.matmul(&mut next, A, Matrix::row_major(&polynomial, rows, rows), wide);
        std::mem::swap(&mut x, &mut next);
    }
    x
}

fn transpose(x: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| x[row * columns + column])).collect()
}

/// The norm `sqrt(Σ g²)`.
#[must_use]
pub fn norm(gradient: &[f32]) -> f64 {
    gradient.chunks(256).map(|g| f64::from(g.iter().map(|x| x * x).sum::<f32>())).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor, Var};
    use candle_nn::{AdamW, Optimizer as _, ParamsAdamW};
    use spar::kernels::matmul;

    use super::*;
    use crate::model::DenseConfig;
    use crate::model::shape::{tiny, with_heads};

    const PLAIN: Update = Update { factor: 1.0, clip: 1.0, arithmetic: Arithmetic::F32, workers: 1 };

    fn model() -> (DenseConfig, Params) {
        let config = with_heads(DenseConfig { hidden: 24, intermediate: 40, layers: 1, ..tiny(20) }, 2, 1, 12);
        let params = Params::random(&config, 1);
        (config, params)
    }

    #[test]
    fn adamw_follows_candles() {
        let (_, mut params) = model();
        let config = OptimizerConfig { rule: Rule::AdamW, lr: 0.01, weight_decay: 0.1, ..Default::default() };
        let mut optimizer = Optimizer::new(config, &params.layout);
        // Norms do not decay here, so a matrix is compared.
        let entry = params.layout.entries[1].clone();
        let var = Var::from_slice(&params.data[entry.range.clone()], entry.range.len(), &Device::Cpu).unwrap();
        let theirs = ParamsAdamW { lr: 0.01, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 };
        let mut reference = AdamW::new(vec![var.clone()], theirs).unwrap();
        for step in 0..5 {
            let gradient: Vec<f32> =
                (0..params.data.len()).map(|i| ((i * (step + 3)) % 11) as f32 * 0.1 - 0.5).collect();
            optimizer.step(&mut params, &gradient, Update { workers: 2, ..PLAIN });
            let gradient = Tensor::new(&gradient[entry.range.clone()], &Device::Cpu).unwrap();
            reference.backward_step(&(var.as_tensor() * gradient).unwrap().sum_all().unwrap()).unwrap();
        }
        for (a, b) in params.data[entry.range].iter().zip(var.to_vec1::<f32>().unwrap()) {
            assert!((a - b).abs() < 1e-6, "{a} {b}");
        }
    }

    #[test]
    fn muon_moves_every_direction_of_a_matrix_alike() {
        let mut products = Products::new(Arithmetic::F32);
        for (rows, columns) in [(12, 30), (30, 12), (20, 20)] {
            let x: Vec<f32> = (0..rows * columns).map(|i| ((i * i * 7 + i) % 101) as f32 * 0.02 - 1.0).collect();
            let mut y = orthogonal(&mut products, &x, rows, columns);
            if rows > columns {
                y = transpose(&y, rows, columns);
            }
            let (short, long) = (rows.min(columns), rows.max(columns));
            let mut square = vec![0.0; short * short];
            let wide = Matrix::row_major(&y, short, long);
            matmul(&mut square, 0.0, wide, wide.transposed());
            for i in 0..short {
                assert!(
                    (0.4..1.5).contains(&square[i * short + i]),
                    "({rows}, {columns}) {i}: {}",
                    square[i * short + i]
                );
            }
            // The result is on the same side of every plane as the gradient.
            let agreement: f32 = orthogonal(&mut products, &x, rows, columns).iter().zip(&x).map(|(a, b)| a * b).sum();
            assert!(agreement > 0.0);
        }
    }

    #[test]
    fn the_result_does_not_depend_on_threads_and_clipping_scales_the_gradient() {
        let (_, params) = model();
        let gradient: Vec<f32> = (0..params.data.len()).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
        let halved: Vec<f32> = gradient.iter().map(|g| g * 0.5).collect();
        let run = |gradient: &[f32], clip, workers| {
            let mut params = params.clone();
            let mut optimizer =
                Optimizer::new(OptimizerConfig { rule: Rule::Muon, ..Default::default() }, &params.layout);
            (0..3).for_each(|_| optimizer.step(&mut params, gradient, Update { factor: 0.5, clip, workers, ..PLAIN }));
            params.data
        };
        assert_eq!(run(&gradient, 1.0, 1), run(&gradient, 1.0, 3));
        assert_eq!(run(&gradient, 0.5, 2), run(&halved, 1.0, 2));
    }
}
