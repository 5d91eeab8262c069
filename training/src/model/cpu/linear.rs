//! `y = x · Wᵀ` and its two gradients. `W` is `(out, in)` as in the weights file, `x` is `(rows, in)`.

use spar::kernels::{Matrix, matmul};

/// The sizes of a weight.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Columns of `x`.
    pub input: usize,
    /// Columns of `y`.
    pub output: usize,
}

impl Size {
    fn weight(self, weight: &[f32]) -> Matrix<'_> {
        Matrix::row_major(weight, self.output, self.input)
    }

    /// `y = x · Wᵀ`
    pub fn forward(self, y: &mut [f32], x: &[f32], weight: &[f32]) {
        let rows = x.len() / self.input;
        matmul(y, 0.0, Matrix::row_major(x, rows, self.input), self.weight(weight).transposed());
    }

    /// `y += x · Wᵀ`
    pub fn forward_add(self, y: &mut [f32], x: &[f32], weight: &[f32]) {
        let rows = x.len() / self.input;
        matmul(y, 1.0, Matrix::row_major(x, rows, self.input), self.weight(weight).transposed());
    }

    /// `dx = dy · W`
    pub fn backward_input(self, dx: &mut [f32], dy: &[f32], weight: &[f32]) {
        let rows = dy.len() / self.output;
        matmul(dx, 0.0, Matrix::row_major(dy, rows, self.output), self.weight(weight));
    }

    /// `dW += dyᵀ · x`
    pub fn backward_weight(self, dw: &mut [f32], dy: &[f32], x: &[f32]) {
        let rows = dy.len() / self.output;
        let dy = Matrix::row_major(dy, rows, self.output);
        matmul(dw, 1.0, dy.transposed(), Matrix::row_major(x, rows, self.input));
    }
}
