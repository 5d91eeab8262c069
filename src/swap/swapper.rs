//! The state of the swapper, and threads for its blocking work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::canary::Canary;
use super::order::{NamedAdapter, SwapError};
use super::state::StateFile;
use super::turns::Turns;
use super::workplace::Workplace;
use crate::config::{EngineArgs, SwapArgs};
use crate::engine::generation::Generations;
use crate::engine::generation::registry::Registry;
use crate::prompts::Templates;
use crate::weights::roots::Roots;
use crate::weights::store::Store;

/// Swaps the weights of running generations, one at a time.
pub struct Swapper {
    pub(super) generations: Arc<Generations>,
    pub(super) registry: Mutex<Registry>,
    pub(super) engine: EngineArgs,
    /// What `--templates` names: every refiner's.
    pub(super) templates: Option<Arc<Templates>>,
    pub(super) roots: Roots,
    pub(super) store: Store,
    pub(super) canary: Canary,
    pub(super) state: Option<StateFile>,
    pub(super) settings: SwapArgs,
    pub(super) turns: Turns,
    /// What the generations are that other servers have loaded, by their ids.
    pub(super) fleet: Mutex<HashMap<String, AtFleet>>,
    pub(super) _workplace: Workplace,
}

/// What a generation at a fleet is, so that it can be loaded again.
#[derive(Clone, Debug, Default)]
pub(super) struct AtFleet {
    pub adapter: Option<NamedAdapter>,
    pub sha256: String,
}

impl Swapper {
    /// The generations that other servers have loaded, by their ids.
    pub(super) fn fleet_generations(&self) -> MutexGuard<'_, HashMap<String, AtFleet>> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state of every generation.
    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs blocking work on a thread of its own, which the end of the process does not wait for; a panic in it is a refusal.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SwapError> + Send + 'static,
) -> Result<T, SwapError> {
    let (done, result) = oneshot::channel();
    let runtime = Handle::current();
    let run = move || {
        let _entered = runtime.enter();
        // The caller may have stopped waiting.
        drop(done.send(work()));
    };
    let begun = std::thread::Builder::new().name("spar-swap".into()).spawn(run);
    begun.map_err(|error| SwapError::Refused(format!("no thread can be started: {error}")))?;
    let panicked = |_| Err(SwapError::Refused("the weights made their loader panic; see the log".into()));
    result.await.unwrap_or_else(panicked)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
