//! SwiGLU: `y = silu(gate) · up` with `silu(g) = g · sigmoid(g)`; a row holds its gates, then its ups.

use super::vector::sigmoid;

/// `gate_up` is `(rows, 2 · inner)`, `y` is `(rows, inner)`.
pub fn forward(y: &mut [f32], gate_up: &[f32], inner: usize) {
    for (y, row) in y.chunks_exact_mut(inner).zip(gate_up.chunks_exact(2 * inner)) {
        let (gate, up) = row.split_at(inner);
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = g * sigmoid(*g) * u;
        }
    }
}

/// Turns `gate_up` into its gradient, given `dy`: `dup = silu(g) · dy` and
/// `dg = up · dy · s · (1 + g · (1 - s))` with `s = sigmoid(g)`.
pub fn backward(gate_up: &mut [f32], dy: &[f32], inner: usize) {
    for (row, dy) in gate_up.chunks_exact_mut(2 * inner).zip(dy.chunks_exact(inner)) {
        let (gate, up) = row.split_at_mut(inner);
        backward_row(gate, up, dy);
    }
}

/// Computes one row. It is not inlined: over many rows gates and ups interleave, and the compiler would have to doubt that
/// they are apart.
#[inline(never)]
fn backward_row(gate: &mut [f32], up: &mut [f32], dy: &[f32]) {
    for ((g, u), dy) in gate.iter_mut().zip(up).zip(dy) {
        let (gate, up, s) = (*g, *u, sigmoid(*g));
        *g = up * dy * s * (1.0 + gate * (1.0 - s));
        *u = gate * s * dy;
    }
}
