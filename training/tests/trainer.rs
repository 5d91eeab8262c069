//! Whole runs: a batch can be learnt by heart, a seed decides the curve, a killed run goes on as if nothing happened.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use anyhow::{Result, bail};
use spar_training::model::DenseConfig;
use spar_training::model::cpu::Arithmetic::{Bf16, F32};
use spar_training::model::shape::{tiny, with_heads};
use spar_training::optimizer::{OptimizerConfig, Rule};
use spar_training::tokens::Example;
use spar_training::trainer::{Init, StepMetrics, TrainConfig, TrainReport, train};

fn llama() -> DenseConfig {
    with_heads(DenseConfig { hidden: 32, intermediate: 48, layers: 2, context: 64, ..tiny(50) }, 4, 2, 8)
}

fn config(out_dir: &Path, steps: u64) -> TrainConfig {
    TrainConfig {
        steps,
        warmup: Some(3),
        unit_tokens: 64,
        checkpoint_every: 4,
        out_dir: out_dir.into(),
        ..Default::default()
    }
}

/// Different sequences of different lengths for every step.
fn batch(step: u64) -> Vec<Example> {
    let example = |i: u64| {
        let len = 5 + (i * 11 + step * 3) % 40;
        let tokens = (0..len).map(|j| ((j * j + i * 17 + step * 5) % 50) as u32).collect();
        Example { tokens, weights: (0..len).map(|j| if j % 4 == 0 { 0.05 } else { 1.0 }).collect() }
    };
    (0..12).map(example).collect()
}

fn run(config: &TrainConfig, data: impl Fn(u64) -> Result<Vec<Example>>) -> Result<TrainReport> {
    train(config, &llama(), Init::Fresh { end: None }, &mut |step| data(step))
}

fn curve(directory: &Path) -> Vec<(u64, f64, f64)> {
    let text = std::fs::read_to_string(directory.join("metrics.jsonl")).unwrap();
    let line = |line| serde_json::from_str::<StepMetrics>(line).unwrap();
    text.lines().map(line).map(|line| (line.step, line.loss, line.grad_norm)).collect()
}

fn weights(directory: &Path) -> Vec<u8> {
    std::fs::read(directory.join("model.safetensors")).unwrap()
}

#[test]
fn one_batch_is_learnt_by_heart_under_both_rules_and_precisions() {
    for (rule, arithmetic) in [(Rule::Muon, F32), (Rule::AdamW, F32), (Rule::Muon, Bf16)] {
        let directory = tempfile::tempdir().unwrap();
        let optimizer = OptimizerConfig { rule, lr: 0.01, ..Default::default() };
        let config = TrainConfig { optimizer, arithmetic, ..config(directory.path(), 150) };
        let report = run(&config, |_| Ok(batch(0))).unwrap();
        // Sequences that begin alike and go on differently leave a little.
        assert!(report.loss < 0.05, "{rule:?} {arithmetic:?}: {}", report.loss);
        let curve = curve(directory.path());
        assert_eq!(curve.len(), 150);
        assert!(curve[0].1 > 3.5, "{:?}", curve[0]);
    }
}

#[test]
fn a_seed_decides_the_curve_whatever_the_number_of_workers() {
    let runs: Vec<_> = [(1, 0), (1, 0), (3, 0), (1, 1)]
        .map(|(workers, seed)| {
            let directory = tempfile::tempdir().unwrap();
            run(&TrainConfig { workers, seed, ..config(directory.path(), 6) }, |step| Ok(batch(step))).unwrap();
            (curve(directory.path()), weights(directory.path()))
        })
        .into();
    assert!(runs[0] == runs[1] && runs[0] == runs[2]);
    assert_ne!(runs[0].0, runs[3].0);
}

#[test]
fn a_killed_run_resumes_to_the_same_weights() {
    let (whole, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    run(&config(whole.path(), 11), |step| Ok(batch(step))).unwrap();
    let config = config(killed.path(), 11);
    let until = |last| move |step| if step > last { bail!("killed") } else { Ok(batch(step)) };
    assert!(run(&config, until(2)).is_err(), "before the first resume file");
    assert!(run(&config, until(6)).is_err(), "two steps after it");
    run(&config, until(10)).unwrap();
    assert_eq!(weights(whole.path()), weights(killed.path()));
    assert_eq!(curve(whole.path()), curve(killed.path()));
    let drawn = |directory: &Path| std::fs::read(directory.join("loss.svg")).unwrap();
    assert_eq!(drawn(whole.path()), drawn(killed.path()));

    let again = run(&config, |_| bail!("a finished run asks for nothing")).unwrap();
    assert_eq!((again.steps, weights(killed.path())), (11, weights(whole.path())));
    let other = TrainConfig { steps: 12, ..config };
    assert!(run(&other, until(20)).unwrap_err().to_string().contains("another run"));
}

#[test]
fn a_loss_that_is_not_finite_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let nan = |_| Ok(vec![Example { tokens: vec![1, 2, 3], weights: vec![1.0, f32::NAN, 1.0] }]);
    let message = run(&config(directory.path(), 3), nan).unwrap_err().to_string();
    assert!(message.contains("the loss is NaN at step 1"), "{message}");
}
