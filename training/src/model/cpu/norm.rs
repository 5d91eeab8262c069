//! RMSNorm: `y = w · x · r` with `r = 1 / sqrt(mean(x²) + ε)`.

use super::vector::dot;

/// Normalises each row of `x` `(rows, hidden)` into `y`, and keeps `r` of each row.
pub fn forward(y: &mut [f32], r: &mut [f32], x: &[f32], weight: &[f32], eps: f32) {
    let hidden = weight.len();
    for ((y, x), r) in y.chunks_exact_mut(hidden).zip(x.chunks_exact(hidden)).zip(r) {
        *r = 1.0 / (dot(x, x) / hidden as f32 + eps).sqrt();
        for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
            *y = w * (x * *r);
        }
    }
}

/// The gradient, added to `dx`; `dw` collects over rows where it is wanted, `dy` is used up:
/// `dx = r · (w·dy) - x · r³ · mean(w·dy·x)` and `dw = dy · x · r`.
pub fn backward(dx: &mut [f32], dw: Option<&mut [f32]>, dy: &mut [f32], x: &[f32], weight: &[f32], r: &[f32]) {
    let hidden = weight.len();
    if let Some(dw) = dw {
        for ((dy, x), &r) in dy.chunks_exact(hidden).zip(x.chunks_exact(hidden)).zip(r) {
            for ((dw, dy), x) in dw.iter_mut().zip(dy).zip(x) {
                *dw += dy * x * r;
            }
        }
    }
    let rows = dx.chunks_exact_mut(hidden).zip(dy.chunks_exact_mut(hidden)).zip(x.chunks_exact(hidden));
    for (((dx, dy), x), &r) in rows.zip(r) {
        dy.iter_mut().zip(weight).for_each(|(dy, w)| *dy *= w);
        let pull = dot(dy, x) * r * r * r / hidden as f32;
        for ((dx, dy), x) in dx.iter_mut().zip(dy.iter()).zip(x) {
            *dx += r * dy - pull * x;
        }
    }
}
