//! Products with matrices that were laid out once in panels. A row's result depends on that row only: every element is
//! one chain of fused multiply-adds over the inner index, in order, on every machine and in any company of rows.

/// Columns of a panel.
pub const WIDTH: usize = 32;
/// Rows of a tile at most.
pub const ROWS: usize = 8;

/// A tile of results: rows of one panel's columns.
pub type Tile = [[f32; WIDTH]; ROWS];

/// A matrix `(inner, columns)` in panels: for each 32 columns, `inner` rows of 32; the last panel is filled with zeros.
pub struct Packed {
    panels: Vec<f32>,
    inner: usize,
    columns: usize,
}

impl Packed {
    /// Packs matrices `(columns, inner)`, row-major as checkpoints hold them, side by side.
    ///
    /// # Panics
    /// When a length is no multiple of `inner`.
    pub fn new(matrices: &[&[f32]], inner: usize) -> Self {
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(inner)), "a row is cut off");
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|m| m.chunks_exact(inner)).collect();
        let columns = rows.len();
        let mut panels = vec![0.0; columns.div_ceil(WIDTH) * WIDTH * inner];
        for (panel, rows) in panels.chunks_exact_mut(WIDTH * inner).zip(rows.chunks(WIDTH)) {
            for (c, row) in rows.iter().enumerate() {
                for (line, &x) in panel.chunks_exact_mut(WIDTH).zip(*row) {
                    line[c] = x;
                }
            }
        }
        Self { panels, inner, columns }
    }

    /// Columns of a result.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// `out = a · self`; `a` is `(rows, inner)`, `out` `(rows, columns)`, both row-major.
    ///
    /// # Panics
    /// When a slice's length does not fit.
    pub fn multiply(&self, a: &[f32], out: &mut [f32]) {
        self.each_tile(a, out, |out, tile| out.copy_from_slice(tile));
    }

    /// `out += a · self`, as [`Packed::multiply`].
    ///
    /// # Panics
    /// When a slice's length does not fit.
    pub fn multiply_add(&self, a: &[f32], out: &mut [f32]) {
        self.each_tile(a, out, |out, tile| out.iter_mut().zip(tile).for_each(|(o, x)| *o += x));
    }

    fn each_tile(&self, a: &[f32], out: &mut [f32], store: impl Fn(&mut [f32], &[f32])) {
        let rows = a.len() / self.inner;
        assert!(a.len() == rows * self.inner && out.len() == rows * self.columns, "shapes disagree");
        let mut tile = [[0.0; WIDTH]; ROWS];
        for (p, panel) in self.panels.chunks_exact(WIDTH * self.inner).enumerate() {
            let columns = p * WIDTH..((p + 1) * WIDTH).min(self.columns);
            for (a, out) in a.chunks(ROWS * self.inner).zip(out.chunks_mut(ROWS * self.columns)) {
                multiply_tile(a, self.inner, panel, &mut tile);
                for (out, line) in out.chunks_exact_mut(self.columns).zip(&tile) {
                    store(&mut out[columns.clone()], &line[..columns.len()]);
                }
            }
        }
    }
}

/// `tile = a · panel` for up to [`ROWS`] rows of `inner` elements each and a panel of at least `inner` rows of [`WIDTH`].
///
/// # Panics
/// When `a` is not 1 to [`ROWS`] whole rows, or the panel is too short.
pub fn multiply_tile(a: &[f32], inner: usize, panel: &[f32], tile: &mut Tile) {
    let panel = &panel.as_chunks::<WIDTH>().0[..inner];
    assert!(a.len().is_multiple_of(inner), "a row is cut off");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::multiply_tile(a, inner, panel, tile);
        }
    }
    match a.len() / inner {
        1 => portable::<1>(a, panel, tile),
        2 => portable::<2>(a, panel, tile),
        3 => portable::<3>(a, panel, tile),
        4 => portable::<4>(a, panel, tile),
        5 => portable::<5>(a, panel, tile),
        6 => portable::<6>(a, panel, tile),
        7 => portable::<7>(a, panel, tile),
        8 => portable::<8>(a, panel, tile),
        rows => panic!("a tile has 1 to {ROWS} rows, got {rows}"),
    }
}

/// Rows of 16 columns at a time, so that the sums of a few rows stay in registers of 8.
fn portable<const R: usize>(a: &[f32], panel: &[[f32; WIDTH]], tile: &mut Tile) {
    let inner = panel.len();
    for (a, tile) in a.chunks(2 * inner).zip(tile.chunks_mut(2)).take(R.div_ceil(2)) {
        for half in 0..2 {
            let mut sums = [[0.0f32; 16]; 2];
            let second = if a.len() > inner { &a[inner..] } else { &a[..inner] };
            for ((line, &x), &y) in panel.iter().zip(&a[..inner]).zip(second) {
                for c in 0..16 {
                    let b = line[half * 16 + c];
                    sums[0][c] = x.mul_add(b, sums[0][c]);
                    sums[1][c] = y.mul_add(b, sums[1][c]);
                }
            }
            for (line, sums) in tile.iter_mut().zip(&sums) {
                line[half * 16..][..16].copy_from_slice(sums);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};

    use super::{ROWS, Tile, WIDTH};

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_tile(a: &[f32], inner: usize, panel: &[[f32; WIDTH]], tile: &mut Tile) {
        match a.len() / inner {
            1 => rows::<1>(a, panel, tile),
            2 => rows::<2>(a, panel, tile),
            3 => rows::<3>(a, panel, tile),
            4 => rows::<4>(a, panel, tile),
            5 => rows::<5>(a, panel, tile),
            6 => rows::<6>(a, panel, tile),
            7 => rows::<7>(a, panel, tile),
            8 => rows::<8>(a, panel, tile),
            rows => panic!("a tile has 1 to {ROWS} rows, got {rows}"),
        }
    }

    #[target_feature(enable = "avx512f")]
    fn rows<const R: usize>(a: &[f32], panel: &[[f32; WIDTH]], tile: &mut Tile) {
        let inner = panel.len();
        let a: [&[f32]; R] = std::array::from_fn(|r| &a[r * inner..][..inner]);
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
        // SAFETY: a line of a panel and of a tile has 32 elements, two vectors of 16.
        unsafe {
            for (i, line) in panel.iter().enumerate() {
                let b = [_mm512_loadu_ps(line.as_ptr()), _mm512_loadu_ps(line.as_ptr().add(16))];
                for (a, sums) in a.iter().zip(&mut sums) {
                    let x = _mm512_set1_ps(a[i]);
                    sums[0] = _mm512_fmadd_ps(x, b[0], sums[0]);
                    sums[1] = _mm512_fmadd_ps(x, b[1], sums[1]);
                }
            }
            for (line, sums) in tile.iter_mut().zip(&sums) {
                _mm512_storeu_ps(line.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(line.as_mut_ptr().add(16), sums[1]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64).map(|i| (crate::engine::derive_seed(seed, i) >> 40) as f32 / 8e6 - 1.0).collect()
    }

    /// The definition, element by element.
    fn expected(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
        let element = |(a, b): (&[f32], &[f32])| a.iter().zip(b).fold(0.0f32, |sum, (x, y)| x.mul_add(*y, sum));
        a.chunks(inner).flat_map(|a| b.chunks(inner).map(move |b| element((a, b)))).collect()
    }

    #[test]
    fn products_are_bit_equal_to_their_definition() {
        for (rows, inner, columns) in [(1, 1, 1), (3, 5, 31), (8, 64, 32), (9, 33, 70), (23, 192, 100)] {
            let (a, b) = (numbers(rows * inner, 1), numbers(columns * inner, 2));
            let packed = Packed::new(&[&b[..inner], &b[inner..]], inner);
            let mut out = vec![9.0; rows * columns];
            packed.multiply(&a, &mut out);
            assert_eq!(out, expected(&a, &b, inner));
            packed.multiply_add(&a, &mut out);
            assert_eq!(out, expected(&a, &b, inner).iter().map(|x| x + x).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_portable_tile_equals_the_wide_one() {
        let (inner, panel) = (40, numbers(40 * WIDTH, 3));
        let lines = panel.as_chunks::<WIDTH>().0;
        let a = numbers(8 * inner, 4);
        let (mut x, mut y) = ([[0.0; WIDTH]; ROWS], [[0.0; WIDTH]; ROWS]);
        portable::<8>(&a, lines, &mut x);
        multiply_tile(&a, inner, &panel, &mut y);
        assert_eq!(x, y);
        portable::<3>(&a[..3 * inner], lines, &mut x);
        assert_eq!(x[..3], y[..3]);
    }
}
