//! The types of a GGUF tensor's numbers, and how their blocks become values and scales.

mod encode;

pub use self::encode::iq4_nl;
use half::{bf16, f16};
use safetensors::Dtype;

/// A type of numbers that is computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Single numbers, as safetensors files have them.
    Plain(Dtype),
    /// Numbers in blocks that share scales.
    Blocks(Blocks),
}

/// A type whose numbers are kept in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// 4 bits around zero, a scale for each 32.
    Q4_0,
    /// 4 bits, a scale and an offset for each 32.
    Q4_1,
    /// 5 bits around zero, a scale for each 32.
    Q5_0,
    /// 5 bits, a scale and an offset for each 32.
    Q5_1,
    /// 8 bits, a scale for each 32.
    Q8_0,
    /// 2 bits, a scale and an offset for each 16.
    Q2K,
    /// 3 bits around zero, a scale for each 16.
    Q3K,
    /// 4 bits, a scale and an offset for each 32, both in 6 bits.
    Q4K,
    /// 5 bits, a scale and an offset for each 32, both in 6 bits.
    Q5K,
    /// 6 bits around zero, a scale for each 16.
    Q6K,
    /// 4 bits that name one of 16 values, a scale for each 32.
    Iq4Nl,
}

/// The largest number of values in a block.
pub const LARGEST: usize = 256;

/// The values of [`Blocks::Iq4Nl`].
const IQ4_VALUES: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// A decoded block. Values share scales in groups: a number is `value * (scale * step) - minimum * lift`, with the step and the
/// lift of its group. All products are exact in `f32` for every type, so that fused and separate arithmetic give the same number.
pub struct Steps {
    /// Whole numbers; of types with 4 bits or fewer, each is one of [`Blocks::table`]'s.
    pub values: [i8; LARGEST],
    /// The block's scale.
    pub scale: f32,
    /// What is subtracted, times the lift.
    pub minimum: f32,
    /// A factor for each group; 1 for types that have none.
    pub steps: [i8; LARGEST / 16],
    /// A factor for each group; 1 for types that have none.
    pub lifts: [u8; LARGEST / 16],
}

impl Steps {
    /// Steps of zeros.
    pub const ZERO: Self =
        Self { values: [0; LARGEST], scale: 0.0, minimum: 0.0, steps: [1; LARGEST / 16], lifts: [1; LARGEST / 16] };
}

impl Kind {
    /// The type with this number in a file, or else its name.
    ///
    /// # Errors
    /// Returns the name of a type that is not supported, or a name made of an unknown number.
    pub fn new(id: u32) -> Result<Self, String> {
        use Blocks::{Iq4Nl, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        Ok(match id {
            0 => Self::Plain(Dtype::F32),
            1 => Self::Plain(Dtype::F16),
            30 => Self::Plain(Dtype::BF16),
            2 => Self::Blocks(Q4_0),
            3 => Self::Blocks(Q4_1),
            6 => Self::Blocks(Q5_0),
            7 => Self::Blocks(Q5_1),
            8 => Self::Blocks(Q8_0),
            10 => Self::Blocks(Q2K),
            11 => Self::Blocks(Q3K),
            12 => Self::Blocks(Q4K),
            13 => Self::Blocks(Q5K),
            14 => Self::Blocks(Q6K),
            20 => Self::Blocks(Iq4Nl),
            other => return Err(foreign_name(other)),
        })
    }

    /// The type that holds these numbers in a safetensors file.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::Plain(dtype) => dtype,
            Self::Blocks(_) => Dtype::F16,
        }
    }

    /// A type that is not read as numbers.
    pub fn foreign(self) -> Option<Dtype> {
        match self {
            Self::Plain(Dtype::F32 | Dtype::F16 | Dtype::BF16) | Self::Blocks(_) => None,
            Self::Plain(other) => Some(other),
        }
    }

    /// A row's numbers in `f32`.
    ///
    /// # Panics
    /// Panics when the lengths do not fit, or for a type that is not read as numbers.
    pub fn read(self, bytes: &[u8], out: &mut [f32]) {
        let mut pairs = |convert: fn([u8; 2]) -> f32| {
            out.iter_mut().zip(bytes.as_chunks::<2>().0).for_each(|(x, &pair)| *x = convert(pair));
        };
        match self {
            Self::Plain(Dtype::F32) => {
                out.iter_mut().zip(bytes.as_chunks::<4>().0).for_each(|(x, &b)| *x = f32::from_le_bytes(b));
            }
            Self::Plain(Dtype::F16) => pairs(|pair| f16::from_le_bytes(pair).to_f32()),
            Self::Plain(Dtype::BF16) => pairs(|pair| bf16::from_le_bytes(pair).to_f32()),
            Self::Plain(other) => panic!("{other:?} is not read as numbers"),
            Self::Blocks(blocks) => blocks.dequantize(bytes, out),
        }
    }

    /// Numbers in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Plain(Dtype::F32) => (1, 4),
            Self::Plain(_) => (1, 2),
            Self::Blocks(blocks) => blocks.block(),
        }
    }
}

/// The name of a type that is not computed with.
fn foreign_name(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        40 => "NVFP4",
        other => return format!("number {other}"),
    };
    name.into()
}

impl Blocks {
    /// Numbers in a block, and its bytes.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::Q4_0 | Self::Iq4Nl => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (256, 84),
            Self::Q3K => (256, 110),
            Self::Q4K => (256, 144),
            Self::Q5K => (256, 176),
            Self::Q6K => (256, 210),
        }
    }

    /// Numbers that share a scale.
    pub fn group(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            _ => 32,
        }
    }

    /// Decodes a block.
    ///
    /// # Panics
    /// Panics when `bytes` is shorter than a block.
    pub fn decode(self, bytes: &[u8], steps: &mut Steps) {
        match self {
            Self::Q4_0 => {
                steps.scaled(half_at(bytes, 0), 0.0);
                nibbles(&bytes[2..18], &mut steps.values, |q| q as i8 - 8);
            }
            Self::Q4_1 => {
                steps.scaled(half_at(bytes, 0), -half_at(bytes, 2));
                nibbles(&bytes[4..20], &mut steps.values, |q| q as i8);
            }
            Self::Q5_0 => {
                steps.scaled(half_at(bytes, 0), 0.0);
                nibbles(&bytes[6..22], &mut steps.values, |q| q as i8 - 16);
                fifth_bits(&bytes[2..6], &mut steps.values);
            }
            Self::Q5_1 => {
                steps.scaled(half_at(bytes, 0), -half_at(bytes, 2));
                nibbles(&bytes[8..24], &mut steps.values, |q| q as i8);
                fifth_bits(&bytes[4..8], &mut steps.values);
            }
            Self::Q8_0 => {
                steps.scaled(half_at(bytes, 0), 0.0);
                steps.values.iter_mut().zip(&bytes[2..34]).for_each(|(value, &byte)| *value = byte as i8);
            }
            Self::Iq4Nl => {
                steps.scaled(half_at(bytes, 0), 0.0);
                nibbles(&bytes[2..18], &mut steps.values, |q| IQ4_VALUES[usize::from(q)]);
            }
            Self::Q2K => decode_q2k(bytes, steps),
            Self::Q3K => decode_q3k(bytes, steps),
            Self::Q4K => {
                six_bit_scales(bytes, steps);
                for (half, quarter) in bytes[16..144].chunks_exact(32).zip(steps.values.chunks_exact_mut(64)) {
                    let (low, high) = quarter.split_at_mut(32);
                    for ((low, high), byte) in low.iter_mut().zip(high).zip(half) {
                        (*low, *high) = ((byte & 15) as i8, (byte >> 4) as i8);
                    }
                }
            }
            Self::Q5K => {
                six_bit_scales(bytes, steps);
                let high_bits = &bytes[16..48];
                for (index, value) in steps.values.iter_mut().enumerate() {
                    // 64 values share 32 bytes of low bits; bit `g` of a high byte belongs to group `g`.
                    let (group, within) = (index / 32, index % 32);
                    let byte = bytes[48 + group / 2 * 32 + within];
                    let low = if group.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
                    *value = (low | ((high_bits[within] >> group) & 1) << 4) as i8;
                }
            }
            Self::Q6K => decode_q6k(bytes, steps),
        }
    }

    /// A row's numbers in `f32`.
    ///
    /// # Panics
    /// Panics when a block is cut off.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let (numbers, size) = self.block();
        assert!(out.len() / numbers * size == bytes.len() && out.len().is_multiple_of(numbers), "a block is cut off");
        let mut steps = Steps::ZERO;
        for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(numbers)) {
            self.decode(bytes, &mut steps);
            for (group, out) in out.chunks_exact_mut(self.group()).enumerate() {
                let scale = steps.scale * f32::from(steps.steps[group]);
                let offset = -(steps.minimum * f32::from(steps.lifts[group]));
                let values = &steps.values[group * self.group()..];
                for (x, &value) in out.iter_mut().zip(values) {
                    *x = f32::from(value) * scale + offset;
                }
            }
        }
    }

    /// The values that numbers of 4 bits or fewer stand for; none for larger types.
    pub fn table(self) -> Option<[i8; 16]> {
        let from = |first: i8| Some(std::array::from_fn(|i| first + i as i8));
        match self {
            Self::Q4_0 => from(-8),
            Self::Q4_1 | Self::Q4K | Self::Q2K => from(0),
            Self::Q3K => from(-4),
            Self::Iq4Nl => Some(IQ4_VALUES),
            Self::Q5_0 | Self::Q5_1 | Self::Q8_0 | Self::Q5K | Self::Q6K => None,
        }
    }

    /// Whether something is subtracted from numbers.
    pub fn has_minimum(self) -> bool {
        matches!(self, Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K)
    }

    /// Whether all numbers of a block are finite.
    pub fn is_finite(self, block: &[u8]) -> bool {
        let places: &[usize] = match self {
            Self::Q4_0 | Self::Q5_0 | Self::Q8_0 | Self::Iq4Nl => &[0],
            Self::Q4_1 | Self::Q5_1 | Self::Q4K | Self::Q5K => &[0, 2],
            Self::Q2K => &[80, 82],
            Self::Q3K => &[108],
            Self::Q6K => &[208],
        };
        places.iter().all(|&at| half_at(block, at).is_finite())
    }
}

impl Steps {
    fn scaled(&mut self, scale: f32, minimum: f32) {
        (self.scale, self.minimum) = (scale, minimum);
    }
}

fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// 32 values of 4 bits: the lower halves of 16 bytes, then the upper ones.
fn nibbles(bytes: &[u8], values: &mut [i8; LARGEST], value: impl Fn(u8) -> i8) {
    for (index, byte) in bytes.iter().enumerate() {
        values[index] = value(byte & 15);
        values[index + 16] = value(byte >> 4);
    }
}

/// Adds the fifth bits of 32 values.
fn fifth_bits(bytes: &[u8], values: &mut [i8; LARGEST]) {
    let bits = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    for (index, value) in values.iter_mut().take(32).enumerate() {
        *value += (((bits >> index) & 1) << 4) as i8;
    }
}

/// The scales and offsets of `Q4_K` and `Q5_K`: two halves, then 12 bytes with 8 scales and 8 offsets of 6 bits.
fn six_bit_scales(bytes: &[u8], steps: &mut Steps) {
    steps.scaled(half_at(bytes, 0), half_at(bytes, 2));
    let packed = &bytes[4..16];
    for (group, (step, lift)) in steps.steps.iter_mut().zip(&mut steps.lifts).take(8).enumerate() {
        let (scale, offset) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => {
                let low = packed[group + 4];
                ((low & 15) | ((packed[group - 4] >> 6) << 4), (low >> 4) | ((packed[group] >> 6) << 4))
            }
        };
        (*step, *lift) = (scale as i8, offset);
    }
}

/// Value `index` of 256 with 2 bits each: 128 values share 32 bytes, a quarter of each byte for every 32.
fn two_bits(bytes: &[u8], index: usize) -> u8 {
    let (half, within) = (index / 128, index % 128);
    (bytes[half * 32 + within % 32] >> (within / 32 * 2)) & 3
}

fn decode_q2k(bytes: &[u8], steps: &mut Steps) {
    let (scales, values) = (&bytes[..16], &bytes[16..80]);
    steps.scaled(half_at(bytes, 80), half_at(bytes, 82));
    for (group, &packed) in scales.iter().enumerate() {
        (steps.steps[group], steps.lifts[group]) = ((packed & 15) as i8, packed >> 4);
    }
    for (index, value) in steps.values.iter_mut().enumerate() {
        *value = two_bits(values, index) as i8;
    }
}

fn decode_q3k(bytes: &[u8], steps: &mut Steps) {
    let (high, values, packed) = (&bytes[..32], &bytes[32..96], &bytes[96..108]);
    steps.scaled(half_at(bytes, 108), 0.0);
    for (group, step) in steps.steps.iter_mut().enumerate() {
        let low = if group < 8 { packed[group] & 15 } else { packed[group - 8] >> 4 };
        let scale = low | ((packed[8 + group % 4] >> (group / 4 * 2)) & 3) << 4;
        *step = scale as i8 - 32;
    }
    for (index, value) in steps.values.iter_mut().enumerate() {
        // A high bit that is set means that nothing is subtracted.
        let set = (high[index % 32] >> (index / 32)) & 1;
        *value = two_bits(values, index) as i8 - if set == 1 { 0 } else { 4 };
    }
}

fn decode_q6k(bytes: &[u8], steps: &mut Steps) {
    let (low, high, scales) = (&bytes[..128], &bytes[128..192], &bytes[192..208]);
    steps.scaled(half_at(bytes, 208), 0.0);
    for (group, &scale) in scales.iter().enumerate() {
        steps.steps[group] = scale as i8;
    }
    for (index, value) in steps.values.iter_mut().enumerate() {
        let (half, within) = (index / 128, index % 128);
        let byte = low[half * 64 + within % 64];
        let nibble = if within < 64 { byte & 15 } else { byte >> 4 };
        *value = (nibble | two_bits(high, index) << 4) as i8 - 32;
    }
}

#[cfg(test)]
mod tests;
