//! `prompts`: writes prompts of the seeded world. Also writes the prompts of a run: for every round the next ones of a file or of the
//! seeded world, and fixed ones for validation.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::write_lines;
use crate::recipe::iterate::{Iterate, Source};
use crate::records::{Asked, read_prompts};
use crate::world::{self, Instance, Split};

/// Instance `index` of a split. The same arguments always give the same instance.
#[must_use]
pub fn instance(split: Split, seed: u64, index: u64) -> Instance {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    world::draw(split, &mut rng)
}

/// Writes the first `count` distinct prompts of a split in IFEval's JSONL format.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write_prompts(split: Split, seed: u64, count: u64, out: &Path) -> Result<()> {
    let mut seen = HashSet::new();
    let fresh = |instance: &Instance| seen.insert(instance.prompt.clone());
    let records = (0..).map(|i| instance(split, seed, i)).filter(fresh).take(usize::try_from(count)?).enumerate();
    write_lines(out, &records.map(|(key, instance)| instance.record(key)).collect::<Vec<_>>())
}

/// The use of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The prompts of round `t`, counted from 1.
    Round(usize),
    /// The validation prompts of the gate.
    Validation,
    /// The held-out prompts, which are only reported.
    HeldOut,
}

/// Seeds of the world's prompts. Training prompts follow the run's seed, the others are the same in every run.
const VALIDATION_SEED: u64 = 9_001;
const HELD_OUT_SEED: u64 = 9_002;

/// Writes the prompts for a part of the run. An existing file is kept.
///
/// # Errors
/// Fails if a file or a line cannot be used, or if there are too few prompts.
pub fn write(recipe: &Iterate, part: Part, out: &Path) -> Result<()> {
    if out.exists() {
        return Ok(());
    }
    let settings = &recipe.prompts;
    let (source, skip, count, seed) = match part {
        Part::Round(t) => {
            (Some(&settings.train), (t - 1) * settings.per_iteration, settings.per_iteration, recipe.seed)
        }
        Part::Validation => (Some(&settings.validation), 0, recipe.gate.prompts, VALIDATION_SEED),
        Part::HeldOut => (settings.held_out.as_ref(), 0, settings.held_out_count, HELD_OUT_SEED),
    };
    let prompts: Vec<Asked> = match source {
        None => Vec::new(),
        Some(Source::World { world }) => worlds(*world, seed, skip, count)?,
        Some(Source::File(path)) => {
            let all = read_prompts(path, recipe.bad_lines)?.items;
            let available = all.len();
            let taken: Vec<Asked> = all.into_iter().skip(skip).take(count).collect();
            let enough = if matches!(part, Part::Round(_)) { taken.len() == count } else { !taken.is_empty() };
            ensure!(
                enough,
                "{} has {available} prompts, {} are asked for: add some, or lower iterate.prompts.per_iteration",
                path.display(),
                skip + count
            );
            taken
        }
    };
    write_lines(out, &prompts)
}

/// The distinct prompts `skip..skip + count` of a split.
fn worlds(split: Split, seed: u64, skip: usize, count: usize) -> Result<Vec<Asked>> {
    let mut seen = HashSet::new();
    let fresh = |(_, instance): &(u64, Instance)| seen.insert(instance.prompt.clone());
    let drawn = (0..).map(|i| (i, instance(split, seed, i))).filter(fresh).skip(skip).take(count);
    drawn.map(|(i, instance)| Ok(serde_json::from_value(instance.record(usize::try_from(i)?))?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_ask_different_prompts_and_repeat_them() {
        let first = worlds(Split::Train, 3, 0, 40).unwrap();
        let second = worlds(Split::Train, 3, 40, 40).unwrap();
        assert_eq!((first.len(), second.len()), (40, 40));
        let prompts: HashSet<&str> = first.iter().chain(&second).map(|asked| asked.prompt.as_str()).collect();
        assert_eq!(prompts.len(), 80);
        assert_eq!(second, worlds(Split::Train, 3, 40, 40).unwrap());
        assert!(first.iter().all(|asked| !asked.checks().unwrap().is_empty()));
    }
}
