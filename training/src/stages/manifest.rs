//! What a stage was made from and what it made: a finished one is not made again, and one of other settings is not mixed up.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::write_json;

/// Files of a model or adapter directory that decide what it computes.
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

/// A stage's record, `NAME.stage.json`. It holds no times and no paths: the same run elsewhere writes the same bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The stage's name.
    pub stage: String,
    /// The version of the trainer.
    pub version: String,
    /// The recipe's part, seeds included.
    pub settings: Value,
    /// SHA-256 of what was read, by role.
    pub inputs: BTreeMap<String, String>,
    /// Whether it ended.
    pub finished: bool,
    /// What was counted.
    pub counts: BTreeMap<String, u64>,
    /// Lines that could not be used: `file:line: why`.
    pub skipped: Vec<String>,
    /// SHA-256 of what was written, by name.
    pub outputs: BTreeMap<String, String>,
}

/// A stage that is about to run, or has run.
pub enum Stage {
    /// It has ended: nothing is left to do.
    Finished(Record),
    /// The stage begins or resumes.
    Running(Running),
}

/// A stage between its beginning and its end.
pub struct Running {
    path: PathBuf,
    record: Record,
}

impl Stage {
    /// Opens the record at `path`, or begins one.
    ///
    /// # Errors
    /// When an input cannot be read, or the record there is of other settings or inputs.
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
            let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
            let there: Record = serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))?;
            let same =
                there.stage == record.stage && there.settings == record.settings && there.inputs == record.inputs;
            ensure!(
                same,
                "{} was written with other settings or inputs ({}): remove it and what it lists, or choose another folder",
                path.display(),
                difference(&there, &record)
            );
            if there.finished {
                return Ok(Self::Finished(there));
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
    /// Writes what was counted and made; from here on the stage is finished.
    ///
    /// # Errors
    /// When an output cannot be read or the record cannot be written.
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

fn difference(there: &Record, here: &Record) -> String {
    if there.stage != here.stage {
        return format!("stage {} there, {} here", there.stage, here.stage);
    }
    if there.settings != here.settings {
        return "settings".into();
    }
    let differs = |role: &&String| there.inputs.get(*role) != here.inputs.get(*role);
    here.inputs.keys().chain(there.inputs.keys()).find(differs).cloned().unwrap_or_default()
}

/// Whether a file of that name decides what a model or adapter directory computes.
#[must_use]
pub fn is_of_model(name: &str) -> bool {
    MODEL.contains(&name)
}

/// SHA-256 of a file, or of all files of a directory that decide what a model computes.
///
/// # Errors
/// When something cannot be read.
pub fn digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut add = |path: &Path| -> Result<()> {
        let mut file = std::fs::File::open(path).with_context(|| format!("reading {}", path.display()))?;
        std::io::copy(&mut file, &mut hash).with_context(|| format!("reading {}", path.display()))?;
        Ok(())
    };
    if path.is_dir() {
        let there: Vec<_> = MODEL.iter().map(|name| path.join(name)).filter(|path| path.exists()).collect();
        ensure!(!there.is_empty(), "{} holds no model", path.display());
        there.iter().try_for_each(|path| add(path))?;
    } else {
        add(path)?;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
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
        assert!(begin(2).err().unwrap().to_string().contains("(settings)"));
        std::fs::write(&input, "b").unwrap();
        assert!(begin(1).err().unwrap().to_string().contains("(prompts)"));
    }
}
