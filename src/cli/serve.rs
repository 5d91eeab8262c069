//! `spar serve`: checks settings, loads models, opens the socket, and prints how to use the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpSocket;

use super::hub;
use super::stop::Stop;
use crate::config::{Secrets, ServeArgs, Settings};
use crate::engine::generation::Pinned;
use crate::engine::load::Origin;
use crate::http::serve::Entrance;
use crate::http::{AppState, Served, Traffic};
use crate::swap::{self, Started};
use crate::telemetry::{self, metrics};

/// Serves until SIGTERM or SIGINT. `changed` are the settings that differ from the defaults.
///
/// # Errors
/// Fails if settings, models or the socket cannot be used.
pub fn run(args: ServeArgs, changed: &[String]) -> anyhow::Result<()> {
    let [api_keys, admin_key] = ["SPAR_API_KEYS", "SPAR_ADMIN_KEY"].map(|name| std::env::var(name).ok());
    let secrets = Secrets { api_keys: api_keys.as_deref(), admin_key: admin_key.as_deref() };
    let mut settings = Settings::check(args, secrets)?;
    telemetry::start(&settings.http)?;
    hub::find(&mut settings.engine)?;
    let metrics = metrics::install();
    println!("{}", startup_message(&settings, changed));
    if let Some(warning) = settings.warning() {
        tracing::warn!("{warning}");
    }
    let entrance = Entrance::open(&settings.http)?;
    if let Some(address) = entrance.health_address() {
        println!("health on http://{address}");
    }
    let reload = entrance.tls().cloned().map(|tls| move || tls.refresh());
    let stop = Stop::watch(settings.http.shutdown_grace, reload).context("the signal handlers cannot be installed")?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    let ended = runtime.block_on(async {
        // The address is bound before the models are loaded, so that a conflict shows immediately; until then connections are refused.
        let address = settings.address();
        let socket = bind(address).with_context(|| format!("cannot listen on {address}"))?;
        let traffic = Traffic::new(&settings.traffic).map_err(anyhow::Error::msg)?;
        let started = tokio::select! {
            started = swap::start(&settings) => started?,
            () = stop.asked() => return Ok(()),
        };
        let Started { name, generations, origins, swapper, files: _files } = started;
        println!("{}", models_message(&generations.pin(), &origins));
        let served = Served::new(name, generations);
        let mut state = AppState::new(settings, served, metrics);
        state.swapper = swapper;
        state.traffic = traffic.map(Arc::new);
        let state = Arc::new(state);
        let listener = socket.listen(BACKLOG).with_context(|| format!("cannot listen on {address}"))?;
        stop.serving();
        let scheme = if entrance.tls().is_some() { "https" } else { "http" };
        println!("{}", welcome(&format!("{scheme}://{}", listener.local_addr()?), &state.served.name));
        entrance.serve(listener, state, stop.asked()).await.context("the server failed")
    });
    // Threads that still block are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(500));
    ended
}

/// The number of connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Binds the address. Connections are refused until the socket listens.
fn bind(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier server may still linger on the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// The settings that differ from the defaults, with secrets hidden.
fn startup_message(settings: &Settings, changed: &[String]) -> String {
    let keys = match settings.api_keys.len() {
        0 => "none, everybody may call".to_owned(),
        count => format!("{count} (hidden)"),
    };
    let admin = match (settings.admin_key.is_some(), settings.api_keys.has_admin()) {
        (true, _) => "set (hidden)",
        (false, true) => "an API key with the admin role (hidden)",
        (false, false) => "not set, weights cannot be swapped",
    };
    let changed = match changed {
        [] => "none".to_owned(),
        lines => lines.iter().map(|line| format!("\n  {line}")).collect(),
    };
    let (version, address) = (env!("CARGO_PKG_VERSION"), settings.address());
    format!(
        "spar {version}, to listen on {address}\nAPI keys: {keys}\nadmin key: {admin}\nsettings that are not the \
         defaults: {changed}"
    )
}

/// Describes which engine runs each model, and why. A generation with both roles gets one line.
fn models_message(live: &Pinned, origins: &[Origin; 2]) -> String {
    let [actor, refiner] = origins;
    if Arc::ptr_eq(&live.actor, &live.refiner) {
        return format!("actor and refiner {}: {actor}", live.actor.id);
    }
    format!("actor {}: {actor}\nrefiner {}: {refiner}", live.actor.id, live.refiner.id)
}

fn welcome(url: &str, model: &str) -> String {
    let curl = |extra: &str| {
        format!(
            "curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n  -d '{{\"model\": \"{model}\", \
             {extra}\"messages\": [{{\"role\": \"user\", \"content\": \"Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.\"}}]}}'"
        )
    };
    let (plain, searched) = (curl(""), curl("\"search_budget\": 8, "));
    format!("serving {model} on {url}\n\n# plain\n{plain}\n\n# with search\n{searched}\n")
}
