//! Numbers become blocks of 4 bits: the type whose 16 values are spaced as the weights of networks are, closer around zero.

use half::f16;

use super::{Blocks, IQ4_VALUES};

/// Numbers that share a scale.
const BLOCK: usize = 32;

/// How far from the ends of the table the largest number of a block may be placed. Which place suits the others best is tried.
const NUDGES: [f32; 5] = [-8.0, -4.0, 0.0, 4.0, 8.0];

/// A row of numbers as blocks of [`Blocks::Iq4Nl`], each with the scale of least squared error of those that are tried.
///
/// # Panics
/// Panics if the row is not a whole number of blocks.
pub fn iq4_nl(row: &[f32]) -> Vec<u8> {
    let (block, size) = Blocks::Iq4Nl.block();
    assert!(row.len().is_multiple_of(block), "a block is cut off");
    let mut bytes = Vec::with_capacity(row.len() / block * size);
    for numbers in row.as_chunks::<BLOCK>().0 {
        let scale = f16::from_f32(best_scale(numbers));
        bytes.extend(scale.to_bits().to_le_bytes());
        let places = places(numbers, inverse(scale.to_f32()));
        bytes.extend((0..BLOCK / 2).map(|i| places[i] | places[i + BLOCK / 2] << 4));
    }
    bytes
}

/// The scale of least squared error: with the places that a trial gives, the best scale follows from the method of least squares.
fn best_scale(numbers: &[f32; BLOCK]) -> f32 {
    let largest = numbers.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or(0.0);
    let mut best = (0.0, 0.0);
    for end in [IQ4_VALUES[0], IQ4_VALUES[15]] {
        for nudge in NUDGES {
            let places = places(numbers, inverse(largest / (f32::from(end) + nudge)));
            let values = places.map(|place| f32::from(IQ4_VALUES[usize::from(place)]));
            let product: f32 = numbers.iter().zip(values).map(|(x, value)| x * value).sum();
            let square: f32 = values.iter().map(|value| value * value).sum();
            // What the scale `product / square` takes from the squared error.
            let gain = product * product / square;
            if gain > best.0 {
                best = (gain, product / square);
            }
        }
    }
    best.1
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// The place in the table of the value nearest to each number, given the inverse of the scale.
fn places(numbers: &[f32; BLOCK], inverse: f32) -> [u8; BLOCK] {
    let mut places = [0; BLOCK];
    for pair in IQ4_VALUES.windows(2) {
        let middle = (f32::from(pair[0]) + f32::from(pair[1])) / 2.0;
        for (place, number) in places.iter_mut().zip(numbers) {
            *place += u8::from(number * inverse > middle);
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::derive_seed;

    /// Numbers that are distributed as weights are, roughly: sums of uniform ones.
    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        let uniform = |i: usize| (derive_seed(seed, i as u64) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..count).map(|i| (0..6).map(|j| uniform(6 * i + j)).sum::<f32>() * 0.02).collect()
    }

    fn decoded(bytes: &[u8], count: usize) -> Vec<f32> {
        let mut row = vec![0.0; count];
        Blocks::Iq4Nl.dequantize(bytes, &mut row);
        row
    }

    #[test]
    fn weights_lose_less_than_with_even_steps() {
        let row = numbers(32 * 500, 1);
        let found = decoded(&iq4_nl(&row), row.len());
        let error = |other: &[f32]| row.iter().zip(other).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>();
        let square: f64 = row.iter().map(|x| f64::from(*x).powi(2)).sum();
        // 4 bits with even steps between the block's ends.
        let even: Vec<f32> = row
            .chunks(BLOCK)
            .flat_map(|block| {
                let step = block.iter().fold(0.0f32, |most, x| most.max(x.abs())) / 7.0;
                block.iter().map(move |x| (x / step).round() * step).collect::<Vec<_>>()
            })
            .collect();
        let (ours, theirs) = ((error(&found) / square).sqrt(), (error(&even) / square).sqrt());
        assert!(ours < 0.075 && ours < 0.85 * theirs, "{ours} {theirs}");
    }

    #[test]
    fn values_of_the_table_are_kept_and_extremes_do_no_harm() {
        let exact: Vec<f32> = (0..64).map(|i| f32::from(IQ4_VALUES[i % 16]) * 0.25).collect();
        assert_eq!(decoded(&iq4_nl(&exact), 64), exact);
        assert_eq!(decoded(&iq4_nl(&[0.0; 32]), 32), [0.0; 32]);
        let mut spike = [1e-6; 32];
        spike[7] = -3.0;
        let found = decoded(&iq4_nl(&spike), 32);
        assert!((found[7] + 3.0).abs() < 0.01 && found.iter().all(|x| x.is_finite()), "{found:?}");
    }
}
