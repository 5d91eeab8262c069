//! Fifty DPO steps against TRL's and peft's, whose values `parity_trl.py` wrote to `golden/`.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::{Path, PathBuf};

use serde_json::Value;
use spar_training::adapter;
use spar_training::gradient::GradientWorkers;
use spar_training::loss::{Pair, Preference, PreferenceMetrics};
use spar_training::model::computing::Computing;
use spar_training::model::cpu::{Arithmetic, Keep, Packed, Weights, Workspace};
use spar_training::model::{DenseConfig, LoraConfig, Params, shape};
use spar_training::optimizer::{OptimizerConfig, Rule};
use spar_training::schedule::Schedule;
use spar_training::tokens::{Example, PairExample, Unit, pair_units, pair_units_in_order, units};
use spar_training::trainer::{Init, Learning, StepMetrics, TrainConfig, learn};

const BAR: f64 = 1e-4;
const PER_STEP: usize = 2;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn values() -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden().join("dpo.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

/// The pairs with their log-probabilities under the first weights.
fn pairs(values: &Value, llama: &DenseConfig) -> Vec<PairExample> {
    let pair = |pair: &Value| {
        let told = ids(&pair["prompt_ids"]);
        let whole = |reply: &str| [told.clone(), ids(&pair[reply])].concat();
        let tokens = Pair { chosen: whole("chosen_ids"), rejected: whole("rejected_ids") };
        PairExample { tokens, prompt_tokens: told.len(), reference: Pair::default() }
    };
    let mut pairs: Vec<PairExample> = values["pairs"].as_array().unwrap().iter().map(pair).collect();
    let params = Params::load(llama, &golden().join("model")).unwrap();
    let computing = Computing { arithmetic: Arithmetic::F32, lora: None, keep: Keep::Streams, workers: 2 };
    let scores =
        GradientWorkers::new(llama, computing).score(&params, &pair_units_in_order(&pairs, 64)).unwrap().concat();
    pairs.iter_mut().zip(scores).for_each(|(pair, score)| pair.reference = score);
    pairs
}

fn run(values: &Value, lr: f64, lora: Option<LoraConfig>, out: &Path) -> Vec<StepMetrics> {
    let llama = shape::load(&golden().join("model")).unwrap();
    let pairs = pairs(values, &llama);
    let config = TrainConfig {
        steps: (pairs.len() / PER_STEP) as u64,
        warmup: Some(0),
        schedule: Schedule::Linear,
        optimizer: OptimizerConfig { rule: Rule::AdamW, lr, beta2: 0.95, ..OptimizerConfig::default() },
        workers: 2,
        unit_tokens: 32,
        lora,
        out_dir: out.into(),
        ..TrainConfig::default()
    };
    let init = Init::From(golden().join("model"));
    let preference = Preference::default();
    let learning = Learning { llama: &llama, init, preference, eval: None, steps_per_epoch: None, base_name: None };
    learn(&config, learning, &mut |step| {
        let first = usize::try_from(step)? * PER_STEP;
        Ok(pair_units(&pairs[first..first + PER_STEP], config.unit_tokens))
    })
    .unwrap();
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn compare(name: &str, steps: &[StepMetrics], golden: &Value) {
    let golden = golden.as_array().unwrap();
    assert_eq!(steps.len(), golden.len());
    let mut worst = 0f64;
    for (ours, theirs) in steps.iter().zip(golden) {
        let PreferenceMetrics { chosen, rejected, margin, accuracy, logps_chosen, logps_rejected, .. } =
            ours.preference.unwrap();
        let found = [
            ("loss", ours.loss, 1.0),
            ("grad_norm", ours.grad_norm, 1.0),
            ("rewards/chosen", chosen, 1.0),
            ("rewards/rejected", rejected, 1.0),
            ("rewards/margins", margin, 1.0),
            ("rewards/accuracies", accuracy, 1.0),
            // Sums of up to 20 of them; rewards are a tenth.
            ("logps/chosen", logps_chosen, 10.0),
            ("logps/rejected", logps_rejected, 10.0),
        ];
        for (metric, ours_value, scale) in found {
            let difference = (ours_value - theirs[metric].as_f64().unwrap()).abs() / scale;
            assert!(difference < BAR, "{name}, step {}, {metric}: {ours_value} {}", ours.step, theirs[metric]);
            worst = worst.max(difference);
        }
    }
    println!("{name}: at most {worst:.1e} apart");
}

fn logits(llama: &DenseConfig, lora: &LoraConfig, adapter: &Params, probe: &[u32]) -> Vec<f32> {
    let base = Params::load(llama, &golden().join("model")).unwrap();
    let weights = Weights { base: &base, adapter: Some(adapter), dropout: None };
    let mut workspace = Workspace::with(llama, Arithmetic::F32, Some(lora), Keep::Everything);
    let mut batch = Packed::default();
    batch.push(&[probe, &[0]].concat());
    workspace.forward(weights, &batch).unwrap();
    workspace.logits(weights)
}

fn apart(ours: &[f32], theirs: &Value) -> f64 {
    let theirs: Vec<Vec<f64>> = serde_json::from_value(theirs.clone()).unwrap();
    let theirs = theirs.concat();
    assert_eq!(ours.len(), theirs.len());
    ours.iter().zip(theirs).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn dpo_of_all_weights_follows_trl() {
    let (values, out) = (values(), tempfile::tempdir().unwrap());
    compare("all weights", &run(&values, 1e-3, None, out.path()), &values["full"]);
}

/// With `PARITY_OUT` set, the adapter and our logits stay there for `parity_trl.py` to load in peft.
#[test]
fn dpo_of_an_adapter_follows_trl_and_pefts_adapter_gives_its_logits() {
    let values = values();
    let llama = shape::load(&golden().join("model")).unwrap();
    let lora = LoraConfig { rank: 4, alpha: 8.0, from: Some(golden().join("adapter-start")), ..LoraConfig::default() };
    let temporary = tempfile::tempdir().unwrap();
    let out = std::env::var("PARITY_OUT").map_or(temporary.path().to_path_buf(), PathBuf::from);
    compare("adapter", &run(&values, 1e-2, Some(lora.clone()), &out), &values["lora"]);

    let probe = ids(&values["probe"]);
    let theirs = adapter::load(&golden().join("adapter-end"), &lora, &llama).unwrap();
    let difference = apart(&logits(&llama, &lora, &theirs, &probe), &values["adapter_logits"]);
    println!("logits with peft's adapter: {difference:.1e} apart");
    assert!(difference < BAR, "{difference}");
    let ours = adapter::load(&out, &lora, &llama).unwrap();
    let found = logits(&llama, &lora, &ours, &probe);
    let difference = apart(&found, &values["adapter_logits"]);
    println!("logits with ours after the same steps: {difference:.1e} apart");
    assert!(difference < 10.0 * BAR, "{difference}");
    let rows: Vec<&[f32]> = found.chunks(llama.vocabulary).collect();
    std::fs::write(out.join("logits.json"), serde_json::to_string(&rows).unwrap()).unwrap();
}

/// Where a step has both, its gradient is that of the pairs and that of the sequences, weighted.
#[test]
fn kept_replies_add_their_weighted_likelihood_to_a_step_of_pairs() {
    let values = values();
    let llama = shape::load(&golden().join("model")).unwrap();
    let pairs = pairs(&values, &llama);
    let params = Params::load(&llama, &golden().join("model")).unwrap();
    let kept: Vec<Example> = pairs[2..5]
        .iter()
        .map(|pair| {
            let tokens = pair.tokens.chosen.clone();
            let weights = (0..tokens.len()).map(|i| if i < pair.prompt_tokens { 0.0 } else { 1.0 }).collect();
            Example { tokens, weights }
        })
        .collect();
    let step = |units: &[Unit], weight: f64| {
        let computing = Computing { arithmetic: Arithmetic::F32, lora: None, keep: Keep::Everything, workers: 2 };
        let mut workers = GradientWorkers::new(&llama, computing);
        let preference = Preference { kept: weight, ..Preference::default() };
        let (loss, ()) = workers.compute(&params, units, &preference, || ()).unwrap();
        (loss.loss, workers.gradient().to_vec())
    };
    let (of_pairs, of_kept) = (pair_units(&pairs[..2], 32), units(&kept, 32));
    let both = [pair_units(&pairs[..2], 32), units(&kept, 32)].concat();
    let (pairs_loss, pairs_gradient) = step(&of_pairs, 0.0);
    let (kept_loss, kept_gradient) = step(&of_kept, 0.7);
    for weight in [0.0, 0.7] {
        let (loss, gradient) = step(&both, weight);
        assert!((loss - pairs_loss - weight * kept_loss).abs() < 1e-5, "{loss} {pairs_loss} {kept_loss}");
        for ((&sum, &a), &b) in gradient.iter().zip(&pairs_gradient).zip(&kept_gradient) {
            let expected = f64::from(a) + weight * f64::from(b);
            assert!((f64::from(sum) - expected).abs() < 1e-5 * (1.0 + expected.abs()), "{sum} {expected}");
        }
    }
    assert!(kept_gradient.iter().any(|&x| x.abs() > 1e-3));
}
