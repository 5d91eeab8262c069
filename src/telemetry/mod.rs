//! Logs of the process; metrics are in [`metrics`], traces in [`traces`].

mod lines;
pub mod metrics;
pub mod traces;

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::SubscriberBuilder;
use tracing_subscriber::fmt::format::{Format, JsonFields};

use self::lines::{BoundedFields, BoundedJson};
use crate::config::{HttpArgs, LogFormat};

/// Sends logs to standard error, as `settings` say.
///
/// # Errors
/// The filter cannot be read, or logging was set up before.
pub fn start(settings: &HttpArgs) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&settings.log).with_context(|| format!("--log {:?}", settings.log))?;
    // As https://no-color.org asks.
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let colours = wanted && std::io::stderr().is_terminal();
    match settings.log_format {
        LogFormat::Text => {
            text_lines().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).try_init()
        }
        LogFormat::Json => json_lines().with_env_filter(filter).with_writer(std::io::stderr).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("logging: {error}"))
}

/// Lines for people.
fn text_lines() -> SubscriberBuilder<BoundedFields> {
    tracing_subscriber::fmt().fmt_fields(BoundedFields)
}

/// Lines for programs.
fn json_lines() -> SubscriberBuilder<JsonFields, BoundedJson> {
    tracing_subscriber::fmt().fmt_fields(JsonFields::new()).event_format(BoundedJson(Format::default().json()))
}
