//! Several servers as one engine: every call goes to a replica that can take it, and to another one if that fails.
//!
//! The map: `settings.rs` says what a fleet is, `replica.rs` what is known of each server, `balance.rs` chooses one, `call.rs` makes calls and
//! repeats them, `breaker.rs` keeps calls from a server that fails, `watch.rs` looks at all of them and takes over a changed list,
//! `adapters.rs` loads LoRA adapters on all of them, `view.rs` shows how they stand.
//!
//! - All calls about one conversation go to one replica while it is well and not loaded much more than the others, since it has
//!   kept their common prefix.
//! - A call that fails before any of its text was given on begins again elsewhere. Calls of searches begin again even then: nobody
//!   has seen what they gave, and with the same seed the same model says the same.
//! - A thread of its own watches the replicas. It ends with the fleet.

mod adapters;
mod balance;
mod breaker;
mod call;
mod replica;
mod settings;
mod view;
mod watch;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

pub use self::adapters::{AdapterError, Lease, LoadedOn};
pub use self::breaker::Circuit;
use self::call::{Attempts, Caller};
use self::replica::Replica;
pub use self::replica::{SECONDS, State};
pub use self::settings::{FleetConfig, Key, Patience, Reload, ReplicaConfig, Roles, without_login};
pub use self::view::{Counted, View};
use self::watch::Order;
use crate::engine::{
    Capabilities, ConstraintSupport, Engine, EngineError, LabelRequest, LabelScores, LabelSupport, ModelInfo,
    Namespace, Reply, Request, Role,
};

pub use super::failure::Kind;

/// Servers that answer as one.
pub struct Fleet {
    replicas: ArcSwap<Vec<Arc<Replica>>>,
    config: FleetConfig,
    /// Wakes calls that wait, when a replica has room again or can be used again.
    freed: Arc<Notify>,
    /// Held while a call chooses its replica, so that no two take the same room.
    turn: Mutex<()>,
    orders: mpsc::UnboundedSender<Order>,
    /// The adapters that every replica of their roles should have.
    wanted: Mutex<Vec<adapters::Wanted>>,
    /// Lists that were taken over, and lists that could not be.
    reloads: [AtomicU64; 2],
}

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

    fn nobody(&self, role: Role, adapter: Option<&str>) -> EngineError {
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

    fn wanted(&self) -> MutexGuard<'_, Vec<adapters::Wanted>> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Actor => "actor",
        Role::Refiner => "refiner",
    }
}

/// A fleet's model, perhaps with an adapter, as an engine.
pub struct FleetEngine {
    caller: Arc<Caller>,
    info: ModelInfo,
}

impl FleetEngine {
    /// The model of `role` alone; without a role every call goes to the replicas of the role that its purpose belongs to.
    ///
    /// # Errors
    /// No server of the role was reached.
    pub fn new(fleet: &Arc<Fleet>, role: Option<Role>, adapter: Option<Lease>) -> Result<Self, EngineError> {
        let mut info = fleet.info(role.unwrap_or(Role::Actor))?;
        if role.is_none() {
            info.context = info.context.min(fleet.info(Role::Refiner)?.context);
        }
        Ok(Self { caller: Arc::new(Caller { fleet: Arc::clone(fleet), role, adapter }), info })
    }
}

#[async_trait]
impl Engine for FleetEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let mut attempts = Attempts::new(&self.caller.fleet.config.patience);
        let opened = self.caller.begin(&request, &mut attempts).await?;
        // Where a server does not keep callers apart, at least no count says what another one sent.
        let hides = request.origin.namespace != Namespace::SHARED && !self.capabilities().token_rules;
        let form = self.caller.fleet.config.reasoning;
        let source = call::steps(Arc::clone(&self.caller), request.clone(), opened, attempts);
        Ok(super::replies(source, &request, form, hides))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What every server that was reached can do.
    fn capabilities(&self) -> Capabilities {
        let replicas = self.caller.fleet.replicas.load();
        let own = replicas.iter().filter(|replica| self.caller.role.is_none_or(|role| replica.has(role)));
        let each = own.filter_map(|replica| replica.server.load_full()).map(|server| server.capabilities());
        let everything = Capabilities {
            constraints: ConstraintSupport::Regular,
            token_rules: true,
            labels: LabelSupport::Prompts,
            ..Capabilities::default()
        };
        each.fold(everything, |all, one| Capabilities {
            constraints: all.constraints.min(one.constraints),
            token_rules: all.token_rules && one.token_rules,
            labels: all.labels.min(one.labels),
            ..all
        })
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        request.check()?;
        self.caller.read_labels(request).await
    }

    async fn health(&self) -> Result<(), EngineError> {
        let adapter = self.caller.adapter_name();
        let roles: &[Role] = match &self.caller.role {
            Some(role) => std::slice::from_ref(role),
            None => &Role::ALL,
        };
        roles.iter().try_for_each(|role| self.caller.fleet.can_answer(*role, adapter))
    }
}
