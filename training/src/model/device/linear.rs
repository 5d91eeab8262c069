//! What is trained, and products with an adapter's low-rank addition: `y = x · Wᵀ + scale · drop(x) · Aᵀ · Bᵀ`.

use candle_core::{DType, Result, Tensor};

use super::ops::{add_product, drop_out};

/// A tensor, and its gradient in `f32` where it is trained and something was added.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) value: Tensor,
    pub(super) gradient: Option<Tensor>,
    pub(super) trained: bool,
}

/// A product of a layer.
#[derive(Debug)]
pub(super) struct Linear {
    /// `(out, in)`
    pub(super) weight: Slot,
    pub(super) low: Option<Low>,
}

/// An adapter's factors of a product.
#[derive(Debug)]
pub(super) struct Low {
    /// `(rank, in)`
    pub(super) a: Slot,
    /// `(out, rank)`
    pub(super) b: Slot,
    pub(super) scale: f64,
    pub(super) dropout: f64,
}

/// What the backward pass needs of an addition's forward pass.
#[derive(Debug)]
pub(super) struct Kept {
    /// The input after dropout.
    dropped: Tensor,
    /// `scale · drop(x) · Aᵀ`, `(rows, rank)`.
    low: Tensor,
    /// What decided the dropout.
    seed: Option<u64>,
}

impl Slot {
    pub(super) fn new(value: Tensor, trained: bool) -> Self {
        Self { value, gradient: None, trained }
    }

    /// Adds `a · b` to the gradient, where it is wanted.
    fn learn(&mut self, a: &Tensor, b: &Tensor) -> Result<()> {
        if self.trained {
            let sum = match self.gradient.take() {
                Some(sum) => sum,
                None => Tensor::zeros(self.value.shape(), DType::F32, self.value.device())?,
            };
            self.gradient = Some(add_product(sum, a, b)?);
        }
        Ok(())
    }

    /// Adds to the gradient what `compute` gives, where it is wanted.
    pub(super) fn learn_sum(&mut self, compute: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        if self.trained {
            let more = compute()?;
            self.gradient = Some(match self.gradient.take() {
                Some(sum) => (sum + more)?,
                None => more,
            });
        }
        Ok(())
    }

    /// [`Slot::learn`] of a weight: `dyᵀ · x`.
    pub(super) fn learn_weight(&mut self, dy: &Tensor, x: &Tensor) -> Result<()> {
        self.learn(&dy.t()?, x)
    }
}

impl Linear {
    /// `x · Wᵀ` and the addition of `x`, `(rows, in)`. `seed` decides what is dropped; nothing without it.
    pub(super) fn forward(&self, x: &Tensor, seed: Option<u64>) -> Result<(Tensor, Option<Kept>)> {
        let y = x.matmul(&self.weight.value.t()?)?;
        let Some(low) = &self.low else { return Ok((y, None)) };
        let seed = seed.filter(|_| low.dropout > 0.0);
        let dropped = match seed {
            Some(seed) => drop_out(x, low.dropout, seed)?,
            None => x.clone(),
        };
        let small = (dropped.matmul(&low.a.value.t()?)? * low.scale)?;
        let y = add_product(y, &small, &low.b.value.t()?)?;
        Ok((y, Some(Kept { dropped, low: small, seed })))
    }

    /// Adds the weights' gradients, given that of the output, and returns that of the input added to `dx`.
    pub(super) fn backward(
        &mut self,
        dx: Option<Tensor>,
        dy: &Tensor,
        x: &Tensor,
        kept: Option<&Kept>,
    ) -> Result<Tensor> {
        self.weight.learn_weight(dy, x)?;
        let dx = match dx {
            Some(dx) => add_product(dx, dy, &self.weight.value)?,
            None => dy.matmul(&self.weight.value)?,
        };
        let (Some(low), Some(kept)) = (&mut self.low, kept) else { return Ok(dx) };
        low.b.learn_weight(dy, &kept.low)?;
        let small = (dy.matmul(&low.b.value)? * low.scale)?;
        low.a.learn_weight(&small, &kept.dropped)?;
        match kept.seed {
            Some(seed) => dx + drop_out(&small.matmul(&low.a.value)?, low.dropout, seed)?,
            None => add_product(dx, &small, &low.a.value),
        }
    }
}
