//! What of its traffic a server keeps.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, require};
use super::units::{bytes, duration};

/// Which searches are kept as training data: none, unless a directory is named.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Keeping traffic")]
pub struct TrafficArgs {
    /// Directory for accepted searches as training data, for `spar-train build --from-traffic`; absent: nothing is kept
    #[arg(long, env = "SPAR_TRAFFIC_DIR", value_name = "DIR")]
    pub traffic_dir: Option<PathBuf>,
    /// File of `pattern<TAB>replacement` lines that take identities out; absent: addresses, URLs, accounts and long numbers
    #[arg(long, env = "SPAR_TRAFFIC_FILTER", value_name = "FILE")]
    pub traffic_filter: Option<PathBuf>,
    /// Bytes kept at most; the oldest are deleted
    #[arg(long, env = "SPAR_TRAFFIC_BYTES", value_name = "BYTES", default_value_t = 256 << 20, value_parser = bytes::<u64>)]
    pub traffic_bytes: u64,
    /// Age at which kept searches are deleted (such as 30d)
    #[arg(long, env = "SPAR_TRAFFIC_AGE", value_name = "TIME", default_value = "30d", value_parser = duration)]
    pub traffic_age: Duration,
}

impl TrafficArgs {
    /// Checks the size.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        require(self.traffic_bytes >= 1 << 20, || {
            format!("--traffic-bytes must be at least 1048576, got {}", self.traffic_bytes)
        })
    }
}
