//! Speed of training steps on a CUDA device with random weights of a real shape, made on the device:
//! `device_speed SHAPE KIND LENGTH SEQUENCES UNITS STEPS [RANK] [everything|streams] [PEAK_TFLOPS] [MODULES]`.
//!
//! `SHAPE` is `8b` (Llama 3), `1b` (Llama 3.2, but untied) or `tiny`; `KIND` is `dpo`, `sft`, or `full` (all weights, by likelihood). A step
//! has `UNITS` units of `SEQUENCES` sequences of `LENGTH` tokens; those of `dpo` are pairs that share their first half, which is computed
//! once. Each step is a line of JSON. `tflops` counts the products of weights with rows, and attention's with the keys that are seen, each
//! forward once and backward once or twice; what is computed again is not counted.

use std::time::Instant;

use anyhow::{Result, bail, ensure};
use candle_core::{Device, Tensor};
use spar_training::gradient::GradientWorkers;
use spar_training::loss::{Pair, Preference};
use spar_training::model::computing::Computing;
use spar_training::model::cpu::{Arithmetic, Keep, Weights};
use spar_training::model::device::{DeviceModel, cuda};
use spar_training::model::params::{Kind, Layout};
use spar_training::model::shape::{tiny, with_heads};
use spar_training::model::{DenseConfig, LoraConfig, Params};
use spar_training::optimizer::{Optimizer, OptimizerConfig, Rule, Update, norm};
use spar_training::tokens::{Example, PairExample, Unit, pair_units, units};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    let argument = |i: usize, default: &str| std::env::args().nth(i).unwrap_or(default.to_string());
    let (shape, kind) = (argument(1, "8b"), argument(2, "dpo"));
    let number = |i: usize, default: &str| Ok::<usize, anyhow::Error>(argument(i, default).parse()?);
    let (length, sequences, count, steps) = (number(3, "2048")?, number(4, "4")?, number(5, "1")?, number(6, "3")?);
    let rank = number(7, "16")?;
    let keep = if argument(8, "everything") == "streams" { Keep::Streams } else { Keep::Everything };
    let peak: f64 = argument(9, "989").parse()?;
    let config = config(&shape)?;
    ensure!(length <= config.context, "{length} tokens are too long");
    let full = kind == "full";
    let mut lora = LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() };
    let modules = argument(10, "");
    if !modules.is_empty() {
        lora.targets = serde_json::from_value(modules.split(',').collect())?;
    }
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let arithmetic = Arithmetic::Bf16;
    let computing = Computing { arithmetic, lora: (!full).then_some(&lora), keep, workers };
    let device = cuda().or_else(|error| if shape == "tiny" { Ok(Device::Cpu) } else { Err(error) })?;
    let on_cpu = !device.is_cuda();
    let computing = Computing { arithmetic: if on_cpu { Arithmetic::F32 } else { arithmetic }, ..computing };

    let started = Instant::now();
    let layout = std::sync::Arc::new(Layout::new(&config));
    let mut base = Params { layout: layout.clone(), data: Vec::new() };
    if full {
        let noise =
            |i: usize| ((i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as f32 / (1u32 << 23) as f32 - 1.0) * 0.03;
        base.data = (0..layout.len()).map(noise).collect();
    }
    let model = DeviceModel::new(&config, computing, &device, &|entry| {
        Ok(match entry.kind {
            Kind::Norm => Tensor::ones(entry.shape.as_slice(), candle_core::DType::F32, &device)?,
            _ => Tensor::randn(0f32, 0.02, entry.shape.as_slice(), &device)?,
        })
    })?;
    device.synchronize()?;
    println!("{}", serde_json::json!({ "load_s": started.elapsed().as_secs_f64(), "parameters": layout.len() }));
    let mut adapter = (!full).then(|| lora.fresh(&config, 0));
    let settings = OptimizerConfig { rule: Rule::AdamW, lr: 1e-5, beta2: 0.999, ..OptimizerConfig::default() };
    let mut optimizer = Optimizer::new(settings, &adapter.as_ref().unwrap_or(&base).layout);
    let mut gradients = GradientWorkers::on_device(model);

    let vocab = config.vocabulary;
    let text =
        |salt: usize| -> Vec<u32> { (0..length).map(|i| ((i * 7919 + salt * i * 31 + salt) % vocab) as u32).collect() };
    let unit = |n: usize| -> Vec<Unit> {
        match kind.as_str() {
            "dpo" => {
                let pair = |p: usize| {
                    let chosen = text(2 * (n * sequences + p));
                    let rejected = [&chosen[..length / 2], &text(2 * (n * sequences + p) + 1)[length / 2..]].concat();
                    PairExample {
                        tokens: Pair { chosen, rejected },
                        prompt_tokens: length / 2,
                        reference: Pair::default(),
                    }
                };
                pair_units(&(0..sequences / 2).map(pair).collect::<Vec<_>>(), usize::MAX)
            }
            _ => {
                let example = |s: usize| Example { tokens: text(n * sequences + s), weights: vec![1.0; length] };
                units(&(0..sequences).map(example).collect::<Vec<_>>(), usize::MAX)
            }
        }
    };
    let all: Vec<Unit> = (0..count).flat_map(unit).collect();
    let flops: f64 = all.iter().map(|unit| flops(&config, unit, full)).sum();
    for step in 0..steps {
        let started = Instant::now();
        let weights = Weights { base: &base, adapter: adapter.as_ref(), dropout: None };
        let (loss, ()) = gradients.compute(weights, &all, &Preference::default(), || ())?;
        let gradient_s = started.elapsed().as_secs_f64();
        let size = norm(gradients.gradient());
        let update = Update { factor: 1.0, clip: (1.0 / size).min(1.0) as f32, arithmetic, workers };
        optimizer.step(adapter.as_mut().unwrap_or(&mut base), gradients.gradient(), update);
        let seconds = started.elapsed().as_secs_f64();
        // As others count them: every sequence by itself.
        let tokens = count * sequences * (length - 1);
        println!(
            "{}",
            serde_json::json!({
                "step": step, "seconds": seconds, "gradient_s": gradient_s, "rows": loss.rows, "tokens": tokens,
                "rows_per_s": loss.rows as f64 / seconds, "tokens_per_s": tokens as f64 / seconds,
                "tflops": flops / seconds / 1e12, "share_of_peak": flops / seconds / 1e12 / peak,
                "gradient_share_of_peak": flops / gradient_s / 1e12 / peak,
                "loss": loss.loss, "grad_norm": size,
            })
        );
    }
    Ok(())
}

/// Operations that a unit's gradient needs.
fn flops(config: &DenseConfig, unit: &Unit, full: bool) -> f64 {
    let layout = Layout::new(config);
    let of_layers: usize =
        layout.entries.iter().filter(|entry| entry.kind == Kind::Matrix).map(|entry| entry.range.len()).sum();
    let passes = if full { 3.0 } else { 2.0 };
    let products = unit.batch.rows() as f64 * of_layers as f64 + (unit.batch.asked.len() * layout.head.len()) as f64;
    let seen = |(rows, before): (std::ops::Range<usize>, usize)| {
        let queries = rows.len() as f64;
        queries * (before as f64 + (queries + 1.0) / 2.0)
    };
    let seen: f64 = unit.batch.sequences().flat_map(|span| span.runs()).map(seen).sum();
    // Scores and sums of values forward; four products backward.
    let attention = 12.0 * seen * (config.layers * config.hidden) as f64;
    2.0 * passes * products + attention
}

fn config(shape: &str) -> Result<DenseConfig> {
    let [hidden, inner, layers, heads, kv_heads] = match shape {
        "8b" => [4096, 14_336, 32, 32, 8],
        "1b" => [2048, 8192, 16, 32, 8],
        "tiny" => [64, 96, 2, 4, 2],
        other => bail!("there is no shape {other}"),
    };
    let vocabulary = if shape == "tiny" { 500 } else { 128_256 };
    let config = DenseConfig { hidden, intermediate: inner, layers, context: 8192, tied: false, ..tiny(vocabulary) };
    let mut config = with_heads(config, heads, kv_heads, hidden / heads);
    config.rope.theta = 500_000.0;
    Ok(config)
}
