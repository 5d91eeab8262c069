//! Tokens per second of whole training steps on a random batch: `speed [STEPS] [UNIT_TOKENS] [WORKERS] [f32|bf16]`.

use std::time::Instant;

use anyhow::Result;
use spar_training::gradient::GradientWorkers;
use spar_training::model::cpu::Arithmetic;
use spar_training::model::{LlamaConfig, Params};
use spar_training::optimizer::{Optimizer, OptimizerConfig, Update};
use spar_training::tokens::{Example, units};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let argument = |i, default| std::env::args().nth(i).map_or(Ok(default), |text| text.parse::<usize>());
    let (steps, unit_tokens, workers) = (argument(1, 10)?, argument(2, 1024)?, argument(3, 2)?);
    let config = LlamaConfig { num_hidden_layers: 4, ..LlamaConfig::tiny(1024) };
    let arithmetic = match std::env::args().nth(4).as_deref() {
        Some("bf16") => Arithmetic::Bf16,
        _ => Arithmetic::F32,
    };
    let mut params = Params::random(&config, 0);
    let mut workers_of = GradientWorkers::new(&config, arithmetic, workers);
    let mut optimizer = Optimizer::new(OptimizerConfig::default(), &params.layout);
    let example = |i: usize| {
        let len = 60 + (i * 97) % 290;
        Example { tokens: (0..len).map(|j| ((i * 31 + j * j * 7) % 1024) as u32).collect(), weights: vec![1.0; len] }
    };
    let examples: Vec<Example> = (0..40).map(example).collect();
    let units = units(&examples, unit_tokens);
    let mut seconds = [0.0; 2];
    let mut rows = 0;
    for step in 0..steps + 2 {
        let started = Instant::now();
        let (loss, ()) = workers_of.compute(&params, &units, || ())?;
        let computed = started.elapsed().as_secs_f64();
        optimizer.step(&mut params, workers_of.gradient(), Update { factor: 1.0, clip: 1.0, arithmetic, workers });
        if step >= 2 {
            seconds[0] += computed;
            seconds[1] += started.elapsed().as_secs_f64() - computed;
            rows += loss.rows;
        }
    }
    let rate = rows as f64 / (seconds[0] + seconds[1]);
    println!(
        "{} parameters, {} units, {rate:.0} tokens/s, gradient {:.3} s, update {:.3} s",
        params.data.len(),
        units.len(),
        seconds[0],
        seconds[1]
    );
    Ok(())
}
