//! What models really say: an actor's responses, and a refiner's critiques and refinements of them.

use std::collections::HashSet;
use std::path::Path;

use anyhow::Result;
use futures::{StreamExt, stream};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use spar::chat::Message;
use spar::engine::{Engine, EngineError, Purpose, Request, Sampling, derive_seed};
use spar::search::{self, Models, SearchConfig, Task};

use super::write_lines;
use crate::world::{self, Instance, Split};

/// Instance `index` of a split: the same one for the same seed, whenever it is asked for.
#[must_use]
pub fn instance(split: Split, seed: u64, index: u64) -> Instance {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(index);
    world::draw(split, &mut rng)
}

/// Writes prompts `0..count` of a split in IFEval's JSONL format, each prompt once.
///
/// # Errors
/// When the file cannot be written.
pub fn write_prompts(split: Split, seed: u64, count: u64, out: &Path) -> Result<()> {
    let mut seen = HashSet::new();
    let fresh = |instance: &Instance| seen.insert(instance.prompt.clone());
    let records = (0..).map(|i| instance(split, seed, i)).filter(fresh).take(usize::try_from(count)?).enumerate();
    write_lines(out, &records.map(|(key, instance)| instance.record(key)).collect::<Vec<_>>())
}

/// A response to a training instance, by its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The instance is `instance(Split::Train, seed, index)`.
    pub index: u64,
    /// What a model said.
    pub response: String,
}

/// Responses of `engine` to instances `0..prompts`, `per_prompt` each; `parallel` prompts at a time.
///
/// # Errors
/// The error of the first failing call.
pub async fn responses(
    engine: &dyn Engine,
    seed: u64,
    prompts: u64,
    per_prompt: usize,
    temperature: f32,
    parallel: usize,
) -> Result<Vec<Sample>> {
    let all: Vec<Result<Vec<Sample>>> = stream::iter(0..prompts)
        .map(|index| async move {
            let request = Request {
                samples: per_prompt,
                sampling: Sampling { temperature, seed: derive_seed(seed, index), ..Sampling::default() },
                ..Request::chat(Purpose::Answer, vec![Message::user(instance(Split::Train, seed, index).prompt)])
            };
            let mut samples = Vec::new();
            for reply in engine.start(request).await? {
                samples.push(Sample { index, response: reply.complete().await?.text });
            }
            Ok(samples)
        })
        .buffered(parallel)
        .collect()
        .await;
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// What the refiner makes of `failing` after one critique of its own; replies without the markers, and critiques that leave no room
/// for one, are left out.
///
/// # Errors
/// The error of the first failing call.
pub async fn refinements(
    models: Models<'_>,
    config: &SearchConfig,
    seed: u64,
    failing: &[Sample],
    parallel: usize,
) -> Result<Vec<Sample>> {
    let one_vote = SearchConfig { votes: 1, ..config.clone() };
    let all: Vec<Result<Option<Sample>>> = stream::iter(failing.iter().enumerate())
        .map(|(i, sample)| {
            let config = &one_vote;
            async move {
                let prompt = instance(Split::Train, seed, sample.index).prompt;
                let call = derive_seed(!seed, i as u64);
                let seeded = Sampling { seed: call, ..Sampling::default() };
                let task = Task { sampling: seeded.clone(), ..Task::chat(vec![Message::user(prompt)]) };
                let judgement = search::judge(models, config, &task, &sample.response).await?;
                let turns = models.templates.refine(&task.messages, &sample.response, &judgement.critique);
                let request = Request {
                    sampling: Sampling { temperature: config.refine_temperature, ..seeded },
                    max_tokens: Some(config.refine_tokens),
                    ..Request::chat(Purpose::Refine, turns)
                };
                let reply = match models.refiner.generate(request).await {
                    Err(EngineError::PromptTooLong { .. }) => return Ok(None),
                    reply => reply?,
                };
                let refined = models.templates.parse_refinement(&reply.text);
                Ok(refined.map(|r| Sample { index: sample.index, response: r.response }))
            }
        })
        .buffered(parallel)
        .collect()
        .await;
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
