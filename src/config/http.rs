//! How requests are taken and answered.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connections::{ConnectionArgs, origin};
use super::error::{ConfigError, require};
use super::traces::TraceArgs;
use super::units::{bytes, duration, host};

/// How requests are taken and answered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct HttpArgs {
    /// Address to listen on, or a name of this machine such as localhost
    #[arg(long, env = "SPAR_HOST", default_value = "127.0.0.1", value_parser = host)]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SPAR_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Requests that are answered at the same time
    #[arg(long, env = "SPAR_MAX_RUNNING", value_name = "N", default_value_t = 64)]
    pub max_running: usize,
    /// Requests that may wait for their turn; more are refused with 429
    #[arg(long, env = "SPAR_MAX_WAITING", value_name = "N", default_value_t = 256)]
    pub max_waiting: usize,
    /// Requests of one API key that are answered at the same time; absent: half of --max-running where there are several keys
    #[arg(long, env = "SPAR_MAX_RUNNING_PER_KEY", value_name = "N")]
    pub max_running_per_key: Option<usize>,
    /// Requests of one API key that may wait for their turn; absent: half of --max-waiting where there are several keys
    #[arg(long, env = "SPAR_MAX_WAITING_PER_KEY", value_name = "N")]
    pub max_waiting_per_key: Option<usize>,
    /// Share of --max-running and --max-waiting that searches leave to plain requests, in percent; one search always runs
    #[arg(long, env = "SPAR_PLAIN_RESERVE", value_name = "PERCENT", default_value_t = 25)]
    pub plain_reserve: usize,
    /// Time for one request, waiting included (such as 500ms, 30s, 10m, 2h; a number alone is seconds); a search answers with its best so far
    #[arg(long, env = "SPAR_REQUEST_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub request_timeout: Duration,
    /// Time that running requests have after SIGTERM; the process ends two seconds later at most. Kubernetes kills it after 30s
    /// by default
    #[arg(long, env = "SPAR_SHUTDOWN_GRACE", value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub shutdown_grace: Duration,
    /// Time between heartbeats in a stream while a search runs, at most 1s
    #[arg(long, env = "SPAR_HEARTBEAT", value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub heartbeat: Duration,
    /// Bytes of a request body at most, such as 4M
    #[arg(long, env = "SPAR_MAX_BODY", value_name = "BYTES", default_value_t = 4 << 20, value_parser = bytes::<usize>)]
    pub max_body: usize,
    /// Bytes of request bodies in memory at most, from before they are read until their requests run; who comes then waits. Each
    /// of several API keys may have half of it
    #[arg(long, env = "SPAR_MAX_BODY_BYTES_IN_FLIGHT", value_name = "BYTES", default_value_t = 64 << 20, value_parser = bytes::<usize>)]
    pub max_body_bytes_in_flight: usize,
    /// Answers per request (`n`) at most
    #[arg(long, env = "SPAR_MAX_CHOICES", value_name = "N", default_value_t = 16)]
    pub max_choices: usize,
    /// Finished searches of one API key that are kept for GET /v1/searches/{id}; 0 keeps none
    #[arg(long, env = "SPAR_KEPT_SEARCHES", value_name = "N", default_value_t = 256)]
    pub kept_searches: usize,
    /// Bytes of the finished searches that are kept, of all API keys together; beyond them the oldest of the key that holds the
    /// most go
    #[arg(long, env = "SPAR_KEPT_SEARCH_BYTES", value_name = "BYTES", default_value_t = 64 << 20)]
    pub kept_search_bytes: usize,
    /// Origins that browsers may call from, such as `https://example.com`, separated by commas; `*` is any
    #[arg(long, env = "SPAR_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<String>,
    /// File of API keys: one per line, or *.toml or *.json with names, limits and roles; it is read again when it changes. Keys
    /// may also be in the environment, as SPAR_API_KEYS with commas
    #[arg(long, env = "SPAR_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// Let all API keys find each other's prompts in the prefix cache, and each other's compiled constraints: faster where keys
    /// share them, but time and counts of cached tokens then tell one key what another one sent
    #[arg(long, env = "SPAR_SHARED_PREFIX_CACHE")]
    pub shared_prefix_cache: bool,
    /// What is logged: a level, or filters such as spar=debug
    #[arg(long, env = "SPAR_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "SPAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    /// Show the metrics also under the names that vLLM gives them (`vllm:num_requests_waiting` and so on), for dashboards and
    /// autoscalers that read those
    #[arg(long, env = "SPAR_VLLM_METRICS")]
    pub vllm_metrics: bool,
    #[command(flatten)]
    #[doc = "Where traces are sent."]
    pub traces: TraceArgs,
    #[command(flatten)]
    #[doc = "How connections are limited, timed and secured."]
    pub connections: ConnectionArgs,
}

/// How many requests there may be, of all callers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Requests that run.
    pub running: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Running requests that searches leave to plain requests.
    pub reserved_running: usize,
    /// Waiting requests that searches leave to plain requests.
    pub reserved_waiting: usize,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Text for people to read
    Text,
    /// One JSON object per line
    Json,
}

impl HttpArgs {
    /// How many requests run and wait, and what of that searches leave to plain requests.
    pub fn capacity(&self) -> Capacity {
        let reserved = |all: usize| all * self.plain_reserve / 100;
        Capacity {
            running: self.max_running,
            waiting: self.max_waiting,
            reserved_running: reserved(self.max_running),
            reserved_waiting: reserved(self.max_waiting),
        }
    }

    /// What whoever starts a server should know of it, if anything: it can be reached from other machines by everybody.
    pub(super) fn warning(&self, has_keys: bool) -> Option<String> {
        (!self.host.is_loopback() && !has_keys).then(|| {
            format!(
                "everybody who can reach {} may use this server, since no API key is configured: set SPAR_API_KEYS or \
                 --api-keys-file, or listen on 127.0.0.1",
                self.host
            )
        })
    }

    /// Checks numbers and times.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (flag, value) in
            [("--max-running", self.max_running), ("--max-choices", self.max_choices), ("--max-body", self.max_body)]
        {
            require(value >= 1, || format!("{flag} must be at least 1, got {value}"))?;
        }
        require(self.max_running_per_key != Some(0), || "--max-running-per-key must be at least 1, got 0".into())?;
        require(self.plain_reserve <= 100, || {
            format!("--plain-reserve must be between 0 and 100, got {}", self.plain_reserve)
        })?;
        let (all, one) = (self.max_body_bytes_in_flight, self.max_body);
        require(all >= one, || format!("--max-body-bytes-in-flight ({all}) must not be below --max-body ({one})"))?;
        let (most, running) = (1_000_000, self.max_running);
        require(running <= most, || format!("--max-running must be at most {most}, got {running}"))?;
        require(self.heartbeat <= Duration::from_secs(1) && !self.heartbeat.is_zero(), || {
            format!("--heartbeat must be above 0 and at most 1s, got {:?}", self.heartbeat)
        })?;
        require(!self.request_timeout.is_zero(), || "--request-timeout must be above 0".into())?;
        self.connections.check(self.port)
    }
}
