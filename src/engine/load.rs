//! From settings to loaded models.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::embedded::{Embedded, NAME, UnpackError};
use super::fake::FakeEngine;
use super::generation::{Generation, Generations};
use super::metered::Metered;
use super::model_dir::{ModelDir, ModelError};
use super::native::{NativeConfig, NativeEngine};
use super::upstream::{Siblings, UpstreamConfig, UpstreamEngine};
use super::{Engine, EngineError, Input, Purpose, Request};
use crate::config::{EngineArgs, EngineKind, SiblingsBy, UpstreamArgs};
use crate::prompts::{TemplateError, Templates};
use crate::telemetry::metrics;
use crate::weights::LowRanks;

/// What is served.
pub struct Loaded {
    /// The name that clients use.
    pub name: String,
    /// The first generation of each role.
    pub generations: Generations,
    /// The embedded model's files, where it is served; they must live as long as it does.
    pub files: Option<Embedded>,
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
    /// The embedded model has no place.
    #[error(transparent)]
    Embedded(#[from] UnpackError),
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// The server that should answer does not.
    #[error("--upstream-url: {0}")]
    Upstream(EngineError),
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
    if args.engine == EngineKind::Upstream {
        return upstream(args, own);
    }
    let Configured { files, actor: actor_path, refiner: refiner_path } = directories(args)?;
    let generation = |id: &str, (engine, templates): Model| {
        let templates = own.clone().unwrap_or(templates);
        Arc::new(Generation { id: id.into(), engine, templates })
    };
    let actor = generation("g-1", one(args, &actor_path)?);
    let refiner = match refiner_path {
        Some(path) => generation("g-2", one(args, &path)?),
        None => Arc::clone(&actor),
    };
    let loaded_name = || if files.is_some() { NAME.to_owned() } else { actor.engine.info().name.clone() };
    let name = args.served_name.clone().unwrap_or_else(loaded_name);
    Ok(Loaded { name, generations: Generations::new(actor, refiner), files })
}

/// The directories that settings name.
pub struct Configured {
    files: Option<Embedded>,
    actor: PathBuf,
    refiner: Option<PathBuf>,
}

impl Configured {
    /// The actor's and the refiner's.
    pub fn paths(&self) -> [PathBuf; 2] {
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

/// The name that clients use, where `args` decide it.
pub fn served_name(args: &EngineArgs) -> Option<String> {
    let directory = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    args.served_name.clone().or_else(|| args.model.as_ref().and_then(directory))
}

fn directories(args: &EngineArgs) -> Result<Configured, LoadError> {
    Ok(match &args.model {
        Some(model) => Configured { files: None, actor: model.clone(), refiner: args.refiner.clone() },
        None => {
            let files = Embedded::unpack()?;
            let (actor, refiner) = (files.actor(), args.refiner.clone().unwrap_or_else(|| files.refiner()));
            Configured { files: Some(files), actor, refiner: Some(refiner) }
        }
    })
}

type Model = (Arc<dyn Engine>, Arc<Templates>);

/// Loads one directory with the engine that `args` ask for.
///
/// # Errors
/// [`LoadError`] in one line.
pub(crate) fn one(args: &EngineArgs, directory: &Path) -> Result<Model, LoadError> {
    let native = |directory| native(directory, args.native.config());
    let says =
        |engine: &str, why: &str| tracing::info!(model = %directory.display(), engine, why, "the engine is chosen");
    match args.engine {
        EngineKind::Native => {
            says("native", "--engine asks for it");
            native(directory)
        }
        EngineKind::Mistral => {
            says("mistral", "--engine asks for it");
            mistral(directory)
        }
        EngineKind::Auto if cfg!(feature = "cuda") => {
            says("mistral", "this build computes on CUDA, which the native engine does not");
            mistral(directory)
        }
        EngineKind::Auto | EngineKind::Fake | EngineKind::Upstream => match native(directory) {
            // What the native engine does not compute, mistral.rs may.
            Err(LoadError::Model(error @ ModelError::Unsupported { .. })) if cfg!(feature = "mistral") => {
                says("mistral", &error.to_string());
                mistral(directory)
            }
            loaded => {
                if loaded.is_ok() {
                    says("native", "it computes this architecture on the CPU");
                }
                loaded
            }
        },
    }
}

fn native(directory: &Path, config: NativeConfig) -> Result<Model, LoadError> {
    let directory = ModelDir::open(directory)?;
    let templates = Arc::clone(&directory.templates);
    let engine = NativeEngine::load(directory, config)?;
    metrics::watch_engine(Arc::clone(engine.counters()));
    Ok((Arc::new(Metered(engine)), templates))
}

/// An adapter on the weights that `native` has in memory.
///
/// # Errors
/// A module that does not fit.
pub(crate) fn with_adapter(native: &NativeEngine, modules: &LowRanks) -> Result<Arc<dyn Engine>, ModelError> {
    Ok(Arc::new(Metered(native.with_adapter(modules)?)))
}

#[cfg(feature = "mistral")]
fn mistral(directory: &Path) -> Result<Model, LoadError> {
    use super::mistral::{MistralConfig, MistralEngine, OnRestart};
    let directory = ModelDir::open(directory)?;
    let templates = Arc::clone(&directory.templates);
    let on_restart: OnRestart = Arc::new(metrics::engine_restarted);
    let config = MistralConfig { on_restart: Some(on_restart), ..MistralConfig::default() };
    Ok((Arc::new(Metered(MistralEngine::load(directory, config)?)), templates))
}

#[cfg(not(feature = "mistral"))]
fn mistral(_directory: &Path) -> Result<Model, LoadError> {
    Err(LoadError::NotBuilt("mistral", "build with --features mistral, or use --engine native"))
}

/// A server answers, and judges and refines unless a refiner's directory is named. Only the question for its models is waited for
/// here.
fn upstream(args: &EngineArgs, own: Option<Arc<Templates>>) -> Result<Loaded, LoadError> {
    let UpstreamArgs { upstream_url: url, upstream_model: model, upstream_context: context, upstream_siblings } =
        args.upstream.clone();
    let config = UpstreamConfig {
        url: url.unwrap_or_default(),
        model,
        key: std::env::var("SPAR_UPSTREAM_KEY").ok(),
        context,
        siblings: match upstream_siblings {
            SiblingsBy::N => Siblings::Choices,
            SiblingsBy::Requests => Siblings::Requests,
        },
    };
    let failed = |error: std::io::Error| LoadError::Upstream(EngineError::Unavailable(error.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let engine = runtime.block_on(UpstreamEngine::connect(config)).map_err(LoadError::Upstream)?;
    let engine: Arc<dyn Engine> = Arc::new(Metered(engine));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let templates = own.clone().unwrap_or_else(|| Arc::new(Templates::general()));
    let actor = Arc::new(Generation { id: "g-1".into(), engine, templates });
    let refiner = match &args.refiner {
        Some(path) => {
            let (engine, templates) = one(args, path)?;
            Arc::new(Generation { id: "g-2".into(), engine, templates: own.unwrap_or(templates) })
        }
        None => Arc::clone(&actor),
    };
    Ok(Loaded { name, generations: Generations::new(actor, refiner), files: None })
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
    let engine: Arc<dyn Engine> = Arc::new(Metered(FakeEngine::new(script)));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let generation = Generation { id: "g-1".into(), engine, templates };
    Loaded { name, generations: Generations::single(Arc::new(generation)), files: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NativeArgs;

    fn args(engine: EngineKind, model: Option<&Path>) -> EngineArgs {
        let (model, refiner) = (model.map(Path::to_owned), None);
        let (native, upstream) = (NativeArgs::default(), UpstreamArgs::default());
        EngineArgs { model, refiner, templates: None, served_name: None, engine, native, upstream }
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
