//! Measures the quality of probabilities of Yes: balanced accuracy, area under the curve, calibration error.

use serde::Serialize;

/// A probability that a response is right, and whether it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// The judge's probability.
    pub probability: f64,
    /// Whether the response is right.
    pub right: bool,
}

/// Measures over a set of responses.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Number of responses.
    pub n: usize,
    /// Number of right responses.
    pub right: usize,
    /// Mean of the shares of right decisions on right and on wrong responses, where a probability above one half is a Yes. `None` unless
    /// there are responses of both kinds.
    pub balanced_accuracy: Option<f64>,
    /// The probability that a right response scores higher than a wrong one; ties count half. `None` unless there are responses of both
    /// kinds.
    pub area_under_curve: Option<f64>,
    /// Expected calibration error over ten bins of equal width.
    pub calibration_error: f64,
    /// Mean of the negative log-likelihood of the truth, in nats.
    pub log_loss: f64,
    /// The bins that contain responses.
    pub bins: Vec<Bin>,
}

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Number of responses in the bin.
    pub n: usize,
    /// Mean probability of the bin's responses.
    pub probability: f64,
    /// Share of right responses in the bin.
    pub right: f64,
}

/// The number of bins for the calibration error.
const BINS: usize = 10;
/// The lower limit of the truth's probability in the log loss, which keeps the loss finite.
const LEAST: f64 = 1e-12;

impl Quality {
    /// Measures the judged responses.
    #[must_use]
    pub fn measure(judged: &[Judged]) -> Self {
        let bins = bins(judged);
        let loss = |case: &Judged| {
            let truth = if case.right { case.probability } else { 1.0 - case.probability };
            -truth.max(LEAST).ln()
        };
        Self {
            n: judged.len(),
            right: judged.iter().filter(|case| case.right).count(),
            balanced_accuracy: balanced_accuracy(judged),
            area_under_curve: area(judged),
            calibration_error: calibration_error(&bins),
            log_loss: judged.iter().map(loss).sum::<f64>() / judged.len().max(1) as f64,
            bins,
        }
    }
}

/// Groups responses by their probability into bins of equal width. Empty bins are dropped.
#[must_use]
pub fn bins(judged: &[Judged]) -> Vec<Bin> {
    let bin_of = |case: &Judged| ((case.probability * BINS as f64) as usize).min(BINS - 1);
    let bin = |index: usize| {
        let inside: Vec<&Judged> = judged.iter().filter(|case| bin_of(case) == index).collect();
        let n = inside.len();
        let mean = |sum: f64| sum / n as f64;
        (n > 0).then(|| Bin {
            n,
            probability: mean(inside.iter().map(|case| case.probability).sum()),
            right: mean(inside.iter().filter(|case| case.right).count() as f64),
        })
    };
    (0..BINS).filter_map(bin).collect()
}

/// The mean distance between the probability and the share of right responses over all bins, weighted by their size.
#[must_use]
pub fn calibration_error(bins: &[Bin]) -> f64 {
    let all: usize = bins.iter().map(|bin| bin.n).sum();
    let off = |bin: &Bin| bin.n as f64 * (bin.probability - bin.right).abs();
    bins.iter().map(off).sum::<f64>() / all.max(1) as f64
}

fn balanced_accuracy(judged: &[Judged]) -> Option<f64> {
    let share = |right: bool| {
        let side = || judged.iter().filter(|case| case.right == right);
        let good = side().filter(|case| (case.probability > 0.5) == right).count();
        (side().count() > 0).then(|| good as f64 / side().count() as f64)
    };
    Some(f64::midpoint(share(true)?, share(false)?))
}

/// The area under the receiver operating characteristic, computed by ranks (Mann and Whitney).
#[must_use]
pub fn area(judged: &[Judged]) -> Option<f64> {
    let mut sorted = judged.to_vec();
    sorted.sort_by(|a, b| a.probability.total_cmp(&b.probability));
    let (mut below, mut won, mut all_right) = (0.0, 0.0, 0.0);
    for tied in sorted.chunk_by(|a, b| a.probability == b.probability) {
        let right = tied.iter().filter(|case| case.right).count() as f64;
        let wrong = tied.len() as f64 - right;
        won += right * (below + wrong / 2.0);
        below += wrong;
        all_right += right;
    }
    (below > 0.0 && all_right > 0.0).then(|| won / (below * all_right))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(cases: &[(f64, bool)]) -> Vec<Judged> {
        cases.iter().map(|&(probability, right)| Judged { probability, right }).collect()
    }

    #[test]
    fn areas_are_shares_of_ordered_pairs() {
        for (cases, expected) in [
            (vec![(0.9, true), (0.1, false)], Some(1.0)),
            (vec![(0.1, true), (0.9, false)], Some(0.0)),
            (vec![(0.5, true), (0.5, false)], Some(0.5)),
            // Of four pairs, two are in order, one is tied and one is out of order.
            (vec![(0.8, true), (0.3, true), (0.3, false), (0.5, false)], Some(0.625)),
            (vec![(0.8, true)], None),
            (vec![], None),
        ] {
            assert_eq!(area(&judged(&cases)), expected, "{cases:?}");
        }
    }

    #[test]
    fn calibration_errors_are_weighted_by_bin() {
        // Three cases around .95, two of them right; one wrong case at .2; and cases at the ends of the scale.
        let cases = judged(&[(0.93, true), (0.95, true), (0.97, false), (0.2, false)]);
        let error = (3.0 * (0.95_f64 - 2.0 / 3.0) + 0.2) / 4.0;
        let quality = Quality::measure(&cases);
        assert!((quality.calibration_error - error).abs() < 1e-12, "{quality:?}");
        assert_eq!(quality.bins.iter().map(|bin| bin.n).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((quality.n, quality.right, quality.balanced_accuracy), (4, 2, Some(0.75)));
        let ends = Quality::measure(&judged(&[(0.0, false), (1.0, true)]));
        assert_eq!((ends.calibration_error, ends.log_loss), (0.0, 0.0));
        assert_eq!(Quality::measure(&judged(&[(1.0, false)])).bins.len(), 1);
        assert!(Quality::measure(&judged(&[(1.0, false)])).log_loss.is_finite());
        let none = Quality::measure(&[]);
        assert_eq!((none.calibration_error, none.balanced_accuracy), (0.0, None));
    }
}
