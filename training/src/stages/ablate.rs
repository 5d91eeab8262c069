//! `ablate`: runs a recipe and variants of it, each with several seeds, and tabulates the differences with intervals.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::eval::stats::{Estimate, estimate, over_runs, paired};
use toml::Table;

use super::iterate::{Manifest, iterate};
use super::prompts::{self, Part};
use super::scores::{self, Scores};
use super::{read_lines, write_json};
use crate::recipe::iterate::{Iterate, Prompts};
use crate::records::PairLine;
use crate::report::similarity;

/// An ablation recipe: the `[iterate]` section shared by all variants, the changes that each variant makes to it, and the seeds.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    ablate: Ablate,
    iterate: Table,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ablate {
    seeds: Vec<u64>,
    /// The variants by name. Each is compared with the unchanged recipe, which is called `spar`.
    variants: BTreeMap<String, Table>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The variant's name.
    pub variant: String,
    /// Held-out greedy score, over all seeds and prompts.
    pub greedy: Estimate,
    /// The greedy score by seed.
    pub by_seed: Vec<f64>,
    /// Difference to `spar` on the same prompts and seeds, with an interval over prompts. It applies to these seeds.
    pub difference: Option<Estimate>,
    /// This difference with an interval over seeds, which applies to other seeds as well. `None` for one seed.
    pub over_seeds: Option<Estimate>,
    /// The search's score.
    pub search: Estimate,
    /// Number of pairs that the actors learned from over all rounds, by seed.
    pub pairs: Vec<u64>,
    /// Mean similarity of the two sides of these pairs: twice the number of common words over the number of all words.
    pub similarity: f64,
}

/// The result of one variant with one seed.
struct Outcome {
    scores: Scores,
    pairs: u64,
    /// Sum of the similarities of all pairs.
    similarity: f64,
}

/// Runs every variant with every seed below `out` and writes `ablations.json` and `ablations.md`.
///
/// # Errors
/// Fails if the recipe cannot be used or a run fails.
pub async fn ablate(recipe: &Path, out: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(recipe).with_context(|| format!("reading the recipe {}", recipe.display()))?;
    let file: File = toml::from_str(&text).with_context(|| format!("in the recipe {}", recipe.display()))?;
    ensure!(!file.ablate.seeds.is_empty(), "in the recipe {}: ablate.seeds is empty", recipe.display());
    ensure!(
        file.iterate.get("trainer").and_then(toml::Value::as_str) != Some("external"),
        "in the recipe {}: variants are trained here, so remove iterate.trainer",
        recipe.display()
    );
    let mut variants = vec![("spar".to_owned(), Table::new())];
    variants.extend(file.ablate.variants.clone());
    let mut results: Vec<(String, Vec<Outcome>)> = Vec::new();
    for (name, changes) in &variants {
        let mut outcomes = Vec::new();
        for &seed in &file.ablate.seeds {
            let with = |changes| variant(&file.iterate, changes, seed).with_context(|| format!("variant {name}"));
            let (base, recipe) = (with(&Table::new())?, with(changes)?);
            let folder = |name: &str| out.join(name).join(format!("seed-{seed}"));
            share_first_round((&base, &folder("spar")), (&recipe, &folder(name)))?;
            outcomes.push(run(&recipe, &folder(name)).await.with_context(|| format!("{name}, seed {seed}"))?);
        }
        results.push((name.clone(), outcomes));
    }
    let rows: Vec<Row> = results.iter().map(|(name, outcomes)| row(name, outcomes, &results[0].1)).collect();
    write_json(&out.join("ablations.json"), &rows)?;
    std::fs::write(out.join("ablations.md"), table(&rows))?;
    Ok(rows)
}

/// Runs all rounds and scores the final models.
async fn run(recipe: &Iterate, folder: &Path) -> Result<Outcome> {
    let unscored = Prompts { held_out: None, ..recipe.prompts.clone() };
    let manifest: Manifest = iterate(&Iterate { prompts: unscored, ..recipe.clone() }, folder).await?;
    let held_out = folder.join("held-out.jsonl");
    prompts::write(recipe, Part::HeldOut, &held_out).context("the held-out prompts")?;
    let settings = scores::Settings {
        seed: recipe.seed,
        sample: &recipe.sample,
        search: &recipe.search,
        budget: recipe.gate.budget,
        prompts: recipe.prompts.held_out_count,
    };
    let (actor, refiner) = (folder.join("final/actor"), folder.join("final/refiner"));
    let (prompts, scored) = (held_out.as_path(), folder.join("scores/final.json"));
    let files = scores::Files { prompts, actor: &actor, refiner: &refiner, out: &scored };
    let mut outcome = Outcome { scores: scores::score(&settings, files).await?, pairs: 0, similarity: 0.0 };
    for t in 1..=manifest.rounds.len() {
        let pairs: Vec<PairLine> = read_lines(&folder.join(format!("iter-{t}/dpo.jsonl")))?.unwrap_or_default();
        outcome.pairs += pairs.len() as u64;
        outcome.similarity += pairs.iter().map(|pair| similarity(&pair.chosen_text, &pair.rejected_text)).sum::<f64>();
    }
    Ok(outcome)
}

/// Copies the first round's prompts, samples and trees of `base` to a run that would make the same ones.
fn share_first_round(base: (&Iterate, &Path), run: (&Iterate, &Path)) -> Result<()> {
    let decides = |recipe: &Iterate| {
        let Iterate { seed, actor, refiner, prompts, bad_lines, sample, search, .. } = recipe.clone();
        (seed, actor, refiner, prompts.train, prompts.per_iteration, bad_lines, sample, search)
    };
    let (from, to) = (base.1.join("iter-1"), run.1.join("iter-1"));
    if decides(base.0) != decides(run.0) || !from.exists() || to.exists() {
        return Ok(());
    }
    std::fs::create_dir_all(&to).with_context(|| format!("creating {}", to.display()))?;
    // Records are copied last, so that an output exists if its record does.
    for file in ["prompts.jsonl", "samples.jsonl", "trees.jsonl", "samples.stage.json", "trees.stage.json"] {
        std::fs::copy(from.join(file), to.join(file)).with_context(|| format!("copying {file} to {}", to.display()))?;
    }
    Ok(())
}

/// The shared section with the changes of a variant and a seed.
fn variant(shared: &Table, changes: &Table, seed: u64) -> Result<Iterate> {
    let mut section = shared.clone();
    overlay(&mut section, changes);
    section.insert("seed".into(), toml::Value::Integer(i64::try_from(seed)?));
    let recipe: Iterate = toml::Value::Table(section).try_into()?;
    ensure!(
        recipe.prompts.held_out.is_some(),
        "variants are compared on held-out prompts: set iterate.prompts.held_out"
    );
    recipe.check()?;
    Ok(recipe)
}

fn overlay(table: &mut Table, changes: &Table) {
    for (key, value) in changes {
        match (table.get_mut(key), value) {
            (Some(toml::Value::Table(inner)), toml::Value::Table(changes)) => overlay(inner, changes),
            _ => {
                table.insert(key.clone(), value.clone());
            }
        }
    }
}

fn row(name: &str, outcomes: &[Outcome], base: &[Outcome]) -> Row {
    let all = |outcomes: &[Outcome], values: fn(&Scores) -> &Vec<f64>| -> Vec<f64> {
        outcomes.iter().flat_map(|outcome| values(&outcome.scores).clone()).collect()
    };
    let greedy = all(outcomes, |scores| &scores.greedy);
    let pairs: Vec<u64> = outcomes.iter().map(|outcome| outcome.pairs).collect();
    let similarity = outcomes.iter().map(|outcome| outcome.similarity).sum::<f64>();
    let means =
        |outcomes: &[Outcome]| -> Vec<f64> { outcomes.iter().map(|o| o.scores.summary().greedy.mean).collect() };
    let by_seed = means(outcomes);
    let differences: Vec<f64> = by_seed.iter().zip(means(base)).map(|(own, base)| own - base).collect();
    Row {
        variant: name.to_owned(),
        greedy: estimate(&greedy),
        over_seeds: over_runs(&differences).filter(|_| name != "spar"),
        by_seed,
        difference: (name != "spar").then(|| paired(&greedy, &all(base, |scores| &scores.greedy))),
        search: estimate(&all(outcomes, |scores| &scores.search)),
        similarity: similarity / pairs.iter().sum::<u64>().max(1) as f64,
        pairs,
    }
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "| variant | greedy, held out | by seed | difference, over prompts | over seeds | search | pairs | their similarity |\n"
            .to_owned();
    text += "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    for row in rows {
        let by_seed: Vec<String> = row.by_seed.iter().map(|score| format!("{score:.3}")).collect();
        let pairs: Vec<String> = row.pairs.iter().map(u64::to_string).collect();
        let shown = |difference: Option<Estimate>| difference.map_or("–".to_owned(), |d| format!("{d:+}"));
        let Row { variant, greedy, difference, over_seeds, search, similarity, .. } = row;
        text += &format!(
            "| {variant} | {greedy} | {} | {} | {} | {search} | {} | {similarity:.2} |\n",
            by_seed.join(", "),
            shown(*difference),
            shown(*over_seeds),
            pairs.join(", ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variant_changes_what_it_names_and_nothing_else() {
        let shared: Table = toml::from_str(
            "actor = 'a'\nrefiner = 'r'\n[prompts]\ntrain = 'p'\nvalidation = { world = 'validation' }\nheld_out = 'h'\n\
             [search]\nbudget = 8\nvotes = 3\n[dpo]\ntokens_per_step = 100\n[sft]\ntokens_per_step = 100\n",
        )
        .unwrap();
        let changes: Table = toml::from_str("[search]\nbudget = 1\n[sft]\nenabled = false\n").unwrap();
        let plain = variant(&shared, &Table::new(), 4).unwrap();
        let changed = variant(&shared, &changes, 4).unwrap();
        assert_eq!((changed.search.budget, changed.search.votes, changed.sft.enabled), (1, 3, false));
        let mut same = changed.clone();
        (same.search.budget, same.sft.enabled) = (8, true);
        assert_eq!((same, plain.seed), (plain.clone(), 4));
        let typo: Table = toml::from_str("[search]\nbudgets = 1\n").unwrap();
        assert!(variant(&shared, &typo, 4).is_err());
    }
}
