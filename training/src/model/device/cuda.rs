//! The training kernels.

use candle_core::{DType, Result, bail};
use spar::kernels::device::THREADS;
pub(super) use spar::kernels::device::{Arg, Kernels, add_product, has_capability, unwritten};

static KERNELS: Kernels = Kernels::new("training", include_str!("kernels.cu"));

/// Attention on matrix units.
pub(super) static ATTENTION: Kernels = Kernels::new("attention", include_str!("attention.cu")).since("compute_80");

/// How many blocks.
#[derive(Clone, Copy)]
pub(super) enum Grid {
    /// One for each row.
    Rows(usize),
    /// A thread for every few of this many elements: those that it reads at once.
    Elements(usize),
    /// A thread for each of this many elements.
    Single(usize),
}

/// Runs the kernel `name` of a type, whose rows are `width` elements wide: a thread reads 16 bytes at once where that
/// allows it.
pub(super) fn launch(name: &str, dtype: DType, width: usize, grid: Grid, args: &[Arg<'_>]) -> Result<()> {
    let (kind, count) = match dtype {
        DType::F32 if width.is_multiple_of(4) => ("f32x4", 4),
        DType::F32 => ("f32x1", 1),
        DType::BF16 if width.is_multiple_of(8) => ("bf16x8", 8),
        DType::BF16 => ("bf16x1", 1),
        other => bail!("there are no training kernels for {other:?}"),
    };
    let blocks = match grid {
        Grid::Rows(rows) => rows,
        Grid::Elements(elements) => elements.div_ceil(count * THREADS),
        Grid::Single(elements) => elements.div_ceil(THREADS),
    };
    KERNELS.launch(&format!("{name}_{kind}"), blocks, args)
}
