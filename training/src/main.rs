//! The trainer's command line.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use spar::prompts::Templates;
use spar::search::Models;
use spar::verify::data::read_prompts;
use spar_training::recipe::Bootstrap;
use spar_training::stages::{self, eval};
use spar_training::tokenizer;
use spar_training::world::Split;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Trains the models that spar serves.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a tokenizer, an actor and a refiner from nothing, as a recipe says.
    Bootstrap {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// Where the run is kept; a killed run goes on from there.
        #[arg(long, default_value = "runs/spar-tiny")]
        out: PathBuf,
    },
    /// Trains a tokenizer on the world's texts, as a bootstrap recipe says.
    Tokenizer {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// The directory.
        #[arg(long)]
        out: PathBuf,
    },
    /// Fine-tunes a model on chats.
    Sft {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
    },
    /// Writes a split's prompts in IFEval's JSONL format.
    Prompts {
        /// train, validation or held-out.
        #[arg(long, value_enum, default_value = "held-out")]
        split: Split,
        /// How many.
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// Decides every draw.
        #[arg(long, default_value_t = 17)]
        seed: u64,
        /// The file.
        #[arg(long)]
        out: PathBuf,
    },
    /// Measures an actor and a refiner: greedy, judge, one refinement, search, rules, best-of-N.
    Eval {
        /// The actor's model directory.
        #[arg(long)]
        actor: PathBuf,
        /// The refiner's; the actor's by default.
        #[arg(long)]
        refiner: Option<PathBuf>,
        /// Prompts in IFEval's JSONL format.
        #[arg(long)]
        data: PathBuf,
        /// Prompts to use at most.
        #[arg(long)]
        limit: Option<usize>,
        /// Node budgets of the search.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
        budgets: Vec<usize>,
        /// Fixes every draw.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// The report as JSON.
        #[arg(long)]
        out: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    match Args::parse().command {
        Command::Bootstrap { recipe, out } => stages::bootstrap::bootstrap(&Bootstrap::read(&recipe)?, &out).await,
        Command::Tokenizer { recipe, out } => {
            let recipe = Bootstrap::read(&recipe)?;
            let templates = Templates::new(recipe.templates.clone(), "the recipe")?;
            let made = tokenizer::train(recipe.tokenizer.vocabulary, recipe.seed, &templates)?;
            tokenizer::save(&made, recipe.context, &out)
        }
        Command::Sft { recipe } => {
            let text = std::fs::read_to_string(&recipe).with_context(|| format!("reading {}", recipe.display()))?;
            let recipe = toml::from_str(&text).with_context(|| format!("in the recipe {}", recipe.display()))?;
            let report = stages::sft::sft(&recipe)?;
            println!("{} steps, {} tokens, loss {:.4}", report.steps, report.tokens, report.loss);
            Ok(())
        }
        Command::Prompts { split, count, seed, out } => stages::sample::write_prompts(split, seed, count, &out),
        Command::Eval { actor, refiner, data, limit, budgets, seed, out } => {
            let refiner = refiner.unwrap_or_else(|| actor.clone());
            let (actor, refiner) = (stages::bootstrap::load(&actor)?, stages::bootstrap::load(&refiner)?);
            let mut prompts = read_prompts(&data)?.items;
            prompts.truncate(limit.unwrap_or(usize::MAX));
            let models = Models { actor: &actor, refiner: &refiner, templates: &refiner.dir().templates };
            let options = eval::Options { budgets, seed, parallel: 64 };
            let report = eval::evaluate(models, &prompts, &options).await?;
            println!("{report}");
            out.map_or(Ok(()), |path| stages::write_json(&path, &report))
        }
    }
}
