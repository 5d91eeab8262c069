//! Stores trials on disk, a file per strategy and budget and a line per prompt, so that a killed evaluation can resume. The responses of
//! finished runs are stored next to them in the format of `spar verify`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::eval::Trial;
use crate::verify::data::Prompt;

/// The file with the settings that all trials of a directory share.
pub(super) const SETTINGS: &str = "settings.json";

/// The directory of one evaluation.
pub(super) struct TrialFiles {
    trials: PathBuf,
    responses: PathBuf,
}

/// The trials of one strategy at one budget.
pub(super) struct RunFile {
    path: PathBuf,
    file: File,
    trials: Vec<Option<Trial>>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    index: usize,
    #[serde(flatten)]
    trial: Trial,
}

impl TrialFiles {
    /// Starts an evaluation in `out`, or resumes the one in it.
    ///
    /// # Errors
    /// Fails if the directory cannot be written or has trials with other settings.
    pub fn open(out: &Path, settings: &Value) -> anyhow::Result<Self> {
        let (trials, responses) = (out.join("trials"), out.join("responses"));
        for folder in [&trials, &responses] {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let path = out.join(SETTINGS);
        if path.exists() {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let found: Value = serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
            if let Some(name) = differing(&found, settings) {
                bail!(
                    "--out {} holds an evaluation with {name} {}, now it is {}; choose another directory",
                    out.display(),
                    found[name],
                    settings[name]
                );
            }
        } else {
            std::fs::write(&path, serde_json::to_string_pretty(settings)?)
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { trials, responses })
    }

    /// Reads the trials of `name` so far. A last line that is incomplete because the process was killed is dropped.
    ///
    /// # Errors
    /// Fails if the file cannot be used or one of its other lines is damaged.
    pub fn run(&self, name: &str, cases: usize) -> anyhow::Result<RunFile> {
        let path = self.trials.join(format!("{name}.jsonl"));
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let mut trials = vec![None; cases];
        for (number, line) in complete.lines().enumerate() {
            let at = || format!("{}:{}", path.display(), number + 1);
            let Line { index, trial } = serde_json::from_str(line).with_context(at)?;
            *trials.get_mut(index).with_context(|| format!("{}: there is no prompt {index}", at()))? = Some(trial);
        }
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        file.set_len(complete.len() as u64).with_context(|| format!("cannot shorten {}", path.display()))?;
        Ok(RunFile { path, file, trials })
    }

    /// Writes the responses of a finished run in the format of `spar verify --responses`.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn write_responses(&self, name: &str, cases: &[Prompt], trials: &[Trial]) -> anyhow::Result<()> {
        let line = |(case, trial): (&Prompt, &Trial)| {
            json!({"key": case.key, "prompt": case.prompt, "response": trial.response}).to_string() + "\n"
        };
        let path = self.responses.join(format!("{name}.jsonl"));
        let text: String = cases.iter().zip(trials).map(line).collect();
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl RunFile {
    /// Returns the trials that were on disk already, in the order of the cases.
    pub fn take_trials(&mut self) -> Vec<Option<Trial>> {
        std::mem::take(&mut self.trials)
    }

    /// Appends a trial.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn append(&mut self, index: usize, trial: &Trial) -> anyhow::Result<()> {
        let line = serde_json::to_string(&Line { index, trial: trial.clone() })? + "\n";
        self.file.write_all(line.as_bytes()).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// The name of the first setting that differs.
fn differing<'a>(a: &'a Value, b: &'a Value) -> Option<&'a str> {
    let fields = |value: &'a Value| value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value));
    let (a, b): (BTreeMap<_, _>, BTreeMap<_, _>) = (fields(a).collect(), fields(b).collect());
    b.keys().chain(a.keys()).copied().find(|name| a.get(name) != b.get(name))
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::verify::Check;

    fn case() -> Prompt {
        let checks = vec![Check::new("punctuation:no_comma", Map::new()).unwrap()];
        Prompt { key: json!(7), prompt: "p".into(), checks, unchecked: Vec::new() }
    }

    fn trial(response: &str) -> Trial {
        Trial::check(&case(), response.into())
    }

    #[test]
    fn a_killed_run_resumes_after_its_last_whole_line() {
        let folder = tempfile::tempdir().unwrap();
        let open = || TrialFiles::open(folder.path(), &json!({"seed": 1})).unwrap();
        let mut run = open().run("bfs-4", 3).unwrap();
        assert_eq!(run.take_trials(), [None, None, None]);
        run.append(2, &trial("two")).unwrap();
        run.append(0, &trial("zero")).unwrap();
        let path = folder.path().join("trials/bfs-4.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, &text[..text.len() - 9]).unwrap();
        let mut run = open().run("bfs-4", 3).unwrap();
        assert_eq!(run.take_trials(), [None, None, Some(trial("two"))]);
        run.append(1, &trial("one, comma")).unwrap();
        let trials = open().run("bfs-4", 3).unwrap().take_trials();
        assert_eq!(trials, [None, Some(trial("one, comma")), Some(trial("two"))]);
        assert_eq!(trials[1].as_ref().unwrap().strict, [false]);
    }

    #[test]
    fn other_settings_need_another_directory() {
        let folder = tempfile::tempdir().unwrap();
        TrialFiles::open(folder.path(), &json!({"seed": 1, "votes": 5})).unwrap();
        let error = TrialFiles::open(folder.path(), &json!({"seed": 1, "votes": 3})).err().unwrap().to_string();
        assert!(error.contains("votes 5, now it is 3"), "{error}");
        std::fs::write(folder.path().join("trials/x.jsonl"), "{}\n").unwrap();
        let error =
            TrialFiles::open(folder.path(), &json!({"seed": 1, "votes": 5})).unwrap().run("x", 1).err().unwrap();
        assert!(format!("{error:#}").contains("x.jsonl:1"), "{error:#}");
    }
}
