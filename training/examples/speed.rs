//! Speed of whole training steps: `speed MODEL_DIR BATCH.json [f32|bf16] [adamw|muon] [WORKERS] [UNIT_TOKENS]`.
//!
//! The batch is a list of token lists. Every line on standard input is a number of steps to make; each is answered by a
//! line of JSON: tokens, seconds in all, seconds for gradients, loss of the first step.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use spar_training::gradient::GradientWorkers;
use spar_training::loss::Preference;
use spar_training::model::computing::Computing;
use spar_training::model::cpu::{Arithmetic, Keep};
use spar_training::model::{Params, shape};
use spar_training::optimizer::{Optimizer, OptimizerConfig, Rule, Update, norm};
use spar_training::tokens::{Example, units};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let argument = |i: usize, default: &str| std::env::args().nth(i).unwrap_or(default.to_string());
    let (directory, batch) = (argument(1, ""), argument(2, ""));
    let arithmetic = if argument(3, "f32") == "bf16" { Arithmetic::Bf16 } else { Arithmetic::F32 };
    let rule = if argument(4, "adamw") == "muon" { Rule::Muon } else { Rule::AdamW };
    let (workers, unit_tokens) = (argument(5, "2").parse()?, argument(6, "1024").parse()?);

    let config = shape::load(Path::new(&directory))?;
    let mut params = Params::load(&config, Path::new(&directory))?;
    let text = std::fs::read_to_string(&batch).with_context(|| format!("cannot read {batch}"))?;
    let sequences: Vec<Vec<u32>> = serde_json::from_str(&text)?;
    let example = |tokens: Vec<u32>| Example { weights: vec![1.0; tokens.len()], tokens };
    let units = units(&sequences.into_iter().map(example).collect::<Vec<_>>(), unit_tokens);

    let computing = Computing { arithmetic, lora: None, keep: Keep::Everything, workers };
    let mut gradients = GradientWorkers::new(&config, computing);
    let settings = OptimizerConfig { rule, lr: 1e-4, muon_lr: 1e-4, beta2: 0.999, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(settings, &params.layout);
    for line in std::io::stdin().lock().lines() {
        let steps: usize = line?.trim().parse().context("a line is a number of steps")?;
        let started = Instant::now();
        let (mut gradient_s, mut tokens, mut first) = (0.0, 0, None);
        for _ in 0..steps {
            let began = Instant::now();
            let (loss, ()) = gradients.compute(&params, &units, &Preference::default(), || ())?;
            gradient_s += began.elapsed().as_secs_f64();
            tokens += loss.rows;
            first.get_or_insert(loss.loss);
            let clip = (1.0 / norm(gradients.gradient())).min(1.0) as f32;
            optimizer.step(&mut params, gradients.gradient(), Update { factor: 1.0, clip, arithmetic, workers });
        }
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{}",
            serde_json::json!({"tokens": tokens, "seconds": seconds, "gradient_s": gradient_s, "loss": first})
        );
    }
    Ok(())
}
