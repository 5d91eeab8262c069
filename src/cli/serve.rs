//! `spar serve`: settings, models, a socket, and a few lines that say how to talk to it.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{ServeArgs, Settings};
use crate::engine::load::{self, Loaded};
use crate::http::{self, AppState, Served};
use crate::telemetry::{self, metrics};

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Settings, models or the socket cannot be used.
pub fn run(args: ServeArgs) -> anyhow::Result<()> {
    let keys = std::env::var("SPAR_API_KEYS").ok();
    let settings = Settings::check(args, keys.as_deref())?;
    telemetry::start(&settings.http)?;
    let metrics = metrics::install();
    println!("{}", settings.describe());
    let Loaded { name, generations, files: _files } = load::load(&settings.engine)?;
    let served = Served::new(name, generations);
    let address = settings.address();
    let state = Arc::new(AppState::new(settings, served, metrics));
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    runtime.block_on(async {
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
