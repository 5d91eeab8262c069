//! Buffers of a step.

use super::attention::Attention;
#[cfg(feature = "tensors")]
use super::tensors::Cache;
use crate::kernels::packed::Workspace;
use crate::kernels::pages::Buffer;

/// Buffers of a step, kept from step to step. Shapes are `(rows, …)`.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) x: Buffer<f32>,
    pub(super) normed: Buffer<f32>,
    pub(super) qkv: Buffer<f32>,
    pub(super) attended: Buffer<f32>,
    pub(super) gate_up: Buffer<f32>,
    pub(super) activated: Buffer<f32>,
    pub(super) attention: Attention,
    /// What attention or the feed-forward layer adds to the residual stream, where it is not added at once.
    pub(super) addition: Buffer<f32>,
    /// Queries and keys before their norms.
    pub(super) raw: Vec<f32>,
    /// `(rows of a group, ranks)`.
    pub(super) low: Vec<f32>,
    pub(super) workspace: Workspace,
    /// Keys and values on a device, where tensors compute.
    #[cfg(feature = "tensors")]
    pub(super) cache: Option<Cache>,
    /// `(rows asked for, vocabulary)`.
    pub(super) logits: Vec<f32>,
}
