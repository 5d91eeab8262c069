//! `y = x · Wᵀ + b` and its gradients. `W` is `(out, in)` as in the weights file, `x` is `(rows, in)`.

use spar::kernels::Matrix;

use super::product::Products;
use super::vector::add;

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
    pub fn forward(self, products: &mut Products, y: &mut [f32], x: &[f32], weight: &[f32]) {
        let rows = x.len() / self.input;
        products.matmul(y, 0.0, Matrix::row_major(x, rows, self.input), self.weight(weight).transposed());
    }

    /// `y += x · Wᵀ`
    pub fn forward_add(self, products: &mut Products, y: &mut [f32], x: &[f32], weight: &[f32]) {
        let rows = x.len() / self.input;
        products.matmul(y, 1.0, Matrix::row_major(x, rows, self.input), self.weight(weight).transposed());
    }

    /// `y += b` of every row; nothing without one.
    pub fn add_bias(self, y: &mut [f32], bias: &[f32]) {
        if !bias.is_empty() {
            y.chunks_exact_mut(self.output).for_each(|y| add(y, bias));
        }
    }

    /// `db += Σ dy` over rows; nothing without one.
    pub fn backward_bias(self, dbias: &mut [f32], dy: &[f32]) {
        if !dbias.is_empty() {
            dy.chunks_exact(self.output).for_each(|dy| add(dbias, dy));
        }
    }

    /// `dx = dy · W`
    pub fn backward_input(self, products: &mut Products, dx: &mut [f32], dy: &[f32], weight: &[f32]) {
        let rows = dy.len() / self.output;
        products.matmul(dx, 0.0, Matrix::row_major(dy, rows, self.output), self.weight(weight));
    }

    /// `dW += dyᵀ · x`
    pub fn backward_weight(self, products: &mut Products, dw: &mut [f32], dy: &[f32], x: &[f32]) {
        let rows = dy.len() / self.output;
        let dy = Matrix::row_major(dy, rows, self.output);
        products.matmul(dw, 1.0, dy.transposed(), Matrix::row_major(x, rows, self.input));
    }
}
