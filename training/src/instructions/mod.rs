//! Prompts for real models: tasks of everyday domains with constraints of IFEval's kinds, each of which `spar::verify` can check.
//!
//! A prompt has one task and one to four constraints. No two splits share a task or a set of kinds.

pub mod constraint;
pub mod decontaminate;
pub mod kind;
mod phrasing;
pub mod seeds;
#[cfg(test)]
mod tests;

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::Value;

pub use constraint::Constraint;
pub use kind::Kind;
pub use seeds::Seed;

use crate::records::Asked;
use crate::world::Split;
use kind::KINDS;
use seeds::QUESTIONS;

/// A task with constraints.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// The task without constraints.
    pub seed: &'static Seed,
    /// The constraints, in the order of the prompt.
    pub constraints: Vec<Constraint>,
    /// The user's prompt.
    pub prompt: String,
}

/// Draws an instruction of `split`.
pub fn draw(split: Split, rng: &mut impl Rng) -> Instruction {
    let seeds = seeds::of(split);
    let seed = seeds.choose(rng).expect("every split has seeds");
    loop {
        let kinds = draw_kinds(seed, rng);
        if split_of(&kinds) == split {
            return realise(seed, &kinds, rng);
        }
    }
}

/// The split of a set of kinds, which a hash decides.
#[must_use]
pub fn split_of(kinds: &[Kind]) -> Split {
    let mut sorted = kinds.to_vec();
    sorted.sort_unstable();
    Split::of(&format!("{sorted:?}"))
}

/// Draws the arguments of `kinds`, which must not conflict, and writes the prompt.
fn realise(seed: &'static Seed, kinds: &[Kind], rng: &mut impl Rng) -> Instruction {
    let mut constraints = constraint::draw_all(seed, kinds, rng);
    constraints.shuffle(rng);
    let prompt = compose(seed, &constraints, rng);
    Instruction { seed, constraints, prompt }
}

fn draw_kinds(seed: &Seed, rng: &mut impl Rng) -> Vec<Kind> {
    let weight = |kind: Kind| match (kind, seed.domain == QUESTIONS) {
        (Kind::Choice, true) => 6.0,
        // Only a question can be answered by yes or no.
        (Kind::Choice, false) => 0.0,
        _ => 1.0,
    };
    let count = *[1, 1, 2, 2, 2, 3, 3, 3, 4, 4].choose(rng).expect("there are counts");
    let mut kinds: Vec<Kind> = Vec::new();
    // Some kinds leave little room for others, so the number of attempts is limited.
    for _ in 0..40 {
        let (kind, _) = KINDS.choose_weighted(rng, |(kind, _)| weight(*kind)).expect("there are positive weights");
        if kinds.len() < count && !kinds.iter().any(|other| other.conflicts(*kind)) {
            kinds.push(*kind);
        }
    }
    kinds
}

/// Puts the task and the sentences of its constraints together, in one of the layouts that people use.
fn compose(seed: &Seed, constraints: &[Constraint], rng: &mut impl Rng) -> String {
    let sentences: Vec<&str> = constraints.iter().map(|constraint| constraint.sentence.as_str()).collect();
    let heading = ["Requirements:", "Please follow these rules:", "Conditions:", "Keep to the following:"];
    match rng.random_range(0..20) {
        0..12 => format!("{} {}", seed.text, sentences.join(" ")),
        12..14 => format!("{}\n\n{}", seed.text, sentences.join(" ")),
        14..16 => format!("{}\n{}", seed.text, sentences.join("\n")),
        16..18 => format!("{}\n\n{}", sentences.join(" "), seed.text),
        _ => {
            let heading = heading.choose(rng).expect("there are headings");
            format!("{}\n\n{heading}\n- {}", seed.text, sentences.join("\n- "))
        }
    }
}

impl Instruction {
    /// The prompt with its instructions, in IFEval's format.
    #[must_use]
    pub fn asked(&self, key: usize) -> Asked {
        let checks = || self.constraints.iter().map(|constraint| &constraint.check);
        Asked {
            key: Value::from(key),
            prompt: self.prompt.clone(),
            instruction_id_list: checks().map(|check| check.id.clone()).collect(),
            kwargs: checks().map(|check| check.kwargs.clone()).collect(),
        }
    }
}
