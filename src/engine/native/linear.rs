//! A packed matrix with its bias, and how it is read from the checkpoint.

use safetensors::Dtype;

use crate::kernels::packed::{Format, Matrix, Packed, Workspace};
use crate::weights::gguf::kind::{Blocks, iq4_nl};
use crate::weights::{ModelError, Weights};

use super::config::Quantize;

/// A product of rows with a matrix, and a bias that is added to it.
pub(super) struct Linear {
    pub(super) weight: Packed,
    pub(super) bias: Option<Vec<f32>>,
}

impl Linear {
    pub(super) fn apply(&self, a: &[f32], out: &mut [f32], workspace: &mut Workspace) {
        self.weight.multiply(a, out, workspace);
        self.add_bias(out);
    }

    pub(super) fn add(&self, a: &[f32], out: &mut [f32], workspace: &mut Workspace) {
        self.weight.multiply_add(a, out, workspace);
        self.add_bias(out);
    }

    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            for row in out.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(x, b)| *x += b);
            }
        }
    }
}

/// Matrices side by side, as the checkpoint has them, or smaller where `quantize` says so. Blocks of a file stay as they are: no
/// other type is both smaller and as exact.
pub(super) fn packed(
    weights: &Weights,
    names: &[&str],
    inner: usize,
    quantize: Quantize,
) -> Result<Packed, ModelError> {
    let format = match quantize {
        Quantize::None => Format::F32,
        Quantize::Q8 => Format::Q8,
        Quantize::Q4 if inner.is_multiple_of(Blocks::Iq4Nl.block().0) => return in_four_bits(weights, names, inner),
        Quantize::Q4 => Format::Q8,
    };
    let mut blocks = names.iter().map(|name| weights.blocks(name)).collect::<Result<Vec<_>, _>>()?;
    if blocks.iter().all(Option::is_none) {
        let parts: Vec<_> = names.iter().map(|name| weights.read(name)).collect::<Result<_, _>>()?;
        let slices: Vec<&[f32]> = parts.iter().map(Vec::as_slice).collect();
        return Ok(Packed::new(&slices, inner, format.min(own_format(weights, names))));
    }
    let plain = |(name, blocks): (&&str, &Option<_>)| match blocks {
        None => weights.read(name),
        Some(_) => Ok(Vec::new()),
    };
    let numbers: Vec<Vec<f32>> = names.iter().zip(&blocks).map(plain).collect::<Result<_, _>>()?;
    let parts = names.iter().zip(&mut blocks).zip(&numbers).map(|((name, blocks), numbers)| match blocks.take() {
        Some((kind, rows)) => Matrix::Blocks(kind, rows),
        None => Matrix::Numbers(numbers, format.min(own_format(weights, &[name]))),
    });
    Ok(Packed::of_parts(&parts.collect::<Vec<_>>(), inner))
}

/// Matrices side by side in 4 bits, but for those that their file has in blocks.
fn in_four_bits(weights: &Weights, names: &[&str], inner: usize) -> Result<Packed, ModelError> {
    let kind = Blocks::Iq4Nl;
    let (numbers, size) = kind.block();
    let own = names.iter().map(|name| weights.blocks(name)).collect::<Result<Vec<_>, _>>()?;
    let encoded = |(name, own): (&&str, &Option<_>)| match own {
        None => Ok(iq4_nl(&weights.read(name)?)),
        Some(_) => Ok(Vec::new()),
    };
    let encoded: Vec<Vec<u8>> = names.iter().zip(&own).map(encoded).collect::<Result<_, ModelError>>()?;
    let parts = own.into_iter().zip(&encoded).map(|(own, encoded)| match own {
        Some((kind, rows)) => Matrix::Blocks(kind, rows),
        None => Matrix::Blocks(kind, encoded.chunks_exact(inner / numbers * size).collect()),
    });
    Ok(Packed::of_parts(&parts.collect::<Vec<_>>(), inner))
}

/// The type that keeps all of these tensors as they are.
fn own_format(weights: &Weights, names: &[&str]) -> Format {
    let format = |name: &&str| match weights.dtype(name) {
        Some(Dtype::F16) => Format::F16,
        Some(Dtype::BF16) => Format::Bf16,
        _ => Format::F32,
    };
    let mut formats = names.iter().map(format);
    let first = formats.next().unwrap_or(Format::F32);
    if formats.all(|other| other == first) { first } else { Format::F32 }
}
