//! The examples of one step of the bootstrap. They are fresh in every step, as a function of the seed and the step.

use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::prompts::instance;
use super::responses::Sample;
use crate::conversation::Encoder;
use crate::tokens::Example;
use crate::world::{self, Instance, Response, Split, critique};

/// Draws the examples of one step until `rows` rows are filled. Examples longer than `context` are skipped.
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

/// Examples of prompts and responses, in which the share `slip` of the constraints is not followed.
pub fn acting(encoder: &Encoder<'_>, slip: f64, seed: u64, step: u64, rows: usize, context: usize) -> Vec<Example> {
    fill(seed, step, rows, context, |rng| {
        let instance = world::draw(Split::Train, rng);
        let response = world::damaged(&instance, slip, rng).render();
        Some(encoder.act(&instance.prompt, &response))
    })
}

/// The sources of a refiner's examples.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// Real responses of models to instances of the training split.
    pub real: &'a [Sample],
    /// The seed of those instances.
    pub seed: u64,
    /// Share of examples drawn from `real`.
    pub share: f64,
    /// Share of constraints that a synthetic response breaks.
    pub damage: f64,
    /// Share of examples that only check the presence of many words.
    pub drill: f64,
    /// Share of repairs that follow a rule's critique.
    pub rules: f64,
}

/// Examples of responses with their critiques and, if they fail, their repairs.
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
                encoder.refine_by_rules(&instance, &response, spoken, repair)
            }
            repair => encoder.judge(&instance, &response, &critique, repair.as_ref()),
        })
    })
}
