//! Real outputs of models: an actor's responses, and a refiner's refinements of them.

use anyhow::Result;
use futures::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use spar::chat::Message;
use spar::engine::{Engine, EngineError, EngineExt, Purpose, Request, Sampling, derive_seed};
use spar::search::{self, Models, SearchConfig, Task};

use super::prompts::instance;
use crate::world::Split;

/// A response to a training instance, which is identified by its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The instance is `instance(Split::Train, seed, index)`.
    pub index: u64,
    /// The model's response.
    pub response: String,
}

/// Responses of `engine` to instances `0..prompts`, `per_prompt` for each, with `parallel` prompts at a time.
///
/// # Errors
/// Returns the error of the first failing call.
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

/// The refiner's refinements of `failing`, each after one critique of its own. Replies without markers are dropped, and so are critiques
/// that leave no room for a reply.
///
/// # Errors
/// Returns the error of the first failing call.
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
