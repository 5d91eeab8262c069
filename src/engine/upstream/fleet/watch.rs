//! The thread that checks the replicas of a fleet, reloads a changed list, and unloads adapters that are not used any more.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::future::join_all;
use reqwest::Client;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::lease::Order;
use super::members::{Fleet, role_name};
use super::replica::Replica;
use super::settings::{Reload, ReplicaConfig};
use crate::engine::EngineError;
use crate::engine::Role;
use crate::engine::upstream::failure::{is_limited, refusal};
use crate::engine::upstream::models::{Card, ask_for_models, choose, listed};
use crate::engine::upstream::{Kind, UpstreamEngine};

/// How long a server that was not reached yet is waited for.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a look at a server may take.
const LOOK: Duration = Duration::from_secs(2);
/// A busy server may be slow to answer. It counts as down when nothing was heard of it for this long.
const SILENCE: Duration = Duration::from_secs(15);

/// Starts the thread. It notifies `ready` when every replica was checked once, and ends when the fleet is dropped.
///
/// # Errors
/// No thread can be started.
pub(super) fn spawn(
    fleet: Weak<Fleet>,
    orders: mpsc::UnboundedReceiver<Order>,
    reload: Option<Reload>,
    ready: oneshot::Sender<()>,
) -> Result<(), EngineError> {
    let failed = |error: &dyn std::fmt::Display| EngineError::Unavailable(format!("no thread for the fleet: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let client = Client::builder().connect_timeout(LOOK).build().map_err(|error| failed(&error))?;
    let watch = move || runtime.block_on(watch(fleet, orders, reload, client, ready));
    std::thread::Builder::new().name("spar-fleet".into()).spawn(watch).map_err(|error| failed(&error))?;
    Ok(())
}

async fn watch(
    fleet: Weak<Fleet>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut reload: Option<Reload>,
    client: Client,
    ready: oneshot::Sender<()>,
) {
    let mut ready = Some(ready);
    loop {
        let Some(strong) = fleet.upgrade() else { return };
        if let Some(changed) = reload.as_mut().and_then(|reload| reload()) {
            strong.take_over(changed);
        }
        join_all(strong.replicas.load().iter().map(|replica| strong.look(&client, replica))).await;
        strong.freed.notify_waiters();
        if ready.take().is_some_and(|ready| ready.send(()).is_err()) {
            // The caller that waited for the fleet has given up.
            return;
        }
        let pause = strong.config.patience.probe;
        drop(strong);
        tokio::select! {
            () = sleep(pause) => {}
            order = orders.recv() => match (order, fleet.upgrade()) {
                (Some(Order::Unload(name)), Some(fleet)) => fleet.unload(&client, &name).await,
                _ => return,
            },
        }
    }
}

impl Fleet {
    /// Accepts a changed list of replicas. Replicas that stay keep their connections, calls and counts; running calls of replicas
    /// that are removed still end normally.
    pub(super) fn take_over(&self, changed: Result<Vec<ReplicaConfig>, String>) {
        let configs = match changed {
            Ok(configs) => configs,
            Err(reason) => {
                self.reloads[1].fetch_add(1, Relaxed);
                tracing::warn!(reason, "the changed list of upstreams cannot be used; the fleet stays as it is");
                return;
            }
        };
        let before = self.replicas.load_full();
        let replica = |config: ReplicaConfig| {
            let same = before.iter().find(|replica| replica.config.load().is_same_server(&config));
            match same {
                Some(replica) => {
                    replica.config.store(Arc::new(config));
                    Arc::clone(replica)
                }
                None => Arc::new(Replica::new(config)),
            }
        };
        let after: Vec<_> = configs.into_iter().map(replica).collect();
        let names = after.iter().map(|replica| replica.name()).collect::<Vec<_>>().join(", ");
        tracing::info!(upstreams = names, "the list of upstreams has changed");
        self.reloads[0].fetch_add(1, Relaxed);
        self.replicas.store(Arc::new(after));
    }

    /// Looks whether a replica answers and serves its model, and loads what it lacks.
    async fn look(&self, client: &Client, replica: &Arc<Replica>) {
        let Some(server) = replica.server.load_full() else {
            self.connect(client, replica).await;
            return;
        };
        match timeout(LOOK, cards(client, &server)).await {
            Ok(Ok(cards)) => {
                replica.is_up();
                self.notice_adapters(replica, &server, cards.as_deref());
                self.complete_adapters(client, replica, &server).await;
            }
            Ok(Err(error)) => replica.is_down(error.to_string()),
            Err(_elapsed) if replica.silence() < SILENCE => {}
            Err(_elapsed) => replica.is_down(format!("it has not answered for {} s", replica.silence().as_secs())),
        }
    }

    async fn connect(&self, client: &Client, replica: &Arc<Replica>) {
        let config = replica.config.load_full();
        let server = match timeout(CONNECT, UpstreamEngine::connect(config.connection(&self.config))).await {
            Ok(Ok(server)) => Arc::new(server),
            Ok(Err(error)) => return replica.is_down(error.to_string()),
            Err(_elapsed) => return replica.is_down(format!("it did not answer within {CONNECT:?}")),
        };
        let others = self.replicas.load_full();
        for role in Role::ALL.into_iter().filter(|role| config.model.is_none() && config.roles.have(*role)) {
            let mut reached =
                others.iter().filter(|other| other.has(role)).filter_map(|other| other.server.load_full());
            if let Some(other) = reached.find(|other| other.info.name != server.info.name) {
                let (own, other, role) = (&server.info.name, &other.info.name, role_name(role));
                return replica.is_down(format!(
                    "it serves {own}, and the others serve {other} as the {role}; name its `model` if that is meant"
                ));
            }
        }
        tracing::info!(
            upstream = config.name,
            model = server.info.name,
            dialect = server.dialect.name(),
            "the upstream is connected"
        );
        replica.server.store(Some(Arc::clone(&server)));
        self.complete_adapters(client, replica, &server).await;
        replica.is_up();
    }
}

/// The models that a server lists; `None` where it is too busy to list them.
async fn cards(client: &Client, server: &UpstreamEngine) -> Result<Option<Vec<Card>>, EngineError> {
    let response = ask_for_models(client, &server.base, server.key.as_deref()).await?;
    if is_limited(&response) {
        return Ok(None);
    }
    if !response.status().is_success() {
        let failure = refusal(response).await;
        return if failure.kind == Kind::Busy { Ok(None) } else { Err(failure.error) };
    }
    let cards = listed(response, &server.base).await?;
    choose(cards.clone(), Some(&server.info.name), &server.base)?;
    Ok(Some(cards))
}
