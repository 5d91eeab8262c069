//! Arithmetic on `f32` slices that the tree engine and the trainer share.

/// A matrix in a slice: element `(r, c)` is at `r * row_stride + c * column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements.
    pub data: &'a [f32],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after another.
    pub fn row_major(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The same elements with rows and columns exchanged.
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
/// When shapes disagree or a slice is too short.
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
    // SAFETY: every index that gemm touches is at most `last()`, which is within the slice; strides are in elements.
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
}
