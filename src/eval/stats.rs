//! Computes means with intervals.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// A mean and its 95 % percentile-bootstrap interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The sample's mean.
    pub mean: f64,
    /// The 2.5th percentile of resampled means.
    pub low: f64,
    /// The 97.5th percentile of resampled means.
    pub high: f64,
    /// The sample's size.
    pub n: usize,
}

/// The mean of `values` with a 95 % interval from 2,000 resamples (Efron's percentile method). It is deterministic.
pub fn estimate(values: &[f64]) -> Estimate {
    let ones: Vec<(f64, f64)> = values.iter().map(|value| (*value, 1.0)).collect();
    ratio(&ones)
}

/// The sum of the first numbers over the sum of the second, such as right instructions over all instructions by prompt, with an interval
/// from resampled pairs.
pub fn ratio(pairs: &[(f64, f64)]) -> Estimate {
    const RESAMPLES: usize = 2_000;
    let n = pairs.len();
    if n == 0 {
        return Estimate { mean: 0.0, low: 0.0, high: 0.0, n };
    }
    let share = |sums: (f64, f64)| if sums.1 == 0.0 { 0.0 } else { sums.0 / sums.1 };
    let add = |sums: (f64, f64), pair: &(f64, f64)| (sums.0 + pair.0, sums.1 + pair.1);
    let mean = share(pairs.iter().fold((0.0, 0.0), add));
    let mut rng = StdRng::seed_from_u64(0);
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| share((0..n).fold((0.0, 0.0), |sums, _| add(sums, &pairs[rng.random_range(0..n)]))))
        .collect();
    means.sort_by(f64::total_cmp);
    Estimate { mean, low: means[RESAMPLES / 40], high: means[RESAMPLES - 1 - RESAMPLES / 40], n }
}

/// The mean of `a - b` over pairs.
///
/// # Panics
/// Panics if the lengths differ.
pub fn paired(a: &[f64], b: &[f64]) -> Estimate {
    assert_eq!(a.len(), b.len(), "pairs need two values each");
    estimate(&a.iter().zip(b).map(|(x, y)| x - y).collect::<Vec<_>>())
}

/// The mean over runs, such as seeds, with a 95 % interval of Student's distribution; `None` for fewer than two runs.
pub fn over_runs(values: &[f64]) -> Option<Estimate> {
    let n = values.len();
    if n < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
    let half = student(n - 1) * (variance / n as f64).sqrt();
    Some(Estimate { mean, low: mean - half, high: mean + half, n })
}

/// The 97.5th percentile of Student's distribution, from a table and beyond it from the expansion about the normal distribution (Abramowitz
/// and Stegun, 26.7.5).
fn student(freedom: usize) -> f64 {
    const TABLE: [f64; 10] = [12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228];
    let z = 1.959_964_f64;
    let v = freedom as f64;
    let expansion = z + (z.powi(3) + z) / (4.0 * v) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * v * v);
    TABLE.get(freedom - 1).copied().unwrap_or(expansion)
}

impl std::fmt::Display for Estimate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if f.sign_plus() {
            return write!(f, "{:+.3} [{:+.3}, {:+.3}]", self.mean, self.low, self.high);
        }
        write!(f, "{:.3} [{:.3}, {:.3}]", self.mean, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_cover_the_binomial_ones() {
        let values: Vec<f64> = (0..500).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let e = estimate(&values);
        assert!((e.mean - 0.5).abs() < 1e-12 && (e.high - e.low - 0.0877).abs() < 0.01, "{e}");
        let by_prompt: Vec<(f64, f64)> = values.iter().map(|right| (2.0 * right, 2.0)).collect();
        assert_eq!(ratio(&by_prompt), e, "instructions of one prompt stand or fall together");
        let zero = paired(&values, &values);
        assert_eq!((zero.mean, zero.low, zero.high), (0.0, 0.0, 0.0));
    }

    #[test]
    fn few_runs_have_wide_intervals() {
        let e = over_runs(&[1.0, 2.0, 3.0]).unwrap();
        assert!((e.mean - 2.0).abs() < 1e-12 && (e.high - 2.0 - 4.303 / 3f64.sqrt()).abs() < 1e-9, "{e}");
        assert_eq!(over_runs(&[1.0]), None);
        // The values are from a printed table.
        for (freedom, expected) in [(11, 2.201), (20, 2.086), (60, 2.000)] {
            assert!((student(freedom) - expected).abs() < 3e-3, "{freedom}: {}", student(freedom));
        }
    }
}
