//! Low-rank adapters (Hu et al. 2021) in PEFT's terms: which products of a layer get one, how large, and where its factors are.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Result, ensure};
use serde::{Deserialize, Deserializer, Serialize};

use super::DenseConfig;
use super::params::{Entry, Kind, Layout, Params, uniform};

/// A product of a layer, by PEFT's name for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Module {
    /// Product of the queries.
    #[serde(rename = "q_proj")]
    Query,
    /// Product of the keys.
    #[serde(rename = "k_proj")]
    Key,
    /// Product of the values.
    #[serde(rename = "v_proj")]
    Value,
    /// What attention adds to the stream.
    #[serde(rename = "o_proj")]
    Output,
    /// The feed-forward layer's gates.
    #[serde(rename = "gate_proj")]
    Gate,
    /// What they let through.
    #[serde(rename = "up_proj")]
    Up,
    /// What the feed-forward layer adds to the stream.
    #[serde(rename = "down_proj")]
    Down,
}

impl Module {
    /// All products in the order of the layout.
    pub const ALL: [Self; 7] = [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down];

    /// Its name below `model.layers.N`.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Rows and columns of its weight.
    #[must_use]
    pub fn shape(self, config: &DenseConfig) -> [usize; 2] {
        let (hidden, inner) = (config.hidden, config.intermediate);
        let (q, kv) = config.widths();
        match self {
            Self::Query => [q, hidden],
            Self::Output => [hidden, q],
            Self::Key | Self::Value => [kv, hidden],
            Self::Gate | Self::Up => [inner, hidden],
            Self::Down => [hidden, inner],
        }
    }
}

/// An adapter's settings: `W + scale · B · A` with `A` `(rank, in)` and `B` `(out, rank)`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoraConfig {
    /// Rows of `A`.
    pub rank: usize,
    /// The scale is `alpha / rank`.
    pub alpha: f64,
    /// Share of the inputs of `A` that a training step leaves out.
    pub dropout: f64,
    /// The products that get one: a list of names, or `all-linear` for all.
    #[serde(deserialize_with = "targets")]
    pub targets: Vec<Module>,
    /// Rank-stabilised: the scale is `alpha / sqrt(rank)` (Kalajdzievski 2023).
    pub rslora: bool,
    /// An adapter's directory to start from; a fresh one without it.
    pub from: Option<PathBuf>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self { rank: 16, alpha: 32.0, dropout: 0.0, targets: Module::ALL.into(), rslora: false, from: None }
    }
}

/// Reads a list of products, or PEFT's word for all of them.
fn targets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Module>, D::Error> {
    #[derive(Deserialize)]
    #[serde(
        untagged,
        expecting = "`targets` must be \"all-linear\" or a list of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj"
    )]
    enum Written {
        Word(Word),
        Names(Vec<Module>),
    }
    #[derive(Deserialize)]
    enum Word {
        #[serde(rename = "all-linear")]
        AllLinear,
    }
    Ok(match Written::deserialize(deserializer)? {
        Written::Word(Word::AllLinear) => Module::ALL.into(),
        Written::Names(names) => names,
    })
}

impl LoraConfig {
    /// What `B · A` is multiplied by.
    #[must_use]
    pub fn scale(&self) -> f32 {
        let rank = self.rank as f64;
        (self.alpha / if self.rslora { rank.sqrt() } else { rank }) as f32
    }

    /// Whether a product gets an adapter.
    #[must_use]
    pub fn has(&self, module: Module) -> bool {
        self.targets.contains(&module)
    }

    /// # Errors
    /// Names the field that cannot be used.
    pub fn check(&self) -> Result<()> {
        ensure!(self.rank > 0, "lora.rank must be at least 1");
        ensure!(self.alpha > 0.0, "lora.alpha must be above 0, got {}", self.alpha);
        ensure!(
            (0.0..1.0).contains(&self.dropout),
            "lora.dropout must be at least 0 and below 1, got {}",
            self.dropout
        );
        ensure!(!self.targets.is_empty(), "lora.targets must name at least one product");
        let mut seen = self.targets.clone();
        seen.sort_unstable();
        seen.dedup();
        ensure!(seen.len() == self.targets.len(), "lora.targets names a product twice");
        Ok(())
    }

    /// The factors' names, as PEFT has them in its file, and places: by layer, by module, `A` before `B`.
    #[must_use]
    pub fn layout(&self, config: &DenseConfig) -> Layout {
        let mut entries: Vec<Entry> = Vec::new();
        let mut layers = Vec::new();
        let mut end = 0;
        for layer in 0..config.layers {
            let start = end;
            for module in Module::ALL.into_iter().filter(|&module| self.has(module)) {
                let [out, input] = module.shape(config);
                for (name, shape) in [("lora_A", [self.rank, input]), ("lora_B", [out, self.rank])] {
                    let name = format!("base_model.model.model.layers.{layer}.{}.{name}.weight", module.path());
                    let range = end..end + shape[0] * shape[1];
                    end = range.end;
                    entries.push(Entry { name, shape: shape.into(), kind: Kind::Matrix, range });
                }
            }
            layers.push(start..end);
        }
        Layout { entries, embedding: 0..0, layers, norm: 0..0, head: 0..0 }
    }

    /// A fresh adapter, which changes nothing yet: `A` uniform within `1 / sqrt(in)` as in PEFT, `B` zero.
    #[must_use]
    pub fn fresh(&self, config: &DenseConfig, seed: u64) -> Params {
        let layout = self.layout(config);
        let mut data = vec![0.0; layout.len()];
        for (stream, entry) in layout.entries.iter().enumerate().filter(|(_, e)| e.name.contains("lora_A")) {
            let bound = 1.0 / (entry.shape[1] as f32).sqrt();
            uniform(&mut data[entry.range.clone()], bound, seed, stream as u64);
        }
        Params { layout: Arc::new(layout), data }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::tiny;

    #[test]
    fn a_fresh_adapter_has_no_say_and_pefts_names() {
        let config = DenseConfig { layers: 2, ..tiny(50) };
        let lora = LoraConfig { rank: 4, targets: vec![Module::Down, Module::Query], ..LoraConfig::default() };
        let adapter = lora.fresh(&config, 1);
        let names: Vec<_> = adapter.layout.entries.iter().map(|e| (e.name.as_str(), e.shape.as_slice())).collect();
        assert_eq!(names[0], ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", &[4, 192][..]));
        assert_eq!(names[3], ("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", &[192, 4][..]));
        assert_eq!(names.len(), 8);
        for entry in &adapter.layout.entries {
            let zero = adapter.data[entry.range.clone()].iter().all(|&x| x == 0.0);
            assert_eq!(zero, entry.name.contains("lora_B"), "{}", entry.name);
        }
    }

    #[test]
    fn targets_are_names_or_all_linear() {
        let read = |text: &str| toml::from_str::<LoraConfig>(text);
        assert_eq!(read("targets = \"all-linear\"").unwrap(), LoraConfig::default());
        assert_eq!(read("targets = [\"up_proj\"]").unwrap().targets, [Module::Up]);
        for wrong in ["targets = \"all\"", "targets = [\"lm_head\"]"] {
            let message = read(wrong).unwrap_err().to_string();
            assert!(message.contains("must be \"all-linear\" or a list of q_proj"), "{message}");
        }
    }

    #[test]
    fn settings_are_checked() {
        let cases = [
            (LoraConfig { rank: 0, ..LoraConfig::default() }, "lora.rank"),
            (LoraConfig { dropout: 1.0, ..LoraConfig::default() }, "lora.dropout"),
            (LoraConfig { targets: vec![], ..LoraConfig::default() }, "lora.targets"),
            (LoraConfig { targets: vec![Module::Up, Module::Up], ..LoraConfig::default() }, "twice"),
        ];
        for (lora, expected) in cases {
            let message = lora.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let rank8 = LoraConfig { rank: 16, alpha: 8.0, ..LoraConfig::default() };
        assert_eq!((rank8.scale(), LoraConfig { rslora: true, ..rank8 }.scale()), (0.5, 2.0));
    }
}
