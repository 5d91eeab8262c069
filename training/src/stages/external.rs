//! Rounds whose models are trained elsewhere: an export is written, and its imported result is the round's.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::export::{Description, IMPORTED, Request, export};
use super::manifest::{Record, digest};
use super::read_json;
use super::trainings::Training;
use crate::recipe::external::External;

/// The error of a run that cannot continue before results are imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Waiting {
    /// The exports that were written.
    pub exports: Vec<PathBuf>,
}

impl Waiting {
    /// The exit status of a run that waits for an import, so that scripts distinguish it from failures.
    pub const STATUS: u8 = 3;
}

impl std::fmt::Display for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "the models of this round are trained elsewhere. Run these, in any order:")?;
        for export in &self.exports {
            let export = export.display();
            writeln!(f, "  {export}/run.sh   # where the cards are; {export}/README.md says what it needs")?;
            writeln!(f, "  spar-train import --export {export} --from {export}/output")?;
        }
        write!(f, "Then the same `iterate` command resumes; with --wait it stays and resumes by itself.")
    }
}

/// How often a waiting run asks whether results were imported.
const INTERVAL: Duration = Duration::from_secs(1);

/// The directory of the export of a model's training, next to the model.
#[must_use]
pub fn export_of(model: &Path) -> PathBuf {
    model.with_extension("export")
}

/// Exports the training of `model`, and returns the record of its result once that is imported.
///
/// # Errors
/// Fails if the training cannot be exported, or if the imported model has changed since.
pub fn trained(training: &Training, external: &External, model: &Path) -> Result<Option<Record>> {
    let out = export_of(model);
    let result = Path::new("..").join(model.file_name().context("a model directory has a name")?);
    let result = result.to_string_lossy();
    export(Request { training, external, base_name: None, out: &out, result: &result })?;
    imported(&out, model)
}

/// The record of an export's imported result.
fn imported(export: &Path, model: &Path) -> Result<Option<Record>> {
    let path = export.join(IMPORTED);
    if !path.is_file() {
        return Ok(None);
    }
    let record: Record = read_json(&path)?;
    if !record.finished {
        return Ok(None);
    }
    let description = Description::read(export)?;
    ensure!(
        record.settings["export"] == description.id.as_str(),
        "{} is of another export: remove it and import again",
        path.display()
    );
    let Some(expected) = record.outputs.get("model") else { bail!("{} names no model", path.display()) };
    ensure!(
        digest(model).is_ok_and(|found| found == *expected),
        "{} is not the model that was imported: remove {} and import again",
        model.display(),
        path.display()
    );
    // A round counts what its stage learned, wherever that was.
    Ok(Some(Record { stage: description.stage, ..record }))
}

/// Returns when every export has an imported result.
///
/// # Errors
/// Fails if a record cannot be read.
pub async fn wait(exports: &[PathBuf]) -> Result<()> {
    tracing::info!("{}", Waiting { exports: exports.to_vec() });
    for export in exports {
        let path = export.join(IMPORTED);
        while !(path.is_file() && read_json::<Record>(&path)?.finished) {
            tokio::time::sleep(INTERVAL).await;
        }
    }
    Ok(())
}
