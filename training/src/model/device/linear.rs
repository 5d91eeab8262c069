//! What is trained, and products with an adapter's low-rank addition: `y = x · Wᵀ + b + scale · drop(x) · Aᵀ · Bᵀ`.

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
    /// `(out)`
    pub(super) bias: Option<Slot>,
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
    /// The input after dropout, where something was dropped.
    dropped: Option<Tensor>,
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

/// Outputs of products that have one input `x`, `(rows, in)`, with their additions, each added to `stream` where that is given.
/// `seeds` decide what is dropped; nothing without them.
pub(super) fn forward(
    products: &[Linear],
    x: &Tensor,
    stream: Option<&Tensor>,
    seeds: impl Fn(usize) -> Option<u64>,
) -> Result<(Vec<Tensor>, Vec<Option<Kept>>)> {
    let mut smalls: Vec<Option<Kept>> = products.iter().map(|_| None).collect();
    let seeds: Vec<Option<u64>> = (0..products.len()).map(|i| seeds(i).filter(|_| products[i].drops())).collect();
    let together: Vec<usize> =
        (0..products.len()).filter(|&i| products[i].low.is_some() && seeds[i].is_none()).collect();
    if let Some((a, scale)) = factors(products, &together)? {
        let small = (x.matmul(&a.t()?)? * scale)?;
        let rank = a.dim(0)? / together.len();
        for (place, &i) in together.iter().enumerate() {
            let low = small.narrow(1, place * rank, rank)?.contiguous()?;
            smalls[i] = Some(Kept { dropped: None, low, seed: None });
        }
    }
    let mut outputs = Vec::new();
    for (i, product) in products.iter().enumerate() {
        if let (Some(low), Some(seed)) = (&product.low, seeds[i]) {
            let dropped = drop_out(x, low.dropout, seed)?;
            let small = (dropped.matmul(&low.a.value.t()?)? * low.scale)?;
            smalls[i] = Some(Kept { dropped: Some(dropped), low: small, seed: Some(seed) });
        }
        // The large product last: it adds to the old values at no cost.
        let mut sum = stream.map(Tensor::copy).transpose()?;
        if let (Some(low), Some(kept)) = (&product.low, &smalls[i]) {
            sum = Some(plus(sum, &kept.low, &low.b.value.t()?)?);
        }
        let output = plus(sum, x, &product.weight.value.t()?)?;
        outputs.push(match &product.bias {
            Some(bias) => output.broadcast_add(&bias.value)?,
            None => output,
        });
    }
    Ok((outputs, smalls))
}

/// Adds the weights' gradients, computed from the outputs' gradients, and returns the input's gradient.
pub(super) fn backward(products: &mut [Linear], dys: &[&Tensor], x: &Tensor, kept: &[Option<Kept>]) -> Result<Tensor> {
    let together: Vec<usize> =
        (0..products.len()).filter(|&i| kept[i].as_ref().is_some_and(|kept| kept.seed.is_none())).collect();
    let mut dx: Option<Tensor> = None;
    let mut smalls = Vec::new();
    for ((product, dy), kept) in products.iter_mut().zip(dys).zip(kept) {
        product.weight.learn_weight(dy, x)?;
        if let Some(bias) = &mut product.bias {
            bias.learn_sum(|| dy.to_dtype(DType::F32)?.sum(0))?;
        }
        let (Some(low), Some(kept)) = (&mut product.low, kept) else { continue };
        low.b.learn_weight(dy, &kept.low)?;
        let small = (dy.matmul(&low.b.value)? * low.scale)?;
        match (kept.seed, &kept.dropped) {
            (Some(seed), Some(dropped)) => {
                low.a.learn_weight(&small, dropped)?;
                let more = drop_out(&small.matmul(&low.a.value)?, low.dropout, seed)?;
                dx = Some(match dx {
                    Some(dx) => (dx + more)?,
                    None => more,
                });
            }
            _ => smalls.push(small),
        }
    }
    if let Some((a, _)) = factors(products, &together)? {
        let small = Tensor::cat(&smalls, 1)?;
        let zeros = Tensor::zeros(a.shape(), DType::F32, a.device())?;
        let gradient = add_product(zeros, &small.t()?, x)?;
        let rank = a.dim(0)? / together.len();
        for (place, &i) in together.iter().enumerate() {
            let low = products[i].low.as_mut().expect("it has factors");
            low.a.learn_sum(|| gradient.narrow(0, place * rank, rank)?.copy())?;
        }
        dx = Some(plus(dx, &small, &a)?);
    }
    for (product, dy) in products.iter().zip(dys) {
        dx = Some(plus(dx, dy, &product.weight.value)?);
    }
    dx.ok_or_else(|| candle_core::Error::Msg("there are no products".into()))
}

/// `sum + a · b`, or `a · b` without a sum.
fn plus(sum: Option<Tensor>, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    sum.map_or_else(|| a.matmul(b), |sum| add_product(sum, a, b))
}

/// The factors `A` of some products below one another, and what they have in common: an adapter's scale.
fn factors(products: &[Linear], which: &[usize]) -> Result<Option<(Tensor, f64)>> {
    let lows: Vec<&Low> = which.iter().filter_map(|&i| products[i].low.as_ref()).collect();
    let Some(first) = lows.first() else { return Ok(None) };
    let a: Vec<&Tensor> = lows.iter().map(|low| &low.a.value).collect();
    Ok(Some((if let [one] = a.as_slice() { (*one).clone() } else { Tensor::cat(&a, 0)? }, first.scale)))
}

impl Linear {
    /// Whether a step leaves something out.
    fn drops(&self) -> bool {
        self.low.as_ref().is_some_and(|low| low.dropout > 0.0)
    }
}
