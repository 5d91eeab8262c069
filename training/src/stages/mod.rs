//! The stages of a run: each is a function from files to files, and a finished output is not made again.

pub mod bootstrap;
pub mod eval;
pub mod mixture;
pub mod release;
pub mod sample;
pub mod sft;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint;

/// Writes a value as indented JSON, by an atomic rename.
///
/// # Errors
/// When the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    checkpoint::replace(path, |path| Ok(std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?))
}

pub(crate) fn write_lines(path: &Path, values: &[impl Serialize]) -> Result<()> {
    let lines: Vec<String> = values.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    checkpoint::replace(path, |path| Ok(std::fs::write(path, lines.join("\n") + "\n")?))
}

/// `None` where the file does not exist yet.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse =
        |(i, line)| serde_json::from_str(line).with_context(|| format!("{}:{}: not a sample", path.display(), i + 1));
    text.lines().enumerate().map(parse).collect::<Result<_>>().map(Some)
}
