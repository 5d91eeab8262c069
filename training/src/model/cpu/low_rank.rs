//! Low-rank additions to a layer's products and their gradients: `y += scale · drop(x) · Aᵀ · Bᵀ`.

use spar::engine::derive_seed;
use spar::kernels::Matrix;

use super::product::Products;
use super::vector::{add, scale};
use crate::model::DenseConfig;
use crate::model::lora::{LoraConfig, Module};

/// The factors of one product: weights or gradients.
#[derive(Debug)]
pub struct Factors<S> {
    /// `(rank, in)`
    pub a: S,
    /// `(out, rank)`
    pub b: S,
}

/// The factors of a layer, by [`Module`].
pub type LayerFactors<S> = [Option<Factors<S>>; 7];

/// What the backward pass needs of one product's forward pass.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// The input after dropout; empty where nothing is dropped.
    dropped: Vec<f32>,
    /// `scale · x · Aᵀ`, `(rows, rank)`.
    low: Vec<f32>,
}

/// Where additions are made: a layer's factors, what is kept of them, and what decides their dropout (nothing is dropped
/// without a seed).
#[derive(Debug)]
pub struct Place<'a> {
    pub factors: &'a LayerFactors<&'a [f32]>,
    pub kept: &'a mut [Kept; 7],
    pub seed: Option<u64>,
}

/// What a backward step reads and writes.
#[derive(Debug)]
pub struct BackStep<'a> {
    /// `(rows, in)`, added to.
    pub dx: &'a mut [f32],
    /// Whole rows of the output's gradient.
    pub dy: &'a [f32],
    /// `(rows, in)`
    pub x: &'a [f32],
}

/// The columns of a product's output within a row.
#[derive(Clone, Copy, Debug)]
pub struct Columns {
    first: usize,
    count: usize,
    /// Columns of the whole row.
    width: usize,
}

/// Sizes, and buffers that all layers share.
#[derive(Debug)]
pub struct LowRank {
    config: LoraConfig,
    /// Rows and columns of each module's weight.
    shapes: [[usize; 2]; 7],
    columns: [Columns; 7],
    addition: Vec<f32>,
    dlow: Vec<f32>,
    dx: Vec<f32>,
}

impl LowRank {
    pub fn new(config: &DenseConfig, lora: &LoraConfig) -> Self {
        let shapes = Module::ALL.map(|module| module.shape(config));
        let out = |module: Module| shapes[module as usize][0];
        let columns = Module::ALL.map(|module| {
            // Query, key and value share a row, and so do gate and up.
            let row: &[Module] = match module {
                Module::Query | Module::Key | Module::Value => &Module::ALL[..3],
                Module::Gate | Module::Up => &Module::ALL[4..6],
                Module::Output => &Module::ALL[3..4],
                Module::Down => &Module::ALL[6..],
            };
            Columns {
                first: row.iter().take_while(|&&m| m != module).map(|&m| out(m)).sum(),
                count: out(module),
                width: row.iter().map(|&m| out(m)).sum(),
            }
        });
        Self { config: lora.clone(), shapes, columns, addition: Vec::new(), dlow: Vec::new(), dx: Vec::new() }
    }

    /// Splits a layer's range of the adapter's flat vector.
    pub fn weights<'a>(&self, mut flat: &'a [f32]) -> LayerFactors<&'a [f32]> {
        self.lengths().map(|lengths| {
            let mut take = |len: usize| flat.split_off(..len).expect("the range of a layer");
            lengths.map(|[a, b]| Factors { a: take(a), b: take(b) })
        })
    }

    /// Splits a layer's range of the adapter's flat gradient.
    pub fn gradients<'a>(&self, mut flat: &'a mut [f32]) -> LayerFactors<&'a mut [f32]> {
        self.lengths().map(|lengths| {
            let mut take = |len: usize| flat.split_off_mut(..len).expect("the range of a layer");
            lengths.map(|[a, b]| Factors { a: take(a), b: take(b) })
        })
    }

    fn lengths(&self) -> [Option<[usize; 2]>; 7] {
        let rank = self.config.rank;
        Module::ALL.map(|module| {
            let [out, input] = self.shapes[module as usize];
            self.config.has(module).then_some([rank * input, out * rank])
        })
    }

    /// Adds to the modules' columns of `y`, from `x` `(rows, in)`.
    pub fn forward(
        &mut self,
        products: &mut Products,
        modules: &[Module],
        y: &mut [f32],
        x: &[f32],
        at: &mut Place<'_>,
    ) {
        for &module in modules {
            let Some(factors) = &at.factors[module as usize] else { continue };
            let kept = &mut at.kept[module as usize];
            let (rank, [out, input]) = (self.config.rank, self.shapes[module as usize]);
            let rows = x.len() / input;
            kept.dropped.clear();
            if let Some(seed) = at.seed.filter(|_| self.config.dropout > 0.0) {
                kept.dropped.extend_from_slice(x);
                drop_out(&mut kept.dropped, self.config.dropout, derive_seed(seed, module as u64));
            }
            let x = if kept.dropped.is_empty() { x } else { &kept.dropped };
            kept.low.resize(rows * rank, 0.0);
            let a = Matrix::row_major(factors.a, rank, input).transposed();
            products.matmul(&mut kept.low, 0.0, Matrix::row_major(x, rows, input), a);
            scale(&mut kept.low, self.config.scale());
            self.addition.resize(rows * out, 0.0);
            let b = Matrix::row_major(factors.b, out, rank).transposed();
            products.matmul(&mut self.addition, 0.0, Matrix::row_major(&kept.low, rows, rank), b);
            let Columns { first, count, width } = self.columns[module as usize];
            for (y, addition) in y.chunks_exact_mut(width).zip(self.addition.chunks_exact(count)) {
                add(&mut y[first..first + count], addition);
            }
        }
    }

    /// Adds to the modules' gradients and to `dx`, given `dy`, the gradient of whole rows of the output:
    /// `dB += dyᵀ · low`, `dlow = scale · dy · B`, `dA += dlowᵀ · x`, `dx += dlow · A`.
    pub fn backward(
        &mut self,
        products: &mut Products,
        modules: &[Module],
        gradient: &mut LayerFactors<&mut [f32]>,
        step: BackStep<'_>,
        at: &Place<'_>,
    ) {
        let BackStep { dx, dy, x } = step;
        for &module in modules {
            let index = module as usize;
            let (Some(factors), Some(gradient)) = (&at.factors[index], &mut gradient[index]) else { continue };
            let kept = &at.kept[index];
            let (rank, [out, input]) = (self.config.rank, self.shapes[index]);
            let rows = x.len() / input;
            let Columns { first, width, .. } = self.columns[index];
            let dy = Matrix { data: &dy[first..], rows, columns: out, row_stride: width, column_stride: 1 };
            products.matmul(gradient.b, 1.0, dy.transposed(), Matrix::row_major(&kept.low, rows, rank));
            self.dlow.resize(rows * rank, 0.0);
            products.matmul(&mut self.dlow, 0.0, dy, Matrix::row_major(factors.b, out, rank));
            scale(&mut self.dlow, self.config.scale());
            let dlow = Matrix::row_major(&self.dlow, rows, rank);
            let a = Matrix::row_major(factors.a, rank, input);
            if kept.dropped.is_empty() {
                products.matmul(gradient.a, 1.0, dlow.transposed(), Matrix::row_major(x, rows, input));
                products.matmul(dx, 1.0, dlow, a);
            } else {
                products.matmul(gradient.a, 1.0, dlow.transposed(), Matrix::row_major(&kept.dropped, rows, input));
                self.dx.resize(rows * input, 0.0);
                products.matmul(&mut self.dx, 0.0, dlow, a);
                let seed = derive_seed(at.seed.unwrap_or_default(), module as u64);
                drop_out(&mut self.dx, self.config.dropout, seed);
                add(dx, &self.dx);
            }
        }
    }
}

/// Sets each element to 0 with probability `rate` and divides the others by `1 - rate`; which ones depends on the seed only.
fn drop_out(x: &mut [f32], rate: f64, seed: u64) {
    let threshold = (rate * f64::from(u32::MAX)) as u32;
    let factor = (1.0 / (1.0 - rate)) as f32;
    for (i, pair) in x.chunks_mut(2).enumerate() {
        let bits = derive_seed(seed, i as u64);
        for (x, bits) in pair.iter_mut().zip([bits as u32, (bits >> 32) as u32]) {
            *x = if bits < threshold { 0.0 } else { *x * factor };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropout_keeps_the_mean_and_repeats() {
        let mut x = vec![1.0; 100_000];
        drop_out(&mut x, 0.25, 7);
        let zeros = x.iter().filter(|&&x| x == 0.0).count();
        assert!((24_000..26_000).contains(&zeros), "{zeros}");
        assert!((x.iter().sum::<f32>() / 1e5 - 1.0).abs() < 0.02);
        let mut again = vec![1.0; 100_000];
        drop_out(&mut again, 0.25, 7);
        assert_eq!(x, again);
    }
}
