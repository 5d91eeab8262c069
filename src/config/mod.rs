//! Settings: what was typed (flags and environment), and what was checked.

mod connections;
mod engine;
mod error;
mod http;
mod keys;
mod search;
mod swap;
mod traces;
mod traffic;
mod units;
pub(crate) mod upstreams;

use std::net::SocketAddr;

use clap::Args;
use secrecy::SecretString;

pub use self::connections::ConnectionArgs;
pub use self::engine::{
    DialectBy, EngineArgs, EngineKind, GenerationBy, GrammarArgs, LoraModule, NativeArgs, Quantize, ReasoningBy,
    SiblingsBy, ThinkingArgs, UpstreamArgs, check_adapter_name,
};
pub use self::error::ConfigError;
use self::error::require;
pub use self::http::{Capacity, HttpArgs, LogFormat};
pub use self::keys::{ApiKey, ApiKeys, KeyLimits, Secrets, digest, read_keys, unique};
use self::keys::{admin_key, api_keys};
pub use self::search::SearchArgs;
pub use self::swap::SwapArgs;
pub use self::traces::TraceArgs;
pub use self::traffic::TrafficArgs;

/// All settings as they are given on the command line and in the environment.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    #[doc = "Which models."]
    pub engine: EngineArgs,
    #[command(flatten)]
    #[doc = "How it serves."]
    pub http: HttpArgs,
    #[command(flatten)]
    #[doc = "How it searches."]
    pub search: SearchArgs,
    #[command(flatten)]
    #[doc = "How its weights are swapped."]
    pub swap: SwapArgs,
    #[command(flatten)]
    #[doc = "What of its traffic is kept."]
    pub traffic: TrafficArgs,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which models are served, and by what.
    pub engine: EngineArgs,
    /// How it serves.
    pub http: HttpArgs,
    /// How it searches.
    pub search: SearchArgs,
    /// How weights are swapped.
    pub swap: SwapArgs,
    /// What of its traffic is kept.
    pub traffic: TrafficArgs,
    /// Keys that callers must show one of; none: everybody may call.
    pub api_keys: ApiKeys,
    /// The key to the admin routes; none: nobody may call them.
    pub admin_key: Option<SecretString>,
}

impl Settings {
    /// Checks `args` and takes the keys from `secrets` and the files that `args` name.
    ///
    /// # Errors
    /// Names the flag, or both flags where two do not agree.
    pub fn check(args: ServeArgs, secrets: Secrets<'_>) -> Result<Self, ConfigError> {
        let ServeArgs { engine, http, search, swap, traffic } = args;
        engine.check()?;
        http.check()?;
        search.check()?;
        swap.check()?;
        let api_keys = api_keys(http.api_keys_file.as_deref(), secrets.api_keys)?;
        let admin_key = admin_key(swap.admin_key_file.as_deref(), secrets.admin_key)?;
        let has_admin = admin_key.is_some() || api_keys.has_admin();
        require(has_admin || swap.weights_roots.is_empty(), || {
            "--weights-root needs an admin key: set SPAR_ADMIN_KEY or --admin-key-file, or give a key in --api-keys-file \
             `admin = true`"
                .into()
        })?;
        traffic.check()?;
        Ok(Self { engine, http, search, swap, traffic, api_keys, admin_key })
    }

    /// What whoever starts the server should know, if anything.
    pub fn warning(&self) -> Option<String> {
        self.http.warning(!self.api_keys.is_empty())
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.http.host, self.http.port)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn settings(flags: &[&str], env_keys: Option<&str>) -> Result<Settings, String> {
        let typed = Typed::try_parse_from([&["spar"], flags].concat()).map_err(|e| e.to_string())?;
        let secrets = Secrets { api_keys: env_keys, admin_key: None };
        Settings::check(typed.args, secrets).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_valid() {
        let settings = settings(&[], None).unwrap();
        assert_eq!(settings.address().to_string(), "127.0.0.1:8080");
        assert!(settings.api_keys.is_empty());
    }

    #[test]
    fn bad_settings_name_their_flags() {
        let cases: &[(&[&str], &str)] = &[
            (&["--max-running", "0"], "--max-running must be at least 1, got 0"),
            (&["--heartbeat", "2s"], "--heartbeat must be above 0 and at most 1s, got 2s"),
            (&["--search-budget", "65"], "--search-budget (65) must not be above --max-search-budget (64)"),
            (&["--search-deadline", "6m"], "--search-deadline (360s) must not be above --max-search-deadline (300s)"),
            (&["--judge-temperature", "3"], "--judge-temperature must be between 0 and 2, got 3"),
            (&["--engine", "upstream"], "--engine upstream needs --upstream-url"),
            (&["--upstream-url", "http://h"], "--upstream-url needs --engine upstream"),
            (&["--upstreams", "f"], "--upstreams needs --engine upstream"),
            (
                &["--engine", "upstream", "--upstream-url", "http://h", "--upstream-hedge", "1s"],
                "--upstream-hedge needs several servers",
            ),
            (
                &["--engine", "upstream", "--upstream-url", "http://h", "--upstream-silence", "0s"],
                "--upstream-silence must be above 0",
            ),
            (&["--engine", "upstream", "--upstream-url", "http://h", "--model", "d"], "use --upstream-model instead"),
            (&["--engine", "fake", "--adapter", "d"], "--adapter needs a model, and --engine fake has none"),
            (&["--engine", "fake", "--refiner-adapter", "d"], "--refiner-adapter needs a model"),
            (&["--engine", "upstream", "--upstream-url", "h", "--adapter", "d"], "--adapter needs a model of this"),
            (&["--engine", "upstream", "--upstream-url", "h", "--refiner-adapter", "d"], "needs --refiner where"),
            (&["--max-generations", "1"], "--max-generations must be at least 2, got 1"),
            (&["--swap-timeout", "0s"], "--swap-timeout must be above 0"),
            (&["--weights-root", "/"], "--weights-root needs an admin key"),
            (&["--chat-template-kwargs", "[1]"], "expected a JSON object"),
            (&["--chat-template-kwargs", "{\"tools\": []}"], "`tools` is set by the server"),
            (&["--max-running-per-key", "0"], "--max-running-per-key must be at least 1, got 0"),
            (&["--plain-reserve", "101"], "--plain-reserve must be between 0 and 100, got 101"),
            (&["--max-body-bytes-in-flight", "9"], "(9) must not be below --max-body (4194304)"),
            (&["--request-timeout", "soon"], "expected a time such as 500ms, 30s, 10m"),
            (&["--kv-cache-bytes", "much"], "expected a size such as 268435456, 256M or 1.5G, got \"much\""),
            (&["--host", "no.such.host.invalid"], "is no address of this machine: use one such as 127.0.0.1"),
            (&["--max-connections", "0"], "--max-connections must be between 1 and 1000000, got 0"),
            (&["--header-timeout", "0s"], "--header-timeout must be above 0"),
            (&["--idle-timeout", "0s"], "--idle-timeout must be above 0"),
            (&["--body-timeout", "0ms"], "--body-timeout must be above 0"),
            (&["--write-timeout", "0m"], "--write-timeout must be above 0"),
            (&["--health-port", "8080"], "--health-port must not be the same as --port (8080)"),
            (&["--tls-cert", "c.pem"], "--tls-cert needs --tls-key"),
            (&["--tls-key", "k.pem"], "--tls-key needs --tls-cert"),
            (&["--cors-origins", "not a url"], "'--cors-origins <ORIGINS>': expected an origin such as"),
            (&["--otlp-endpoint", "h:4317"], "'--otlp-endpoint <URL>': expected an address such as"),
            (&["--allowed-hosts", "http://a"], "'--allowed-hosts <HOSTS>': expected a host name"),
        ];
        for (flags, expected) in cases {
            let message = settings(flags, None).unwrap_err();
            assert!(message.contains(expected), "{flags:?}: {message}");
        }
    }

    #[test]
    fn sizes_times_and_hosts_may_be_written_by_people() {
        let flags =
            ["--kv-cache-bytes", "1G", "--request-timeout", "10", "--host", "localhost", "--traffic-age", "30d"];
        let settings = settings(&flags, None).unwrap();
        assert_eq!(settings.engine.native.kv_cache_bytes, 1 << 30);
        assert_eq!(settings.http.request_timeout.as_secs(), 10);
        assert!(settings.http.host.is_loopback());
        assert_eq!(settings.traffic.traffic_age.as_secs(), 30 * 86_400);
    }

    #[test]
    fn keys_come_from_the_environment_and_are_hidden() {
        let settings = settings(&[], Some("alpha, beta,")).unwrap();
        assert_eq!(settings.api_keys.len(), 2);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("alpha") && !shown.contains("beta"), "{shown}");
    }

    #[test]
    fn keys_that_are_none_do_not_open_the_server() {
        for keys in ["", ",", " , \n"] {
            let message = settings(&[], Some(keys)).unwrap_err();
            assert!(
                message.contains("SPAR_API_KEYS is set but holds no key") && message.contains("unset"),
                "{message}"
            );
        }
    }

    #[test]
    fn a_host_that_others_reach_without_keys_is_warned_of() {
        let warning = |flags: &[&str], keys| settings(flags, keys).unwrap().warning();
        assert_eq!(warning(&[], None), None);
        assert_eq!(warning(&["--host", "0.0.0.0"], Some("alpha")), None);
        assert_eq!(warning(&["--host", "::1"], None), None);
        assert!(warning(&["--host", "0.0.0.0"], None).unwrap().contains("0.0.0.0 may use this server"));
    }
}
