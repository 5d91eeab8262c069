//! `ablate`: a recipe and variants of it, each with several seeds, in one table of differences with intervals.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::eval::stats::{Estimate, estimate, paired};
use toml::Table;

use super::iterate::iterate;
use super::scores::Scores;
use super::{read_json, write_json};
use crate::recipe::iterate::Iterate;

/// An ablation recipe: the `[iterate]` section that all variants share, what each variant changes in it, and the seeds.
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
    /// By name; every variant is compared with the recipe as it is, which is called `spar`.
    variants: BTreeMap<String, Table>,
}

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// The variant.
    pub variant: String,
    /// Held-out greedy score, over all seeds and prompts.
    pub greedy: Estimate,
    /// The same by seed.
    pub by_seed: Vec<f64>,
    /// Variant minus `spar` on the same prompts and seeds.
    pub difference: Option<Estimate>,
    /// The search's score.
    pub search: Estimate,
    /// Pairs that the actors learned from, over all rounds, by seed.
    pub pairs: Vec<u64>,
}

/// Runs every variant with every seed below `out` and writes `ablations.json` and `ablations.md`.
///
/// # Errors
/// The recipe's, or the first failing run's.
pub async fn ablate(recipe: &Path, out: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(recipe).with_context(|| format!("reading the recipe {}", recipe.display()))?;
    let file: File = toml::from_str(&text).with_context(|| format!("in the recipe {}", recipe.display()))?;
    ensure!(!file.ablate.seeds.is_empty(), "in the recipe {}: ablate.seeds is empty", recipe.display());
    let mut variants = vec![("spar".to_owned(), Table::new())];
    variants.extend(file.ablate.variants.clone());
    let mut results: Vec<(String, Vec<Scores>, Vec<u64>)> = Vec::new();
    for (name, changes) in &variants {
        let (mut scores, mut pairs) = (Vec::new(), Vec::new());
        for &seed in &file.ablate.seeds {
            let recipe = variant(&file.iterate, changes, seed).with_context(|| format!("variant {name}"))?;
            let folder = out.join(name).join(format!("seed-{seed}"));
            let manifest = iterate(&recipe, &folder).await.with_context(|| format!("{name}, seed {seed}"))?;
            let of_round =
                |round: &super::iterate::Round| round.counts.get("build").map_or(0, |counts| counts["pairs"]);
            pairs.push(manifest.rounds.iter().map(of_round).sum());
            scores.push(read_json(&folder.join(format!("scores/held-out/iter-{}.json", recipe.iterations)))?);
        }
        results.push((name.clone(), scores, pairs));
    }
    let rows: Vec<Row> = results.iter().map(|result| row(result, &results[0])).collect();
    write_json(&out.join("ablations.json"), &rows)?;
    std::fs::write(out.join("ablations.md"), table(&rows))?;
    Ok(rows)
}

/// The shared section with a variant's changes and a seed.
fn variant(shared: &Table, changes: &Table, seed: u64) -> Result<Iterate> {
    let mut section = shared.clone();
    overlay(&mut section, changes);
    section.insert("seed".into(), toml::Value::Integer(i64::try_from(seed)?));
    let recipe: Iterate = toml::Value::Table(section).try_into()?;
    ensure!(recipe.prompts.held_out.is_some(), "iterate.prompts.held_out is what variants are compared on: name it");
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

fn row((name, scores, pairs): &(String, Vec<Scores>, Vec<u64>), base: &(String, Vec<Scores>, Vec<u64>)) -> Row {
    let greedy: Vec<f64> = scores.iter().flat_map(|s| s.greedy.clone()).collect();
    let search: Vec<f64> = scores.iter().flat_map(|s| s.search.clone()).collect();
    let reference: Vec<f64> = base.1.iter().flat_map(|s| s.greedy.clone()).collect();
    let by_seed = scores.iter().map(|s| s.summary().greedy.mean).collect();
    let difference = (name != &base.0).then(|| paired(&greedy, &reference));
    Row {
        variant: name.clone(),
        greedy: estimate(&greedy),
        by_seed,
        difference,
        search: estimate(&search),
        pairs: pairs.clone(),
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = "| variant | greedy, held out | by seed | difference | search | pairs |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for row in rows {
        let by_seed: Vec<String> = row.by_seed.iter().map(|score| format!("{score:.3}")).collect();
        let pairs: Vec<String> = row.pairs.iter().map(u64::to_string).collect();
        let difference = row.difference.map_or("–".to_owned(), |d| d.to_string());
        let Row { variant, greedy, search, .. } = row;
        text += &format!(
            "| {variant} | {greedy} | {} | {difference} | {search} | {} |\n",
            by_seed.join(", "),
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
