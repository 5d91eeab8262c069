//! Low-rank changes of weight matrices, as adapters hold them.

use std::collections::BTreeMap;

/// Low-rank pairs by the module's name, such as `model.layers.0.self_attn.q_proj`.
pub type LowRanks = BTreeMap<String, LowRank>;

/// `W' = W + scale · B · A` for one matrix `W` of shape `(outer, inner)`.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// `(rank, inner)`, row-major.
    pub a: Vec<f32>,
    /// `(outer, rank)`, row-major.
    pub b: Vec<f32>,
    /// Rows of `a` and columns of `b`, at least 1.
    pub rank: usize,
    /// Multiplies the product; for PEFT `lora_alpha / r`, or `lora_alpha / √r` with rsLoRA.
    pub scale: f32,
}
