//! Arithmetic on `f32` slices, shared by the tree engine and the trainer.

#[cfg(feature = "cuda")]
pub mod device;
pub mod packed;
pub mod pages;
pub mod team;

/// A matrix in a slice: element `(r, c)` is at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements, row after row.
    pub data: &'a [f32],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix whose rows follow one another.
    pub fn row_major(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The matrix with rows and columns exchanged.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn last(&self) -> usize {
        (self.rows - 1) * self.row_stride + (self.columns - 1) * self.column_stride
    }
}

/// `out = keep * out + a · b`, on the calling thread; `out` is row-major `(a.rows, b.columns)`.
///
/// # Panics
/// Panics if shapes disagree or a slice is too short.
pub fn matmul(out: &mut [f32], keep: f32, a: Matrix<'_>, b: Matrix<'_>) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert_eq!(k, b.rows, "inner sizes differ");
    assert!(out.len() >= m * n, "output too short");
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        out[..m * n].iter_mut().for_each(|x| *x *= keep);
        return;
    }
    assert!(a.last() < a.data.len() && b.last() < b.data.len(), "operand too short");
    #[expect(unsafe_code, reason = "gemm takes raw pointers; the bounds of all three operands are asserted above")]
    // SAFETY: every index that gemm accesses is at most `last()`, which is within the slice; strides are in elements.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            keep,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

/// Lanes of the loops below. They are wide enough for full vectors, and they fix the order of every sum.
const LANES: usize = 16;

/// Natural exponential, accurate to about 2 units in the last place. It is 0 below -87, and constant above 88, where it stays finite.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // 1.5 · 2^23: adding this rounds to an integer and leaves that integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // As in Cody and Waite, ln 2 in two parts keeps the remainder exact.
    let r = n.mul_add(2.121_944_4e-4, n.mul_add(-0.693_359_4, clamped));
    let mut p = 1.0 / 5040.0f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3F80_0000));
    if x < -87.0 { 0.0 } else { p * power }
}

/// `x = exp((x - peak) * scale)` for every element.
pub fn exp_scaled(xs: &mut [f32], peak: f32, scale: f32) {
    widest().dispatch(
        #[inline(always)]
        || {
            for x in xs {
                *x = exp((*x - peak) * scale);
            }
        },
    );
}

/// Runs loops with the widest vectors of the processor; the compiler makes a copy of the loop for each width. Results are the same.
#[inline(always)]
fn widest() -> pulp::Arch {
    pulp::Arch::new()
}

/// `out = x / sqrt(mean(x²) + eps) * weight`, row by row of `weight.len()` elements.
///
/// # Panics
/// Panics if `out` is shorter than `x`.
pub fn rms_norm(out: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    for (x, out) in x.chunks_exact(weight.len()).zip(out.chunks_exact_mut(weight.len())) {
        let scale = (dot(x, x) / weight.len() as f32 + eps).sqrt().recip();
        for ((out, &x), &weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * scale * weight;
        }
    }
}

/// Computes `out += x` over the shorter of the two lengths.
pub fn add(out: &mut [f32], x: &[f32]) {
    let ((out, out_rest), (x, x_rest)) = (out.as_chunks_mut::<LANES>(), x.as_chunks::<LANES>());
    for (out, x) in out.iter_mut().zip(x) {
        *out = std::array::from_fn(|lane| out[lane] + x[lane]);
    }
    out_rest.iter_mut().zip(x_rest).for_each(|(out, x)| *out += x);
}

/// The dot product. The order of the sum depends on the length only.
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for (lane, (&x, &y)) in lanes.iter_mut().zip(a.iter().zip(b)) {
            *lane = x.mul_add(y, *lane);
        }
    }
    lanes.iter().sum::<f32>() + a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum::<f32>()
}

/// `out = silu(gate) * up`, where `silu(x) = x / (1 + exp(-x))`.
pub fn silu_times(out: &mut [f32], gate: &[f32], up: &[f32]) {
    widest().dispatch(
        #[inline(always)]
        || {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                *out = gate / (1.0 + exp(-gate)) * up;
            }
        },
    );
}

/// `out = gelu(gate) * up`, where `gelu(x) = x / (1 + exp(-2u))` with `u = √(2/π) (x + 0.044715 x³)`: the approximation with `tanh`.
pub fn gelu_times(out: &mut [f32], gate: &[f32], up: &[f32]) {
    /// The factor `-2 √(2/π)`.
    const FACTOR: f32 = -1.595_769_2;
    widest().dispatch(
        #[inline(always)]
        || {
            for ((out, &gate), &up) in out.iter_mut().zip(gate).zip(up) {
                let inner = gate + 0.044_715 * gate * gate * gate;
                *out = gate / (1.0 + exp(FACTOR * inner)) * up;
            }
        },
    );
}

/// Rotates a head: element `i` of the first half pairs with element `i` of the second, as in Hugging Face's layout. `turns` contains the
/// cosine and sine of each pair's angle.
pub fn rotate(head: &mut [f32], turns: &[(f32, f32)]) {
    let (first, second) = head.split_at_mut(turns.len());
    for ((x, y), &(cos, sin)) in first.iter_mut().zip(second).zip(turns) {
        (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
    }
}

/// The largest element, or negative infinity if there is none. NaNs are skipped.
pub fn max(xs: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m })
}

/// The sum, in `f64`.
pub fn sum(xs: &[f32]) -> f64 {
    let mut lanes = [0.0f64; LANES];
    let (chunks, rest) = xs.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(x);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| f64::from(x)).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matmul_follows_its_definition_for_every_layout() {
        let a: Vec<f32> = (0..6).map(|x| x as f32).collect();
        let b: Vec<f32> = (0..12).map(|x| (x as f32) * 0.5 - 2.0).collect();
        let mut out = vec![1.0; 8];
        matmul(&mut out, 2.0, Matrix::row_major(&a, 2, 3), Matrix::row_major(&b, 3, 4));
        let mut transposed = vec![1.0; 8];
        let at: Vec<f32> = (0..6).map(|i| a[(i % 2) * 3 + i / 2]).collect();
        matmul(&mut transposed, 2.0, Matrix::row_major(&at, 3, 2).transposed(), Matrix::row_major(&b, 3, 4));
        for (i, (&x, &y)) in out.iter().zip(&transposed).enumerate() {
            let (r, c) = (i / 4, i % 4);
            let expected: f32 = 2.0 + (0..3).map(|j| a[r * 3 + j] * b[j * 4 + c]).sum::<f32>();
            assert!((x - expected).abs() < 1e-5 && (y - expected).abs() < 1e-5, "({r}, {c})");
        }
    }

    #[test]
    fn exp_is_close_to_the_library_and_ends_at_zero() {
        for i in -87_000..88_000 {
            let x = i as f32 / 1000.0;
            let (got, expected) = (exp(x), f64::from(x).exp());
            assert!((f64::from(got) / expected - 1.0).abs() < 3e-7, "{x}: {got} {expected}");
        }
        assert_eq!([exp(-87.1), exp(f32::NEG_INFINITY), exp(0.0)], [0.0, 0.0, 1.0]);
        assert!(exp(f32::INFINITY).is_finite());
    }

    #[test]
    fn sums_and_maxima_cover_the_rest() {
        let xs: Vec<f32> = (0..37).map(|x| (x % 23) as f32).collect();
        assert_eq!(max(&xs), 22.0);
        assert_eq!(sum(&xs), xs.iter().map(|&x| f64::from(x)).sum::<f64>());
        assert_eq!(max(&[]), f32::NEG_INFINITY);
        assert_eq!(max(&[f32::NAN, -1.0]), -1.0);
    }
}
