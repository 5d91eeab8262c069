//! Logs and traces of the process; metrics are in [`metrics`].

pub mod metrics;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::config::{HttpArgs, LogFormat};

/// Sends logs to standard error, as `settings` say.
///
/// # Errors
/// The filter cannot be read, or logging was set up before.
pub fn start(settings: &HttpArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("--log {:?}", settings.log))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_span_events(FmtSpan::NONE);
    match settings.log_format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| anyhow::anyhow!("logging: {error}"))
}
