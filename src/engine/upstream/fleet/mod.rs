//! Several servers as one engine: every call goes to a replica that can take it, and to another one if that fails.
//!
//! The map: `settings.rs` and `members.rs` say what a fleet is, `replica.rs` holds what is known of each server, `engine.rs` makes
//! an engine of the fleet, `balance.rs` chooses a server, `call.rs` makes calls and repeats them, `breaker.rs` keeps calls from a
//! server that fails, `watch.rs` checks all servers and reloads a changed list, `adapters.rs` loads LoRA adapters on all servers,
//! `view.rs` shows their state.
//!
//! - All calls about one conversation go to one replica while it is well and not loaded much more than the others, since it has
//!   kept their common prefix.
//! - A call that fails before any of its text was passed on begins again elsewhere. Calls of searches begin again even then: no
//!   client has seen their text, and with the same seed the same model gives the same text.
//! - A thread of its own watches the replicas. It ends with the fleet.

mod adapters;
mod balance;
mod breaker;
mod call;
mod engine;
mod lease;
mod members;
mod replica;
mod settings;
mod view;
mod watch;

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

pub use self::adapters::{AdapterError, LoadedOn};
pub use self::breaker::Circuit;
pub use self::engine::FleetEngine;
pub use self::lease::Lease;
pub use self::members::Fleet;
use self::replica::Replica;
pub use self::replica::{SECONDS, State};
pub use self::settings::{FleetConfig, Key, Patience, Reload, ReplicaConfig, Roles, without_login};
pub use self::view::{Counted, View};
use crate::engine::{EngineError, Role};

pub use super::failure::Kind;

impl Fleet {
    /// Connects to the servers and begins to watch them.
    ///
    /// # Errors
    /// No server of a role can be used, or no thread can be started.
    pub async fn start(config: FleetConfig, reload: Option<Reload>) -> Result<Arc<Self>, EngineError> {
        let (sender, orders) = mpsc::unbounded_channel();
        let replicas = config.replicas.iter().cloned().map(Replica::new).map(Arc::new).collect();
        let fleet = Arc::new(Self {
            replicas: ArcSwap::from_pointee(replicas),
            config,
            freed: Arc::default(),
            turn: Mutex::default(),
            orders: sender,
            wanted: Mutex::default(),
            reloads: Default::default(),
        });
        let (ready, started) = oneshot::channel();
        watch::spawn(Arc::downgrade(&fleet), orders, reload, ready)?;
        started.await.map_err(|_| EngineError::Unavailable("the fleet's thread has ended; see the log".into()))?;
        // A role for which no server is named may have a model of this server's own.
        let replicas = fleet.replicas.load_full();
        for role in Role::ALL.into_iter().filter(|role| replicas.iter().any(|replica| replica.has(*role))) {
            fleet.info(role)?;
        }
        Ok(fleet)
    }
}
