//! Several servers as the engine of both roles, or of the actor alone where a refiner's directory is named.

use std::sync::Arc;

use super::loader::Loader;
use super::{ASKED, Files, LoadError, Loaded, Named, Origin, REFINER};
use crate::config::{EngineArgs, upstreams};
use crate::engine::generation::{Generation, Generations, Role};
use crate::engine::metered::Metered;
use crate::engine::upstream::fleet::{Fleet, FleetConfig, FleetEngine, Patience};
use crate::engine::{Engine, EngineError};
use crate::prompts::Templates;

/// Connects to the fleet that `args` name. Where some of its servers answer for one role only, or a refiner is loaded here, the
/// roles are two generations.
pub(super) fn load(
    args: &EngineArgs,
    own: Option<Arc<Templates>>,
    mut loader: Loader<'_>,
) -> Result<Loaded, LoadError> {
    let key = std::env::var("SPAR_UPSTREAM_KEY").ok();
    let replicas = upstreams::replicas(&args.upstream, key.as_deref()).map_err(LoadError::Fleet)?;
    let reload = upstreams::reload(&args.upstream, key.as_deref(), &replicas);
    let patience = Patience {
        silence: args.upstream.upstream_silence,
        hedge: args.upstream.upstream_hedge,
        ..Patience::default()
    };
    let config = FleetConfig {
        replicas,
        reasoning: args.thinking.form(None),
        surmises: args.thinking.surmises(),
        template_kwargs: args.thinking.kwargs(),
        patience,
    };
    let wrong = |error: EngineError| LoadError::Fleet(error.to_string());
    // The fleet has a thread of its own; here its first look at the servers is waited for.
    let fleet = futures::executor::block_on(Fleet::start(config, reload)).map_err(wrong)?;
    let templates = own.unwrap_or_else(|| Arc::new(Templates::general()));
    let generation = |id: &str, role: Option<Role>| {
        let engine: Arc<dyn Engine> = Arc::new(Metered(Arc::new(FleetEngine::new(&fleet, role, None)?)));
        Ok::<_, EngineError>(Arc::new(Generation::new(id, engine, Arc::clone(&templates)).at_fleet(Arc::clone(&fleet))))
    };
    let origin = |role: Role| {
        let name = fleet.info(role).map(|info| info.name).unwrap_or_default();
        let count = fleet.views().iter().filter(|view| view.roles.have(role)).count();
        let model = format!("{name} at a fleet of {count} upstreams");
        Origin { model, adapter: None, engine: "upstream", why: ASKED.into() }
    };
    let (actor, refiner, origins) = match &args.refiner {
        Some(path) => {
            let named = Named { model: path.clone(), adapter: args.refiner_adapter.clone() };
            let (refiner, second) = loader.generation("g-2", &named, REFINER)?;
            (generation("g-1", Some(Role::Actor)).map_err(wrong)?, refiner, [origin(Role::Actor), second])
        }
        None if fleet.is_split() => {
            let actor = generation("g-1", Some(Role::Actor)).map_err(wrong)?;
            let refiner = generation("g-2", Some(Role::Refiner)).map_err(wrong)?;
            (actor, refiner, [origin(Role::Actor), origin(Role::Refiner)])
        }
        None => {
            let both = generation("g-1", None).map_err(wrong)?;
            (Arc::clone(&both), both, [origin(Role::Actor), origin(Role::Actor)])
        }
    };
    let name = args.served_name.clone().unwrap_or_else(|| actor.engine.info().name.clone());
    let files = Files { embedded: None, _merged: loader.into_files() };
    Ok(Loaded { name, generations: Generations::new(actor, refiner), origins, adapters: Vec::new(), files })
}
