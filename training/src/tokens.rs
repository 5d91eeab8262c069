//! Sequences with a weight per token, and how they are grouped into steps and units of work.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use spar::engine::derive_seed;

use crate::loss::Pair;
use crate::model::cpu::{Fork, Packed};

/// A sequence to learn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The tokens, at least 2.
    pub tokens: Vec<u32>,
    /// The weight of predicting each token, with one entry per token. The first token has nothing before it, and its weight is ignored.
    pub weights: Vec<f32>,
}

impl Example {
    /// The number of rows that the model computes, one for each predicted token.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }
}

/// Two responses to one prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PairExample {
    /// The tokens of prompt and response, for the better and the worse response.
    pub tokens: Pair<Vec<u32>>,
    /// Number of prompt tokens, at least 1.
    pub prompt_tokens: usize,
    /// Summed log-probabilities of the responses under the base model.
    pub reference: Pair<f64>,
}

impl PairExample {
    /// The number of rows that the model computes. The common beginning counts once.
    #[must_use]
    pub fn rows(&self) -> usize {
        let mut batch = Packed::default();
        self.push_to(&mut batch).rows()
    }

    /// How much less likely the chosen response is than the rejected one under the base model, in nats per token.
    #[must_use]
    pub fn less_likely(&self) -> f64 {
        let tokens = |tokens: &[u32]| tokens.len().saturating_sub(self.prompt_tokens).max(1) as f64;
        self.reference.rejected / tokens(&self.tokens.rejected) - self.reference.chosen / tokens(&self.tokens.chosen)
    }

    fn push_to(&self, batch: &mut Packed) -> PairRows {
        let start = batch.rows();
        let fork = batch.push_fork(&self.tokens.chosen, &self.tokens.rejected, self.prompt_tokens);
        let len = batch.rows() - start;
        PairRows { start, prompt_rows: self.prompt_tokens - 1, len, fork, reference: self.reference }
    }
}

/// The rows of a pair within a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairRows {
    start: usize,
    /// Number of rows that predict the prompt.
    prompt_rows: usize,
    len: usize,
    fork: Fork,
    /// The reference's log-probabilities, from [`PairExample`].
    pub reference: Pair<f64>,
}

impl PairRows {
    /// Rows that the model computes for the pair.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.len
    }

    /// The rows that predict each response. Those of the common beginning belong to both.
    #[must_use]
    pub fn answers(&self) -> Pair<[std::ops::Range<usize>; 2]> {
        let at = |from: usize, to: usize| self.start + from..self.start + to;
        let turn = self.fork.shared + self.fork.first;
        let common = at(self.prompt_rows, self.fork.shared);
        Pair { chosen: [common.clone(), at(self.fork.shared, turn)], rejected: [common, at(turn, self.len)] }
    }
}

/// Sequences that one worker computes at once, and the weights of their targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// The packed sequences.
    pub batch: Packed,
    /// The weight of each row's target, `(rows,)`; empty for pairs.
    pub weights: Vec<f32>,
    /// The pairs, if the sequences are pairs.
    pub pairs: Vec<PairRows>,
}

/// Distributes a step's examples over `ceil(rows / unit_rows)` units of similar size, largest examples first. The result depends only on
/// the arguments, so a step's gradient is the same for any number of workers.
#[must_use]
pub fn units(examples: &[Example], unit_rows: usize) -> Vec<Unit> {
    let rows: usize = examples.iter().map(Example::rows).sum();
    let mut units = vec![Unit::default(); rows.div_ceil(unit_rows.max(1))];
    let mut order: Vec<&Example> = examples.iter().filter(|example| example.rows() > 0).collect();
    order.sort_by_key(|example| std::cmp::Reverse(example.rows()));
    for example in order {
        let smallest = units.iter_mut().min_by_key(|unit| unit.batch.rows()).expect("there are rows");
        smallest.batch.push_asking(&example.tokens, |token| example.weights[token] != 0.0);
        smallest.weights.extend(&example.weights[1..]);
    }
    units
}

/// Distributes pairs over units like [`units`].
#[must_use]
pub fn pair_units(pairs: &[PairExample], unit_rows: usize) -> Vec<Unit> {
    let mut order: Vec<(usize, &PairExample)> = pairs.iter().map(|pair| (pair.rows(), pair)).collect();
    let rows: usize = order.iter().map(|(rows, _)| rows).sum();
    let mut units = vec![Unit::default(); rows.div_ceil(unit_rows.max(1))];
    order.sort_by_key(|&(rows, _)| std::cmp::Reverse(rows));
    for (_, pair) in order {
        let smallest = units.iter_mut().min_by_key(|unit| unit.batch.rows()).expect("there are rows");
        let place = pair.push_to(&mut smallest.batch);
        smallest.pairs.push(place);
    }
    units.retain(|unit| !unit.pairs.is_empty());
    units
}

/// Groups pairs into units of similar size, in order.
#[must_use]
pub fn pair_units_in_order(pairs: &[PairExample], unit_rows: usize) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for pair in pairs {
        let full = units.last().is_none_or(|unit| unit.batch.rows() >= unit_rows);
        if full {
            units.push(Unit::default());
        }
        let unit = units.last_mut().expect("a unit was added above");
        let place = pair.push_to(&mut unit.batch);
        unit.pairs.push(place);
    }
    units
}

/// Several passes over a fixed set, step by step.
#[derive(Debug)]
pub struct Passes {
    rows: Vec<usize>,
    budget: usize,
    seed: u64,
    /// Number of steps per pass. Passes may differ in length by a step or two; every pass is cut to the length of the first one, or filled
    /// from its own beginning.
    pub steps: u64,
    current: Option<(u64, Vec<Vec<usize>>)>,
}

impl Passes {
    /// Prepares passes over items with the given numbers of rows, in steps of at most `budget` rows.
    #[must_use]
    pub fn new(rows: Vec<usize>, budget: usize, seed: u64) -> Self {
        let steps = epoch_of(&rows, budget, seed).len() as u64;
        Self { rows, budget, seed, steps, current: None }
    }

    /// The items of a step, counted from 0.
    pub fn step(&mut self, step: u64) -> &[usize] {
        let (number, place) = (step / self.steps.max(1), step % self.steps.max(1));
        if self.current.as_ref().is_none_or(|(n, _)| *n != number) {
            let seed = if number == 0 { self.seed } else { derive_seed(self.seed, number) };
            self.current = Some((number, epoch_of(&self.rows, self.budget, seed)));
        }
        let steps = self.current.as_ref().map_or(&[][..], |(_, steps)| steps);
        if steps.is_empty() { &[] } else { &steps[usize::try_from(place).unwrap_or_default() % steps.len()] }
    }
}

/// One pass over a fixed set in steps of at most `budget` rows (more only if a single example is larger). Examples of similar length are
/// grouped, and the steps are in random order; the seed determines both. Returns indices.
#[must_use]
pub fn epoch(examples: &[Example], budget: usize, seed: u64) -> Vec<Vec<usize>> {
    epoch_of(&examples.iter().map(Example::rows).collect::<Vec<_>>(), budget, seed)
}

/// Makes one pass like [`epoch`], over items with the given numbers of rows.
#[must_use]
pub fn epoch_of(rows: &[usize], budget: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<(usize, usize)> = (0..rows.len())
        // A few rows of noise make the neighbours differ from pass to pass.
        .map(|i| (rows[i] + rng.random_range(0..=rows[i] / 8), i))
        .collect();
    order.shuffle(&mut rng);
    order.sort_by_key(|&(rows, _)| rows);
    let mut steps: Vec<Vec<usize>> = Vec::new();
    let mut filled = usize::MAX;
    for (_, i) in order {
        let rows = rows[i];
        match steps.last_mut() {
            Some(step) if filled + rows <= budget => {
                step.push(i);
                filled += rows;
            }
            _ => {
                steps.push(vec![i]);
                filled = rows;
            }
        }
    }
    steps.shuffle(&mut rng);
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<Example> {
        (0..40)
            .map(|i| Example {
                tokens: vec![i; 3 + (i as usize * 13) % 50],
                weights: vec![1.0; 3 + (i as usize * 13) % 50],
            })
            .collect()
    }

    #[test]
    fn units_hold_every_row_once_and_are_balanced() {
        let examples = examples();
        let rows: usize = examples.iter().map(Example::rows).sum();
        let units = units(&examples, 200);
        assert_eq!(units.len(), rows.div_ceil(200));
        assert_eq!(units.iter().map(|unit| unit.batch.rows()).sum::<usize>(), rows);
        assert!(units.iter().all(|unit| unit.weights.len() == unit.batch.rows() && unit.batch.rows() <= 210));
        assert!(super::units(&[], 200).is_empty());
    }

    #[test]
    fn an_epoch_holds_every_example_once_within_the_budget() {
        let examples = examples();
        let steps = epoch(&examples, 120, 7);
        let mut seen: Vec<usize> = steps.concat();
        seen.sort_unstable();
        assert_eq!(seen, (0..40).collect::<Vec<_>>());
        for step in &steps {
            assert!(step.iter().map(|&i| examples[i].rows()).sum::<usize>() <= 120);
        }
        assert_eq!(steps, epoch(&examples, 120, 7));
        assert_ne!(steps, epoch(&examples, 120, 8));
    }
}
