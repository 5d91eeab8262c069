//! The command line of `export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use spar::engine::derive_seed;

use super::super::manifest::Record;
use super::super::trainings::{Training, actor_stage, refiner_stage};
use super::{Request, export};
use crate::cluster::{Card, Cluster};
use crate::formats::Fields;
use crate::recipe;
use crate::recipe::external::{External, Framework};
use crate::recipe::iterate::Iterate;
use crate::records::{BadLines, read};

/// What is exported.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  spar-train export --for trl --recipe training/recipes/dpo.toml --out export
  spar-train export --for llama-factory --recipe training/recipes/llama3-70b-full.toml --role actor --data runs/x/iter-1 --nodes 4 --out export
  spar-train export --for axolotl --recipe sft.toml --cards 4 --card h200 --base-name meta-llama/Llama-3.1-8B-Instruct --out export")]
pub struct Options {
    /// The program that trains.
    #[arg(long = "for", value_enum)]
    pub framework: Framework,
    /// The recipe: of `dpo`, of `sft`, or with an `[iterate]` section.
    #[arg(long)]
    pub recipe: PathBuf,
    /// Directory of `dpo.jsonl` and `sft.jsonl`, for a recipe with an `[iterate]` section.
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The role that is trained, for a recipe with an `[iterate]` section.
    #[arg(long, default_value = "actor", value_parser = ["actor", "refiner"])]
    pub role: String,
    /// The round, which decides seed and learning rate, for a recipe with an `[iterate]` section.
    #[arg(long, default_value_t = 1, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub round: usize,
    /// The name or path of the base where the training runs; default: the recipe's.
    #[arg(long)]
    pub base_name: Option<String>,
    /// Number of machines; default: the recipe's, or 1.
    #[arg(long)]
    pub nodes: Option<usize>,
    /// Cards of each machine; 0 trains on a processor. Default: the recipe's, or 8.
    #[arg(long)]
    pub cards: Option<usize>,
    /// The kind of the cards; default: the recipe's, or h100.
    #[arg(long, value_enum)]
    pub card: Option<Card>,
    /// Memory of each machine in GiB; default: the recipe's, or 2048.
    #[arg(long)]
    pub host: Option<usize>,
    /// LLaMA-Factory's name of the chat template; without it the tokenizer's template is read.
    #[arg(long)]
    pub template: Option<String>,
    /// Exports the adapter that this program would start from, so that both start equal.
    #[arg(long)]
    pub initial_adapter: bool,
    /// Directory of the export.
    #[arg(long)]
    pub out: PathBuf,
}

/// Writes an export as the command line says.
///
/// # Errors
/// Fails like [`export`], or if the recipe has no such training.
pub fn run(options: &Options) -> Result<Record> {
    let (training, external) = training(options)?;
    let cluster = external.as_ref().map_or_else(Cluster::default, |external| external.cluster);
    let cluster = Cluster {
        nodes: options.nodes.unwrap_or(cluster.nodes),
        cards: options.cards.unwrap_or(cluster.cards),
        card: options.card.unwrap_or(cluster.card),
        host: options.host.unwrap_or(cluster.host),
    };
    let recipes = external.filter(|external| external.framework == options.framework);
    let external = External {
        framework: options.framework,
        cluster,
        template: options.template.clone().or_else(|| recipes.as_ref()?.template.clone()),
        initial_adapter: options.initial_adapter || recipes.is_some_and(|external| external.initial_adapter),
    };
    let base_name = options.base_name.as_deref();
    export(Request { training: &training, external: &external, base_name, out: &options.out, result: "model" })
}

/// The training that the recipe describes, and its `[iterate.external]` section.
fn training(options: &Options) -> Result<(Training, Option<External>)> {
    let text = std::fs::read_to_string(&options.recipe)
        .with_context(|| format!("reading the recipe {}", options.recipe.display()))?;
    let table: toml::Table = text.parse().with_context(|| format!("in the recipe {}", options.recipe.display()))?;
    if table.contains_key("iterate") {
        let recipe = Iterate::read(&options.recipe)?;
        let data = options.data.as_deref().context("name the directory of the round's data with --data")?;
        let seed = |stage: u64| derive_seed(recipe.seed, 16 * options.round as u64 + stage);
        let training = match options.role.as_str() {
            "refiner" => refiner_stage(&recipe, options.round, seed(5), &recipe.refiner, data.join("sft.jsonl")),
            _ => {
                let kept = Some(data.join("kept.jsonl"));
                actor_stage(&recipe, options.round, seed(4), &recipe.actor, (data.join("dpo.jsonl"), kept))
            }
        };
        return Ok((training, recipe.external));
    }
    ensure!(options.data.is_none(), "--data has an effect with an [iterate] section only; the recipe names its data");
    let Some(data) = table.get("data").and_then(toml::Value::as_str) else {
        bail!("{} has neither `data` nor an [iterate] section", options.recipe.display());
    };
    let training = match has_pairs(Path::new(data))? {
        true => Training::Dpo(Box::new(recipe::read(&options.recipe)?)),
        false => Training::Sft(Box::new(recipe::read(&options.recipe)?)),
    };
    Ok((training, None))
}

/// Whether a file's first line that can be read has the preferences of `dpo`.
fn has_pairs(data: &Path) -> Result<bool> {
    let lines = read(data, BadLines::Skip, |line: Fields| Ok(line.contains_key("chosen")))?;
    lines.items.first().copied().with_context(|| format!("{}: nothing to learn from", data.display()))
}
