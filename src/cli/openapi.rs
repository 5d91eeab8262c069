//! `spar openapi`: prints the API document.

use std::io::Write;

use crate::http::openapi::document;

/// Prints the document to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn run() -> anyhow::Result<()> {
    std::io::stdout().write_all(document().as_bytes())?;
    Ok(())
}
