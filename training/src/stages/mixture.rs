//! What a step of the bootstrap learns from: fresh examples, each a function of the seed and the step.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::sample::{Sample, instance};
use crate::conversation::Encoder;
use crate::tokens::Example;
use crate::world::{self, Instance, Response, Split, critique};

/// Examples of one step until `rows` rows are filled; longer ones than `context` are left out.
fn fill(
    seed: u64,
    step: u64,
    rows: usize,
    context: usize,
    mut draw: impl FnMut(&mut ChaCha8Rng) -> Option<Example>,
) -> Vec<Example> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(step);
    let mut examples = Vec::new();
    let mut filled = 0;
    while filled < rows {
        if let Some(example) = draw(&mut rng).filter(|e| e.tokens.len() <= context) {
            filled += example.rows();
            examples.push(example);
        }
    }
    examples
}

/// Prompts and responses of which `slip` of the constraints are not followed.
pub fn acting(encoder: &Encoder<'_>, slip: f64, seed: u64, step: u64, rows: usize, context: usize) -> Vec<Example> {
    fill(seed, step, rows, context, |rng| {
        let instance = world::draw(Split::Train, rng);
        let response = world::damaged(&instance, slip, rng).render();
        Some(encoder.act(&instance.prompt, &response))
    })
}

/// Where a refiner's examples come from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// What models really said, about instances of the training split.
    pub real: &'a [Sample],
    /// The seed of those instances.
    pub seed: u64,
    /// Share of examples drawn from `real`.
    pub share: f64,
    /// Share of constraints that a synthetic response breaks.
    pub damage: f64,
    /// Share of examples that only ask for the presence of words, of many.
    pub drill: f64,
    /// Share of repairs that follow a rule's critique.
    pub rules: f64,
}

/// Responses, their critiques and, of failing ones, their repairs.
pub fn refining(
    encoder: &Encoder<'_>,
    sources: Sources<'_>,
    seed: u64,
    step: u64,
    rows: usize,
    context: usize,
) -> Vec<Example> {
    fill(seed, step, rows, context, |rng| {
        let drilled = rng.random_bool(sources.drill);
        if drilled && rng.random_bool(0.7) {
            let instance = world::drill(world::word_salad(rng), rng);
            let response = instance.witness.render();
            let critique = critique::write(&instance.constraints, &response)?;
            return Some(encoder.judge(&instance, &response, &critique, None));
        }
        let (instance, response): (Instance, String) = if rng.random_bool(sources.share) {
            let sample = sources.real.choose(rng)?;
            (instance(Split::Train, sources.seed, sample.index), sample.response.clone())
        } else {
            let instance = world::draw(Split::Train, rng);
            let response = world::damaged(&instance, sources.damage, rng).render();
            (instance, response)
        };
        if drilled {
            let instance = world::drill(Response::parse(&response), rng);
            let critique = critique::write(&instance.constraints, &response)?;
            return Some(encoder.judge(&instance, &response, &critique, None));
        }
        let critique = critique::write(&instance.constraints, &response)?;
        if critique.accepts() {
            return Some(encoder.judge(&instance, &response, &critique, None));
        }
        let repair = world::repair(&instance, &response, &critique.followed, rng);
        Some(match &repair {
            Some(repair) if rng.random_bool(sources.rules) => {
                let spoken = rng.random_bool(0.25).then_some(&critique);
                encoder.obey(&instance, &response, spoken, repair)
            }
            repair => encoder.judge(&instance, &response, &critique, repair.as_ref()),
        })
    })
}
