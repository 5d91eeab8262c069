//! The server's life from the first connection to the last: how it is reached, how its connections are held to limits, and how
//! it ends.

mod accept;
mod activity;
pub(super) mod body;
mod connection;
mod descriptors;
mod door;
mod health_port;
mod lease;
mod limits;
mod running;
mod socket;
mod tls;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use self::accept::Front;
pub(super) use self::accept::HEALTH_ROUTES;
use self::connection::Terms;
use self::door::{Door, listen};
use self::limits::Limits;
use self::running::Running;
pub use self::tls::{Reload, Tls, TlsError};
use crate::config::{EngineKind, HttpArgs, Settings};
use crate::engine::grammar;
use crate::http::routes::health;
use crate::http::{AppState, Shared, health_router, router};

/// Time for the last bytes to go out; a client that does not read them is not waited for.
const LAST_BYTES: Duration = Duration::from_secs(1);

/// The ports of a server and what listens on them, before and while it serves.
pub struct Entrance {
    door: Door,
    tls: Option<Arc<Tls>>,
    /// What the port for health serves once the models are loaded.
    health: Arc<OnceLock<Router>>,
    health_address: Option<SocketAddr>,
}

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum EntranceError {
    /// The certificate or its key.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The port for health.
    #[error("cannot listen on {address} for health (--health-port): {error}")]
    Health {
        /// The address that cannot be used.
        address: SocketAddr,
        /// The system's error.
        error: io::Error,
    },
    /// The thread that accepts connections.
    #[error("the thread that accepts connections cannot be started: {0}")]
    Thread(io::Error),
}

impl Entrance {
    /// Reads the certificate and opens the port for health, where these are configured. Until the models
    /// are loaded, that port reports a live process that is not ready.
    ///
    /// # Errors
    /// [`EntranceError`] names the file or the port.
    pub fn open(http: &HttpArgs) -> Result<Self, EntranceError> {
        let connections = &http.connections;
        let tls = match (&connections.tls_cert, &connections.tls_key) {
            (Some(cert), Some(key)) => Some(Tls::load(cert, key)?),
            _ => None,
        };
        let door = Door::open().map_err(EntranceError::Thread)?;
        let health = Arc::default();
        let mut health_address = None;
        if let Some(port) = connections.health_port {
            let address = SocketAddr::new(http.host, port);
            let fail = |error| EntranceError::Health { address, error };
            let listener = listen(address).map_err(fail)?;
            health_address = Some(listener.local_addr().map_err(fail)?);
            let terms = Terms {
                router: health_port::router(Arc::clone(&health)),
                limits: Limits::of(http),
                running: Running::new(),
                closing: CancellationToken::new(),
                over: CancellationToken::new(),
            };
            door.spawn(health_port::accept(listener, terms));
        }
        Ok(Self { door, tls, health, health_address })
    }

    /// The certificate of the main port, if it speaks HTTPS.
    pub fn tls(&self) -> Option<&Arc<Tls>> {
        self.tls.as_ref()
    }

    /// Where health is served alone.
    pub fn health_address(&self) -> Option<SocketAddr> {
        self.health_address
    }

    /// Serves until `shutdown` resolves; then refuses new requests, lets running ones end within the grace period, and drops
    /// what is left.
    ///
    /// # Errors
    /// The listener's.
    pub async fn serve(
        self,
        listener: TcpListener,
        state: Shared,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let settings = &state.settings;
        let most = descriptors::room(settings.http.connections.max_connections, outgoing(settings));
        let slots = Arc::new(Semaphore::new(most));
        let terms = Terms {
            router: router(Arc::clone(&state)),
            limits: Limits::of(&settings.http),
            running: Running::new(),
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
        };
        // Connections end with this future, even if it is dropped.
        let _over = terms.over.clone().drop_guard();
        let front = Front {
            main: Handle::current(),
            slots: Arc::clone(&slots),
            most,
            tls: self.tls.clone(),
            terms: terms.clone(),
        };
        // Only this sets it.
        drop(self.health.set(health_router(Arc::clone(&state))));
        self.door.spawn(Arc::new(front).accept(listener.into_std()?));
        tokio::select! {
            () = drain(&state, &terms, shutdown) => {}
            () = upkeep(&state) => {}
            () = follow(self.tls.clone()) => {}
            () = state.keys.follow() => {}
        }
        terms.closing.cancel();
        let all = u32::try_from(most).unwrap_or(u32::MAX);
        // All slots are free when every connection has ended.
        drop(tokio::time::timeout(LAST_BYTES, slots.acquire_many(all)).await);
        terms.over.cancel();
        self.door.close().await;
        Ok(())
    }
}

/// [`Entrance::open`] and [`Entrance::serve`] in one.
///
/// # Errors
/// Theirs.
pub async fn serve(
    listener: TcpListener,
    state: Shared,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let entrance = Entrance::open(&state.settings.http).map_err(io::Error::other)?;
    entrance.serve(listener, state, shutdown).await
}

/// Connections that requests make to other servers.
fn outgoing(settings: &Settings) -> usize {
    if settings.engine.engine == EngineKind::Upstream { settings.http.max_running } else { 0 }
}

/// Waits for `shutdown`, then for running requests within the grace period.
async fn drain(state: &AppState, terms: &Terms, shutdown: impl Future<Output = ()>) {
    shutdown.await;
    let grace = state.settings.http.shutdown_grace;
    tracing::info!(?grace, "shutting down: running requests may end");
    state.gate.close();
    let last = async {
        state.gate.empty().await;
        // Those that need no permit, such as a swap.
        terms.running.none().await;
    };
    if tokio::time::timeout(grace, last).await.is_err() {
        tracing::warn!("the grace period is over: running requests are dropped");
        state.abort.cancel();
    }
}

/// Never ends: readiness, and then the housekeeping of histograms and grammars, and trials of a judge that was swapped.
async fn upkeep(state: &AppState) {
    health::canary(state).await;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        state.metrics.run_upkeep();
        grammar::drop_unused();
        state.judge.try_new(&state.served, &state.settings.search).await;
    }
}

/// Never ends: shows the certificate that is in the files now.
async fn follow(tls: Option<Arc<Tls>>) {
    match tls {
        Some(tls) => tls.follow().await,
        None => std::future::pending().await,
    }
}
