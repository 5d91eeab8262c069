//! `spar serve`: settings, models, a socket, and a few lines that say how to talk to it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{Secrets, ServeArgs, Settings};
use crate::http::{self, AppState, Served, Traffic};
use crate::swap::{self, Started};
use crate::telemetry::{self, metrics};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Settings, models or the socket cannot be used.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let [api_keys, admin_key] = ["SPAR_API_KEYS", "SPAR_ADMIN_KEY"].map(|name| std::env::var(name).ok());
    let secrets = Secrets { api_keys: api_keys.as_deref(), admin_key: admin_key.as_deref() };
    let settings = Settings::check(args, secrets)?;
    telemetry::start(&settings.http)?;
    let metrics = metrics::install();
    println!("{}", settings.describe());
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    runtime.block_on(async {
        let traffic = Traffic::new(&settings.traffic).map_err(anyhow::Error::msg)?;
        let Started { name, generations, swapper, files: _files, .. } = swap::start(&settings).await?;
        let served = Served::new(name, generations);
        let address = settings.address();
        let mut state = AppState::new(settings, served, metrics);
        state.swapper = swapper;
        state.traffic = traffic.map(Arc::new);
        let state = Arc::new(state);
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let listener = TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))?;
        println!("{}", welcome(listener.local_addr()?, &state.served.name));
        http::serve(listener, state, shutdown).await.context("the server failed")
    })
}

fn welcome(address: SocketAddr, model: &str) -> String {
    let curl = |extra: &str| {
        format!(
            "curl http://{address}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{{\"model\": \"{model}\", \
             {extra}\"messages\": [{{\"role\": \"user\", \"content\": \"Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.\"}}]}}'"
        )
    };
    let (plain, searched) = (curl(""), curl("\"search_budget\": 8, "));
    format!("serving {model} on http://{address}\n\n# plain\n{plain}\n\n# with search\n{searched}\n")
}
