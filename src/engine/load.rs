//! From settings to loaded models.

use std::sync::Arc;

use super::fake::FakeEngine;
use super::metered::Metered;
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
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
}

/// Loads what `args` name.
///
/// # Errors
/// [`LoadError`] in one line.
pub fn load(args: &EngineArgs) -> Result<Loaded, LoadError> {
    match args.engine {
        EngineKind::Fake => fake(args),
        EngineKind::Auto | EngineKind::Native => Err(LoadError::NotBuilt("native", "use --engine fake")),
        EngineKind::Mistral => Err(LoadError::NotBuilt("mistral", "build with --features mistral")),
    }
}

fn templates(args: &EngineArgs) -> Result<Arc<Templates>, TemplateError> {
    let templates = args.templates.as_deref().map_or_else(|| Ok(Templates::general()), Templates::from_file)?;
    Ok(Arc::new(templates))
}

/// Echoes; drafts are judged wrong, refinements right.
fn fake(args: &EngineArgs) -> Result<Loaded, LoadError> {
    let templates = templates(args)?;
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
    Ok(Loaded { name, refiner: Arc::clone(&actor), actor, templates })
}
