//! Settings become loaded models.

mod adapted;
mod choice;
mod fleet;
mod ignored;
mod loader;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

pub(crate) use self::adapted::{merged, on, open as open_adapter};
use self::choice::Choice;
pub(crate) use self::choice::{Runs, choose};
use self::loader::Loader;
use super::embedded::{Embedded, NAME, UnpackError};
use super::fake::FakeEngine;
use super::generation::registry::AdapterSource;
use super::generation::{Generation, Generations};
use super::grammar::memory::Memory;
use super::metered::Metered;
use super::model_dir::{ModelDir, ModelError};
use super::native::{NativeConfig, NativeEngine};
use super::upstream::{UpstreamConfig, UpstreamEngine};
use super::{Engine, EngineError, Input, Purpose, Request, Sampling};
use crate::config::{EngineArgs, EngineKind, GenerationBy, UpstreamArgs};
use crate::prompts::{TemplateError, Templates};
use crate::telemetry::metrics;
use crate::weights::store::Store;
use crate::weights::{ModelConfig, gguf};

/// What is served.
pub struct Loaded {
    /// The name that clients use.
    pub name: String,
    /// The first generation of each role.
    pub generations: Generations,
    /// Where the actor's and the refiner's came from.
    pub origins: [Origin; 2],
    /// What must live as long as it is served.
    pub files: Files,
}

/// Directories that models may be loaded from again.
#[derive(Default)]
pub struct Files {
    /// The embedded model's, where it is served.
    pub embedded: Option<Embedded>,
    _merged: Option<TempDir>,
}

/// Where a role's weights came from, and what computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The model's directory, or what answers in place of one.
    pub model: String,
    /// The adapter on it.
    pub adapter: Option<AdapterSource>,
    /// The engine's name.
    pub engine: &'static str,
    /// Why it is this one.
    pub why: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        if let Some(adapter) = &self.adapter {
            write!(f, " with the adapter {}", adapter.path.display())?;
        }
        write!(f, "; engine {}: {}", self.engine, self.why)
    }
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The model needs mistral.rs, which is not in this binary.
    #[error(
        "{} needs mistral.rs, which this build leaves out ({why}): build it in with `cargo build --release --features {}`",
        .model.display(),
        MISTRAL
    )]
    NotBuilt {
        /// The model's directory.
        model: PathBuf,
        /// Why mistral.rs was chosen for it.
        why: String,
    },
    /// The directory cannot be served.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The adapter that a flag names cannot be used.
    #[error("{0}: {1}")]
    Adapter(&'static str, ModelError),
    /// The embedded model has no place.
    #[error(transparent)]
    Embedded(#[from] UnpackError),
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// The server that should answer does not.
    #[error("--upstream-url: {0}")]
    Upstream(EngineError),
    /// The fleet that should answer cannot be used.
    #[error("{0}")]
    Fleet(String),
}

/// Loads what `args` name. Adapters are kept in `store`, where there is one, and merged there where an engine cannot put them on
/// weights in memory. Blocks for as long as that takes.
///
/// # Errors
/// [`LoadError`] in one line.
pub fn load(args: &EngineArgs, store: Option<&Store>) -> Result<Loaded, LoadError> {
    Memory::shared().set_limit(args.grammars.grammar_bytes);
    let own = args.templates.as_deref().map(Templates::from_file).transpose()?.map(Arc::new);
    if args.engine == EngineKind::Fake {
        return Ok(fake(args, own.unwrap_or_else(|| Arc::new(Templates::general()))));
    }
    let mut loader = Loader::new(args, own.clone(), store);
    if args.engine == EngineKind::Upstream {
        return upstream(args, own, loader);
    }
    let Configured { embedded, actor, refiner } = directories(args)?;
    let (actor, origin) = loader.generation("g-1", &actor, ACTOR)?;
    let (refiner, second) = match refiner {
        Some(refiner) => loader.generation("g-2", &refiner, REFINER)?,
        None => (Arc::clone(&actor), origin.clone()),
    };
    let name = served_name(args).unwrap_or_else(|| actor.engine.info().name.clone());
    let files = Files { embedded, _merged: loader.into_files() };
    Ok(Loaded { name, generations: Generations::new(actor, refiner), origins: [origin, second], files })
}

/// The flag that names the actor's adapter.
const ACTOR: &str = "--adapter";
/// The flag that names the refiner's.
const REFINER: &str = "--refiner-adapter";

/// A model's directory and that of the adapter on it, as they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The model's directory.
    pub model: PathBuf,
    /// The adapter's directory.
    pub adapter: Option<PathBuf>,
}

/// The directories that settings name.
pub struct Configured {
    embedded: Option<Embedded>,
    actor: Named,
    /// Absent: one generation is both.
    refiner: Option<Named>,
}

impl Configured {
    /// The actor's and the refiner's.
    pub fn roles(&self) -> [Named; 2] {
        [self.actor.clone(), self.refiner.clone().unwrap_or_else(|| self.actor.clone())]
    }
}

/// The directories that `args` name; none where the engine needs none.
///
/// # Errors
/// The embedded model cannot be unpacked.
pub fn configured(args: &EngineArgs) -> Result<Option<Configured>, LoadError> {
    match args.engine {
        EngineKind::Fake | EngineKind::Upstream => Ok(None),
        _ => directories(args).map(Some),
    }
}

/// The name that clients use, where `args` decide it: whatever is published or merged meanwhile, it stays.
pub fn served_name(args: &EngineArgs) -> Option<String> {
    let usual = || match (args.engine, &args.model) {
        (EngineKind::Fake | EngineKind::Upstream, _) => None,
        (_, Some(model)) => gguf::served_name(model),
        (_, None) => Some(NAME.to_owned()),
    };
    args.served_name.clone().or_else(usual)
}

/// Whether these settings ask for the embedded model.
pub fn serves_embedded(args: &EngineArgs) -> bool {
    args.model.is_none() && !matches!(args.engine, EngineKind::Fake | EngineKind::Upstream)
}

fn directories(args: &EngineArgs) -> Result<Configured, LoadError> {
    let (embedded, actor, refiner) = match &args.model {
        Some(model) => (None, model.clone(), args.refiner.clone()),
        None => {
            let files = Embedded::unpack()?;
            let (actor, refiner) = (files.actor(), args.refiner.clone().unwrap_or_else(|| files.refiner()));
            (Some(files), actor, Some(refiner))
        }
    };
    let one_for_both = refiner.is_none() && args.adapter == args.refiner_adapter;
    let refiner = (!one_for_both)
        .then(|| Named { model: refiner.unwrap_or_else(|| actor.clone()), adapter: args.refiner_adapter.clone() });
    Ok(Configured { embedded, actor: Named { model: actor, adapter: args.adapter.clone() }, refiner })
}

type Model = (Arc<dyn Engine>, Arc<Templates>);

/// Loads one directory with the engine that `args` ask for.
///
/// # Errors
/// [`LoadError`] in one line.
pub(crate) fn one(args: &EngineArgs, directory: &Path) -> Result<Model, LoadError> {
    chosen(args, directory).map(|(model, _)| model)
}

fn chosen(args: &EngineArgs, directory: &Path) -> Result<(Model, Choice), LoadError> {
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

/// The features of a build like this one that has mistral.rs.
const MISTRAL: &str = if cfg!(feature = "cuda") { "mistral,cuda" } else { "mistral" };

/// Checks that this binary has the engine that was chosen for a model.
fn must_be_built(choice: &Choice, model: &Path) -> Result<(), LoadError> {
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
pub(crate) fn may_run(runs: Runs, directory: &Path, config: &ModelConfig) -> Result<(), ModelError> {
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
    Ok(Arc::new(Metered(engine)))
}

#[cfg(feature = "mistral")]
fn mistral(directory: ModelDir) -> Result<Arc<dyn Engine>, LoadError> {
    use super::mistral::{MistralConfig, MistralEngine, OnRestart};
    let on_restart: OnRestart = Arc::new(metrics::engine_restarted);
    let config = MistralConfig { on_restart: Some(on_restart), ..MistralConfig::default() };
    Ok(Arc::new(Metered(MistralEngine::load(directory, config)?)))
}

/// A server answers, and judges and refines unless a refiner's directory is named. Only the question for its models is waited for
/// here.
fn upstream(args: &EngineArgs, own: Option<Arc<Templates>>, mut loader: Loader<'_>) -> Result<Loaded, LoadError> {
    let UpstreamArgs { upstream_url, upstreams, upstream_model: model, upstream_context: context, .. } =
        args.upstream.clone();
    if upstream_url.len() > 1 || upstreams.is_some() {
        return fleet::load(args, own, loader);
    }
    let url = upstream_url.into_iter().next().unwrap_or_default();
    let config = UpstreamConfig {
        url: url.clone(),
        model,
        key: std::env::var("SPAR_UPSTREAM_KEY").ok(),
        context,
        reasoning: args.thinking.form(None),
        template_kwargs: args.thinking.kwargs(),
        siblings: args.upstream.upstream_siblings.siblings(),
        dialect: args.upstream.upstream_dialect.dialect(),
    };
    let failed = |error: std::io::Error| LoadError::Upstream(EngineError::Unavailable(error.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let engine = runtime.block_on(UpstreamEngine::connect(config)).map_err(LoadError::Upstream)?;
    let engine: Arc<dyn Engine> = Arc::new(Metered(engine));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let templates = own.unwrap_or_else(|| Arc::new(Templates::general()));
    let model = format!("{} at {url}", engine.info().name);
    let origin = Origin { model, adapter: None, engine: "upstream", why: ASKED.into() };
    let actor = Arc::new(Generation { id: "g-1".into(), engine, templates });
    let (refiner, second) = match &args.refiner {
        Some(path) => {
            let named = Named { model: path.clone(), adapter: args.refiner_adapter.clone() };
            loader.generation("g-2", &named, REFINER)?
        }
        None => (Arc::clone(&actor), origin.clone()),
    };
    let files = Files { embedded: None, _merged: loader.into_files() };
    Ok(Loaded { name, generations: Generations::new(actor, refiner), origins: [origin, second], files })
}

/// Why an engine runs that is never chosen by itself.
const ASKED: &str = "--engine asks for it";

/// Echoes; drafts are judged wrong, refinements right.
fn fake(args: &EngineArgs, templates: Arc<Templates>) -> Loaded {
    let text = templates.text.clone();
    let script = move |request: &Request, _sibling: usize| -> Result<String, EngineError> {
        let asked = match &request.input {
            Input::Chat(turns) => turns.last().map(|turn| turn.content.as_str()).unwrap_or_default(),
            Input::Text(text) => text,
            Input::Tokens(_) => "",
        };
        Ok(match request.purpose {
            Purpose::Answer => format!("Echo: {asked}"),
            Purpose::Judge if asked.contains("Refined echo") => format!("It is refined.\n{} Yes", text.verdict),
            Purpose::Judge => format!("It is only a draft.\n{} No", text.verdict),
            Purpose::Refine => format!("I refine it. {}Refined echo{}", text.start, text.end),
        })
    };
    let engine: Arc<dyn Engine> = Arc::new(Metered(FakeEngine::new(script)));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let generation = Generation { id: "g-1".into(), engine, templates };
    let origin = Origin { model: "scripted replies".into(), adapter: None, engine: "fake", why: ASKED.into() };
    let generations = Generations::single(Arc::new(generation));
    Loaded { name, generations, origins: [origin.clone(), origin], files: Files::default() }
}

#[cfg(test)]
mod tests;
