//! Settings become loaded models.

mod adapted;
mod choice;
mod error;
mod fleet;
mod ignored;
mod loader;
mod open;
mod origin;

use std::path::Path;
use std::sync::Arc;

use tempfile::TempDir;

pub(crate) use self::adapted::{merged, on, open as open_adapter, templates as adapter_templates};
pub(crate) use self::choice::{Runs, choose};
pub use self::error::LoadError;
use self::loader::Loader;
pub(crate) use self::open::one;
pub use self::origin::{Named, Origin};
use super::embedded::{Embedded, NAME};
use super::fake::FakeEngine;
use super::generation::registry::AdapterSource;
use super::generation::{Adapters, Generation, Generations, Live, Pinned};
use super::grammar::shared_memory;
use super::metered::Metered;
use super::upstream::{UpstreamConfig, UpstreamEngine};
use super::{Engine, EngineError, Input, Purpose, Request};
use crate::config::{EngineArgs, EngineKind, UpstreamArgs};
use crate::prompts::Templates;
use crate::weights::gguf;
use crate::weights::store::Store;

/// What is served.
pub struct Loaded {
    /// The name that clients use.
    pub name: String,
    /// The first generation of each role.
    pub generations: Generations,
    /// The origins of the actor's and the refiner's weights.
    pub origins: [Origin; 2],
    /// Where the adapters with names of their own came from, by their generations' ids.
    pub adapters: Vec<(String, AdapterSource)>,
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

/// Loads what `args` name. Adapters are kept in `store`, where there is one, and merged there where an engine cannot put them on
/// weights in memory. Blocks for as long as that takes.
///
/// # Errors
/// [`LoadError`] in one line.
pub fn load(args: &EngineArgs, store: Option<&Store>) -> Result<Loaded, LoadError> {
    shared_memory().set_limit(args.grammars.grammar_bytes);
    let own = args.templates.as_deref().map(Templates::from_file).transpose()?.map(Arc::new);
    if args.engine == EngineKind::Fake {
        return Ok(fake(args, own.unwrap_or_else(|| Arc::new(Templates::general()))));
    }
    let mut loader = Loader::new(args, own.clone(), store);
    if args.engine == EngineKind::Upstream {
        return upstream(args, own, loader);
    }
    let Configured { embedded, actor, refiner } = directories(args)?;
    let named = actor;
    let (actor, origin) = loader.generation("g-1", &named, ACTOR)?;
    let (refiner, second) = match refiner {
        Some(refiner) => loader.generation("g-2", &refiner, REFINER)?,
        None => (Arc::clone(&actor), origin.clone()),
    };
    let name = served_name(args).unwrap_or_else(|| actor.engine.info().name.clone());
    let (adapters, sources) = named_adapters(args, &mut loader, &named.model, &name)?;
    let files = Files { embedded, _merged: loader.into_files() };
    let live = Live { pair: Pinned { actor, refiner }, adapters: Arc::new(adapters) };
    let generations = Generations::live_with(live);
    Ok(Loaded { name, generations, origins: [origin, second], adapters: sources, files })
}

/// The adapters of `--lora-modules` on the model of the actor, which is served as `served`; their ids follow the roles'.
fn named_adapters(
    args: &EngineArgs,
    loader: &mut Loader<'_>,
    model: &Path,
    served: &str,
) -> Result<(Adapters, Vec<(String, AdapterSource)>), LoadError> {
    let (mut adapters, mut sources) = (Adapters::new(), Vec::new());
    for (module, number) in args.lora_modules.iter().zip(3..) {
        let name = &module.name;
        if name == served || adapters.contains_key(name) {
            return Err(LoadError::LoraModules(format!("the name {name} is taken; give each adapter its own")));
        }
        let named = Named { model: model.into(), adapter: Some(module.path.clone()) };
        let (generation, origin) = loader.generation(&format!("g-{number}"), &named, LORA_MODULES)?;
        if generation.engine.base().is_none() {
            let reason = format!("{name} needs an engine that takes adapters while it runs: --engine native");
            return Err(LoadError::LoraModules(reason));
        }
        let source = origin.adapter.map(|source| AdapterSource { name: Some(name.clone()), ..source });
        sources.extend(source.map(|source| (generation.id.clone(), source)));
        adapters.insert(name.clone(), generation);
    }
    Ok((adapters, sources))
}

/// The flag that names the actor's adapter.
const ACTOR: &str = "--adapter";
/// The flag that names the refiner's.
const REFINER: &str = "--refiner-adapter";
/// The flag that names adapters that requests choose.
const LORA_MODULES: &str = "--lora-modules";

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
        surmises: args.thinking.surmises(),
        template_kwargs: args.thinking.kwargs(),
        siblings: args.upstream.upstream_siblings.siblings(),
        dialect: args.upstream.upstream_dialect.dialect(),
    };
    let failed = |error: std::io::Error| LoadError::Upstream(EngineError::Unavailable(error.to_string()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let engine = runtime.block_on(UpstreamEngine::connect(config)).map_err(LoadError::Upstream)?;
    let engine: Arc<dyn Engine> = Arc::new(Metered(Arc::new(engine)));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let templates = own.unwrap_or_else(|| Arc::new(Templates::general()));
    let model = format!("{} at {url}", engine.info().name);
    let origin = Origin { model, adapter: None, engine: "upstream", why: ASKED.into() };
    let actor = Arc::new(Generation::new("g-1", engine, templates));
    let (refiner, second) = match &args.refiner {
        Some(path) => {
            let named = Named { model: path.clone(), adapter: args.refiner_adapter.clone() };
            loader.generation("g-2", &named, REFINER)?
        }
        None => (Arc::clone(&actor), origin.clone()),
    };
    let files = Files { embedded: None, _merged: loader.into_files() };
    Ok(Loaded {
        name,
        generations: Generations::new(actor, refiner),
        origins: [origin, second],
        adapters: Vec::new(),
        files,
    })
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
    let engine: Arc<dyn Engine> = Arc::new(Metered(Arc::new(FakeEngine::new(script))));
    let name = args.served_name.clone().unwrap_or_else(|| engine.info().name.clone());
    let generation = Generation::new("g-1", engine, templates);
    let origin = Origin { model: "scripted replies".into(), adapter: None, engine: "fake", why: ASKED.into() };
    let generations = Generations::single(Arc::new(generation));
    Loaded { name, generations, origins: [origin.clone(), origin], adapters: Vec::new(), files: Files::default() }
}

#[cfg(test)]
mod tests;
