//! Matrix products with factors rounded to bf16 and sums in `f32`, by AVX-512's `vdpbf16ps`: twice the rate of `f32`.
//!
//! Both operands are packed as pairs along the inner dimension, as the instruction wants them: columns in panels, pair by
//! pair; rows in panels too, or line by line where that is how they lie. One tile of the output is kept in registers
//! while the inner dimension runs.

use spar::kernels::Matrix;

/// Rows and columns of a tile: 24 sums and 2 factors fit the 32 registers.
const TILE_ROWS: usize = 12;
const TILE_COLUMNS: usize = 32;
/// Pairs along the inner dimension at a time: a panel of columns and one of rows fit the first cache.
const DEPTH: usize = 192;
/// Rows at a time: their panels fit the second cache.
const HEIGHT: usize = 20 * TILE_ROWS;

type Tile = [[f32; TILE_COLUMNS]; TILE_ROWS];

/// How a panel of rows lies.
#[derive(Clone, Copy)]
enum Order {
    /// All pairs of a row, followed by the pairs of the next row.
    ByLine,
    /// The first pair of every row, then the second.
    ByPair,
}

/// Buffers for packed operands, used again.
#[derive(Debug, Default)]
pub struct Panels {
    rows: Vec<u32>,
    columns: Vec<u32>,
}

/// Whether this machine has the instructions.
pub fn available() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `out = keep * out + a · b` with `a` and `b` rounded to bf16; `out` is row-major `(a.rows, b.columns)`.
///
/// # Panics
/// Panics when shapes disagree, a slice is too short, or the machine lacks the instructions.
pub fn matmul(panels: &mut Panels, out: &mut [f32], keep: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert!(available(), "this machine has no bf16 products");
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "inner sizes differ");
    let out = &mut out[..m * n];
    if k == 0 {
        out.iter_mut().for_each(|x| *x *= keep);
    }
    let b = b.transposed();
    let order = if a.column_stride == 1 { Order::ByLine } else { Order::ByPair };
    for start in (0..k).step_by(2 * DEPTH) {
        let inner = start..k.min(start + 2 * DEPTH);
        let pairs = inner.len().div_ceil(2);
        let keep = if start == 0 { keep } else { 1.0 };
        let used = pack::<TILE_COLUMNS>(&mut panels.columns, b, 0..n, inner.clone());
        for top in (0..m).step_by(HEIGHT) {
            let block = top..m.min(top + HEIGHT);
            let height = match order {
                Order::ByLine => convert(&mut panels.rows, a, block.clone(), inner.clone()),
                Order::ByPair => pack::<TILE_ROWS>(&mut panels.rows, a, block.clone(), inner.clone()),
            };
            for (j, columns) in panels.columns[..used].chunks_exact(pairs * TILE_COLUMNS).enumerate() {
                for (i, rows) in panels.rows[..height].chunks_exact(pairs * TILE_ROWS).enumerate() {
                    let tile = multiply(order, rows, columns);
                    let (row, column) = (top + i * TILE_ROWS, j * TILE_COLUMNS);
                    let lines = out[row * n..block.end * n].chunks_exact_mut(n);
                    for (line, tile) in lines.zip(&tile) {
                        let end = n.min(column + TILE_COLUMNS);
                        update(&mut line[column..end], tile, keep);
                    }
                }
            }
        }
    }
}

fn update(out: &mut [f32], tile: &[f32; TILE_COLUMNS], keep: f32) {
    match (<&mut [f32; TILE_COLUMNS]>::try_from(&mut *out), keep == 0.0) {
        (Ok(out), true) => *out = *tile,
        (Ok(out), false) => out.iter_mut().zip(tile).for_each(|(out, x)| *out = keep * *out + x),
        (Err(_), true) => out.copy_from_slice(&tile[..out.len()]),
        (Err(_), false) => out.iter_mut().zip(tile).for_each(|(out, x)| *out = keep * *out + x),
    }
}

/// Packs `lines` of `matrix` in panels of `P` lines: pair by pair along `inner`, `P` pairs next to each other. Missing
/// lines and an odd last element are 0. Returns how much of the buffer is used.
fn pack<const P: usize>(
    buffer: &mut Vec<u32>,
    matrix: Matrix<'_>,
    lines: std::ops::Range<usize>,
    inner: std::ops::Range<usize>,
) -> usize {
    let pairs = inner.len().div_ceil(2);
    let len = lines.len().div_ceil(P) * pairs * P;
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let panels = &mut buffer[..len];
    for (panel, first) in panels.chunks_exact_mut(pairs * P).zip(lines.clone().step_by(P)) {
        let count = P.min(lines.end - first);
        if count < P || inner.len() % 2 == 1 {
            panel.fill(0);
        }
        if matrix.column_stride == 1 {
            for line in 0..count {
                let start = (first + line) * matrix.row_stride;
                along::<P>(&mut panel[line..], &matrix.data[start + inner.start..start + inner.end]);
            }
        } else {
            assert_eq!(matrix.row_stride, 1, "one of the strides is 1");
            for (i, to) in panel.chunks_exact_mut(P).enumerate() {
                let at = |k: usize| &matrix.data[k * matrix.column_stride + first..][..count];
                let k = inner.start + 2 * i;
                if k + 1 < inner.end {
                    across::<P>(to, at(k), at(k + 1));
                } else {
                    to.iter_mut().zip(at(k)).for_each(|(to, &x)| *to = pair(x, 0.0));
                }
            }
        }
    }
    len
}

/// Rounds `lines` of `matrix`, whose elements are neighbours, line by line; lines are filled up to whole panels with 0.
/// Returns how much of the buffer is used.
fn convert(
    buffer: &mut Vec<u32>,
    matrix: Matrix<'_>,
    lines: std::ops::Range<usize>,
    inner: std::ops::Range<usize>,
) -> usize {
    let pairs = inner.len().div_ceil(2);
    let (filled, len) = (lines.len() * pairs, lines.len().next_multiple_of(TILE_ROWS) * pairs);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    for (to, line) in buffer.chunks_exact_mut(pairs).zip(lines) {
        let start = line * matrix.row_stride;
        let (from, rest) = matrix.data[start + inner.start..start + inner.end].as_chunks::<2>();
        to.iter_mut().zip(from).for_each(|(to, &[a, b])| *to = pair(a, b));
        if let (Some(to), &[last]) = (to.last_mut(), rest) {
            *to = pair(last, 0.0);
        }
    }
    buffer[filled..len].fill(0);
    len
}

/// Pairs of one line's neighbours, `P` apart.
fn along<const P: usize>(panel: &mut [u32], line: &[f32]) {
    let (pairs, rest) = line.as_chunks::<2>();
    let (blocks, few) = pairs.as_chunks::<16>();
    let (wide, narrow) = panel.split_at_mut((blocks.len() * 16 * P).min(panel.len()));
    for (to, block) in wide.chunks_mut(16 * P).zip(blocks) {
        let packed = block.map(|[a, b]| pair(a, b));
        for (i, packed) in packed.into_iter().enumerate() {
            to[i * P] = packed;
        }
    }
    let rest = rest.iter().map(|&x| [x, 0.0]);
    for (to, [a, b]) in narrow.iter_mut().step_by(P).zip(few.iter().copied().chain(rest)) {
        *to = pair(a, b);
    }
}

/// Pairs of two lines' elements, next to each other.
fn across<const P: usize>(to: &mut [u32], a: &[f32], b: &[f32]) {
    if let (Ok(to), Ok(a), Ok(b)) =
        (<&mut [u32; P]>::try_from(&mut *to), <&[f32; P]>::try_from(a), <&[f32; P]>::try_from(b))
    {
        (0..P).for_each(|i| to[i] = pair(a[i], b[i]));
    } else {
        to.iter_mut().zip(a).zip(b).for_each(|((to, &a), &b)| *to = pair(a, b));
    }
}

/// Two numbers rounded to the nearest bf16, halves away from zero; the first in the low half.
#[inline(always)]
fn pair(low: f32, high: f32) -> u32 {
    let rounded = |x: f32| x.to_bits().wrapping_add(0x8000);
    (rounded(low) >> 16) | (rounded(high) & 0xffff_0000)
}

#[cfg(target_arch = "x86_64")]
fn multiply(order: Order, rows: &[u32], columns: &[u32]) -> Tile {
    use std::arch::x86_64::{
        __m512bh, _mm512_dpbf16_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    use std::mem::transmute;

    #[target_feature(enable = "avx512f,avx512bf16")]
    fn multiply<const BY_LINE: bool>(rows: &[u32], columns: &[[u32; TILE_COLUMNS]]) -> Tile {
        let pairs = columns.len();
        assert_eq!(rows.len(), pairs * TILE_ROWS);
        let mut sums = [[_mm512_setzero_ps(); 2]; TILE_ROWS];
        for (i, columns) in columns.iter().enumerate() {
            #[expect(unsafe_code, reason = "vector registers are loaded through raw pointers")]
            // SAFETY: 16 elements are read from the start and from the middle of 32; all bit patterns are valid.
            let factors: [__m512bh; 2] = unsafe {
                [columns.as_ptr(), columns[16..].as_ptr()].map(|half| transmute(_mm512_loadu_si512(half.cast())))
            };
            for (line, sums) in sums.iter_mut().enumerate() {
                let place = if BY_LINE { line * pairs + i } else { i * TILE_ROWS + line };
                #[expect(unsafe_code, reason = "a bounds check here costs as much as the product")]
                // SAFETY: `line < TILE_ROWS` and `i < pairs`, so `place` is below the length that is asserted above; both
                // types are 512 bits for which every pattern is valid.
                let row: __m512bh = unsafe { transmute(_mm512_set1_epi32(*rows.get_unchecked(place) as i32)) };
                sums[0] = _mm512_dpbf16_ps(sums[0], row, factors[0]);
                sums[1] = _mm512_dpbf16_ps(sums[1], row, factors[1]);
            }
        }
        let mut tile = [[0.0; TILE_COLUMNS]; TILE_ROWS];
        for (tile, sums) in tile.iter_mut().zip(sums) {
            #[expect(unsafe_code, reason = "vector registers are stored through raw pointers")]
            // SAFETY: 16 elements are written to the start and to the middle of 32.
            unsafe {
                _mm512_storeu_ps(tile.as_mut_ptr(), sums[0]);
                _mm512_storeu_ps(tile[16..].as_mut_ptr(), sums[1]);
            }
        }
        tile
    }

    let columns = columns.as_chunks().0;
    #[expect(unsafe_code, reason = "the instructions are not in the baseline")]
    // SAFETY: `matmul`, the only caller, has asserted that the machine has them.
    unsafe {
        match order {
            Order::ByLine => multiply::<true>(rows, columns),
            Order::ByPair => multiply::<false>(rows, columns),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply(_: Order, _: &[u32], _: &[u32]) -> Tile {
    unreachable!("`available` is false here")
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    #[test]
    fn products_follow_their_definition_for_every_layout_and_rest() {
        if !available() {
            return;
        }
        let mut panels = Panels::default();
        for (m, k, n) in [(1, 1, 1), (12, 32, 32), (13, 37, 33), (250, 70, 40), (5, 900, 64), (24, 64, 3)] {
            let values = |len: usize, salt: usize| -> Vec<f32> {
                (0..len).map(|i| ((i * 37 + salt) % 101) as f32 * 0.013 - 0.6).collect()
            };
            let (a, b, before) = (values(m * k, 1), values(k * n, 5), values(m * n, 9));
            let turned = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..rows * columns).map(|i| x[(i % rows) * columns + i / rows]).collect()
            };
            let (at, bt) = (turned(&a, m, k), turned(&b, k, n));
            let round = |x: f32| f64::from(bf16::from_f32(x).to_f32());
            for (keep, flipped) in [(0.0, false), (1.0, true), (-2.0, false), (0.0, true)] {
                let mut out = before.clone();
                let (a_matrix, b_matrix) = if flipped {
                    (Matrix::row_major(&at, k, m).transposed(), Matrix::row_major(&bt, n, k).transposed())
                } else {
                    (Matrix::row_major(&a, m, k), Matrix::row_major(&b, k, n))
                };
                matmul(&mut panels, &mut out, keep, a_matrix, b_matrix);
                for (i, (&x, &before)) in out.iter().zip(&before).enumerate() {
                    let (row, column) = (i / n, i % n);
                    let sum: f64 = (0..k).map(|j| round(a[row * k + j]) * round(b[j * n + column])).sum();
                    let expected = f64::from(keep * before) + sum;
                    assert!((f64::from(x) - expected).abs() < 1e-4, "{m} {k} {n} at {i}: {x} {expected}");
                }
            }
        }
    }
}
