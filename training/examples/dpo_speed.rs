//! Speed and memory of DPO steps: `dpo_speed MODEL_DIR PAIRS.json [RANK] [everything|streams] [WORKERS] [UNIT_TOKENS]`.
//!
//! A pair is `{"prompt_ids", "chosen_ids", "rejected_ids"}`; rank 0 trains all weights. Every line on standard input is a number
//! of steps over all pairs; each is answered by a line of JSON: seconds, rows computed, peak memory, the last loss.

use std::io::BufRead;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;
use spar_training::gradient::GradientWorkers;
use spar_training::loss::{Pair, Preference};
use spar_training::model::computing::Computing;
use spar_training::model::cpu::{Arithmetic, Keep, Weights};
use spar_training::model::{LoraConfig, Params, shape};
use spar_training::optimizer::{Optimizer, OptimizerConfig, Rule, Update, norm};
use spar_training::tokens::{PairExample, pair_units, pair_units_in_order};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Deserialize)]
struct Line {
    prompt_ids: Vec<u32>,
    chosen_ids: Vec<u32>,
    rejected_ids: Vec<u32>,
}

fn main() -> Result<()> {
    let argument = |i: usize, default: &str| std::env::args().nth(i).unwrap_or(default.to_string());
    let rank: usize = argument(3, "0").parse()?;
    let keep = if argument(4, "everything") == "streams" { Keep::Streams } else { Keep::Everything };
    let (workers, unit_tokens) = (argument(5, "2").parse()?, argument(6, "1024").parse()?);
    let directory = argument(1, "");
    let config = shape::load(Path::new(&directory))?;
    let mut base = Params::load(&config, Path::new(&directory))?;
    let text = std::fs::read_to_string(argument(2, "")).context("cannot read the pairs")?;
    let lines: Vec<Line> = serde_json::from_str(&text)?;
    let mut pairs: Vec<PairExample> = lines
        .into_iter()
        .map(|line| PairExample {
            tokens: Pair {
                chosen: [line.prompt_ids.clone(), line.chosen_ids].concat(),
                rejected: [line.prompt_ids.clone(), line.rejected_ids].concat(),
            },
            prompt_tokens: line.prompt_ids.len(),
            reference: Pair::default(),
        })
        .collect();
    let arithmetic = Arithmetic::F32;
    let lora = (rank > 0).then(|| LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() });
    let computing = Computing { arithmetic, lora: lora.as_ref(), keep, workers };
    let mut gradients = GradientWorkers::new(&config, computing);
    let scores = gradients.score(&base, &pair_units_in_order(&pairs, unit_tokens))?.concat();
    pairs.iter_mut().zip(scores).for_each(|(pair, score)| pair.reference = score);
    let units = pair_units(&pairs, unit_tokens);
    let mut adapter = lora.as_ref().map(|lora| lora.fresh(&config, 0));
    let settings = OptimizerConfig { rule: Rule::AdamW, lr: 1e-4, beta2: 0.999, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(settings, &adapter.as_ref().unwrap_or(&base).layout);
    for line in std::io::stdin().lock().lines() {
        let steps: usize = line?.trim().parse().context("a line is a number of steps")?;
        let started = Instant::now();
        let (mut rows, mut last) = (0, 0.0);
        for _ in 0..steps {
            let weights = Weights { base: &base, adapter: adapter.as_ref(), dropout: None };
            let (loss, ()) = gradients.compute(weights, &units, &Preference::default(), || ())?;
            (rows, last) = (rows + loss.rows, loss.loss);
            let clip = (1.0 / norm(gradients.gradient())).min(1.0) as f32;
            let update = Update { factor: 1.0, clip, arithmetic, workers };
            optimizer.step(adapter.as_mut().unwrap_or(&mut base), gradients.gradient(), update);
        }
        let seconds = started.elapsed().as_secs_f64();
        let answer = serde_json::json!({ "seconds": seconds, "rows": rows, "peak_mib": peak()?, "loss": last });
        println!("{answer}");
    }
    Ok(())
}

/// The largest resident set so far, in MiB.
fn peak() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}
