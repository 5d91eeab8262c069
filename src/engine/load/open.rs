//! One directory becomes an engine.

use std::path::Path;
use std::sync::Arc;

use super::choice::{self, Choice, Runs, choose};
use super::error::LoadError;
use super::ignored;
use crate::config::{EngineArgs, GenerationBy};
use crate::engine::metered::Metered;
use crate::engine::model_dir::{ModelDir, ModelError};
use crate::engine::native::{NativeConfig, NativeEngine};
use crate::engine::{Engine, Sampling};
use crate::prompts::Templates;
use crate::telemetry::metrics;
use crate::weights::{ModelConfig, gguf};

/// An engine, and the texts that it is asked with as a refiner.
pub(super) type Model = (Arc<dyn Engine>, Arc<Templates>);

/// Loads one directory with the engine that `args` ask for.
///
/// # Errors
/// [`LoadError`] in one line.
pub(crate) fn one(args: &EngineArgs, directory: &Path) -> Result<Model, LoadError> {
    chosen(args, directory).map(|(model, _)| model)
}

pub(super) fn chosen(args: &EngineArgs, directory: &Path) -> Result<(Model, Choice), LoadError> {
    let mut directory = ModelDir::open(directory)?;
    directory.reasoning = args.thinking.form(directory.reasoning);
    directory.template_kwargs = args.thinking.kwargs();
    directory.tool_format = args.thinking.tool_calls.unwrap_or(directory.tool_format);
    if args.generation_config == GenerationBy::Auto {
        directory.sampling = directory.recommended()?;
        let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, .. } = directory.sampling;
        if directory.sampling != Sampling::default() {
            let model = directory.path.display();
            tracing::info!(%model, temperature, top_p, top_k, min_p, repetition_penalty, "the model's default sampling");
        }
    }
    let choice = choose(args.engine, &directory.config);
    must_be_built(&choice, &directory.path)?;
    if choice.runs == Runs::Mistral && gguf::is_named(&directory.path) {
        let reason = format!(
            "{}, but mistral.rs is given directories here, not GGUF files; name the model's Hugging Face directory",
            choice.why
        );
        return Err(ModelError::Unsupported { dir: directory.path, reason }.into());
    }
    may_run(choice.runs, &directory.path, &directory.config)?;
    let (name, why) = (choice.runs.name(), &choice.why);
    tracing::info!(model = %directory.path.display(), engine = name, why, "the engine is chosen");
    let templates = Arc::clone(&directory.templates);
    let engine = match choice.runs {
        Runs::Native => native(args, directory)?,
        #[cfg(feature = "mistral")]
        Runs::Mistral => mistral(directory)?,
        #[cfg(not(feature = "mistral"))]
        Runs::Mistral => return Err(not_built(&choice, &directory.path)),
    };
    Ok(((engine, templates), choice))
}

/// Checks that this binary has the engine that was chosen for a model.
pub(super) fn must_be_built(choice: &Choice, model: &Path) -> Result<(), LoadError> {
    match choice.runs {
        Runs::Mistral if cfg!(not(feature = "mistral")) => Err(not_built(choice, model)),
        _ => Ok(()),
    }
}

fn not_built(choice: &Choice, model: &Path) -> LoadError {
    LoadError::NotBuilt { model: model.into(), why: choice.why.clone() }
}

/// Checks that an engine computes what a configuration asks for.
///
/// # Errors
/// Names what would be left out.
pub(super) fn may_run(runs: Runs, directory: &Path, config: &ModelConfig) -> Result<(), ModelError> {
    match runs {
        Runs::Native => Ok(()),
        Runs::Mistral => {
            ignored::check(config).map_err(|reason| ModelError::Unsupported { dir: directory.into(), reason })
        }
    }
}

fn native(args: &EngineArgs, directory: ModelDir) -> Result<Arc<dyn Engine>, LoadError> {
    let config = NativeConfig { processor: choice::processor(), ..args.native.config() };
    let engine = NativeEngine::load(directory, config)?;
    metrics::watch_engine(Arc::clone(engine.counters()));
    Ok(Arc::new(Metered(Arc::new(engine))))
}

#[cfg(feature = "mistral")]
fn mistral(directory: ModelDir) -> Result<Arc<dyn Engine>, LoadError> {
    use crate::engine::mistral::{MistralConfig, MistralEngine, OnRestart};
    let on_restart: OnRestart = Arc::new(metrics::engine_restarted);
    let config = MistralConfig { on_restart: Some(on_restart), ..MistralConfig::default() };
    Ok(Arc::new(Metered(Arc::new(MistralEngine::load(directory, config)?))))
}
