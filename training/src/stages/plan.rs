//! `plan`: what a recipe's training needs in memory and does in a step, by arithmetic, before anything is loaded.

use anyhow::Result;
use serde::Serialize;
use spar::weights::QkNorm;

use crate::cluster::{Cluster, Work};
use crate::model::cpu::{Arithmetic, Keep};
use crate::model::device::LOGITS;
use crate::model::params::Layout;
use crate::model::{DenseConfig, shape};
use crate::optimizer::Rule;
use crate::recipe::iterate::Iterate;
use crate::trainer::{Processor, TrainConfig};

/// Bytes by purpose. On the CPU all of it is `f32`; a device holds weights and activations in the recipe's arithmetic and gradients in
/// `f32`, and the host what is trained, its gradient and its moments in `f32`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    /// What is trained.
    pub role: &'static str,
    /// Parameters of the model.
    pub parameters: usize,
    /// Parameters that are trained.
    pub trained: usize,
    /// The model's weights, and the adapter's.
    pub weights: usize,
    /// A sum and one for each worker at work.
    pub gradients: usize,
    /// The optimizer's moving averages; with a device, all that the host holds.
    pub optimizer: usize,
    /// Whether a device computes.
    pub on_device: bool,
    /// Activations of all workers, for a unit of one longest sequence each.
    pub activations: usize,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// Floating-point operations of one update: forward and backward, attention included.
    pub flops_per_step: f64,
}

impl Plan {
    /// All memory together, or all of the device's.
    #[must_use]
    pub fn peak(&self) -> usize {
        let optimizer = if self.on_device { 0 } else { self.optimizer };
        self.weights + self.gradients + optimizer + self.activations
    }
}

/// The plans of the actor's and the refiner's training.
///
/// # Errors
/// Fails when a model's configuration cannot be read.
pub fn plan(recipe: &Iterate) -> Result<Vec<Plan>> {
    let actor = shape::load(&recipe.actor)?;
    let refiner = shape::load(&recipe.refiner)?;
    Ok(vec![
        of("actor, DPO", &actor, &recipe.dpo.train, recipe.dpo.tokens_per_step),
        of("refiner, RFT", &refiner, &recipe.sft.train, recipe.sft.tokens_per_step),
    ])
}

/// Parameters from which a model is planned for several cards as well.
const LARGE: usize = 20_000_000_000;
/// Assumed mean of tokens of a pair's or a chat's sequence, before any of them exists.
const MEAN: usize = 1024;

/// What training on several cards needs, for recipes that are trained elsewhere and for models that one card has no room for: one node, and
/// the smallest cluster. Empty for others.
///
/// # Errors
/// Fails if a model's configuration cannot be read.
pub fn elsewhere(recipe: &Iterate) -> Result<String> {
    use std::fmt::Write;
    let node = recipe.external.as_ref().map_or_else(Cluster::default, |external| external.cluster);
    let mut out = String::new();
    let roles = [
        ("actor, DPO", &recipe.actor, &recipe.dpo.train, recipe.dpo.epochs, !recipe.dpo.chosen_only),
        ("refiner, RFT", &recipe.refiner, &recipe.sft.train, recipe.sft.epochs, false),
    ];
    for (role, model, train, epochs, pairs) in roles {
        let dense = shape::load(model)?;
        let lora = train.lora.as_ref();
        let longest = recipe.sample.max_tokens.unwrap_or(dense.context / 2).min(dense.context / 2) * 2;
        let work = Work { dense: &dense, lora, pairs, longest, mean: MEAN.min(longest) };
        if recipe.trainer.is_own() && work.parameters().0 < LARGE {
            continue;
        }
        let items = recipe.build.pairs.unwrap_or(recipe.prompts.per_iteration).min(recipe.prompts.per_iteration);
        let tokens = (items * work.mean * if pairs { 2 } else { 1 }) as f64 * epochs;
        writeln!(out, "{role}, with `export`: DeepSpeed ZeRO-3, {}", described(recipe, train, pairs))?;
        let one = work.needs(Cluster { nodes: 1, ..node });
        for needs in [Some(one), work.smallest(node, 2)] {
            let Some(needs) = needs else {
                writeln!(out, "  no cluster of up to 64 such nodes has room: use an adapter or other cards")?;
                continue;
            };
            writeln!(out, "  {needs}")?;
            writeln!(out, "    about {:.1} hours for {items} of a round, {MEAN} tokens each", needs.hours(tokens))?;
        }
    }
    Ok(out)
}

/// The recipe in a line.
fn described(recipe: &Iterate, train: &TrainConfig, pairs: bool) -> String {
    let what = match &train.lora {
        Some(lora) => format!("a LoRA adapter of rank {}", lora.rank),
        None => "all weights".to_owned(),
    };
    let preference = recipe.dpo.preference;
    let loss = match pairs {
        true => format!(", beta {}, SFT term {}", preference.beta, preference.sft),
        false => String::new(),
    };
    format!("{what}, learning rate {:e}, {:?} schedule{loss}", train.optimizer.lr, train.schedule)
}

/// The plan of one training.
#[must_use]
pub fn of(role: &'static str, llama: &DenseConfig, train: &TrainConfig, tokens_per_step: usize) -> Plan {
    const F32: usize = 4;
    let layout = Layout::new(llama);
    let parameters = layout.len();
    let trained = train.lora.as_ref().map_or(parameters, |lora| lora.layout(llama).len());
    let moments = match (train.optimizer.rule, &train.lora) {
        (Rule::Muon, Some(_)) => trained,
        (Rule::Muon, None) => {
            let matrices = |entry: &&crate::model::params::Entry| entry.kind == crate::model::params::Kind::Matrix;
            2 * trained - layout.entries.iter().filter(matrices).map(|entry| entry.range.len()).sum::<usize>()
        }
        (Rule::AdamW, _) => 2 * trained,
    };
    let on_device = train.device == Processor::Cuda;
    let workers = if on_device { 1 } else { train.threads() };
    let element = if on_device && train.arithmetic == Arithmetic::Bf16 { 2 } else { F32 };
    let rows = train.unit_tokens.min(tokens_per_step).max(1);
    let (hidden, inner, layers) = (llama.hidden, llama.intermediate, llama.layers);
    let (q, kv) = llama.widths();
    let qkv = q + 2 * kv;
    let length = rows.min(llama.context);
    let rank = train.lora.as_ref().map_or(0, |lora| lora.rank * lora.targets.len());
    // Normed inputs, queries, keys and values, before their norms too, attended, middle, gates and ups, and their product.
    let head_norms = if llama.qk_norm == QkNorm::Heads { q + kv } else { 0 };
    let layer = rows * (2 * hidden + qkv + head_norms + q + hidden + 3 * inner + rank);
    // Half of a square of probabilities per head, which a device computes again.
    let squares = llama.heads * (rows / length).max(1) * length * (length + 1) / 2;
    let layer = layer + if on_device { 0 } else { squares };
    let kept = if train.keep == Keep::Everything { layers } else { 1 };
    let logits = if on_device { LOGITS.min(rows * llama.vocabulary) } else { 128 * (llama.vocabulary + 2 * hidden) };
    let shared = rows * (qkv + hidden + 2 * inner) + logits;
    let activations = workers * (kept * layer + (layers + 1) * rows * hidden + shared);
    // 2 operations a weight and token forward, as many for the inputs' gradients, and as many for the weights' that are trained.
    let products = (parameters - if llama.tied { 0 } else { layout.embedding.len() }) as f64;
    let passes = if train.lora.is_some() { 4.0 } else { 6.0 } + if kept < layers { 2.0 } else { 0.0 };
    let attention = (layers * 2 * length * q) as f64;
    Plan {
        role,
        parameters,
        trained,
        weights: element * (parameters + train.lora.as_ref().map_or(0, |_| trained)),
        gradients: F32 * trained * if on_device { 1 } else { 1 + workers },
        optimizer: F32 * (moments + if on_device { 2 * trained } else { 0 }),
        on_device,
        activations: element * activations,
        tokens_per_step,
        flops_per_step: tokens_per_step as f64 * (passes * products + 3.0 * attention),
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let share = 100.0 * self.trained as f64 / self.parameters.max(1) as f64;
        writeln!(f, "{}", self.role)?;
        writeln!(f, "  parameters        {:>15}", self.parameters)?;
        writeln!(f, "  trained           {:>15}  ({share:.2} %)", self.trained)?;
        for (name, bytes) in [
            ("weights", self.weights),
            ("gradients", self.gradients),
            (if self.on_device { "host" } else { "optimizer" }, self.optimizer),
            ("activations", self.activations),
            (if self.on_device { "device, about" } else { "peak, about" }, self.peak()),
        ] {
            writeln!(f, "  {name:17} {:>15.1} MiB", mib(bytes))?;
        }
        writeln!(f, "  tokens per step   {:>15}", self.tokens_per_step)?;
        write!(f, "  GFLOP per step    {:>15.1}", self.flops_per_step / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::LoraConfig;
    use crate::model::shape::{tiny, with_heads};

    #[test]
    fn adapters_and_recomputing_need_less() {
        let llama = DenseConfig { hidden: 768, intermediate: 2048, layers: 12, ..with_heads(tiny(32_000), 12, 4, 64) };
        let train = TrainConfig { workers: 2, ..TrainConfig::default() };
        let full = of("full", &llama, &train, 4096);
        let lora = TrainConfig { lora: Some(LoraConfig { rank: 8, ..LoraConfig::default() }), ..train.clone() };
        let adapted = of("lora", &llama, &lora, 4096);
        let again = of("again", &llama, &TrainConfig { keep: Keep::Streams, ..lora }, 4096);
        assert_eq!(full.trained, full.parameters);
        assert!(adapted.trained * 20 < adapted.parameters);
        assert!(adapted.peak() < full.peak() && again.peak() < adapted.peak());
        assert!(adapted.flops_per_step < again.flops_per_step && again.flops_per_step <= full.flops_per_step);
        assert_eq!(full.gradients, 3 * 4 * full.parameters);
    }

    /// What `bench/cuda.md` measured: 4 sequences of 2,048 tokens, everything kept.
    #[test]
    fn a_device_needs_about_what_was_measured() {
        let llama = DenseConfig {
            hidden: 4096,
            intermediate: 14_336,
            layers: 32,
            context: 8192,
            tied: false,
            ..with_heads(tiny(128_256), 32, 8, 128)
        };
        let train = TrainConfig {
            lora: Some(LoraConfig { rank: 16, ..LoraConfig::default() }),
            arithmetic: Arithmetic::Bf16,
            device: Processor::Cuda,
            unit_tokens: 8188,
            ..TrainConfig::default()
        };
        let mib = of("lora", &llama, &train, 65_536).peak() >> 20;
        assert!((50_000..55_000).contains(&mib), "{mib} MiB, 53071 were seen");
    }
}
