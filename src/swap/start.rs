//! Settings become a served pair and, where an admin key is configured, the swapper around it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use super::canary::Canary;
use super::order::SwapError;
use super::state::{Published, StateFile};
use super::swapper::{Swapper, blocking, now};
use super::turns::Turns;
use super::workplace::{Workplace, WorkplaceError};
use crate::config::{EngineArgs, Settings};
use crate::engine::generation::registry::{AdapterSource, Registry, Source};
use crate::engine::generation::{Adapters, Generation, Generations, Live, Pinned};
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
    /// The directory for swaps.
    #[error(transparent)]
    Workplace(#[from] WorkplaceError),
}

/// Loads what was published last, or what `settings` name.
///
/// # Errors
/// [`StartError`] in one line.
pub async fn start(settings: &Settings) -> Result<Started, StartError> {
    if settings.admin_key.is_none() && !settings.api_keys.has_admin() {
        let Loaded { name, generations, origins, files, .. } = load_models(&settings.engine, None).await?;
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
    let (Loaded { generations, origins, adapters, files, name: loaded_name }, sources, next) = match published {
        Some((loaded, sources, next)) => (loaded, sources.map(Some), next),
        None => {
            let loaded = load_models(&settings.engine, Some(&store)).await?;
            let sources = sources_of(configured, &loaded.origins)?;
            (loaded, sources, 0)
        }
    };
    let live = generations.live();
    let generations = Arc::new(generations);
    let registry = registry(&live, sources, adapters, next);
    let swapper = Arc::new(Swapper {
        registry: Mutex::new(registry),
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

/// The registry of what is live at the start. Adapters with names of their own are on the actor's model.
fn registry(live: &Live, sources: [Option<Source>; 2], adapters: Vec<(String, AdapterSource)>, next: u64) -> Registry {
    let base = sources[0].clone();
    let mut registry = Registry::new(&live.pair, sources, next, now());
    for (name, generation) in live.adapters.iter() {
        let source = adapters.iter().find(|(id, _)| *id == generation.id).map(|(_, source)| source.clone());
        let source = base.clone().zip(source).map(|(base, source)| Source { adapter: Some(source), ..base });
        registry.begins_with(name, generation, source, now());
    }
    registry
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
    let before = loaded.generations.live();
    let pair = relabel(&before.pair, &published);
    let (adapters, next) = renumbered(&before.adapters, &mut loaded.adapters, published.next);
    for (name, named) in published.adapter_origins() {
        let of_name = |source: &&mut AdapterSource| source.name.as_deref() == Some(name);
        loaded
            .adapters
            .iter_mut()
            .map(|(_, source)| source)
            .filter(of_name)
            .for_each(|source| source.path = named.into());
    }
    loaded.generations = Generations::live_with(Live { pair, adapters: Arc::new(adapters) });
    for (origin, source) in loaded.origins.iter_mut().zip(&sources) {
        origin.model = source.model_path.display().to_string();
        origin.adapter.clone_from(&source.adapter);
    }
    Ok(Some((loaded, sources, next)))
}

/// The settings with what was published in place of what is configured.
fn at(args: &EngineArgs, published: &Published) -> EngineArgs {
    let [actor, refiner] = published.directories();
    let mut lora_modules = args.lora_modules.clone();
    if !lora_modules.is_empty() && args.model.as_deref().is_some_and(|model| model != published.actor_model()) {
        tracing::warn!("--lora-modules is left out: another model was published than the one that it was written for");
        lora_modules.clear();
    }
    for loaded in published.adapters() {
        lora_modules.retain(|module| module.name != loaded.name);
        lora_modules.push(loaded);
    }
    let shared = published.ids().actor == published.ids().refiner;
    EngineArgs {
        model: Some(actor.model),
        adapter: actor.adapter,
        refiner: (!shared).then_some(refiner.model),
        refiner_adapter: refiner.adapter,
        lora_modules,
        ..args.clone()
    }
}

/// Adapters under ids that were never given before, from `next` on, and the number after them.
fn renumbered(adapters: &Adapters, sources: &mut [(String, AdapterSource)], mut next: u64) -> (Adapters, u64) {
    let mut renamed = Adapters::new();
    for (name, generation) in adapters {
        let id = format!("g-{next}");
        next += 1;
        for (known, _) in sources.iter_mut().filter(|(known, _)| *known == generation.id) {
            known.clone_from(&id);
        }
        let (engine, templates) = (Arc::clone(&generation.engine), Arc::clone(&generation.templates));
        renamed.insert(name.clone(), Arc::new(Generation::new(id, engine, templates)));
    }
    (renamed, next)
}

fn relabel(live: &Pinned, published: &Published) -> Pinned {
    let ids = published.ids();
    let named = |generation: &Generation, id: &str| {
        let (engine, templates) = (Arc::clone(&generation.engine), Arc::clone(&generation.templates));
        Arc::new(Generation::new(id, engine, templates))
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
