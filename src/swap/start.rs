//! From settings to a served pair and, where an admin key is configured, the swapper around it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::canary::Canary;
use super::state::{Published, StateFile};
use super::{SwapError, Swapper, blocking, default_directory, now};
use crate::config::{EngineArgs, Settings};
use crate::engine::embedded::Embedded;
use crate::engine::generation::registry::{Registry, Source};
use crate::engine::generation::{Generation, Generations, Pinned, Role};
use crate::engine::load::{self, LoadError, Loaded};
use crate::engine::model_dir::ModelDir;
use crate::prompts::{TemplateError, Templates};
use crate::verify::data::DataError;
use crate::weights::roots::{RootError, Roots};
use crate::weights::store::{Store, Stored};
use crate::weights::{Digests, ModelError};

/// What is served at the start.
pub struct Started {
    /// The name that clients use.
    pub name: String,
    /// The live pair.
    pub generations: Arc<Generations>,
    /// What swaps it, where that is allowed.
    pub swapper: Option<Arc<Swapper>>,
    /// The embedded model's files, where it is served; they must live as long as it does.
    pub files: Option<Embedded>,
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The models.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The directories for weights.
    #[error(transparent)]
    Roots(#[from] RootError),
    /// The directory for swaps, or a model's.
    #[error(transparent)]
    Weights(#[from] ModelError),
    /// The canary's prompts.
    #[error("--canary: {0}")]
    Canary(#[from] DataError),
    /// The templates.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// The published adapters.
    #[error("the published weights cannot be loaded: {0}")]
    Published(#[from] SwapError),
    /// Two servers in one directory would remove each other's weights.
    #[error("{0} is in use by another server; give this one its own with --swap-dir")]
    InUse(PathBuf),
    /// There is no place for swaps.
    #[error("no directory for swaps: {0}; name one with --swap-dir")]
    NoDirectory(String),
}

/// Loads what was published last, or what `settings` name.
///
/// # Errors
/// [`StartError`] in one line.
pub async fn start(settings: &Settings) -> Result<Started, StartError> {
    if settings.admin_key.is_none() {
        let Loaded { name, generations, files, .. } = load_models(&settings.engine).await?;
        return Ok(Started { name, generations: Arc::new(generations), swapper: None, files });
    }
    let workplace = Workplace::open(settings)?;
    let store = Store::open(workplace.path.join("weights"), settings.swap.swap_dir_bytes)?;
    let configured = load::configured(&settings.engine).map_err(StartError::Load)?;
    let state =
        configured.as_ref().map(|configured| StateFile::new(workplace.path.join("published.json"), configured.paths()));
    let published = state.as_ref().and_then(StateFile::read);
    let name = load::served_name(&settings.engine);
    let (loaded, published) = match published {
        Some(published) => match load_models(&at(&settings.engine, &published)).await {
            Ok(loaded) => (loaded, Some(published)),
            Err(error) => {
                tracing::warn!(%error, "what was published last cannot be loaded: the configured model is served");
                (load_models(&settings.engine).await?, None)
            }
        },
        None => (load_models(&settings.engine).await?, None),
    };
    let mut live = loaded.generations.pin();
    let (sources, next) = match &published {
        Some(published) => {
            relabel(&mut live, published);
            (published.sources()?.map(Some), published.next)
        }
        None => (sources_of(configured.map(|configured| configured.paths()), &live)?, 0),
    };
    let generations = Arc::new(Generations::new(Arc::clone(&live.actor), Arc::clone(&live.refiner)));
    let swapper = Arc::new(Swapper {
        registry: Mutex::new(Registry::new(&live, sources, next, now())),
        engine: settings.engine.clone(),
        templates: settings.engine.templates.as_deref().map(Templates::from_file).transpose()?.map(Arc::new),
        roots: Roots::new(&settings.swap.weights_roots)?,
        canary: Canary::new(&settings.swap, &settings.search)?,
        settings: settings.swap.clone(),
        generations: Arc::clone(&generations),
        busy: Arc::default(),
        _workplace: workplace,
        store,
        state,
    });
    swapper.put_adapters_on(live).await?;
    Ok(Started { name: name.unwrap_or(loaded.name), generations, swapper: Some(swapper), files: loaded.files })
}

impl Swapper {
    /// What was loaded at the start are models; their adapters are put on here.
    async fn put_adapters_on(&self, live: Pinned) -> Result<(), StartError> {
        let mut next = live.clone();
        let mut made: Vec<Arc<Generation>> = Vec::new();
        for role in Role::ALL {
            let id = live.role(role).id.clone();
            let source = self.registry().find(&id).and_then(|record| record.source.clone());
            let Some(source) = source.filter(|source| source.adapter.is_some()) else { continue };
            let generation = match made.iter().find(|generation| generation.id == id) {
                Some(generation) => Arc::clone(generation),
                None => {
                    let generation = self.build(&id, self.again(source.clone(), &live).await?, &live).await?;
                    self.registry().loaded(&generation, source, now());
                    made.push(Arc::clone(&generation));
                    generation
                }
            };
            *next.role_mut(role) = generation;
        }
        self.registry().restored(&next);
        self.generations.publish(next);
        Ok(())
    }
}

/// A directory that one server works in.
pub(super) struct Workplace {
    path: PathBuf,
    _lock: File,
    _temporary: Option<tempfile::TempDir>,
}

impl Workplace {
    fn open(settings: &Settings) -> Result<Self, StartError> {
        let failed = |error: std::io::Error| StartError::NoDirectory(error.to_string());
        let named = settings.swap.swap_dir.clone();
        // A server on a free port is somewhere else next time, and remembers nothing.
        let usual = || Some(settings.http.port).filter(|port| *port != 0).and_then(default_directory);
        let (path, temporary) = match named.or_else(usual) {
            Some(path) => (path, None),
            None => {
                let temporary = tempfile::tempdir().map_err(failed)?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| StartError::InUse(path.clone()))?;
        Ok(Self { path, _lock: lock, _temporary: temporary })
    }
}

async fn load_models(args: &EngineArgs) -> Result<Loaded, StartError> {
    let args = args.clone();
    let loaded = blocking(move || Ok(load::load(&args))).await;
    loaded.map_err(StartError::Published)?.map_err(StartError::Load)
}

/// The settings with the published models in place of the configured ones.
fn at(args: &EngineArgs, published: &Published) -> EngineArgs {
    let [actor, refiner] = published.models().map(Path::to_owned);
    let shared = published.ids().actor == published.ids().refiner;
    EngineArgs { model: Some(actor), refiner: (!shared).then_some(refiner), ..args.clone() }
}

fn relabel(live: &mut Pinned, published: &Published) {
    let ids = published.ids();
    let shared = Arc::ptr_eq(&live.actor, &live.refiner);
    let named = |generation: &Generation, id: &str| {
        let (engine, templates) = (Arc::clone(&generation.engine), Arc::clone(&generation.templates));
        Arc::new(Generation { id: id.into(), engine, templates })
    };
    live.actor = named(&live.actor, &ids.actor);
    live.refiner = if shared { Arc::clone(&live.actor) } else { named(&live.refiner, &ids.refiner) };
}

/// Where the configured models came from.
fn sources_of(paths: Option<[PathBuf; 2]>, live: &Pinned) -> Result<[Option<Source>; 2], StartError> {
    let Some([actor, refiner]) = paths else { return Ok([None, None]) };
    let source = |path: PathBuf| {
        let model = Stored { digests: Digests::of(&path)?, path: path.clone() };
        let identity = ModelDir::open(&path)?.identity();
        Ok::<_, ModelError>(Source { model, model_path: path, identity, adapter: None })
    };
    let first = source(actor)?;
    let second = if Arc::ptr_eq(&live.actor, &live.refiner) { first.clone() } else { source(refiner)? };
    Ok([Some(first), Some(second)])
}
