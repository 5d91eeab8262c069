//! Products with AVX-512. The tiles hold their sums in registers.

use std::arch::x86_64::{
    _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_store_ps, _mm512_storeu_ps,
};

use super::panel::{
    BlockLines, BrainLines, ByteValues, HalfLines, NibbleValues, Pair, PanelLines, QuantizedLines, SingleLines,
};
use super::{Out, Rows, Shape, at_once};
use crate::kernels::packed::blocks::ValueView;
use crate::kernels::packed::format::View;
use crate::kernels::packed::lines::{Line, WIDTH};

/// Multiplies panels of any storage type.
#[target_feature(enable = "avx512f")]
pub(super) fn multiply(a: Rows<'_>, panels: View<'_>, shape: Shape, out: &mut Out<'_>) {
    match panels {
        View::F32(lines) => tiles(a, SingleLines(lines), shape, out),
        View::F16(lines) => tiles(a, HalfLines(lines), shape, out),
        View::Bf16(lines) => tiles(a, BrainLines(lines), shape, out),
        View::Q8(lines, scales) => tiles(a, QuantizedLines(lines, scales), shape, out),
        View::Blocks(view) => match view.values {
            ValueView::Nibbles(lines, table) => {
                tiles(a, BlockLines { view, values: NibbleValues(lines, table) }, shape, out);
            }
            ValueView::Bytes(lines) => tiles(a, BlockLines { view, values: ByteValues(lines) }, shape, out),
        },
    }
}

/// Writes the lines of a panel in `f32`.
#[target_feature(enable = "avx512f")]
pub(super) fn unpack(panel: View<'_>, out: &mut [Line]) {
    match panel {
        View::F32(lines) => out.copy_from_slice(lines),
        View::F16(lines) => write(HalfLines(lines), out),
        View::Bf16(lines) => write(BrainLines(lines), out),
        View::Q8(lines, scales) => write(QuantizedLines(lines, scales), out),
        View::Blocks(view) => match view.values {
            ValueView::Nibbles(lines, table) => write(BlockLines { view, values: NibbleValues(lines, table) }, out),
            ValueView::Bytes(lines) => write(BlockLines { view, values: ByteValues(lines) }, out),
        },
    }
}

#[target_feature(enable = "avx512f")]
fn write<T: PanelLines>(panel: T, out: &mut [Line]) {
    let size = panel.group().min(1 << 20);
    for (group, lines) in out.chunks_mut(size).enumerate() {
        #[expect(unsafe_code, reason = "vector stores take pointers")]
        // SAFETY: this function is compiled for AVX-512; a line is two vectors and is aligned to 64 bytes.
        unsafe {
            let scales = panel.scales(group);
            for (i, line) in lines.iter_mut().enumerate() {
                let [low, high] = panel.load(group * size + i, scales);
                _mm512_store_ps(line.0.as_mut_ptr(), low);
                _mm512_store_ps(line.0.as_mut_ptr().add(16), high);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
fn tiles<T: PanelLines>(a: Rows<'_>, panels: T, shape: Shape, out: &mut Out<'_>) {
    let Shape { height, panels: count, lines } = shape;
    let many = at_once(height);
    macro_rules! tile {
        ($at:expr, $shape:expr, $(($rows:literal, $panels:literal)),*) => {
            match $shape {
                $(($rows, $panels) => product::<$rows, $panels, T>(a, (panels, lines), $at, out),)*
                (rows, panels) => panic!("{rows} rows and {panels} panels are too many for a tile, or none"),
            }
        };
    }
    for panel in (0..count).step_by(many) {
        for row in (0..a.count).step_by(height) {
            tile!(
                (row, panel),
                (height.min(a.count - row), many.min(count - panel)),
                (1, 1),
                (1, 2),
                (1, 3),
                (1, 4),
                (2, 1),
                (2, 2),
                (2, 3),
                (2, 4),
                (3, 1),
                (3, 2),
                (3, 3),
                (3, 4),
                (4, 1),
                (4, 2),
                (4, 3),
                (5, 1),
                (6, 1),
                (7, 1),
                (8, 1)
            );
        }
    }
}

/// Computes the tile of `R` rows and `P` panels that begins at the given row and panel.
#[expect(clippy::needless_range_loop, reason = "iterators take closures, which would not be compiled for AVX-512")]
#[target_feature(enable = "avx512f")]
fn product<const R: usize, const P: usize, T: PanelLines>(
    a: Rows<'_>,
    (panels, panel_lines): (T, usize),
    (row, panel): (usize, usize),
    out: &mut Out<'_>,
) {
    // The loops use no closures, which would not be compiled for AVX-512. Slices of equal length need no bounds check per element.
    let inner = a.inner;
    let mut rows = [a.data; R];
    for r in 0..R {
        rows[r] = a.row(row + r);
    }
    let mut lines = [panels; P];
    for (p, lines) in lines.iter_mut().enumerate() {
        *lines = panels.panel(panel + p, panel_lines, inner);
    }
    let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
    let group = panels.group();
    let mut first = 0;
    while first < inner {
        let end = inner.min(first.saturating_add(group));
        #[expect(unsafe_code, reason = "vector instructions")]
        // SAFETY: this function is compiled for AVX-512; `first` and `i` are below `inner`, the lines of each panel.
        unsafe {
            let mut scales = [lines[0].scales(first / group); P];
            for p in 1..P {
                scales[p] = lines[p].scales(first / group);
            }
            for i in first..end {
                for p in 0..P {
                    let b = lines[p].load(i, scales[p]);
                    for r in 0..R {
                        let x = _mm512_set1_ps(rows[r][i]);
                        sums[r][p][0] = _mm512_fmadd_ps(x, b[0], sums[r][p][0]);
                        sums[r][p][1] = _mm512_fmadd_ps(x, b[1], sums[r][p][1]);
                    }
                }
            }
        }
        first = end;
    }
    let add = out.add;
    for r in 0..R {
        for p in 0..P {
            store(out.line(row + r, panel + p), sums[r][p], add);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(line: &mut [f32], [mut low, mut high]: Pair, add: bool) {
    let mask = u32::MAX >> (WIDTH - line.len());
    let (first, second) = (mask as u16, (mask >> 16) as u16);
    let pointer = line.as_mut_ptr();
    #[expect(unsafe_code, reason = "vector stores take pointers")]
    // SAFETY: the masks exclude everything beyond the line, and pointers there are not dereferenced.
    unsafe {
        let beyond = pointer.wrapping_add(16);
        if line.len() == WIDTH {
            if add {
                low = _mm512_add_ps(_mm512_loadu_ps(pointer), low);
                high = _mm512_add_ps(_mm512_loadu_ps(beyond), high);
            }
            _mm512_storeu_ps(pointer, low);
            _mm512_storeu_ps(beyond, high);
            return;
        }
        if add {
            low = _mm512_add_ps(_mm512_maskz_loadu_ps(first, pointer), low);
            high = _mm512_add_ps(_mm512_maskz_loadu_ps(second, beyond), high);
        }
        _mm512_mask_storeu_ps(pointer, first, low);
        _mm512_mask_storeu_ps(beyond, second, high);
    }
}
