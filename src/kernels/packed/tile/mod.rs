//! Products of a few rows with a few panels. Every element is one chain of fused multiply-adds over the inner index, in order, on every
//! processor.

#[cfg(target_arch = "x86_64")]
mod panel;
#[cfg(target_arch = "x86_64")]
mod wide;

use super::format::View;
use super::lines::{Line, ROWS, WIDTH};

/// The number of panels that fit into registers at once for this many rows.
pub(super) fn at_once(rows: usize) -> usize {
    match rows {
        0..=3 => 4,
        4 => 3,
        _ => 1,
    }
}

/// Whether panels of all formats are multiplied without unpacking.
pub(super) fn reads_all_formats() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The rows that are multiplied.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The rows, each `stride` elements after the previous one.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements of a row that are multiplied.
    pub inner: usize,
    /// The number of rows.
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Makes rows of `inner` elements, one after another.
    ///
    /// # Panics
    /// Panics if the last row is cut off.
    pub fn new(data: &'a [f32], inner: usize) -> Self {
        let count = data.len() / inner;
        assert!(data.len() == count * inner, "a row is cut off");
        Self { data, stride: inner, inner, count }
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.inner]
    }
}

/// The shape of tiles: `height` rows at a time, with `panels` panels of `lines` lines each.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) height: usize,
    pub(super) panels: usize,
    pub(super) lines: usize,
}

/// The destination of results.
pub struct Out<'a> {
    /// The rows, each `stride` elements after the previous one.
    pub data: &'a mut [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements of a row that are written.
    pub columns: usize,
    /// Whether results are added to the old values.
    pub add: bool,
}

impl Out<'_> {
    /// The elements of a row that belong to panel `panel`.
    #[inline(always)]
    fn line(&mut self, row: usize, panel: usize) -> &mut [f32] {
        let column = panel * WIDTH;
        &mut self.data[row * self.stride + column..][..WIDTH.min(self.columns - column)]
    }
}

/// Computes `out = a · panels`, or adds to `out`. A panel's lines beyond the length of `a`'s rows are ignored.
///
/// # Panics
/// Panics if slices are too short for the shape, or if [`reads_all_formats`] is false and the format is not `f32`.
pub(super) fn multiply(a: Rows<'_>, panels: View<'_>, shape: Shape, out: &mut Out<'_>) {
    if a.count == 0 {
        return;
    }
    assert!((1..=ROWS).contains(&shape.height), "tiles of {} rows", shape.height);
    assert!(out.columns.div_ceil(WIDTH) == shape.panels, "{} panels for {} columns", shape.panels, out.columns);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::multiply(a, panels, shape, out);
        }
    }
    let View::F32(all) = panels else { panic!("panels are unpacked where AVX-512 is missing") };
    let add = out.add;
    for (p, panel) in all.chunks_exact(shape.lines).enumerate() {
        for row in (0..a.count).step_by(2) {
            let last = (row + 1).min(a.count - 1);
            let lines = portable([a.row(row), a.row(last)], &panel[..a.inner]);
            for (row, line) in (row..=last).zip(&lines) {
                let to = out.line(row, p);
                let line = &line.0[..to.len()];
                if add { crate::kernels::add(to, line) } else { to.copy_from_slice(line) }
            }
        }
    }
}

/// Writes the lines of a panel in `f32`.
pub(super) fn unpack(panel: View<'_>, out: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::unpack(panel, out);
        }
    }
    if let View::Blocks(blocks) = panel {
        return blocks.unpack(out);
    }
    for (i, line) in out.iter_mut().enumerate() {
        line.0 = std::array::from_fn(|c| panel.element(i, c));
    }
}

/// Multiplies two rows by 16 columns at a time, so that the sums stay in 256-bit registers.
pub(super) fn portable(rows: [&[f32]; 2], panel: &[Line]) -> [Line; 2] {
    let mut lines = [Line::ZERO; 2];
    for half in 0..2 {
        let mut sums = [[0.0f32; 16]; 2];
        for ((line, &x), &y) in panel.iter().zip(rows[0]).zip(rows[1]) {
            let [first, second] = &mut sums;
            for ((&b, first), second) in line.0[half * 16..][..16].iter().zip(first).zip(second) {
                *first = x.mul_add(b, *first);
                *second = y.mul_add(b, *second);
            }
        }
        for (line, sums) in lines.iter_mut().zip(&sums) {
            line.0[half * 16..][..16].copy_from_slice(sums);
        }
    }
    lines
}
