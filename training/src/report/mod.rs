//! Shows a run as an HTML page and as JSON: curves, scores by round, counts by stage, and pairs with their differences marked.

mod chart;
mod page;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::Serialize;
use similar::{Algorithm, TextDiff};

use crate::checkpoint;
use crate::records::{PairLine, Sampled, Searched};
use crate::stages::iterate::{FINISHED, Manifest, UNFINISHED};
use crate::stages::{read_json, read_lines, write_json};
use crate::trainer::StepMetrics;

/// The data of the page.
#[derive(Serialize)]
struct Report {
    /// Whether all rounds are finished.
    finished: bool,
    manifest: Manifest,
    /// For each round, how often drafts follow each kind of instruction.
    kinds: Vec<BTreeMap<String, Share>>,
    /// Loss curves by training stage, such as `iter-1/actor`.
    curves: BTreeMap<String, Vec<StepMetrics>>,
    similarity: Vec<Similarity>,
    /// Seconds per stage.
    times: BTreeMap<String, f64>,
    #[serde(skip)]
    examples: Vec<Example>,
    #[serde(skip)]
    refused: Vec<Refused>,
}

/// How many of some drafts follow an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Share {
    followed: usize,
    drafts: usize,
}

/// A pair, with the critique of the rejected response.
struct Example {
    pair: PairLine,
    critique: String,
}

/// A draft that was refused or could not be judged, and for which no response was accepted.
struct Refused {
    prompt: String,
    response: String,
    critique: String,
}

/// How similar the two sides of a round's pairs are: twice the number of common words over the number of all words, which is 1 for equal
/// texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Similarity {
    /// Mean similarity of a failing draft and its accepted refinement.
    refined: f64,
    /// Number of such pairs.
    refined_pairs: usize,
    /// Mean similarity of the same draft and another draft that was accepted.
    independent: f64,
    /// Number of such pairs.
    independent_pairs: usize,
}

/// The number of pairs on the page.
const EXAMPLES: usize = 12;

/// Writes `report.json` and `index.html` to a run's directory.
///
/// # Errors
/// Fails if a file of the run cannot be read or one of these cannot be written.
pub fn write(out: &Path) -> Result<()> {
    let (finished, unfinished) = (out.join(FINISHED), out.join(UNFINISHED));
    ensure!(
        finished.exists() || unfinished.exists(),
        "{} has no finished round yet, so there is nothing to report; a run writes its report after each round",
        out.display()
    );
    let manifest: Manifest = read_json(if finished.exists() { &finished } else { &unfinished })?;
    let folders: Vec<PathBuf> = (1..=manifest.rounds.len()).map(|t| out.join(format!("iter-{t}"))).collect();
    let mut report = Report {
        finished: finished.exists(),
        kinds: folders.iter().map(|folder| kinds_of(folder)).collect::<Result<_>>()?,
        manifest,
        curves: BTreeMap::new(),
        similarity: folders.iter().map(|folder| similarity_of(folder)).collect::<Result<_>>()?,
        times: read_json(&out.join("times.json")).unwrap_or_default(),
        examples: Vec::new(),
        refused: Vec::new(),
    };
    for (t, folder) in folders.iter().enumerate() {
        for name in ["actor", "actor.adapter", "refiner", "refiner.adapter"] {
            if let Some(steps) = read_lines(&folder.join(name).join("metrics.jsonl"))? {
                report.curves.insert(format!("iter-{}/{}", t + 1, name.trim_end_matches(".adapter")), steps);
            }
        }
        let pairs: Vec<PairLine> = read_lines(&folder.join("dpo.jsonl"))?.unwrap_or_default();
        let trees: Vec<Searched> = read_lines(&folder.join("trees.jsonl"))?.unwrap_or_default();
        let shown = EXAMPLES.div_ceil(folders.len().max(1));
        report.examples.extend(pairs.into_iter().take(shown).map(|pair| {
            let root = |tree: &&Searched| {
                tree.asked.prompt == pair.instruction && tree.nodes[0].response == pair.rejected_text
            };
            let critique = trees.iter().find(root).map(|tree| tree.nodes[0].critique.clone()).unwrap_or_default();
            Example { pair, critique }
        }));
        let lost = trees.iter().filter(|tree| !tree.accepted).take(shown.div_ceil(4));
        report.refused.extend(lost.map(|tree| Refused {
            prompt: tree.asked.prompt.clone(),
            response: tree.nodes[tree.best].response.clone(),
            critique: tree.nodes[tree.best].critique.clone(),
        }));
    }
    write_json(&out.join("report.json"), &report)?;
    let html = page::render(&report)?;
    checkpoint::replace(&out.join("index.html"), |path| Ok(std::fs::write(path, html)?))
}

/// How often the drafts of a round follow each kind of instruction, by the rules.
fn kinds_of(folder: &Path) -> Result<BTreeMap<String, Share>> {
    let samples: Vec<Sampled> = read_lines(&folder.join("samples.jsonl"))?.unwrap_or_default();
    let mut kinds: BTreeMap<String, Share> = BTreeMap::new();
    for line in &samples {
        for check in line.asked.checks()? {
            let share = kinds.entry(check.id.clone()).or_default();
            share.drafts += line.drafts.len();
            share.followed += line.drafts.iter().filter(|draft| check.strict(&draft.response)).count();
        }
    }
    Ok(kinds)
}

fn similarity_of(folder: &Path) -> Result<Similarity> {
    let trees: Vec<Searched> = read_lines(&folder.join("trees.jsonl"))?.unwrap_or_default();
    let samples: Vec<Sampled> = read_lines(&folder.join("samples.jsonl"))?.unwrap_or_default();
    let accepted: BTreeMap<&str, &str> = samples
        .iter()
        .filter_map(|line| {
            let draft = line.drafts.iter().find(|draft| draft.accepted)?;
            Some((line.asked.prompt.as_str(), draft.response.as_str()))
        })
        .collect();
    let (mut refined, mut independent) = (Vec::new(), Vec::new());
    for tree in trees.iter().filter(|tree| tree.best > 0 && tree.accepted) {
        refined.push(similarity(&tree.nodes[0].response, &tree.nodes[tree.best].response));
    }
    for tree in &trees {
        if let Some(draft) = accepted.get(tree.asked.prompt.as_str()) {
            independent.push(similarity(&tree.nodes[0].response, draft));
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    Ok(Similarity {
        refined: mean(&refined),
        refined_pairs: refined.len(),
        independent: mean(&independent),
        independent_pairs: independent.len(),
    })
}

/// Twice the number of common words over the number of all words.
pub(crate) fn similarity(a: &str, b: &str) -> f64 {
    f64::from(TextDiff::configure().algorithm(Algorithm::Myers).diff_words(a, b).ratio())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_is_one_for_equal_texts_and_zero_for_disjoint_ones() {
        assert_eq!(similarity("the quiet river", "the quiet river"), 1.0);
        assert_eq!(similarity("river", "mountain"), 0.0);
        let near = similarity("the quiet river waits here", "the quiet river waits");
        assert!((0.8..1.0).contains(&near), "{near}");
    }
}
