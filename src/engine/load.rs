//! From settings to loaded models.

use std::path::Path;
use std::sync::Arc;

use super::fake::FakeEngine;
use super::metered::Metered;
use super::model_dir::{ModelDir, ModelError};
use super::native::{NativeConfig, NativeEngine};
use super::{Engine, EngineError, Input, Purpose, Request};
use crate::config::{EngineArgs, EngineKind};
use crate::prompts::{TemplateError, Templates};

/// What is served.
pub struct Loaded {
    /// The name that clients use.
    pub name: String,
    /// Drafts and plain answers.
    pub actor: Arc<dyn Engine>,
    /// Judges and refines; the actor itself where there is no separate one.
    pub refiner: Arc<dyn Engine>,
    /// The refiner's templates.
    pub templates: Arc<Templates>,
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The engine is not in this binary.
    #[error("the engine {0} is not part of this build; {1}")]
    NotBuilt(&'static str, &'static str),
    /// The directory cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
}

/// Loads what `args` name. Blocks for as long as that takes.
///
/// # Errors
/// [`LoadError`] in one line.
pub fn load(args: &EngineArgs) -> Result<Loaded, LoadError> {
    let own = args.templates.as_deref().map(Templates::from_file).transpose()?.map(Arc::new);
    if args.engine == EngineKind::Fake {
        return Ok(fake(args, own.unwrap_or_else(|| Arc::new(Templates::general()))));
    }
    let Some(model) = &args.model else {
        return Err(LoadError::NotBuilt("of the embedded model", "pass --model DIR"));
    };
    let (actor, templates) = one(args.engine, model)?;
    let (refiner, templates) = match &args.refiner {
        Some(refiner) => one(args.engine, refiner)?,
        None => (Arc::clone(&actor), templates),
    };
    let name = args.served_name.clone().unwrap_or_else(|| actor.info().name.clone());
    Ok(Loaded { name, actor, refiner, templates: own.unwrap_or(templates) })
}

type Model = (Arc<dyn Engine>, Arc<Templates>);

fn one(engine: EngineKind, directory: &Path) -> Result<Model, LoadError> {
    match engine {
        EngineKind::Mistral => mistral(directory),
        EngineKind::Native => native(directory),
        EngineKind::Auto if cfg!(feature = "cuda") => mistral(directory),
        // What the native engine does not compute, mistral.rs may.
        EngineKind::Auto | EngineKind::Fake => match native(directory) {
            Err(LoadError::Model(ModelError::Unsupported { .. })) if cfg!(feature = "mistral") => mistral(directory),
            loaded => loaded,
        },
    }
}

fn native(directory: &Path) -> Result<Model, LoadError> {
    let directory = ModelDir::open(directory)?;
    let templates = Arc::clone(&directory.templates);
    Ok((Arc::new(Metered(NativeEngine::load(directory, NativeConfig::default())?)), templates))
}

fn mistral(_directory: &Path) -> Result<Model, LoadError> {
    Err(LoadError::NotBuilt("mistral", "build with --features mistral, or use --engine native"))
}

/// Echoes; drafts are judged wrong, refinements right.
fn fake(args: &EngineArgs, templates: Arc<Templates>) -> Loaded {
    let text = templates.text.clone();
    let script = move |request: &Request, _sibling: usize| -> Result<String, EngineError> {
        let asked = match &request.input {
            Input::Chat(turns) => turns.last().map(|turn| turn.content.as_str()).unwrap_or_default(),
            Input::Text(text) => text,
        };
        Ok(match request.purpose {
            Purpose::Answer => format!("Echo: {asked}"),
            Purpose::Judge if asked.contains("Refined echo") => format!("It is refined.\n{} Yes", text.verdict),
            Purpose::Judge => format!("It is only a draft.\n{} No", text.verdict),
            Purpose::Refine => format!("I refine it. {}Refined echo{}", text.start, text.end),
        })
    };
    let actor: Arc<dyn Engine> = Arc::new(Metered(FakeEngine::new(script)));
    let name = args.served_name.clone().unwrap_or_else(|| actor.info().name.clone());
    Loaded { name, refiner: Arc::clone(&actor), actor, templates }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(engine: EngineKind, model: Option<&Path>) -> EngineArgs {
        let (model, refiner) = (model.map(Path::to_owned), None);
        EngineArgs { model, refiner, templates: None, served_name: None, engine }
    }

    #[test]
    fn a_mistyped_path_is_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let error = load(&args(EngineKind::Auto, Some(&directory.path().join("nowhere")))).err().unwrap().to_string();
        assert!(error.contains("nowhere") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn a_missing_template_file_is_one_line() {
        let templates = Some("nowhere.json".into());
        let error = load(&EngineArgs { templates, ..args(EngineKind::Fake, None) }).err().unwrap().to_string();
        assert!(error.contains("nowhere.json") && !error.contains('\n'), "{error}");
    }
}
