//! `merge`: merges an adapter into its base model, in a new directory.

use std::path::Path;

use anyhow::{Context, Result};
use spar::weights::Weights;
use spar::weights::adapter::{self, Adapter};

use super::manifest::{Record, Stage};

/// Writes `base` with `adapter` merged into it to `out`. A finished output is not made again.
///
/// # Errors
/// Fails if the adapter does not fit its base, or if a file cannot be read or written.
pub fn merge(base: &Path, adapter: &Path, out: &Path) -> Result<Record> {
    let inputs = [("base", base), ("adapter", adapter)];
    let running = match Stage::begin(&out.join("merge.stage.json"), "merge", &(), &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let linears = Weights::open(base)?.linears();
    let (opened, _) = Adapter::open(adapter, &linears)?;
    adapter::merge(base, &opened, out).with_context(|| format!("merging {}", adapter.display()))?;
    running.finish(&[("modules", opened.pairs.len() as u64)], Vec::new(), &[("model", out)])
}
