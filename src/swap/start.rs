//! Settings become a served pair and, where an admin key is configured, the swapper around it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::canary::Canary;
use super::state::{Published, StateFile};
use super::turns::Turns;
use super::{SwapError, Swapper, blocking, now};
use crate::config::{EngineArgs, Settings};
use crate::engine::caches;
use crate::engine::generation::registry::{Registry, Source};
use crate::engine::generation::{Generation, Generations, Pinned};
use crate::engine::load::{self, Files, LoadError, Loaded, Named, Origin};
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
    /// Where the actor's and the refiner's weights came from.
    pub origins: [Origin; 2],
    /// What swaps it, where that is allowed.
    pub swapper: Option<Arc<Swapper>>,
    /// What must live as long as it is served.
    pub files: Files,
}

/// Why nothing can be served.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The models cannot be loaded.
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
    /// The templates cannot be used.
    #[error(transparent)]
    Templates(#[from] TemplateError),
    /// What loads them has panicked.
    #[error(transparent)]
    Lost(#[from] SwapError),
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
    if settings.admin_key.is_none() && !settings.api_keys.has_admin() {
        let Loaded { name, generations, origins, files } = load_models(&settings.engine, None).await?;
        return Ok(Started { name, generations: Arc::new(generations), origins, swapper: None, files });
    }
    let workplace = Workplace::open(settings)?;
    let store = Store::open(workplace.path.join("weights"), settings.swap.swap_dir_bytes)?;
    let configured = load::configured(&settings.engine).map_err(StartError::Load)?.map(|configured| configured.roles());
    let state = configured.clone().map(|roles| StateFile::new(workplace.path.join("published.json"), roles));
    let name = load::served_name(&settings.engine);
    let published = match state.as_ref().and_then(StateFile::read) {
        Some(published) => load_published(&settings.engine, published, &store).await?,
        None => None,
    };
    let (Loaded { generations, origins, files, name: loaded_name }, sources, next) = match published {
        Some((loaded, sources, next)) => (loaded, sources.map(Some), next),
        None => {
            let loaded = load_models(&settings.engine, Some(&store)).await?;
            let sources = sources_of(configured, &loaded.origins)?;
            (loaded, sources, 0)
        }
    };
    let live = generations.pin();
    let generations = Arc::new(generations);
    let swapper = Arc::new(Swapper {
        registry: Mutex::new(Registry::new(&live, sources, next, now())),
        engine: settings.engine.clone(),
        templates: settings.engine.templates.as_deref().map(Templates::from_file).transpose()?.map(Arc::new),
        roots: Roots::new(&settings.swap.weights_roots)?,
        canary: Canary::new(&settings.swap, &settings.search)?,
        settings: settings.swap.clone(),
        generations: Arc::clone(&generations),
        turns: Turns::default(),
        fleet: Mutex::default(),
        _workplace: workplace,
        store,
        state,
    });
    Ok(Started { name: name.unwrap_or(loaded_name), generations, origins, swapper: Some(swapper), files })
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
        // By port, so that two servers do not share one.
        let usual = |cache: &Path| {
            let path = cache.join(format!("swap-{}", settings.http.port));
            std::fs::create_dir_all(&path).and_then(|()| tempfile::tempfile_in(&path)).map(|_writable| path)
        };
        let path = match &settings.swap.swap_dir {
            Some(path) => path.clone(),
            // A server on a free port is somewhere else next time, and remembers nothing.
            None if settings.http.port == 0 => {
                let (temporary, lock) = caches::for_this_run().map_err(failed)?;
                return Ok(Self { path: temporary.path().into(), _lock: lock, _temporary: Some(temporary) });
            }
            None => caches::in_one(usual).map_err(failed)?,
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| StartError::InUse(path.clone()))?;
        Ok(Self { path, _lock: lock, _temporary: None })
    }
}

async fn load_models(args: &EngineArgs, store: Option<&Store>) -> Result<Loaded, StartError> {
    let (args, store) = (args.clone(), store.cloned());
    let loaded = blocking(move || Ok(load::load(&args, store.as_ref()))).await;
    loaded?.map_err(StartError::Load)
}

/// Loads what was published last under its ids, with its sources and the number of the next id; nothing, with a warning, where it
/// cannot be loaded.
async fn load_published(
    args: &EngineArgs,
    published: Published,
    store: &Store,
) -> Result<Option<(Loaded, [Source; 2], u64)>, StartError> {
    let mut loaded = match load_models(&at(args, &published), Some(store)).await {
        Ok(loaded) => loaded,
        Err(error) => {
            tracing::warn!(%error, "what was published last cannot be loaded: the configured model is served");
            return Ok(None);
        }
    };
    let sources = published.sources()?;
    let live = relabel(&loaded.generations.pin(), &published);
    loaded.generations = Generations::new(live.actor, live.refiner);
    for (origin, source) in loaded.origins.iter_mut().zip(&sources) {
        origin.model = source.model_path.display().to_string();
        origin.adapter.clone_from(&source.adapter);
    }
    Ok(Some((loaded, sources, published.next)))
}

/// The settings with what was published in place of what is configured.
fn at(args: &EngineArgs, published: &Published) -> EngineArgs {
    let [actor, refiner] = published.directories();
    let shared = published.ids().actor == published.ids().refiner;
    EngineArgs {
        model: Some(actor.model),
        adapter: actor.adapter,
        refiner: (!shared).then_some(refiner.model),
        refiner_adapter: refiner.adapter,
        ..args.clone()
    }
}

fn relabel(live: &Pinned, published: &Published) -> Pinned {
    let ids = published.ids();
    let named = |generation: &Generation, id: &str| {
        let (engine, templates) = (Arc::clone(&generation.engine), Arc::clone(&generation.templates));
        Arc::new(Generation { id: id.into(), engine, templates })
    };
    let actor = named(&live.actor, &ids.actor);
    let shared = Arc::ptr_eq(&live.actor, &live.refiner);
    let refiner = if shared { Arc::clone(&actor) } else { named(&live.refiner, &ids.refiner) };
    Pinned { actor, refiner }
}

/// Where the configured models came from, and the adapters that were loaded on them.
fn sources_of(configured: Option<[Named; 2]>, origins: &[Origin; 2]) -> Result<[Option<Source>; 2], StartError> {
    let Some([actor, refiner]) = configured else { return Ok([None, None]) };
    let source = |path: PathBuf| {
        let model = Stored { digests: Digests::of(&path)?, path: path.clone() };
        let identity = ModelDir::open(&path)?.identity();
        Ok::<_, ModelError>(Source { model, model_path: path, identity, adapter: None })
    };
    let same = actor.model == refiner.model;
    let first = source(actor.model)?;
    let second = if same { first.clone() } else { source(refiner.model)? };
    let [one, two] = origins.clone().map(|origin| origin.adapter);
    Ok([Some(Source { adapter: one, ..first }), Some(Source { adapter: two, ..second })])
}
