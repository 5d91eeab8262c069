//! Keeps training prompts apart from the prompts of benchmarks.
//!
//! A prompt is too close to a benchmark if both have a run of eight words in common, or if more than half of the prompt's runs of four words
//! occur in one prompt of the benchmark. Case and punctuation do not count.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

/// The length of a run of words that may not occur in both.
const LONG: usize = 8;
/// The length of the runs whose share is limited.
const SHORT: usize = 4;
/// The maximum share of short runs.
const MOST: f64 = 0.5;

/// A line of a benchmark's file. Other fields do not matter here.
#[derive(Deserialize)]
struct Line {
    prompt: String,
}

/// The prompts of benchmarks.
#[derive(Debug, Default)]
pub struct Benchmarks {
    /// The file and the line of each prompt.
    places: Vec<(PathBuf, usize)>,
    /// A prompt that has each long run.
    long: HashMap<String, usize>,
    /// The prompts that have each short run.
    short: HashMap<String, Vec<usize>>,
}

/// Why a prompt is too close to a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub enum Closeness {
    /// Both have this run of words.
    Run(String),
    /// This share of the prompt's short runs occurs in the other.
    Overlap(f64),
}

/// A prompt that is too close to a prompt of a benchmark.
#[derive(Clone, Debug, PartialEq)]
pub struct Collision {
    /// The text of the prompt.
    pub prompt: String,
    /// The benchmark's file.
    pub file: PathBuf,
    /// The line of the file, from 1.
    pub line: usize,
    /// What both have in common.
    pub closeness: Closeness,
}

impl Benchmarks {
    /// Reads files with one JSON object per line whose field `prompt` is a text, as those of IFEval and IFBench.
    ///
    /// # Errors
    /// Names the file and the line that cannot be used.
    pub fn read(files: &[PathBuf]) -> Result<Self> {
        let mut benchmarks = Self::default();
        files.iter().try_for_each(|file| benchmarks.add_file(file))?;
        Ok(benchmarks)
    }

    fn add_file(&mut self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
        let before = self.places.len();
        let lines = text.trim_start_matches('\u{feff}').lines().enumerate();
        for (i, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let line: Line = serde_json::from_str(line).with_context(|| format!("{}:{}", file.display(), i + 1))?;
            self.add(&line.prompt, (file.into(), i + 1));
        }
        ensure!(self.places.len() > before, "{}: no prompts to compare with", file.display());
        Ok(())
    }

    fn add(&mut self, prompt: &str, place: (PathBuf, usize)) {
        let index = self.places.len();
        self.places.push(place);
        let words = normal(prompt);
        for run in words.windows(LONG) {
            self.long.entry(run.join(" ")).or_insert(index);
        }
        for run in distinct(&words, SHORT) {
            self.short.entry(run).or_default().push(index);
        }
    }

    /// The benchmark's prompt to which `prompt` is too close, if there is one.
    #[must_use]
    pub fn collision(&self, prompt: &str) -> Option<Collision> {
        let words = normal(prompt);
        let found = |index: usize, closeness| {
            let (file, line) = self.places[index].clone();
            Collision { prompt: prompt.into(), file, line, closeness }
        };
        for run in words.windows(LONG).map(|run| run.join(" ")) {
            if let Some(&index) = self.long.get(&run) {
                return Some(found(index, Closeness::Run(run)));
            }
        }
        let runs = distinct(&words, SHORT);
        let mut common: HashMap<usize, usize> = HashMap::new();
        for index in runs.iter().filter_map(|run| self.short.get(run)).flatten() {
            *common.entry(*index).or_default() += 1;
        }
        // The first of several equally close prompts is named, so that a report can be repeated.
        let (index, most) = common.into_iter().max_by_key(|&(index, count)| (count, std::cmp::Reverse(index)))?;
        let share = most as f64 / runs.len() as f64;
        (share > MOST).then(|| found(index, Closeness::Overlap(share)))
    }
}

impl std::fmt::Display for Collision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (prompt, file, line) = (&self.prompt, self.file.display(), self.line);
        match &self.closeness {
            Closeness::Run(run) => write!(f, "{prompt:?} has \"{run}\" in common with {file}:{line}"),
            Closeness::Overlap(share) => {
                write!(f, "{prompt:?} has {:.0} % of its runs of {SHORT} words in {file}:{line}", 100.0 * share)
            }
        }
    }
}

fn normal(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    spar::verify::words(&lower).map(str::to_owned).collect()
}

fn distinct(words: &[String], length: usize) -> HashSet<String> {
    words.windows(length).map(|run| run.join(" ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_run_or_a_large_share_is_a_collision() {
        let mut benchmarks = Benchmarks::default();
        benchmarks.add("Write a long letter to the mayor about the noisy trams at night.", ("b.jsonl".into(), 1));
        benchmarks.add("Explain gravity.", ("b.jsonl".into(), 2));
        let table = [
            ("Now write a long LETTER to the mayor, about cats.", "write a long letter to the mayor about"),
            ("Write a long letter to the mayor.", "100 % of its runs of 4 words in b.jsonl:1"),
            ("Describe a day. Write a long letter to the cat at home.", ""),
            ("Explain gravity.", ""),
        ];
        for (prompt, expected) in table {
            let found = benchmarks.collision(prompt).map(|collision| collision.to_string()).unwrap_or_default();
            assert_eq!(found.is_empty(), expected.is_empty(), "{prompt}: {found}");
            assert!(found.contains(expected), "{prompt}: {found}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_compared_with_is_named_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bench.jsonl");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Benchmarks::read(std::slice::from_ref(&path))
        };
        let good = "\u{feff}{\"key\": \"1\", \"prompt\": \"Say it.\", \"kwargs\": [{\"n\": null}]}\n";
        assert_eq!(read(good).unwrap().places, [(path.clone(), 1)]);
        let message = format!("{:#}", read(&format!("{good}\n{{\"text\": 1}}\n")).unwrap_err());
        assert!(message.contains("bench.jsonl:3") && message.contains("missing field `prompt`"), "{message}");
        assert!(format!("{:#}", read("\n").unwrap_err()).contains("no prompts"));
    }
}
