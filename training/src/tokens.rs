//! Sequences with a weight per token, and how they are put together to steps and units of work.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::model::cpu::Packed;

/// A sequence to learn from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Example {
    /// The tokens, at least 2.
    pub tokens: Vec<u32>,
    /// How much predicting each token counts; as many as tokens. The first has nothing before it and is not read.
    pub weights: Vec<f32>,
}

impl Example {
    /// Rows that the model computes: one for each predicted token.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.tokens.len().saturating_sub(1)
    }
}

/// Sequences that one worker computes at once, and the weights of their targets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// The sequences.
    pub batch: Packed,
    /// The weight of each row's target, `(rows,)`.
    pub weights: Vec<f32>,
}

/// Spreads a step's examples over `ceil(rows / unit_rows)` units of about equal size, largest examples first. Depends on
/// nothing but its arguments, so that a step's gradient is the same however many workers compute it.
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

/// One pass over a fixed set in steps of at most `budget` rows (more only if one example alone has more): examples of
/// similar length together, steps in random order, both decided by the seed. Returns indices.
#[must_use]
pub fn epoch(examples: &[Example], budget: usize, seed: u64) -> Vec<Vec<usize>> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut order: Vec<(usize, usize)> = (0..examples.len())
        // A few rows of noise, so that neighbours differ from pass to pass.
        .map(|i| (examples[i].rows() + rng.random_range(0..=examples[i].rows() / 8), i))
        .collect();
    order.shuffle(&mut rng);
    order.sort_by_key(|&(rows, _)| rows);
    let mut steps: Vec<Vec<usize>> = Vec::new();
    let mut filled = usize::MAX;
    for (_, i) in order {
        let rows = examples[i].rows();
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
