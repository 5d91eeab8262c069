//! Trains an actor and a refiner from scratch: tokenizer, actor, its responses, refiner, its refinements, final refiner.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use spar::prompts::Templates;
use spar::search::{Models, SearchConfig};
use tokenizers::Tokenizer;

use super::mixture::{self, Sources};
use super::prompts::instance;
use super::responses::{self, Sample};
use super::{engines, read_lines, release, write_json, write_lines};
use crate::conversation::Encoder;
use crate::recipe::{Bootstrap, Refiner, Shape};
use crate::tokenizer;
use crate::tokens::Example;
use crate::trainer::{self, Init, TrainConfig};
use crate::world::Split;

/// The number of prompts that are answered at a time.
const PARALLEL: usize = 64;

/// A run and its directory.
struct Run<'a> {
    recipe: &'a Bootstrap,
    out: &'a Path,
    tokenizer: Tokenizer,
    templates: Templates,
    end: u32,
}

/// Makes `actor/` and `refiner/` in `out`, both complete model directories, and `release/` with their scores. Finished outputs of a killed
/// run are reused.
///
/// # Errors
/// Fails if a file cannot be read or written, or if a stage fails; the message says which.
pub async fn bootstrap(recipe: &Bootstrap, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let templates = Templates::new(recipe.templates.clone(), "the recipe")?;
    let path = out.join("tokenizer.json");
    if !path.exists() {
        let made = tokenizer::train(recipe.tokenizer.vocabulary, recipe.seed, &templates)?;
        tokenizer::save(&made, recipe.context, out)?;
    }
    let tokenizer = Tokenizer::from_file(&path).map_err(|e| anyhow!("reading {}: {e}", path.display()))?;
    let end = tokenizer.token_to_id(tokenizer::END).context("the tokenizer has no end token")?;
    let run = Run { recipe, out, tokenizer, templates, end };
    run.stages().await
}

impl Run<'_> {
    async fn stages(&self) -> Result<()> {
        let (recipe, seed) = (self.recipe, self.recipe.seed);
        let encoder = Encoder::new(&self.tokenizer, &self.templates, recipe.weights)?;
        let actor = &recipe.actor;
        self.train("actor", &recipe.model.actor, &actor.train, Init::Fresh { end: Some(self.end) }, &mut |step| {
            Ok(mixture::acting(&encoder, actor.slip, seed, step, actor.tokens_per_step, recipe.context))
        })?;
        let samples = self.samples().await?;
        let first = &recipe.refiner;
        self.refiner("refiner-first", first, Init::Fresh { end: Some(self.end) }, &encoder, &samples, seed + 1)?;
        let refined = self.refined(&samples).await?;
        let both = [samples, refined].concat();
        let init = Init::From(self.out.join("refiner-first"));
        self.refiner("refiner", &recipe.refiner_final, init, &encoder, &both, seed + 2)?;
        release::release(recipe, self.out).await
    }

    fn refiner(
        &self,
        name: &str,
        recipe: &Refiner,
        init: Init,
        encoder: &Encoder<'_>,
        real: &[Sample],
        seed: u64,
    ) -> Result<()> {
        let Refiner { real: share, damage, drill, rules, .. } = *recipe;
        let sources = Sources { real, seed: self.recipe.seed, share, damage, drill, rules };
        self.train(name, &self.recipe.model.refiner, &recipe.train, init, &mut |step| {
            Ok(mixture::refining(encoder, sources, seed, step, recipe.tokens_per_step, self.recipe.context))
        })
    }

    fn train(
        &self,
        name: &str,
        shape: &Shape,
        train: &TrainConfig,
        init: Init,
        data: &mut dyn FnMut(u64) -> Result<Vec<Example>>,
    ) -> Result<()> {
        let out_dir = self.out.join(name);
        let config = TrainConfig { seed: self.recipe.seed, out_dir: out_dir.clone(), ..train.clone() };
        let llama = self.recipe.config(shape, self.tokenizer.get_vocab_size(true))?;
        let report = trainer::train(&config, &llama, init, data).with_context(|| format!("training {name}"))?;
        tracing::info!(name, loss = report.loss, tokens = report.tokens, seconds = report.seconds, "trained");
        write_json(&out_dir.join("report.json"), &report)?;
        tokenizer::save(&self.tokenizer, self.recipe.context, &out_dir)?;
        write_json(&out_dir.join("spar.json"), &self.recipe.templates)
    }

    /// The actor's responses to training prompts.
    async fn samples(&self) -> Result<Vec<Sample>> {
        let path = self.out.join("samples.jsonl");
        if let Some(samples) = read_lines(&path)? {
            return Ok(samples);
        }
        let engine = engines::load(&self.out.join("actor"))?;
        let from = &self.recipe.samples;
        let samples =
            responses::responses(&engine, self.recipe.seed, from.prompts, from.per_prompt, from.temperature, PARALLEL)
                .await
                .context("sampling the actor")?;
        write_lines(&path, &samples)?;
        Ok(samples)
    }

    /// The refiner's refinements of failing samples.
    async fn refined(&self, samples: &[Sample]) -> Result<Vec<Sample>> {
        let path = self.out.join("refined.jsonl");
        if let Some(samples) = read_lines(&path)? {
            return Ok(samples);
        }
        let failing: Vec<Sample> = samples
            .iter()
            .filter(|s| {
                let constraints = instance(Split::Train, self.recipe.seed, s.index).constraints;
                !constraints.iter().all(|c| c.check().strict(&s.response))
            })
            .take(self.recipe.refined.responses)
            .cloned()
            .collect();
        let engine = engines::load(&self.out.join("refiner-first"))?;
        let models = Models { actor: &engine, refiner: &engine, templates: &self.templates };
        let config = SearchConfig::by_votes();
        let refined = responses::refinements(models, &config, self.recipe.seed, &failing, PARALLEL)
            .await
            .context("sampling the refiner")?;
        write_lines(&path, &refined)?;
        Ok(refined)
    }
}
