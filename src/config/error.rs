//! Settings that are refused.

/// Settings that cannot be used, or that do not agree.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

/// Checks that a condition holds, or says what is wrong.
pub(super) fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError(message())) }
}
