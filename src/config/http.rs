//! How requests are taken and answered.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::connections::{ConnectionArgs, origin};
use super::{ConfigError, duration, require};

/// How requests are taken and answered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct HttpArgs {
    /// Address to listen on
    #[arg(long, env = "SPAR_HOST", default_value = "127.0.0.1")]
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
    /// Time for one request, waiting included (such as 500ms, 30s, 10m); a search answers with its best so far
    #[arg(long, env = "SPAR_REQUEST_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub request_timeout: Duration,
    /// Time that running requests have after SIGTERM; the process ends two seconds later at most. Kubernetes kills it after 30s
    /// by default
    #[arg(long, env = "SPAR_SHUTDOWN_GRACE", value_name = "TIME", default_value = "25s", value_parser = duration)]
    pub shutdown_grace: Duration,
    /// Time between signs of life in a stream while a search runs, at most 1s
    #[arg(long, env = "SPAR_HEARTBEAT", value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub heartbeat: Duration,
    /// Bytes of a request body at most
    #[arg(long, env = "SPAR_MAX_BODY", value_name = "BYTES", default_value_t = 4 << 20)]
    pub max_body: usize,
    /// Answers per request (`n`) at most
    #[arg(long, env = "SPAR_MAX_CHOICES", value_name = "N", default_value_t = 16)]
    pub max_choices: usize,
    /// Finished searches kept for GET /v1/searches/{id}; 0 keeps none
    #[arg(long, env = "SPAR_KEPT_SEARCHES", value_name = "N", default_value_t = 256)]
    pub kept_searches: usize,
    /// Origins that browsers may call from, such as https://example.com, separated by commas; `*` is any
    #[arg(long, env = "SPAR_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',', value_parser = origin)]
    pub cors_origins: Vec<String>,
    /// File with one API key per line; keys may also be in the environment, as SPAR_API_KEYS with commas
    #[arg(long, env = "SPAR_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// What is logged: a level, or filters such as spar=debug
    #[arg(long, env = "SPAR_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "SPAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
    #[command(flatten)]
    #[doc = "How connections are limited, timed and secured."]
    pub connections: ConnectionArgs,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

impl HttpArgs {
    /// Checks numbers and times.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (flag, value) in
            [("--max-running", self.max_running), ("--max-choices", self.max_choices), ("--max-body", self.max_body)]
        {
            require(value >= 1, || format!("{flag} must be at least 1, got {value}"))?;
        }
        let (most, running) = (1_000_000, self.max_running);
        require(running <= most, || format!("--max-running must be at most {most}, got {running}"))?;
        require(self.heartbeat <= Duration::from_secs(1) && !self.heartbeat.is_zero(), || {
            format!("--heartbeat must be above 0 and at most 1s, got {:?}", self.heartbeat)
        })?;
        require(!self.request_timeout.is_zero(), || "--request-timeout must be above 0".into())?;
        self.connections.check(self.port)
    }
}
