//! Records the inputs and outputs of a stage. A finished stage is not repeated, and outputs made with other settings are never mixed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{read_json, write_json};

/// Files of a model or adapter directory that determine its results.
const MODEL: [&str; 9] = [
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "spar.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// A stage's record, `NAME.stage.json`. It contains no times and no paths, so the same run elsewhere writes the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The stage's name.
    pub stage: String,
    /// The version of the trainer.
    pub version: String,
    /// The relevant part of the recipe, seeds included.
    pub settings: Value,
    /// SHA-256 of each input, by role.
    pub inputs: BTreeMap<String, String>,
    /// Whether the stage has finished.
    pub finished: bool,
    /// The numbers that the stage counted.
    pub counts: BTreeMap<String, u64>,
    /// Lines that could not be used, as `file:line: reason`.
    pub skipped: Vec<String>,
    /// SHA-256 of each output, by name.
    pub outputs: BTreeMap<String, String>,
}

/// A stage that is about to run or has finished.
pub enum Stage {
    /// The stage has finished, and nothing is left to do.
    Finished(Record),
    /// The stage starts or resumes.
    Running(Running),
}

/// A stage between its start and its end.
pub struct Running {
    path: PathBuf,
    record: Record,
}

impl Stage {
    /// Opens the record at `path`, or starts a new one.
    ///
    /// # Errors
    /// Fails if an input cannot be read, or if the existing record has other settings or inputs.
    pub fn begin(path: &Path, stage: &str, settings: &impl Serialize, inputs: &[(&str, &Path)]) -> Result<Self> {
        let inputs: BTreeMap<String, String> =
            inputs.iter().map(|(role, path)| Ok(((*role).to_owned(), digest(path)?))).collect::<Result<_>>()?;
        let settings = serde_json::to_value(settings)?;
        let record = Record {
            stage: stage.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            settings,
            inputs,
            ..Record::default()
        };
        if path.exists() {
            let recorded: Record = read_json(path)?;
            let same = recorded.stage == record.stage
                && recorded.settings == record.settings
                && recorded.inputs == record.inputs;
            ensure!(
                same,
                "{} was written with other settings or inputs ({}): remove it and what it lists, or choose another folder",
                path.display(),
                difference(&recorded, &record)
            );
            if recorded.finished {
                return Ok(Self::Finished(recorded));
            }
        } else {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
            }
            write_json(path, &record)?;
        }
        Ok(Self::Running(Running { path: path.into(), record }))
    }
}

impl Running {
    /// Writes the counts and the digests of the outputs, which finishes the stage.
    ///
    /// # Errors
    /// Fails if an output cannot be read or the record cannot be written.
    pub fn finish(mut self, counts: &[(&str, u64)], skipped: Vec<String>, outputs: &[(&str, &Path)]) -> Result<Record> {
        self.record.counts = counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        self.record.skipped = skipped;
        self.record.outputs =
            outputs.iter().map(|(name, path)| Ok(((*name).to_owned(), digest(path)?))).collect::<Result<_>>()?;
        self.record.finished = true;
        write_json(&self.path, &self.record)?;
        Ok(self.record)
    }
}

/// What differs between the two records, by the names that a recipe has.
fn difference(recorded: &Record, current: &Record) -> String {
    if recorded.stage != current.stage {
        return format!("stage {}, now {}", recorded.stage, current.stage);
    }
    let mut changes = Vec::new();
    compare("", &recorded.settings, &current.settings, &mut changes);
    let differs = |role: &&String| recorded.inputs.get(*role) != current.inputs.get(*role);
    let roles: BTreeSet<&String> = current.inputs.keys().chain(recorded.inputs.keys()).filter(differs).collect();
    changes.extend(roles.into_iter().map(|role| format!("the input {role}")));
    if changes.len() > MOST_CHANGES {
        let more = changes.len() - MOST_CHANGES;
        changes.truncate(MOST_CHANGES);
        changes.push(format!("{more} more"));
    }
    changes.join("; ")
}

/// The maximum number of differences that an error names.
const MOST_CHANGES: usize = 5;

fn compare(path: &str, before: &Value, after: &Value, changes: &mut Vec<String>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(one), Value::Object(two)) => {
            for key in one.keys().chain(two.keys()).collect::<BTreeSet<_>>() {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(
                    &path,
                    &one.get(key).cloned().unwrap_or_default(),
                    &two.get(key).cloned().unwrap_or_default(),
                    changes,
                );
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (i, (one, two)) in one.iter().zip(two).enumerate() {
                compare(&format!("{path}[{i}]"), one, two, changes);
            }
        }
        _ if path.is_empty() => changes.push(format!("the settings, {before}, now {after}")),
        _ => changes.push(format!("{path} was {before}, now {after}")),
    }
}

/// Whether a file with this name determines the results of a model or adapter directory.
#[must_use]
pub fn is_of_model(name: &str) -> bool {
    MODEL.contains(&name) || is_part(name)
}

/// Whether a file is one of several that hold a model's weights, or their index.
fn is_part(name: &str) -> bool {
    name == "model.safetensors.index.json" || (name.starts_with("model-") && name.ends_with(".safetensors"))
}

/// SHA-256 of a file, or of all files of a directory that determine a model's results.
///
/// # Errors
/// Fails if a file cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| -> Result<()> {
        let mut file = std::fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
        std::io::copy(&mut file, &mut hash).with_context(|| format!("reading {}", path.display()))?;
        Ok(())
    };
    if path.is_dir() {
        let mut files: Vec<_> = MODEL.iter().map(|name| path.join(name)).filter(|path| path.exists()).collect();
        files.extend(parts(path)?);
        ensure!(!files.is_empty(), "{} holds no model", path.display());
        files.iter().try_for_each(|path| add(path))?;
    } else {
        add(path)?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The files of a directory that hold parts of a model's weights, in order.
fn parts(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| is_part(&name.to_string_lossy())) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finished_stage_is_not_made_again_and_other_settings_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (input, record) = (directory.path().join("in"), directory.path().join("deep/out.stage.json"));
        std::fs::write(&input, "a").unwrap();
        let begin = |settings: u32| Stage::begin(&record, "build", &settings, &[("prompts", &input)]);
        let Stage::Running(running) = begin(1).unwrap() else { panic!("nothing is finished") };
        assert!(matches!(begin(1).unwrap(), Stage::Running(_)));
        running.finish(&[("pairs", 3)], Vec::new(), &[("copy", &input)]).unwrap();
        let Stage::Finished(found) = begin(1).unwrap() else { panic!("it is finished") };
        assert_eq!((found.counts["pairs"], found.outputs["copy"].len()), (3, 64));
        assert!(begin(2).err().unwrap().to_string().contains("the settings, 1, now 2"));
        std::fs::write(&input, "b").unwrap();
        assert!(begin(1).err().unwrap().to_string().contains("the input prompts"));
    }

    #[test]
    fn changed_settings_are_named_with_both_values() {
        let record = |settings: serde_json::Value| Record { settings, ..Record::default() };
        let before = record(serde_json::json!({ "search": { "budget": 4, "votes": 3 }, "seed": 1, "of": [1, "a"] }));
        let after =
            record(serde_json::json!({ "search": { "budget": 8, "votes": 3 }, "of": [1, "b"], "seed": 1, "new": 2 }));
        assert_eq!(
            difference(&before, &after),
            "new was null, now 2; of[1] was \"a\", now \"b\"; search.budget was 4, now 8"
        );
        let many = |n: u32| record((0..9).map(|i| (format!("k{i}"), serde_json::json!(n))).collect());
        assert!(difference(&many(1), &many(2)).ends_with("; 4 more"));
    }
}
