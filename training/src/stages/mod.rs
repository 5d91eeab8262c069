//! The stages of a run. Each is a function from files to files, and a finished output is not made again.

pub mod ablate;
pub mod bootstrap;
pub mod bootstrap_refiner;
pub mod build;
pub mod calibrate;
pub mod dpo;
pub mod engines;
pub mod eval;
pub mod evolve;
pub mod export;
pub mod external;
pub mod funnel;
pub mod gate;
pub mod import;
pub mod iterate;
pub mod journal;
pub mod judge_eval;
pub mod manifest;
pub mod merge;
pub mod mixture;
pub mod plan;
mod progress;
pub mod prompts;
pub mod release;
pub mod responses;
pub mod sample;
pub mod scores;
pub mod search;
pub mod sft;
pub mod show;
pub mod swap;
pub mod training;
pub mod trainings;
mod unreadable;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::checkpoint;

/// Writes a value as indented JSON and renames the file atomically.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    checkpoint::replace(path, |path| Ok(std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?))
}

pub(crate) fn write_lines(path: &Path, values: &[impl Serialize]) -> Result<()> {
    let lines: Vec<String> = values.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
    checkpoint::replace(path, |path| Ok(std::fs::write(path, text)?))
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// Reads a file of JSON lines; `None` if it does not exist yet.
pub(crate) fn read_lines<T: DeserializeOwned>(path: &Path) -> Result<Option<Vec<T>>> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let parse = |(i, line)| serde_json::from_str(line).with_context(|| format!("{}:{}", path.display(), i + 1));
    text.lines().enumerate().map(parse).collect::<Result<_>>().map(Some)
}
