//! What training a model on several cards needs, by arithmetic: memory of a card and of a host, and hours.
//!
//! DeepSpeed's ZeRO-3 divides weights, gradients and the optimizer's state evenly among the cards. Each card computes one pair or one chat at
//! a time, keeps the residual stream of every layer, and computes the rest of a layer again on the way back.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::model::params::Layout;
use crate::model::{DenseConfig, LoraConfig};

const GIB: f64 = (1u64 << 30) as f64;

/// A kind of card.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Card {
    /// NVIDIA A100 with 80 GB.
    A100,
    /// NVIDIA H100 with 80 GB.
    #[default]
    H100,
    /// NVIDIA H200 with 141 GB.
    H200,
    /// NVIDIA B200 with 192 GB.
    B200,
}

impl Card {
    /// The name and the size of the memory.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::A100 => "A100 80 GB",
            Self::H100 => "H100 80 GB",
            Self::H200 => "H200 141 GB",
            Self::B200 => "B200 192 GB",
        }
    }

    /// Bytes that a program can use, as the driver reports them.
    fn memory(self) -> f64 {
        GIB * match self {
            Self::A100 | Self::H100 => 79.0,
            Self::H200 => 139.0,
            Self::B200 => 178.0,
        }
    }

    /// Operations per second in bf16 with dense matrices, by the maker's data sheet.
    fn operations(self) -> f64 {
        match self {
            Self::A100 => 312e12,
            Self::H100 | Self::H200 => 989e12,
            Self::B200 => 2250e12,
        }
    }
}

/// The machines of a training.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// Number of machines.
    pub nodes: usize,
    /// Cards of each machine; 0 means that its processor computes.
    pub cards: usize,
    /// The kind of the cards.
    pub card: Card,
    /// Memory of each machine in GiB, for what the cards have no room for.
    pub host: usize,
}

impl Default for Cluster {
    fn default() -> Self {
        Self { nodes: 1, cards: 8, card: Card::default(), host: 2048 }
    }
}

impl Cluster {
    /// # Errors
    /// Names the field, which is below `section`, and the valid values.
    pub fn check(&self, section: &str) -> Result<()> {
        ensure!((1..=1024).contains(&self.nodes), "{section}.nodes must be between 1 and 1024, got {}", self.nodes);
        ensure!(self.cards <= 16, "{section}.cards must be at most 16 of a node, got {}", self.cards);
        ensure!(
            self.cards > 0 || self.nodes == 1,
            "{section}.nodes must be 1 where {section}.cards is 0, got {}",
            self.nodes
        );
        Ok(())
    }

    /// Number of processes that compute.
    #[must_use]
    pub fn world(&self) -> usize {
        self.nodes * self.cards.max(1)
    }
}

/// A training of which the needs are computed.
#[derive(Clone, Copy, Debug)]
pub struct Work<'a> {
    /// The model's shape.
    pub dense: &'a DenseConfig,
    /// The adapter, where not all weights are trained.
    pub lora: Option<&'a LoraConfig>,
    /// Whether replies are compared with a reference model, as pairs.
    pub pairs: bool,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Mean number of tokens of a sequence.
    pub mean: usize,
}

/// The place of the optimizer's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// It is divided among the cards.
    Cards,
    /// It is in the memory of the hosts, whose processors update the weights.
    Host,
}

/// What a training needs on a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// The machines that train.
    pub cluster: Cluster,
    /// The place of the optimizer's state.
    pub optimizer: Place,
    /// Bytes of each card.
    pub card_bytes: f64,
    /// Bytes of each machine.
    pub host_bytes: f64,
    /// Tokens of all cards per second.
    pub tokens_per_s: f64,
    /// Whether cards and hosts have that much.
    pub fits: bool,
}

impl Work<'_> {
    /// Parameters of the model, and those that are trained.
    #[must_use]
    pub fn parameters(&self) -> (usize, usize) {
        let all = Layout::new(self.dense).len();
        (all, self.lora.map_or(all, |lora| lora.layout(self.dense).len()))
    }

    /// The needs with the optimizer's state on the cards where there is room for it, and in the hosts otherwise.
    #[must_use]
    pub fn needs(&self, cluster: Cluster) -> Needs {
        let on_cards = self.at(cluster, Place::Cards);
        if on_cards.fits || cluster.cards == 0 { on_cards } else { self.at(cluster, Place::Host) }
    }

    /// The smallest cluster of nodes of this kind, at least `least`, on which the optimizer's state has room on the cards.
    #[must_use]
    pub fn smallest(&self, node: Cluster, least: usize) -> Option<Needs> {
        let sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64].into_iter().filter(|&nodes| nodes >= least);
        sizes.map(|nodes| self.at(Cluster { nodes, ..node }, Place::Cards)).find(|needs| needs.fits)
    }

    fn at(&self, cluster: Cluster, optimizer: Place) -> Needs {
        let (all, trained) = self.parameters();
        let (all, trained) = (all as f64, trained as f64);
        let world = cluster.world() as f64;
        // Weights and gradients in bf16; a copy in f32 and two moments of what is trained.
        let frozen = if self.lora.is_some() { 2.0 * all } else { 0.0 };
        let reference = if self.pairs && self.lora.is_none() { 2.0 * all } else { 0.0 };
        let divided = frozen + reference + 2.0 * trained;
        let (on_cards, in_hosts) = match optimizer {
            Place::Cards => (divided + (2.0 + 12.0) * trained, 0.0),
            // Gradients are with the optimizer, in f32.
            Place::Host => (divided, (4.0 + 12.0) * trained),
        };
        // A margin for contexts, communication and fragments of free memory.
        let card_bytes = 1.1 * (on_cards / world + self.gathered() + self.activations()) + 3.0 * GIB;
        // The processes of a node share what the system and the loaded data need.
        let host_bytes = in_hosts / cluster.nodes as f64 + 64.0 * GIB;
        let speed = match (cluster.cards, cluster.nodes, optimizer) {
            // A processor's speed is unknown here, and small models alone are trained on it.
            (0, ..) => 2e11,
            (cards, nodes, place) => {
                let share = if place == Place::Host { 0.25 } else { 0.40 };
                let share = if nodes > 1 { 0.875 * share } else { share };
                (nodes * cards) as f64 * share * cluster.card.operations()
            }
        };
        let fits =
            cluster.cards == 0 || (card_bytes <= cluster.card.memory() && host_bytes <= cluster.host as f64 * GIB);
        Needs { cluster, optimizer, card_bytes, host_bytes, tokens_per_s: speed / self.operations(), fits }
    }

    /// Bytes of the whole weights that a card holds while it computes: two layers, the embedding and the head.
    fn gathered(&self) -> f64 {
        let d = self.dense;
        let (q, kv) = d.widths();
        let layer = d.hidden * (2 * q + 2 * kv + 3 * d.intermediate);
        2.0 * (2 * layer + 2 * d.vocabulary * d.hidden) as f64
    }

    /// Bytes for one pair or chat of the greatest length.
    fn activations(&self) -> f64 {
        let d = self.dense;
        let (q, kv) = d.widths();
        let rows = (self.longest * if self.pairs { 2 } else { 1 }) as f64;
        let kept = (d.layers * d.hidden) as f64;
        let layer = (4 * d.hidden + 2 * q + 2 * kv + 4 * d.intermediate) as f64;
        // Logits in bf16, and in f32 with their gradient.
        rows * (2.0 * (kept + 2.0 * layer) + 10.0 * d.vocabulary as f64)
    }

    /// Operations per token: forward, backward for the inputs, and for the weights that are trained; forward again for what was not kept; and
    /// forward for the reference.
    fn operations(&self) -> f64 {
        let d = self.dense;
        let layout = Layout::new(d);
        let products = (layout.len() - if d.tied { 0 } else { layout.embedding.len() }) as f64;
        let passes = if self.lora.is_some() { 6.0 } else { 8.0 } + if self.pairs { 2.0 } else { 0.0 };
        let attention = (d.layers * self.mean * d.widths().0) as f64;
        passes * (products + attention)
    }
}

impl Needs {
    /// Hours for a number of tokens.
    #[must_use]
    pub fn hours(&self, tokens: f64) -> f64 {
        tokens / self.tokens_per_s / 3600.0
    }
}

impl std::fmt::Display for Needs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Cluster { nodes, cards, card, host } = self.cluster;
        if cards == 0 {
            return write!(f, "one machine without cards");
        }
        let gib = |bytes: f64| bytes / GIB;
        match nodes {
            1 => write!(f, "one node of {cards} × {}", card.name())?,
            _ => write!(f, "a cluster of {nodes} nodes of {cards} × {}", card.name())?,
        }
        write!(f, ": {:.0} of {:.0} GiB a card", gib(self.card_bytes), gib(card.memory()))?;
        if self.optimizer == Place::Host {
            write!(f, ", the optimizer in the host: {:.0} of {host} GiB a node", gib(self.host_bytes))?;
        }
        write!(f, ", about {:.0} tokens/s", self.tokens_per_s)?;
        if self.fits { Ok(()) } else { write!(f, " — TOO SMALL") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::shape::{tiny, with_heads};

    /// Llama 3 70B.
    fn large() -> DenseConfig {
        let sizes = DenseConfig { hidden: 8192, intermediate: 28_672, layers: 80, tied: false, ..tiny(128_256) };
        DenseConfig { context: 8192, ..with_heads(sizes, 64, 8, 128) }
    }

    #[test]
    fn all_weights_of_70b_need_several_nodes_or_hosts_and_adapters_one() {
        let dense = large();
        let lora = LoraConfig { rank: 64, ..LoraConfig::default() };
        let full = Work { dense: &dense, lora: None, pairs: true, longest: 4096, mean: 1024 };
        assert_eq!(full.parameters().0 / 100_000_000, 705);
        let node = Cluster::default();
        let alone = full.needs(node);
        assert_eq!(alone.optimizer, Place::Host);
        assert!(alone.fits && alone.host_bytes > 1000.0 * GIB && alone.card_bytes < 79.0 * GIB, "{alone}");
        let several = full.smallest(node, 2).unwrap();
        assert!(several.cluster.nodes >= 3 && several.optimizer == Place::Cards, "{several}");
        assert!(several.tokens_per_s > alone.tokens_per_s);
        let adapter = Work { lora: Some(&lora), ..full }.needs(node);
        assert!(adapter.fits && adapter.optimizer == Place::Cards && adapter.card_bytes < 65.0 * GIB, "{adapter}");
        let poor = full.needs(Cluster { host: 256, ..node });
        assert!(!poor.fits && poor.to_string().ends_with("TOO SMALL"), "{poor}");
    }

    #[test]
    fn hours_follow_from_the_work_of_a_token() {
        let dense = large();
        let work = Work { dense: &dense, lora: None, pairs: false, longest: 2048, mean: 1024 };
        let needs = work.smallest(Cluster::default(), 1).unwrap();
        // 8 operations a parameter and token, attention on top.
        let expected = 0.35 * 989e12 * needs.cluster.world() as f64 / (8.0 * 70.5e9);
        assert!((needs.tokens_per_s / expected - 1.0).abs() < 0.05, "{needs}, expected {expected:.0}");
        let hours = needs.hours(10e6);
        assert!((hours * 3600.0 * needs.tokens_per_s / 10e6 - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_cluster_is_checked() {
        let table = [
            (Cluster { nodes: 0, ..Cluster::default() }, "c.nodes must be between 1"),
            (Cluster { cards: 17, ..Cluster::default() }, "c.cards must be at most 16"),
            (Cluster { nodes: 2, cards: 0, ..Cluster::default() }, "c.nodes must be 1 where c.cards is 0"),
        ];
        for (cluster, expected) in table {
            let message = cluster.check("c").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}
