//! An adapter as the forward pass applies it: low-rank pairs next to the fused matrices that they change.

use crate::kernels::packed::{Format, Packed, Workspace};
use crate::weights::{DenseConfig, LowRank, LowRanks, Part};

/// The changes of every layer, in the form that computes them; the other form's are empty.
#[derive(Default)]
pub(super) struct Adapter {
    layers: Vec<LayerAdapter>,
    #[cfg(feature = "tensors")]
    pub(super) tensors: Option<super::tensors::Changes>,
}

/// The changes of one layer's fused matrices.
pub(super) struct LayerAdapter<D = Delta> {
    pub(super) qkv: Option<D>,
    pub(super) output: Option<D>,
    pub(super) gate_up: Option<D>,
    pub(super) down: Option<D>,
}

/// Pairs of matrices that lie side by side, as one pair.
pub(super) struct Stacked<'a> {
    /// The pairs' `A` below one another, `(ranks, inner)`.
    pub(super) a: Vec<&'a [f32]>,
    /// The pairs' scaled `B` as blocks on a diagonal, `(columns, ranks)`.
    pub(super) b: Vec<f32>,
    /// Sum of the pairs' ranks.
    pub(super) rank: usize,
    pub(super) inner: usize,
}

/// A low-rank change of matrices that lie side by side.
pub(super) struct Delta {
    /// The pairs' `A` below one another, `(hidden, ranks)` as it multiplies.
    a: Packed,
    /// The pairs' scaled `B` as blocks on a diagonal, `(ranks, columns)`.
    b: Packed,
    rank: usize,
}

impl Adapter {
    /// Packs the pairs for a model of this shape.
    ///
    /// # Errors
    /// A sentence that names the module that the model does not have, or whose sizes do not fit.
    pub(super) fn new(config: &DenseConfig, modules: &LowRanks) -> Result<Self, String> {
        let layers = layers(config, modules, |stacked| Ok(Delta::new(&stacked)))?;
        Ok(Self {
            layers,
            #[cfg(feature = "tensors")]
            tensors: None,
        })
    }

    pub(super) fn layer(&self, layer: usize) -> &LayerAdapter {
        &self.layers[layer]
    }
}

/// The changes of every layer, each made of its pairs by `make`.
///
/// # Errors
/// As [`Adapter::new`], and those of `make`.
pub(super) fn layers<D>(
    config: &DenseConfig,
    modules: &LowRanks,
    mut make: impl FnMut(Stacked<'_>) -> Result<D, String>,
) -> Result<Vec<LayerAdapter<D>>, String> {
    let c = config;
    let (q, _) = c.widths();
    let mut used = 0;
    let mut delta = |layer: usize, parts: &[Part], inner: usize| {
        let named = parts.iter().map(|&(name, outer)| (format!("model.layers.{layer}.{name}"), outer));
        let found: Vec<_> = named.map(|(name, outer)| (modules.get(&name), name, outer)).collect();
        for (pair, name, outer) in &found {
            if let Some(pair) = pair {
                fits(pair, *outer, inner).map_err(|reason| format!("adapter of `{name}`: {reason}"))?;
                used += 1;
            }
        }
        let pairs: Vec<_> = found.into_iter().map(|(pair, _, outer)| (pair, outer)).collect();
        stack(&pairs, inner).map(&mut make).transpose()
    };
    let mut layers = Vec::with_capacity(c.layers);
    for layer in 0..c.layers {
        layers.push(LayerAdapter {
            qkv: delta(layer, &c.qkv(), c.hidden)?,
            output: delta(layer, &[("self_attn.o_proj", c.hidden)], q)?,
            gate_up: delta(layer, &c.gate_up(), c.hidden)?,
            down: delta(layer, &[("mlp.down_proj", c.hidden)], c.intermediate)?,
        });
    }
    if used < modules.len() {
        let last = ["self_attn.o_proj", "mlp.down_proj"];
        let modules_of_layer: Vec<&str> =
            c.qkv().into_iter().chain(c.gate_up()).map(|(name, _)| name).chain(last).collect();
        let adapted = |name: &str| {
            let Some((layer, module)) = name.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
                return false;
            };
            layer.parse().is_ok_and(|layer: usize| layer < c.layers) && modules_of_layer.contains(&module)
        };
        let unknown = modules.keys().find(|name| !adapted(name)).map_or("", String::as_str);
        return Err(format!(
            "the adapter changes `{unknown}`, which is none of the projections of the model's {} layers; train it \
                 on {}",
            c.layers,
            modules_of_layer
                .iter()
                .map(|module| module.rsplit('.').next().unwrap_or(module))
                .collect::<Vec<_>>()
                .join(", ")
        ));
    }
    Ok(layers)
}

fn fits(pair: &LowRank, outer: usize, inner: usize) -> Result<(), String> {
    let LowRank { a, b, rank, .. } = pair;
    if *rank == 0 || a.len() != rank * inner || b.len() != outer * rank {
        let (a, b) = (a.len(), b.len());
        return Err(format!(
            "rank {rank} with {a} and {b} elements does not fit a matrix of {outer} × {inner}; it is of another base model"
        ));
    }
    Ok(())
}

/// `None` where no part is changed. A part is its pair and how many columns it has.
fn stack<'a>(parts: &[(Option<&'a LowRank>, usize)], inner: usize) -> Option<Stacked<'a>> {
    let pairs: Vec<&'a LowRank> = parts.iter().filter_map(|(pair, _)| *pair).collect();
    let rank = pairs.iter().map(|pair| pair.rank).sum();
    if rank == 0 {
        return None;
    }
    let mut b = Vec::new();
    let mut before = 0;
    for (pair, outer) in parts {
        let Some(pair) = pair else {
            b.resize(b.len() + outer * rank, 0.0);
            continue;
        };
        for row in pair.b.chunks_exact(pair.rank) {
            let start = b.len() + before;
            b.resize(b.len() + rank, 0.0);
            b[start..][..pair.rank].iter_mut().zip(row).for_each(|(to, x)| *to = x * pair.scale);
        }
        before += pair.rank;
    }
    let a = pairs.iter().map(|pair| pair.a.as_slice()).collect();
    Some(Stacked { a, b, rank, inner })
}

impl Delta {
    fn new(stacked: &Stacked<'_>) -> Self {
        let &Stacked { ref a, ref b, rank, inner } = stacked;
        let (a, b) = (Packed::new(a, inner, Format::F32), Packed::new(&[b], rank, Format::F32));
        Self { a, b, rank }
    }

    /// `out += x · Aᵀ · Bᵀ`, row by row. `low` is scratch.
    pub(super) fn add(&self, x: &[f32], out: &mut [f32], low: &mut Vec<f32>, workspace: &mut Workspace) {
        low.clear();
        low.resize(out.len() / self.b.columns() * self.rank, 0.0);
        self.a.multiply(x, low, workspace);
        self.b.multiply_add(low, out, workspace);
    }
}
