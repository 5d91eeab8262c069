//! `prompts`: writes prompts of a generator. Also writes the prompts of a run: for every round the next ones of a file or of a generator,
//! and fixed ones for validation.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::write_lines;
use crate::instructions;
use crate::instructions::decontaminate::{Benchmarks, Collision};
use crate::recipe::iterate::{Iterate, Source};
use crate::records::{Asked, read_prompts};
use crate::world::{self, Instance, Split};

/// What makes prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Generator {
    /// The world of the embedded model: small sentences about a few things.
    World,
    /// Tasks of everyday domains with constraints of IFEval's kinds, for real models.
    Instructions,
}

impl Generator {
    /// Prompt `index` of a split. The same arguments always give the same prompt.
    #[must_use]
    pub fn prompt(self, split: Split, seed: u64, index: u64) -> Asked {
        let key = usize::try_from(index).unwrap_or(usize::MAX);
        match self {
            Self::World => instance(split, seed, index).asked(key),
            Self::Instructions => instructions::draw(split, &mut stream(seed, index)).asked(key),
        }
    }
}

/// Instance `index` of a split of the world. The same arguments always give the same instance.
#[must_use]
pub fn instance(split: Split, seed: u64, index: u64) -> Instance {
    world::draw(split, &mut stream(seed, index))
}

fn stream(seed: u64, index: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    rng
}

/// The flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// What makes the prompts: the world of the embedded model, or instructions for real models.
    #[arg(long, value_enum, default_value = "world")]
    pub kind: Generator,
    /// Split of the prompts. No two splits share a set of kinds of constraints, nor, for instructions, a task.
    #[arg(long, value_enum, default_value = "held-out")]
    pub split: Split,
    /// The number of prompts.
    #[arg(long, default_value_t = 1000)]
    pub count: usize,
    /// Seed of all random draws.
    #[arg(long, default_value_t = 17)]
    pub seed: u64,
    /// Files of benchmarks with a `prompt` in each line. Prompts that share a run of eight words with a benchmark's prompt, or more than half
    /// of their runs of four words, are left out, listed and replaced.
    #[arg(long, num_args = 1.., value_name = "FILE")]
    pub against: Vec<PathBuf>,
    /// File for the prompts.
    #[arg(long)]
    pub out: PathBuf,
}

/// Writes the prompts of the command, and returns what it prints.
///
/// # Errors
/// Fails like [`write_prompts`].
pub fn run(options: &Options) -> Result<String> {
    let Options { kind, split, count, seed, against, out } = options;
    let order = Order { generator: *kind, split: *split, seed: *seed, skip: 0, count: *count };
    let collisions = write_prompts(&order, against, out)?;
    let mut text = format!("{:32} {count:>10}\n", "prompts");
    if !against.is_empty() {
        text += &format!("{:32} {:>10}\n", "too close to a benchmark", collisions.len());
    }
    text.extend(collisions.iter().map(|collision| format!("left out: {collision}\n")));
    Ok(text)
}

/// Which prompts are made.
#[derive(Clone, Debug)]
pub struct Order {
    /// What makes them.
    pub generator: Generator,
    /// The split they belong to.
    pub split: Split,
    /// Seed of all random draws.
    pub seed: u64,
    /// The number of prompts that are left out before the first.
    pub skip: usize,
    /// The number of prompts.
    pub count: usize,
}

/// The prompts of an order, and those that were drawn but are too close to a benchmark.
#[derive(Debug, Default)]
pub struct Drawn {
    /// The prompts that were ordered.
    pub prompts: Vec<Asked>,
    /// What was left out.
    pub collisions: Vec<Collision>,
}

/// Draws distinct prompts that are not too close to `benchmarks`.
///
/// # Errors
/// Fails if the generator does not have enough.
pub fn draw(order: &Order, benchmarks: &Benchmarks) -> Result<Drawn> {
    let wanted = order.skip + order.count;
    // Far more draws than prompts mean that hardly anything new is drawn.
    let most = 20 * wanted as u64 + 1000;
    let (mut seen, mut drawn) = (HashSet::new(), Drawn::default());
    for index in 0..most {
        if drawn.prompts.len() == wanted {
            break;
        }
        let asked = order.generator.prompt(order.split, order.seed, index);
        if !seen.insert(asked.prompt.clone()) {
            continue;
        }
        match benchmarks.collision(&asked.prompt) {
            Some(collision) => drawn.collisions.push(collision),
            None => drawn.prompts.push(asked),
        }
    }
    let (found, refused) = (drawn.prompts.len(), drawn.collisions.len());
    ensure!(
        found == wanted,
        "only {found} of {wanted} prompts are new: of {most} draws, {refused} are too close to a benchmark and the others repeat; \
         lower --count"
    );
    drawn.prompts.drain(..order.skip);
    Ok(drawn)
}

/// Writes the prompts of an order in IFEval's JSONL format, with keys from 0, and returns what was left out.
///
/// # Errors
/// Fails if there are too few prompts, or if a file cannot be read or written.
pub fn write_prompts(order: &Order, against: &[PathBuf], out: &Path) -> Result<Vec<Collision>> {
    let Drawn { prompts, collisions } = draw(order, &Benchmarks::read(against)?)?;
    let numbered = prompts.into_iter().enumerate().map(|(key, asked)| Asked { key: key.into(), ..asked });
    write_lines(out, &numbered.collect::<Vec<_>>())?;
    Ok(collisions)
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

/// Seeds of generated prompts. Training prompts follow the run's seed, the others are the same in every run.
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
    write_lines(out, &of(recipe, part)?)
}

/// The prompts for a part of the run.
///
/// # Errors
/// Fails if a file or a line cannot be used, or if there are too few prompts.
pub fn of(recipe: &Iterate, part: Part) -> Result<Vec<Asked>> {
    let settings = &recipe.prompts;
    let (source, skip, count, seed) = match part {
        Part::Round(t) => {
            (Some(&settings.train), (t - 1) * settings.per_iteration, settings.per_iteration, recipe.seed)
        }
        Part::Validation => (Some(&settings.validation), 0, recipe.gate.prompts, VALIDATION_SEED),
        Part::HeldOut => (settings.held_out.as_ref(), 0, settings.held_out_count, HELD_OUT_SEED),
    };
    // Validation and held-out prompts may be a benchmark's own.
    let against = if matches!(part, Part::Round(_)) { settings.against.as_slice() } else { &[] };
    let benchmarks = Benchmarks::read(against)?;
    let generated = |generator, split| {
        let drawn = draw(&Order { generator, split, seed, skip, count }, &benchmarks)?;
        warn(&drawn.collisions);
        Ok(drawn.prompts)
    };
    match source {
        None => Ok(Vec::new()),
        Some(Source::World { world }) => generated(Generator::World, *world),
        Some(Source::Instructions { instructions }) => generated(Generator::Instructions, *instructions),
        Some(Source::File(path)) => {
            let mut all = read_prompts(path, recipe.bad_lines)?.items;
            let collisions: Vec<_> = all.iter().map(|asked| benchmarks.collision(&asked.prompt)).collect();
            let mut kept = collisions.iter().map(Option::is_none);
            all.retain(|_| kept.next().unwrap_or(true));
            let collisions: Vec<_> = collisions.into_iter().flatten().collect();
            warn(&collisions);
            let (available, refused) = (all.len(), collisions.len());
            let taken: Vec<Asked> = all.into_iter().skip(skip).take(count).collect();
            let enough = if matches!(part, Part::Round(_)) { taken.len() == count } else { !taken.is_empty() };
            ensure!(
                enough,
                "{} has {available} prompts{}, {} are asked for: add some, or lower iterate.prompts.per_iteration",
                path.display(),
                if refused > 0 {
                    format!(" without {refused} that are too close to a benchmark")
                } else {
                    String::new()
                },
                skip + count
            );
            Ok(taken)
        }
    }
}

fn warn(collisions: &[Collision]) {
    for collision in collisions {
        tracing::warn!("left out: {collision}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(generator: Generator, skip: usize) -> Order {
        Order { generator, split: Split::Train, seed: 3, skip, count: 40 }
    }

    #[test]
    fn rounds_ask_different_prompts_and_repeat_them() {
        for generator in [Generator::World, Generator::Instructions] {
            let part = |skip| draw(&order(generator, skip), &Benchmarks::default()).unwrap().prompts;
            let (first, second) = (part(0), part(40));
            assert_eq!((first.len(), second.len()), (40, 40));
            let prompts: HashSet<&str> = first.iter().chain(&second).map(|asked| asked.prompt.as_str()).collect();
            assert_eq!(prompts.len(), 80);
            assert_eq!(second, part(40));
            assert!(first.iter().all(|asked| !asked.checks().unwrap().is_empty()));
        }
    }

    #[test]
    fn prompts_too_close_to_a_benchmark_are_left_out_and_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let (bench, out) = (folder.path().join("bench.jsonl"), folder.path().join("out.jsonl"));
        let all = draw(&order(Generator::Instructions, 0), &Benchmarks::default()).unwrap().prompts;
        write_lines(&bench, &all[..5]).unwrap();
        let collisions = write_prompts(&order(Generator::Instructions, 0), &[bench], &out).unwrap();
        assert!(collisions.len() >= 5, "{collisions:?}");
        let written = read_prompts(&out, crate::records::BadLines::Stop).unwrap().items;
        assert_eq!(written.len(), 40);
        assert!(all[..5].iter().all(|asked| written.iter().all(|other| other.prompt != asked.prompt)));
        assert_eq!(
            written.iter().map(|asked| asked.key.as_u64().unwrap()).collect::<Vec<_>>(),
            (0..40).collect::<Vec<_>>()
        );
    }
}
