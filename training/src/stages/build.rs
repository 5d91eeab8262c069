//! `build`: turns drafts and trees into preference pairs for the actor and chat turns for the refiner.

#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;
use spar::chat::Message;
use spar::engine::derive_seed;
use spar::prompts::Templates;
use spar::search::Votes;

use super::funnel::Funnel;
use super::manifest::{Record, Stage};
use super::{write_json, write_lines};
use crate::checkpoint;
use crate::recipe::iterate::{Build, Iterate, Pairing};
use crate::records::{Asked, BadLines, ChatLine, Draft, PairLine, Sampled, Searched, read};

/// Settings that decide the stage's output, in addition to its inputs.
#[derive(Clone, Debug, Serialize)]
pub struct Settings<'a> {
    /// Seed of all random draws.
    pub seed: u64,
    /// Which results become training data.
    pub build: &'a Build,
}

/// The files of the stage.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The file of judged drafts.
    pub samples: &'a Path,
    /// The file of trees.
    pub trees: &'a Path,
    /// The refiner's directory, for its templates.
    pub refiner: &'a Path,
    /// The directory for `dpo.jsonl`, `kept.jsonl`, `sft.jsonl` and `dataset_info.json`.
    pub out: &'a Path,
}

/// Runs the stage.
///
/// # Errors
/// Fails if a file or one of its lines cannot be used.
pub fn build(settings: &Settings<'_>, files: Files<'_>, templates: &Templates) -> Result<Record> {
    let inputs = [("samples", files.samples), ("trees", files.trees), ("refiner", files.refiner)];
    let running = match Stage::begin(&files.out.join("build.stage.json"), "build", settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let samples: Vec<Sampled> = read(files.samples, BadLines::Stop, Ok)?.items;
    let trees: Vec<Searched> = read(files.trees, BadLines::Stop, Ok)?.items;
    let (pairs, mut counts) = pairs(settings, &samples, &trees);
    let (turns, turn_counts) = turns(settings, &samples, &trees, templates);
    counts.extend(turn_counts);
    counts.push(("turns", turns.len()));
    let kept = kept(settings, &samples, pairs.len());
    counts.push(("kept", kept.len()));
    let [dpo, kept_file, sft] = ["dpo.jsonl", "kept.jsonl", "sft.jsonl"].map(|name| files.out.join(name));
    write_lines(&dpo, &pairs)?;
    write_lines(&kept_file, &kept)?;
    write_lines(&sft, &turns)?;
    write_json(&files.out.join("dataset_info.json"), &dataset_info())?;
    let counts: Vec<(&str, u64)> = counts.into_iter().map(|(name, count)| (name, count as u64)).collect();
    running.finish(&counts, Vec::new(), &[("dpo", &dpo), ("kept", &kept_file), ("sft", &sft)])
}

/// Checks that a round has what the models learn from. `records` are those of its stages.
///
/// # Errors
/// Fails with the funnel of the round's counts, and what to change.
pub fn ensure_data(recipe: &Iterate, records: &[&Record]) -> Result<()> {
    let least = recipe.build.least as u64;
    let built = records.iter().find(|record| record.stage == "build").context("no data was built")?;
    let trains_refiner = recipe.sft.enabled;
    for (what, needed) in [("pairs", true), ("turns", trains_refiner)] {
        let count = built.counts.get(what).copied().unwrap_or_default();
        ensure!(
            !needed || count >= least,
            "{count} {what} came out, and iterate.build.least is {least}; nothing is trained on them:\n{}",
            Funnel::of(records)
        );
    }
    Ok(())
}

/// Copies the searches that a server has recorded into `out`, as `trees.jsonl` next to an empty `samples.jsonl`, and returns both paths.
/// Two searches with the same prompt and draft count once.
///
/// # Errors
/// Fails if a file or one of its lines cannot be used, or if there are no searches.
pub fn collect_traffic(traffic: &Path, out: &Path) -> Result<(PathBuf, PathBuf)> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let mut files = Vec::new();
    for entry in std::fs::read_dir(traffic).with_context(|| format!("reading {}", traffic.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    let (mut seen, mut trees) = (HashSet::new(), Vec::new());
    for file in files {
        // A server that was killed may have left an incomplete line.
        let lines = read(&file, BadLines::Skip, |tree: Searched| {
            ensure!(tree.best < tree.nodes.len(), "`best` is {}, there are {} nodes", tree.best, tree.nodes.len());
            Ok(tree)
        })?;
        trees.extend(
            lines
                .items
                .into_iter()
                .filter(|tree: &Searched| seen.insert((tree.asked.prompt.clone(), tree.nodes[0].response.clone()))),
        );
    }
    ensure!(!trees.is_empty(), "{} holds no searches; start the server with --traffic-dir", traffic.display());
    let (samples_path, trees_path) = (out.join("samples.jsonl"), out.join("trees.jsonl"));
    write_lines(&trees_path, &trees)?;
    checkpoint::replace(&samples_path, |path| Ok(std::fs::write(path, "")?))?;
    Ok((samples_path, trees_path))
}

type Counts = Vec<(&'static str, usize)>;

fn pairs(settings: &Settings<'_>, samples: &[Sampled], trees: &[Searched]) -> (Vec<PairLine>, Counts) {
    let build = settings.build;
    let unanimous = |votes: &Votes| votes.no == 0 && votes.invalid == 0;
    let found: Vec<(PairLine, Votes)> = match build.pairing {
        Pairing::Refined => trees.iter().filter_map(refined).collect(),
        Pairing::Independent => independent(settings.seed, samples, trees),
    };
    let mut counts = vec![("pairs found", found.len())];
    let mut pairs: Vec<PairLine> = found
        .into_iter()
        .filter(|(_, votes)| !build.unanimous || unanimous(votes))
        .map(|(pair, _)| pair)
        .filter(|pair| pair.check().is_ok())
        .collect();
    counts.push(("pairs agreed on", pairs.len()));
    let asked: HashMap<&str, &Asked> =
        trees.iter().map(|tree| &tree.asked).map(|asked| (asked.prompt.as_str(), asked)).collect();
    pairs.retain(|pair| {
        let asked = asked.get(pair.instruction.as_str());
        build.floor.holds(asked.map_or(&[][..], |asked| &asked.kwargs), &pair.chosen_text, &pair.rejected_text)
    });
    counts.push(("pairs above the floor", pairs.len()));
    if let Some(drift) = build.length_drift {
        balance(&mut pairs, drift);
    }
    counts.push(("pairs balanced", pairs.len()));
    pairs.shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed(settings.seed, 1)));
    pairs.truncate(build.pairs.unwrap_or(usize::MAX));
    counts.push(("pairs", pairs.len()));
    (pairs, counts)
}

fn refined(tree: &Searched) -> Option<(PairLine, Votes)> {
    let best = &tree.nodes[tree.best];
    let pair = || PairLine::new(&tree.asked.prompt, &best.response, &tree.nodes[0].response);
    (tree.accepted && best.depth > 0).then(|| (pair(), best.votes))
}

/// Pairs of another accepted draft, chosen at random, and the draft from which the tree starts.
fn independent(seed: u64, samples: &[Sampled], trees: &[Searched]) -> Vec<(PairLine, Votes)> {
    let mut samples = samples.iter().enumerate();
    let pair = |tree: &Searched| {
        let (i, line) = samples.find(|(_, line)| line.asked == tree.asked)?;
        let accepted: Vec<&Draft> = line.drafts.iter().filter(|draft| draft.accepted && !draft.cut).collect();
        let count = u64::try_from(accepted.len()).ok().filter(|&count| count > 0)?;
        let chosen = accepted[usize::try_from(derive_seed(!seed, i as u64) % count).ok()?];
        Some((PairLine::new(&tree.asked.prompt, &chosen.response, &tree.nodes[0].response), chosen.votes))
    };
    trees.iter().filter_map(pair).collect()
}

/// Drafts that every vote accepts, one per prompt. They show what the actor does right and should keep doing.
fn kept(settings: &Settings<'_>, samples: &[Sampled], most: usize) -> Vec<ChatLine> {
    let pick = |line: &Sampled| {
        let mut drafts = line.drafts.iter().filter(|draft| draft.accepted && !draft.cut);
        let draft = drafts.find(|draft| draft.votes.no == 0 && draft.votes.invalid == 0)?;
        let messages = vec![Message::user(&line.asked.prompt), Message::assistant(&draft.response)];
        Some(ChatLine { messages, kind: Some("kept".into()) })
    };
    let mut lines: Vec<ChatLine> = samples.iter().filter_map(pick).collect();
    lines.shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed(settings.seed, 98)));
    lines.truncate(most);
    lines
}

/// Drops the pairs with the largest difference in length of the dominant sign until the mean is within `drift`.
fn balance(pairs: &mut Vec<PairLine>, drift: f64) {
    let difference = |pair: &PairLine| {
        let length = |text: &str| text.chars().count() as f64;
        length(&pair.chosen_text) - length(&pair.rejected_text)
    };
    let mut order: Vec<(f64, usize)> = pairs.iter().enumerate().map(|(i, pair)| (difference(pair), i)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let (mut low, mut high) = (0, order.len());
    let mut sum: f64 = order.iter().map(|(difference, _)| difference).sum();
    while high > low && (sum / (high - low) as f64).abs() > drift {
        match sum.total_cmp(&0.0) {
            Ordering::Greater => {
                high -= 1;
                sum -= order[high].0;
            }
            _ => {
                sum -= order[low].0;
                low += 1;
            }
        }
    }
    let kept: HashSet<usize> = order[low..high].iter().map(|&(_, i)| i).collect();
    let mut i = 0;
    pairs.retain(|_| {
        i += 1;
        kept.contains(&(i - 1))
    });
}

/// Refinement turns that led to an accepted node, and critiques that agree with the votes. There is at most one of each kind per prompt,
/// and at most as many of a kind as the recipe allows.
fn turns(
    settings: &Settings<'_>,
    samples: &[Sampled],
    trees: &[Searched],
    templates: &Templates,
) -> (Vec<ChatLine>, Counts) {
    let build = settings.build;
    let critique = |prompt: &str, response: &str, critique: &str| {
        let mut turns = templates.judge(&[Message::user(prompt)], response);
        turns.push(Message::assistant(critique));
        turns
    };
    let refinement = |tree: &Searched| {
        let best = &tree.nodes[tree.best];
        let parent = &tree.nodes[best.parent.filter(|_| tree.accepted)?];
        let conversation = [Message::user(&tree.asked.prompt)];
        let mut turns = templates.refine(&conversation, &parent.response, &parent.critique);
        turns.push(Message::assistant(templates.refinement(&best.reflection, &best.response)));
        Some(turns)
    };
    let agreed = |accepts: bool, accepted: bool, value: Option<f64>| {
        accepted == accepts
            && value.is_some_and(|value| (if accepts { value } else { 1.0 - value }) >= build.agreement.max(0.5))
    };
    let tree_critiques = |accepts: bool| {
        let pick = move |tree: &Searched| {
            let mut nodes = tree.nodes.iter().skip(1);
            let node = nodes.find(|node| agreed(accepts, node.accepted, node.value))?;
            Some(critique(&tree.asked.prompt, &node.response, &node.critique))
        };
        trees.iter().filter_map(pick).collect::<Vec<_>>()
    };
    let draft_critiques = |accepts: bool| {
        let pick = move |line: &Sampled| {
            let draft = line.drafts.iter().find(|draft| agreed(accepts, draft.accepted, draft.value))?;
            Some(critique(&line.asked.prompt, &draft.response, &draft.critique))
        };
        samples.iter().filter_map(pick).collect::<Vec<_>>()
    };
    let kinds = [
        ("refinements", trees.iter().filter_map(refinement).collect(), build.refinements),
        ("tree critiques, yes", tree_critiques(true), build.tree_positive),
        ("tree critiques, no", tree_critiques(false), build.tree_negative),
        ("draft critiques, yes", draft_critiques(true), build.draft_positive),
        ("draft critiques, no", draft_critiques(false), build.draft_negative),
    ];
    let (mut lines, mut counts) = (Vec::new(), Counts::new());
    for (stream, (kind, mut found, most)) in kinds.into_iter().enumerate() {
        let mut rng = ChaCha8Rng::seed_from_u64(derive_seed(settings.seed, 2 + stream as u64));
        found.shuffle(&mut rng);
        found.truncate(most);
        counts.push((kind, found.len()));
        lines.extend(found.into_iter().map(|messages| ChatLine { messages, kind: Some(kind.into()) }));
    }
    lines.shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed(settings.seed, 99)));
    (lines, counts)
}

/// The description that LLaMA-Factory requires in a data directory.
fn dataset_info() -> serde_json::Value {
    json!({
        "spar_dpo": {
            "file_name": "dpo.jsonl", "ranking": true,
            "columns": { "prompt": "instruction", "chosen": "chosen_text", "rejected": "rejected_text" },
        },
        "spar_sft": {
            "file_name": "sft.jsonl", "formatting": "sharegpt",
            "columns": { "messages": "messages" },
            "tags": { "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant" },
        },
    })
}
