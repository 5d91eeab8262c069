//! The precision in which matrices are multiplied.

use serde::{Deserialize, Serialize};
use spar::kernels::{self, Matrix};

use super::bf16;

/// The precision of the factors of matrix products. Everything else, sums and weights included, is `f32`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// Factors are exact.
    #[default]
    F32,
    /// Factors rounded to 8 bits of precision, at twice the rate; `f32` on machines without the instructions.
    Bf16,
}

impl Arithmetic {
    /// What this machine will do when asked for it.
    #[must_use]
    pub fn here(self) -> Self {
        if bf16::available() { self } else { Self::F32 }
    }
}

/// A way to multiply, with its buffers.
#[derive(Debug)]
pub struct Products {
    arithmetic: Arithmetic,
    panels: bf16::Panels,
}

impl Products {
    /// Products in that precision, or in `f32` where the machine lacks it.
    #[must_use]
    pub fn new(arithmetic: Arithmetic) -> Self {
        Self { arithmetic: arithmetic.here(), panels: bf16::Panels::default() }
    }

    /// `out = keep * out + a · b`; `out` is row-major `(a.rows, b.columns)`.
    pub fn matmul(&mut self, out: &mut [f32], keep: f32, a: Matrix<'_>, b: Matrix<'_>) {
        match self.arithmetic {
            Arithmetic::F32 => kernels::matmul(out, keep, a, b),
            Arithmetic::Bf16 => bf16::matmul(&mut self.panels, out, keep, a, b),
        }
    }
}
