//! `spar serve`: checks settings, loads models, opens the socket, and prints how to use the server.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpSocket;

use super::hub;
use super::output::print;
use super::stop::Stop;
use crate::config::{Secrets, ServeArgs, Settings};
use crate::engine::generation::Live;
use crate::engine::load::{Origin, serves_embedded};
use crate::http::serve::Entrance;
use crate::http::{AppState, Served, Traffic};
use crate::swap::{self, Started};
use crate::telemetry::traces::Traces;
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
    // Taken before models are fetched and loaded, so that a conflict shows at once; connections are refused until they are loaded.
    let address = settings.address();
    let socket = bind(address).map_err(|error| anyhow!("cannot listen on {address}: {error}; {}", remedy(address)))?;
    hub::find(&mut settings.engine)?;
    let metrics = metrics::install();
    print(&(startup_message(&settings, changed) + "\n"))?;
    if let Some(warning) = settings.warning() {
        tracing::warn!("{warning}");
    }
    let entrance = Entrance::open(&settings.http)?;
    if let Some(address) = entrance.health_address() {
        print(&format!("health on http://{address}\n"))?;
    }
    let reload = entrance.tls().cloned().map(|tls| move || tls.refresh());
    let stop = Stop::watch(settings.http.shutdown_grace, reload).context("the signal handlers cannot be installed")?;
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    let ended = runtime.block_on(async {
        let traffic = Traffic::new(&settings.traffic).map_err(anyhow::Error::msg)?;
        let started = tokio::select! {
            started = swap::start(&settings) => started?,
            () = stop.asked() => return Ok(()),
        };
        let Started { name, generations, origins, swapper, files: _files } = started;
        print(&(models_message(&generations.live(), &origins) + "\n"))?;
        let served = Served::new(name, generations);
        let mut state = AppState::new(settings, served, metrics);
        state.swapper = swapper;
        state.traffic = traffic.map(Arc::new);
        state.traces = Traces::start(&state.settings.http.traces)?;
        let traces = state.traces.clone();
        let state = Arc::new(state);
        let listener = socket.listen(BACKLOG).with_context(|| format!("cannot listen on {address}"))?;
        stop.serving();
        let scheme = if entrance.tls().is_some() { "https" } else { "http" };
        let about = Welcome {
            url: &format!("{scheme}://{}", listener.local_addr()?),
            model: &state.served.name,
            embedded: serves_embedded(&state.settings.engine),
            keyed: !state.settings.api_keys.is_empty(),
        };
        print(&(welcome(&about) + "\n"))?;
        let served = entrance.serve(listener, state, stop.asked()).await.context("the server failed");
        tokio::task::spawn_blocking(move || traces.stop()).await.context("the last traces")?;
        served
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

/// What the person who starts the server can do about an address that cannot be taken.
fn remedy(address: SocketAddr) -> String {
    match address.port() {
        0 => "--host must be an address of this machine".to_owned(),
        port if TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok() => {
            format!("another server answers there; stop it, or choose another port than {port} by --port")
        }
        _ => "choose another --host or --port".to_owned(),
    }
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
fn models_message(live: &Live, origins: &[Origin; 2]) -> String {
    let ([actor, refiner], pair) = (origins, &live.pair);
    let roles = match Arc::ptr_eq(&pair.actor, &pair.refiner) {
        true => format!("actor and refiner {}: {actor}", pair.actor.id),
        false => format!("actor {}: {actor}\nrefiner {}: {refiner}", pair.actor.id, pair.refiner.id),
    };
    let adapters =
        live.adapters.iter().map(|(name, generation)| format!("\nadapter {}: served as {name}", generation.id));
    adapters.fold(roles, |message, adapter| message + &adapter)
}

/// What the first lines to copy depend on.
struct Welcome<'a> {
    url: &'a str,
    model: &'a str,
    /// Whether this is the embedded model, whose answers to the seed are known.
    embedded: bool,
    /// Whether callers must show a key.
    keyed: bool,
}

/// The address, and one request plainly and searched. With this seed the embedded model's draft forgets the lantern.
fn welcome(about: &Welcome<'_>) -> String {
    let Welcome { url, model, embedded, keyed } = about;
    let key = if *keyed { "  -H \"authorization: Bearer $SPAR_API_KEY\" \\\n" } else { "" };
    let keys = if *keyed { "\n# SPAR_API_KEY holds one of the keys of this server" } else { "" };
    let curl = |extra: &str| {
        format!(
            "curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n{key}  -d '{{\"model\": \"{model}\", \
             {extra}\"seed\": 2, \"messages\": [{{\"role\": \"user\", \"content\": \"Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere.\"}}]}}'"
        )
    };
    let (plain, searched) = (curl(""), curl("\"search_budget\": 8, "));
    let [forgets, mends] =
        if *embedded { [": the lantern is missing", ": the same draft, judged and mended"] } else { [""; 2] };
    format!(
        "serving {model} on {url}\n\n# in a browser\n{url}/\n{keys}\n# plain{forgets}\n{plain}\n\n# with \
         search{mends}\n{searched}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_to_copy_show_a_key_where_callers_must() {
        let url = "http://127.0.0.1:8080";
        let text = |keyed, embedded| welcome(&Welcome { url, model: "some", embedded, keyed });
        let open = text(false, false);
        assert!(!open.contains("authorization") && !open.contains("lantern is missing"), "{open}");
        assert_eq!(open.matches("curl http://127.0.0.1:8080/v1/chat/completions").count(), 2, "{open}");
        assert_eq!(open.matches("\"seed\": 2").count(), 2, "both lines draft the same: {open}");
        let keyed = text(true, true);
        assert_eq!(keyed.matches("-H \"authorization: Bearer $SPAR_API_KEY\"").count(), 2, "{keyed}");
        assert!(keyed.contains("# plain: the lantern is missing"), "{keyed}");
    }
}
