//! Products with matrices that were laid out once in panels. A row's result depends on that row only: every element is
//! one chain of fused multiply-adds over the inner index, in order, on every machine and in any company of rows.

/// Columns of a panel.
pub const WIDTH: usize = 32;
/// Rows of a tile at most.
pub const ROWS: usize = 8;

/// A row of a panel, aligned to a cache line.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub struct Line(pub [f32; WIDTH]);

impl Line {
    /// All zeros.
    pub const ZERO: Self = Self([0.0; WIDTH]);
}

/// A tile of results: rows of one panel's columns.
pub type Tile = [Line; ROWS];

/// A matrix `(inner, columns)` in panels: for each 32 columns, `inner` lines; the last panel is filled with zeros.
pub struct Packed {
    panels: Vec<Line>,
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
        let mut panels = vec![Line::ZERO; columns.div_ceil(WIDTH) * inner];
        for (panel, rows) in panels.chunks_exact_mut(inner).zip(rows.chunks(WIDTH)) {
            for (c, row) in rows.iter().enumerate() {
                for (line, &x) in panel.iter_mut().zip(*row) {
                    line.0[c] = x;
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
        let mut tiles = [[Line::ZERO; ROWS]; AT_ONCE];
        // A few rows are multiplied with panels side by side; many rows read a panel again from the nearest cache.
        let at_once = at_once(rows);
        for (p, panels) in self.panels.chunks(at_once * self.inner).enumerate() {
            for (a, out) in a.chunks(ROWS * self.inner).zip(out.chunks_mut(ROWS * self.columns)) {
                multiply_tiles(a, self.inner, panels, &mut tiles);
                for (tile, first) in tiles.iter().zip((p * at_once * WIDTH..self.columns).step_by(WIDTH)).take(at_once)
                {
                    let columns = first..(first + WIDTH).min(self.columns);
                    for (out, line) in out.chunks_exact_mut(self.columns).zip(tile) {
                        store(&mut out[columns.clone()], &line.0[..columns.len()]);
                    }
                }
            }
        }
    }
}

/// Panels that one call multiplies at most.
pub const AT_ONCE: usize = 4;

/// How many panels fit into registers beside each other for so many rows.
pub fn at_once(rows: usize) -> usize {
    match rows {
        0..=2 => 4,
        3..=4 => 2,
        _ => 1,
    }
}

/// `tiles[p] = a · panel p` for up to [`ROWS`] rows of `inner` elements each and up to [`at_once`] panels of `inner`
/// lines, one after another.
///
/// # Panics
/// When `a` is not 1 to [`ROWS`] whole rows, or the panels are none, not whole or too many for the rows.
pub fn multiply_tiles(a: &[f32], inner: usize, panels: &[Line], tiles: &mut [Tile; AT_ONCE]) {
    let (rows, count) = (a.len() / inner, panels.len() / inner);
    assert!(a.len() == rows * inner && panels.len() == count * inner, "a row or a panel is cut off");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::multiply_tiles(a, panels, (rows, count), tiles);
        }
    }
    assert!((1..=ROWS).contains(&rows) && (1..=at_once(rows)).contains(&count), "{rows} rows, {count} panels");
    for (panel, tile) in panels.chunks_exact(inner).zip(tiles) {
        portable(a, panel, tile);
    }
}

/// Two rows by 16 columns at a time, so that the sums stay in registers of 8.
fn portable(a: &[f32], panel: &[Line], tile: &mut Tile) {
    let inner = panel.len();
    for (a, tile) in a.chunks(2 * inner).zip(tile.chunks_mut(2)) {
        for half in 0..2 {
            let mut sums = [[0.0f32; 16]; 2];
            let second = if a.len() > inner { &a[inner..] } else { &a[..inner] };
            for ((line, &x), &y) in panel.iter().zip(&a[..inner]).zip(second) {
                let [first, second] = &mut sums;
                for ((&b, first), second) in line.0[half * 16..][..16].iter().zip(first).zip(second) {
                    *first = x.mul_add(b, *first);
                    *second = y.mul_add(b, *second);
                }
            }
            for (line, sums) in tile.iter_mut().zip(&sums) {
                line.0[half * 16..][..16].copy_from_slice(sums);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_load_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_store_ps};

    use super::{AT_ONCE, Line, Tile};

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply_tiles(a: &[f32], panels: &[Line], shape: (usize, usize), tiles: &mut [Tile; AT_ONCE]) {
        macro_rules! dispatch {
            ($(($rows:literal, $panels:literal)),*) => {
                match shape {
                    $(($rows, $panels) => product::<$rows, $panels>(a, panels, tiles),)*
                    (rows, panels) => panic!("{rows} rows and {panels} panels are too many for a tile, or none"),
                }
            };
        }
        dispatch!(
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
            (4, 1),
            (4, 2),
            (5, 1),
            (6, 1),
            (7, 1),
            (8, 1)
        );
    }

    #[target_feature(enable = "avx512f")]
    fn product<const R: usize, const P: usize>(a: &[f32], panels: &[Line], tiles: &mut [Tile; AT_ONCE]) {
        let inner = panels.len() / P;
        // Plain loops: closures would not be compiled for AVX-512. Slices of one length need no check per element.
        let mut rows = [a; R];
        for r in 0..R {
            rows[r] = &a[r * inner..][..inner];
        }
        let mut lines = [panels; P];
        for p in 0..P {
            lines[p] = &panels[p * inner..][..inner];
        }
        let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
        #[expect(unsafe_code, reason = "vector loads and stores take pointers")]
        // SAFETY: a line has 32 elements, two vectors of 16, and is aligned to 64 bytes.
        unsafe {
            for i in 0..inner {
                for p in 0..P {
                    let line = lines[p][i].0.as_ptr();
                    let b = [_mm512_load_ps(line), _mm512_load_ps(line.add(16))];
                    for r in 0..R {
                        let x = _mm512_set1_ps(rows[r][i]);
                        sums[r][p][0] = _mm512_fmadd_ps(x, b[0], sums[r][p][0]);
                        sums[r][p][1] = _mm512_fmadd_ps(x, b[1], sums[r][p][1]);
                    }
                }
            }
            for r in 0..R {
                for p in 0..P {
                    let line = tiles[p][r].0.as_mut_ptr();
                    _mm512_store_ps(line, sums[r][p][0]);
                    _mm512_store_ps(line.add(16), sums[r][p][1]);
                }
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
        for (rows, inner, columns) in
            [(1, 1, 1), (3, 5, 31), (8, 64, 32), (9, 33, 70), (2, 7, 300), (4, 9, 65), (23, 192, 100)]
        {
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
        let inner = 40;
        let numbers_of = numbers(4 * inner * WIDTH, 3);
        let panels: Vec<Line> = numbers_of.as_chunks::<WIDTH>().0.iter().map(|&line| Line(line)).collect();
        for rows in 1..=ROWS {
            let a = numbers(rows * inner, 4);
            for count in 1..=at_once(rows) {
                let mut tiles = [[Line::ZERO; ROWS]; AT_ONCE];
                multiply_tiles(&a, inner, &panels[..count * inner], &mut tiles);
                for (tile, panel) in tiles.iter().zip(panels.chunks(inner)).take(count) {
                    let mut expected = [Line::ZERO; ROWS];
                    portable(&a, panel, &mut expected);
                    assert_eq!(tile[..rows], expected[..rows]);
                }
            }
        }
    }
}
