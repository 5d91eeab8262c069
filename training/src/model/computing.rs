//! How gradients are computed.

use super::cpu::{Arithmetic, Keep};
use super::lora::LoraConfig;

/// How gradients are computed. Apart from the precision of `arithmetic`, the result depends on `lora` only.
#[derive(Clone, Copy, Debug)]
pub struct Computing<'a> {
    /// The precision of products.
    pub arithmetic: Arithmetic,
    /// The adapter's settings, if an adapter is trained.
    pub lora: Option<&'a LoraConfig>,
    /// What is kept for the backward pass.
    pub keep: Keep,
    /// The number of worker threads, at least one.
    pub workers: usize,
}
