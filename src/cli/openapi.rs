//! `spar openapi`: prints the API document.

use super::output::print;
use crate::http::openapi::document;

/// Prints the document to standard output.
///
/// # Errors
/// Standard output cannot be written.
pub fn run() -> anyhow::Result<()> {
    Ok(print(&document())?)
}
