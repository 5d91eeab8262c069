//! Fits temperatures by maximum likelihood, and finds the band of probabilities that are too uncertain to decide.

use spar::prompts::Temperatures;

use super::quality::{self, Judged};

/// A verdict read from the model, and the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Case {
    /// The log-probability of Yes.
    pub yes: f64,
    /// The log-probability of No.
    pub no: f64,
    /// Whether the response follows its prompt.
    pub right: bool,
}

/// Limits of the coefficients 1/T, which correspond to temperatures of 20 and 0.05. Without limits, data that the scores separate would
/// have no finite optimum, and uninformative scores would have an optimum at or below 0.
const COEFFICIENTS: (f64, f64) = (0.05, 20.0);
/// The precision required of a decision without a critique.
const PRECISION: f64 = 0.9;
/// The minimum number of cases for estimating a precision.
const ENOUGH: usize = 20;
/// The one-sided 95 % quantile of the normal distribution.
const ONE_SIDED: f64 = 1.645;

/// The temperatures that maximise the likelihood of the truth. This is a logistic regression of the truth on `ln P(Yes)` and `-ln P(No)`
/// with two positive coefficients `1/T` and no constant.
///
/// Two temperatures have no free offset, which a threshold would need. They effectively have one if Yes and No take nearly all of the mass:
/// the sum of the coefficients then sets how sharp the probability is, and their ratio moves the point at which it is one half. The targets
/// are Platt's, `(n + 1) / (n + 2)` and `1 / (n + 2)` for `n` right and `n` wrong cases, so that data which the scores separate does not
/// make the judge certain.
#[must_use]
pub fn temperatures(cases: &[Case]) -> Temperatures {
    let problem = Regression::new(cases);
    let [yes, no] = problem.solve();
    Temperatures { yes: rounded(1.0 / yes), no: rounded(1.0 / no) }
}

/// Rounds to four decimals, since no realistic number of cases can determine more.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

struct Regression {
    /// The features and the target of each case.
    rows: Vec<([f64; 2], f64)>,
}

impl Regression {
    fn new(cases: &[Case]) -> Self {
        let right = cases.iter().filter(|case| case.right).count() as f64;
        let wrong = cases.len() as f64 - right;
        let target = |right_here| if right_here { (right + 1.0) / (right + 2.0) } else { 1.0 / (wrong + 2.0) };
        Self { rows: cases.iter().map(|case| ([case.yes, -case.no], target(case.right))).collect() }
    }

    /// The loss Σ ln(1 + exp(z)) - t z with z = x · features.
    fn loss(&self, x: [f64; 2]) -> f64 {
        let loss = |&(f, target): &([f64; 2], f64)| {
            let z = x[0] * f[0] + x[1] * f[1];
            z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z
        };
        self.rows.iter().map(loss).sum()
    }

    /// The gradient and the Hessian, `[xx, xy, yy]`, which a small ridge keeps invertible.
    fn derivatives(&self, x: [f64; 2]) -> ([f64; 2], [f64; 3]) {
        let (mut gradient, mut hessian) = ([0.0; 2], [1e-9, 0.0, 1e-9]);
        for &(f, target) in &self.rows {
            let p = 1.0 / (1.0 + (-(x[0] * f[0] + x[1] * f[1])).exp());
            let weight = p * (1.0 - p);
            for (sum, f) in gradient.iter_mut().zip(f) {
                *sum += (p - target) * f;
            }
            for (sum, product) in hessian.iter_mut().zip([f[0] * f[0], f[0] * f[1], f[1] * f[1]]) {
                *sum += weight * product;
            }
        }
        (gradient, hessian)
    }

    /// Newton's method within the limits. The loss is convex, and each step goes towards the constrained minimum of its quadratic model, as
    /// far as the loss decreases.
    fn solve(&self) -> [f64; 2] {
        let mut x = [1.0, 1.0];
        for _ in 0..100 {
            let (gradient, hessian) = self.derivatives(x);
            let step = limited_newton_step(x, gradient, hessian);
            let slope = gradient[0] * step[0] + gradient[1] * step[1];
            if slope > -1e-12 {
                break;
            }
            let loss = self.loss(x);
            let at = |share: f64| [x[0] + share * step[0], x[1] + share * step[1]];
            let shares = (0..40).map(|halvings| 0.5_f64.powi(halvings));
            match shares.into_iter().find(|&share| self.loss(at(share)) <= loss + 1e-4 * share * slope) {
                Some(share) => x = at(share),
                None => break,
            }
        }
        x
    }
}

/// The step to the minimum of `g · d + d' H d / 2` for which `x + d` stays within the limits.
fn limited_newton_step(x: [f64; 2], g: [f64; 2], h: [f64; 3]) -> [f64; 2] {
    let (low, high) = COEFFICIENTS;
    let model = |d: [f64; 2]| {
        g[0] * d[0] + g[1] * d[1] + 0.5 * (h[0] * d[0] * d[0] + 2.0 * h[1] * d[0] * d[1] + h[2] * d[1] * d[1])
    };
    let determinant = h[0] * h[2] - h[1] * h[1];
    let free = [(h[1] * g[1] - h[2] * g[0]) / determinant, (h[1] * g[0] - h[0] * g[1]) / determinant];
    let inside = |d: &[f64; 2]| (0..2).all(|k| (low..=high).contains(&(x[k] + d[k])));
    if determinant > 0.0 && inside(&free) {
        return free;
    }
    // The minimum lies on an edge: one coordinate is at a limit, and the other is optimal given that.
    let edges = [(0, low), (0, high), (1, low), (1, high)].map(|(fixed, limit)| {
        let other = 1 - fixed;
        let mut d = [0.0; 2];
        d[fixed] = limit - x[fixed];
        let best = -(g[other] + h[1] * d[fixed]) / h[2 * other];
        d[other] = (x[other] + best).clamp(low, high) - x[other];
        d
    });
    edges.into_iter().min_by(|a, b| model(*a).total_cmp(&model(*b))).unwrap_or_default()
}

/// The band `(low, high)` outside of which a score decides without a critique.
///
/// `high` is the smallest probability of at least one half above which nine of ten accepted responses are right. `low` is the largest one
/// of at most one half below which nine of ten rejected responses are wrong. If no such value has 20 cases on its side, that side decides
/// nothing: `low` is 0 or `high` is 1. The same holds for both sides if the score does not distinguish right from wrong responses, judged
/// by its area under the curve less 1.645 standard errors: if nine of ten responses are wrong, an uninformative score has a precision of .9
/// as well, and trusting it would reject everything.
#[must_use]
pub fn band(judged: &[Judged]) -> (f64, f64) {
    const NONE: (f64, f64) = (0.0, 1.0);
    if !is_informative(judged) {
        return NONE;
    }
    let mut sorted: Vec<f64> = judged.iter().map(|case| case.probability).collect();
    sorted.sort_by(f64::total_cmp);
    // Limits lie between two cases, so no probability equals a limit.
    let between: Vec<f64> = sorted.windows(2).filter(|w| w[0] < w[1]).map(|w| f64::midpoint(w[0], w[1])).collect();
    let trusted = |chosen: &dyn Fn(f64) -> bool, right: bool| {
        let side = || judged.iter().filter(|case| chosen(case.probability));
        let holds = side().filter(|case| case.right == right).count();
        side().count() >= ENOUGH && holds as f64 >= PRECISION * side().count() as f64
    };
    let upper = std::iter::once(0.5).chain(between.iter().copied().filter(|p| *p > 0.5));
    let lower = std::iter::once(0.5).chain(between.iter().rev().copied().filter(|p| *p < 0.5));
    let high = upper.into_iter().find(|limit| trusted(&|p| p >= *limit, true));
    let low = lower.into_iter().find(|limit| trusted(&|p| p < *limit, false));
    (low.map_or(NONE.0, rounded), high.map_or(NONE.1, rounded))
}

/// Whether the area under the curve exceeds one half by more than its sampling error, computed as by Hanley and McNeil.
#[must_use]
pub fn is_informative(judged: &[Judged]) -> bool {
    let Some(area) = quality::area(judged) else { return false };
    let right = judged.iter().filter(|case| case.right).count() as f64;
    let wrong = judged.len() as f64 - right;
    let (above, below) = (area / (2.0 - area), 2.0 * area * area / (1.0 + area));
    let variance = area * (1.0 - area) + (right - 1.0) * (above - area * area) + (wrong - 1.0) * (below - area * area);
    area - ONE_SIDED * (variance.max(0.0) / (right * wrong)).sqrt() > 0.5
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    /// Cases whose truth is drawn with the probability that `temperatures` give. Yes and No take a random share of the mass.
    fn drawn(temperatures: Temperatures, count: usize) -> Vec<Case> {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let one = |_| {
            let (mass, share): (f64, f64) = (rng.random_range(0.3..1.0), rng.random_range(0.02..0.98));
            let (yes, no) = ((mass * share).ln(), (mass * (1.0 - share)).ln());
            Case { yes, no, right: rng.random_bool(temperatures.probability(yes, no)) }
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn known_temperatures_are_recovered() {
        for (yes, no) in [(1.0, 1.0), (0.5, 2.0), (3.0, 0.7)] {
            let found = temperatures(&drawn(Temperatures { yes, no }, 20_000));
            assert!((found.yes / yes - 1.0).abs() < 0.1 && (found.no / no - 1.0).abs() < 0.1, "{yes} {no}: {found:?}");
        }
    }

    #[test]
    fn the_fit_is_the_least_loss_within_the_limits() {
        let cases = drawn(Temperatures { yes: 0.8, no: 1.5 }, 400);
        let reversed: Vec<Case> = cases.iter().map(|case| Case { right: !case.right, ..*case }).collect();
        for cases in [cases, reversed] {
            let problem = Regression::new(&cases);
            let found = problem.loss(problem.solve());
            let grid = (0..60).map(|i| 0.05 * 400_f64.powf(f64::from(i) / 59.0)).collect::<Vec<_>>();
            let least = grid.iter().flat_map(|a| grid.iter().map(|b| problem.loss([*a, *b])));
            let least = least.fold(f64::INFINITY, f64::min);
            assert!(found <= least + 1e-6, "{found} {least}");
        }
    }

    #[test]
    fn scores_that_know_nothing_give_the_base_rate() {
        let mut rng = ChaCha8Rng::seed_from_u64(6);
        let one = |i: usize| {
            let share: f64 = rng.random_range(0.55..0.65);
            Case { yes: share.ln(), no: (1.0 - share).ln(), right: i.is_multiple_of(5) }
        };
        let cases: Vec<Case> = (0..2_000).map(one).collect();
        let found = temperatures(&cases);
        let mean = cases.iter().map(|case| found.probability(case.yes, case.no)).sum::<f64>() / 2_000.0;
        assert!((mean - 0.2).abs() < 0.01, "{mean} {found:?}");
    }

    #[test]
    fn separable_scores_stay_within_the_limits() {
        let case = |share: f64, right| Case { yes: share.ln(), no: (1.0 - share).ln(), right };
        let cases: Vec<Case> = (0..40).map(|i| case(if i % 2 == 0 { 0.52 } else { 0.48 }, i % 2 == 0)).collect();
        let found = temperatures(&cases);
        assert!((0.05..=20.0).contains(&found.yes) && (0.05..=20.0).contains(&found.no), "{found:?}");
        let sure = found.probability(0.52_f64.ln(), 0.48_f64.ln());
        assert!((0.7..0.99).contains(&sure), "{sure}");
        let empty = temperatures(&[]);
        assert_eq!((empty.yes, empty.no), (1.0, 1.0));
    }

    #[test]
    fn a_band_is_where_nine_of_ten_decisions_hold() {
        // There are 40 cases at each of ten probabilities, and the share given by the probability is right.
        let calibrated: Vec<Judged> = (0..10)
            .flat_map(|bin| {
                let probability = f64::from(bin) / 10.0 + 0.05;
                (0..40).map(move |i| Judged { probability, right: i < 4 * bin + 2 })
            })
            .collect();
        let (low, high) = band(&calibrated);
        // At .15 and .05 together 10 % of the cases are right, and at .85 and .95 together 90 %.
        assert!((low - 0.2).abs() < 1e-9 && (high - 0.8).abs() < 1e-9, "{low} {high}");
        let few: Vec<Judged> = calibrated.iter().copied().step_by(16).collect();
        assert_eq!(band(&few), (0.0, 1.0), "{} cases", few.len());
        let reversed = calibrated.iter().map(|case| Judged { right: !case.right, ..*case });
        assert_eq!(band(&reversed.collect::<Vec<_>>()), (0.0, 1.0));
    }

    #[test]
    fn a_score_that_knows_nothing_decides_nothing_at_any_base_rate() {
        for every in [2, 20] {
            let one = |i: usize| Judged { probability: 0.01 * ((i * 7) % 19) as f64, right: i.is_multiple_of(every) };
            let judged: Vec<Judged> = (0..380).map(one).collect();
            assert_eq!(band(&judged), (0.0, 1.0), "one of {every} is right");
        }
        let all_right: Vec<Judged> =
            (0..50).map(|i| Judged { probability: f64::from(i) / 50.0, right: true }).collect();
        assert_eq!(band(&all_right), (0.0, 1.0));
        assert_eq!(band(&[]), (0.0, 1.0));
    }
}
