//! What a fleet consists of, and which of its servers can answer.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::lease::{Order, Wanted};
use super::replica::Replica;
use super::settings::{FleetConfig, Roles};
use crate::engine::{EngineError, ModelInfo, Role};

/// Servers that answer as one.
pub struct Fleet {
    pub(super) replicas: ArcSwap<Vec<Arc<Replica>>>,
    pub(super) config: FleetConfig,
    /// Wakes calls that wait, when a replica has room again or can be used again.
    pub(super) freed: Arc<Notify>,
    /// Held while a call chooses its replica, so that no two take the same room.
    pub(super) turn: Mutex<()>,
    pub(super) orders: mpsc::UnboundedSender<Order>,
    /// The adapters that every replica of their roles should have.
    pub(super) wanted: Mutex<Vec<Wanted>>,
    /// The numbers of changed lists that were accepted and of those that were refused.
    pub(super) reloads: [AtomicU64; 2],
}

impl Fleet {
    /// Whether some replica answers for one role only.
    pub fn is_split(&self) -> bool {
        self.replicas.load().iter().any(|replica| replica.config.load().roles != Roles::Both)
    }

    /// What is known of the model of `role`: the name that its first server gives, and the smallest context.
    ///
    /// # Errors
    /// No server of this role was reached.
    pub fn info(&self, role: Role) -> Result<ModelInfo, EngineError> {
        let replicas = self.replicas.load();
        let servers =
            replicas.iter().filter(|replica| replica.has(role)).filter_map(|replica| replica.server.load_full());
        let infos: Vec<ModelInfo> = servers.map(|server| server.info.clone()).collect();
        let context = infos.iter().map(|info| info.context).min();
        match (infos.into_iter().next(), context) {
            (Some(first), Some(context)) => Ok(ModelInfo { context, ..first }),
            _ => Err(self.nobody(role, None)),
        }
    }

    /// Whether some replica of `role` can be used now.
    ///
    /// # Errors
    /// Says of each why it cannot.
    pub fn can_answer(&self, role: Role, adapter: Option<&str>) -> Result<(), EngineError> {
        let now = Instant::now();
        let replicas = self.replicas.load();
        match replicas.iter().any(|replica| replica.has(role) && replica.check(adapter, now).is_ok()) {
            true => Ok(()),
            false => Err(self.nobody(role, adapter)),
        }
    }

    /// Why no replica of `role` can be used.
    pub(super) fn nobody(&self, role: Role, adapter: Option<&str>) -> EngineError {
        let (now, replicas) = (Instant::now(), self.replicas.load());
        let reasons = replicas.iter().filter(|replica| replica.has(role)).filter_map(|replica| {
            replica.check(adapter, now).err().map(|unusable| format!("{}: {}", replica.name(), unusable.reason))
        });
        let reasons = reasons.collect::<Vec<_>>().join("; ");
        let role = role_name(role);
        EngineError::Unavailable(match reasons.is_empty() {
            true => format!("the fleet has no upstream for the {role}"),
            false => format!("no upstream for the {role} can be used: {reasons}"),
        })
    }

    pub(super) fn wanted(&self) -> MutexGuard<'_, Vec<Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A role in an error text.
pub(super) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Actor => "actor",
        Role::Refiner => "refiner",
    }
}
