//! How well verdicts agree with the rules: balanced accuracy with intervals over prompts, area under the curve, and both by instruction.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng};
use serde::Serialize;
use spar::eval::stats::Estimate;
use spar::prompts::{READABLE, Temperatures};

use super::measure::{Subject, Verdicts};
use crate::lessons::Draws;
use crate::lessons::cases::Case;
use crate::stages::calibrate::quality::{Judged, area};

/// Resamples of the prompts for an interval.
const RESAMPLES: usize = 1_000;

/// A verdict as a probability, with its prompt and the truth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// The position of the prompt.
    pub prompt: usize,
    /// The probability of Yes at temperatures of 1.
    pub probability: f64,
    /// Whether the response is right.
    pub right: bool,
}

/// The verdicts of one refiner, in groups.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    /// Verdicts about whole prompts, of the model's own responses.
    pub own: Vec<Reading>,
    /// Verdicts about whole prompts, of near misses and repaired responses.
    pub edited: Vec<Reading>,
    /// Verdicts about single instructions, by id.
    pub items: BTreeMap<String, Vec<Reading>>,
    /// Verdicts in which Yes and No together are too improbable to be read.
    pub unreadable: usize,
}

impl Readings {
    /// Sorts the verdicts about `subjects` into groups.
    #[must_use]
    pub fn new(cases: &[Case], subjects: &[Subject], verdicts: &[Verdicts]) -> Self {
        let mut found = Self::default();
        for (subject, verdicts) in subjects.iter().zip(verdicts) {
            let case = &cases[subject.case];
            let response = &case.responses[subject.response];
            let mut read = |[yes, no]: [f64; 2], right: bool| {
                if yes.exp() + no.exp() < READABLE {
                    found.unreadable += 1;
                }
                let probability = Temperatures::default().probability(yes, no);
                Reading { prompt: subject.case, probability, right }
            };
            if let Some(pair) = verdicts.score {
                let reading = read(pair, response.right());
                if response.is_own() { found.own.push(reading) } else { found.edited.push(reading) }
            }
            for ((check, holds), pair) in case.checks.iter().zip(&response.holds).zip(&verdicts.items) {
                let reading = read(*pair, *holds);
                found.items.entry(check.id.clone()).or_default().push(reading);
            }
        }
        found
    }

    /// All verdicts about whole prompts.
    #[must_use]
    pub fn whole(&self) -> Vec<Reading> {
        [self.own.as_slice(), &self.edited].concat()
    }

    /// All verdicts about single instructions.
    #[must_use]
    pub fn all_items(&self) -> Vec<Reading> {
        self.items.values().flatten().copied().collect()
    }
}

/// The agreement of a group of verdicts with the truth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Agreement {
    /// Number of verdicts.
    pub n: usize,
    /// How many of the responses are right.
    pub right: usize,
    /// Mean of the shares of right verdicts on right and on wrong responses, with a 95 % interval over prompts. A probability above one half
    /// is a Yes. `None` unless there are responses of both kinds.
    pub balanced_accuracy: Option<Estimate>,
    /// The probability that a right response scores higher than a wrong one.
    pub area_under_curve: Option<f64>,
}

impl Agreement {
    /// Measures a group.
    #[must_use]
    pub fn new(readings: &[Reading]) -> Self {
        let judged: Vec<Judged> =
            readings.iter().map(|r| Judged { probability: r.probability, right: r.right }).collect();
        let tallies = Tallies::by_prompt(readings);
        Self {
            n: readings.len(),
            right: readings.iter().filter(|reading| reading.right).count(),
            balanced_accuracy: interval(tallies.values().copied().collect::<Vec<_>>().as_slice(), Tallies::balanced),
            area_under_curve: area(&judged),
        }
    }
}

/// The difference of two refiners' balanced accuracies on the same responses, with an interval over prompts.
#[must_use]
pub fn difference(after: &[Reading], before: &[Reading]) -> Option<Estimate> {
    let (after, before) = (Tallies::by_prompt(after), Tallies::by_prompt(before));
    let both: Vec<(Tallies, Tallies)> =
        after.iter().filter_map(|(prompt, after)| Some((*after, *before.get(prompt)?))).collect();
    interval(&both, |sum: &Pair| Some(sum.0.balanced()? - sum.1.balanced()?))
}

type Pair = (Tallies, Tallies);

/// Counts of right verdicts and of all verdicts, on right and on wrong responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tallies {
    right: [usize; 2],
    wrong: [usize; 2],
}

impl Tallies {
    fn by_prompt(readings: &[Reading]) -> BTreeMap<usize, Self> {
        let mut found: BTreeMap<usize, Self> = BTreeMap::new();
        for reading in readings {
            let tallies = found.entry(reading.prompt).or_default();
            let side = if reading.right { &mut tallies.right } else { &mut tallies.wrong };
            side[0] += usize::from((reading.probability > 0.5) == reading.right);
            side[1] += 1;
        }
        found
    }

    fn balanced(&self) -> Option<f64> {
        let share = |[good, all]: [usize; 2]| (all > 0).then(|| good as f64 / all as f64);
        Some(f64::midpoint(share(self.right)?, share(self.wrong)?))
    }
}

/// Sums of counts that can be added.
trait Add: Copy + Default {
    fn add(self, other: Self) -> Self;
}

impl Add for Tallies {
    fn add(self, other: Self) -> Self {
        let sum = |a: [usize; 2], b: [usize; 2]| [a[0] + b[0], a[1] + b[1]];
        Self { right: sum(self.right, other.right), wrong: sum(self.wrong, other.wrong) }
    }
}

impl Add for Pair {
    fn add(self, other: Self) -> Self {
        (self.0.add(other.0), self.1.add(other.1))
    }
}

/// A statistic of summed counts with its 95 % percentile interval over resampled prompts. It is deterministic.
fn interval<T: Add>(by_prompt: &[T], statistic: impl Fn(&T) -> Option<f64>) -> Option<Estimate> {
    let n = by_prompt.len();
    let mean = statistic(&by_prompt.iter().fold(T::default(), |sum, tally| sum.add(*tally)))?;
    let mut draws = Draws::seed_from_u64(0);
    let mut resampled = || (0..n).fold(T::default(), |sum: T, _| sum.add(by_prompt[draws.random_range(0..n)]));
    let mut found: Vec<f64> = (0..RESAMPLES).filter_map(|_| statistic(&resampled())).collect();
    found.sort_by(f64::total_cmp);
    let low = found.get(found.len() / 40).copied().unwrap_or(mean);
    let high = found.len().checked_sub(1 + found.len() / 40).and_then(|i| found.get(i).copied()).unwrap_or(mean);
    Some(Estimate { mean, low, high, n })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lessons::cases::tests::case;
    use crate::stages::bootstrap_refiner::measure::subjects;
    use crate::stages::bootstrap_refiner::settings::Measure;

    fn reading(prompt: usize, probability: f64, right: bool) -> Reading {
        Reading { prompt, probability, right }
    }

    #[test]
    fn balanced_accuracy_weighs_right_and_wrong_responses_alike() {
        let readings: Vec<Reading> = (0..40)
            .flat_map(|prompt| {
                let sure = if prompt % 4 == 0 { 0.4 } else { 0.9 };
                [reading(prompt, sure, true), reading(prompt, 0.6, false), reading(prompt, 0.1, false)]
            })
            .collect();
        let agreement = Agreement::new(&readings);
        let estimate = agreement.balanced_accuracy.unwrap();
        assert!((estimate.mean - f64::midpoint(0.75, 0.5)).abs() < 1e-12, "{estimate}");
        assert!(estimate.low < estimate.mean && estimate.mean < estimate.high && estimate.n == 40, "{estimate}");
        assert_eq!((agreement.n, agreement.right), (120, 40));
        let all_yes: Vec<Reading> = readings.iter().map(|r| Reading { probability: 0.9, ..*r }).collect();
        assert_eq!(Agreement::new(&all_yes).balanced_accuracy.unwrap().mean, 0.5);
        let gain = difference(&readings, &all_yes).unwrap();
        assert!((gain.mean - 0.125).abs() < 1e-12 && gain.low > 0.0, "{gain}");
        assert_eq!(Agreement::new(&readings[..1]).balanced_accuracy, None);
    }

    #[test]
    fn verdicts_are_grouped_by_origin_and_by_instruction() {
        let cases = [case()];
        let subjects = subjects(&cases, &Measure { own: 2, edited: 2, ..Measure::default() });
        let verdicts = vec![Verdicts { score: Some([-0.1, -3.0]), items: vec![[-0.1, -3.0], [-9.0, -9.0]] }; 4];
        let readings = Readings::new(&cases, &subjects, &verdicts);
        assert_eq!((readings.own.len(), readings.edited.len(), readings.whole().len()), (2, 2, 4));
        assert_eq!((readings.items.len(), readings.all_items().len(), readings.unreadable), (2, 8, 4));
        assert!(readings.items["punctuation:no_comma"].iter().any(|reading| !reading.right));
    }
}
