//! The trainer's command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use spar::engine::model_dir::ModelDir;
use spar::prompts::Templates;
use spar::search::Models;
use spar::verify::data::read_prompts;
use spar_training::publish::{Admin, Weights};
use spar_training::recipe::Bootstrap;
use spar_training::recipe::iterate::Iterate;
use spar_training::records::BadLines;
use spar_training::stages::manifest::Record;
use spar_training::stages::{self, calibrate, eval, judge_eval};
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
        /// Where the run is kept; a killed run resumes from there.
        #[arg(long, default_value = "runs/spar-tiny")]
        out: PathBuf,
    },
    /// Trains a tokenizer on the world's texts, as a bootstrap recipe says.
    Tokenizer {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// The directory that receives the tokenizer.
        #[arg(long)]
        out: PathBuf,
    },
    /// Fine-tunes a model on chats.
    Sft {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
    },
    /// Fine-tunes a model on pairs of replies, by direct preference optimization.
    Dpo {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
    },
    /// Drafts answers to prompts and judges them, as a recipe's `[iterate]` section says.
    Sample {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// Prompts, one a line.
        #[arg(long)]
        prompts: PathBuf,
        /// Judged drafts, one prompt a line.
        #[arg(long)]
        out: PathBuf,
    },
    /// Refines one failing draft of each prompt by tree search.
    Search {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// What `sample` wrote.
        #[arg(long)]
        samples: PathBuf,
        /// Trees, one a line.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes training data of drafts and trees: `dpo.jsonl` and `sft.jsonl`.
    Build {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// What `sample` wrote.
        #[arg(long, required_unless_present = "from_traffic")]
        samples: Option<PathBuf>,
        /// What `search` wrote.
        #[arg(long, required_unless_present = "from_traffic")]
        trees: Option<PathBuf>,
        /// A server's --traffic-dir: its searches in place of both.
        #[arg(long, conflicts_with_all = ["samples", "trees"])]
        from_traffic: Option<PathBuf>,
        /// The folder that receives the files.
        #[arg(long)]
        out: PathBuf,
    },
    /// Runs SPaR iterations: sample, search, build, train, and a gate after every round.
    Iterate {
        /// The recipe, a TOML file with an `[iterate]` section.
        #[arg(long)]
        recipe: PathBuf,
        /// Where the run is kept; a killed run resumes from there.
        #[arg(long, default_value = "runs/iterate")]
        out: PathBuf,
        /// Replaces the recipe's seed.
        #[arg(long)]
        seed: Option<u64>,
    },
    /// Runs variants of a recipe with several seeds and tabulates them.
    Ablate {
        /// The recipe, a TOML file with `[iterate]` and `[ablate]` sections.
        #[arg(long)]
        recipe: PathBuf,
        /// Where the runs are kept.
        #[arg(long, default_value = "runs/ablate")]
        out: PathBuf,
    },
    /// Says what a recipe's training needs, before anything is loaded.
    Plan {
        /// The recipe, a TOML file with an `[iterate]` section.
        recipe: PathBuf,
    },
    /// Writes a run's report again: `index.html` and `report.json`.
    Report {
        /// The run's folder.
        run: PathBuf,
    },
    /// Writes a GGUF file as a model directory, which every other command takes as a base; blocks become half precision.
    Unpack {
        /// The file, or the first of its parts.
        #[arg(long)]
        file: PathBuf,
        /// The directory, which must not exist.
        #[arg(long)]
        out: PathBuf,
    },
    /// Merges a LoRA adapter into its base.
    Merge {
        /// The base's model directory.
        #[arg(long)]
        base: PathBuf,
        /// The adapter's directory.
        #[arg(long)]
        adapter: PathBuf,
        /// The merged model directory.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes harder prompts of given ones by asking a model to add constraints.
    Evolve {
        /// Prompts, one a line.
        #[arg(long)]
        prompts: PathBuf,
        /// The model directory that is asked.
        #[arg(long)]
        model: PathBuf,
        /// The harder prompts.
        #[arg(long)]
        out: PathBuf,
        /// Constraints added to a prompt at most.
        #[arg(long, default_value_t = 3)]
        most: usize,
        /// Fixes every draw.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Measures a judge, by votes or by the probability of Yes, against labels or against rules.
    JudgeEval(judge_eval::Options),
    /// Fits how a model's probabilities of Yes and No become a judgement, and writes it into its spar.json.
    Calibrate(calibrate::Options),
    /// Writes a split's prompts in IFEval's JSONL format.
    Prompts {
        /// train, validation or held-out.
        #[arg(long, value_enum, default_value = "held-out")]
        split: Split,
        /// The number of prompts.
        #[arg(long, default_value_t = 1000)]
        count: u64,
        /// Decides every draw.
        #[arg(long, default_value_t = 17)]
        seed: u64,
        /// The file that receives the prompts.
        #[arg(long)]
        out: PathBuf,
    },
    /// Swaps weights of a running server; its admin key comes from SPAR_ADMIN_KEY.
    Swap {
        /// The server's address.
        #[arg(long, default_value = "http://127.0.0.1:8080")]
        url: String,
        /// The role whose weights are swapped.
        #[arg(long, value_parser = ["actor", "refiner", "both"])]
        role: String,
        /// A model's directory, below one of the server's --weights-root.
        #[arg(long)]
        model: Option<PathBuf>,
        /// A LoRA adapter's directory, below one of them.
        #[arg(long)]
        adapter: Option<PathBuf>,
        /// The generation that must be live, or nothing happens.
        #[arg(long)]
        expected: Option<String>,
        /// Everything but the switch.
        #[arg(long)]
        dry_run: bool,
        /// Goes back to what was live before instead.
        #[arg(long, conflicts_with_all = ["model", "adapter", "dry_run"])]
        rollback: bool,
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
async fn main() -> ExitCode {
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(colours).init();
    match run(Args::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", spar::causes::one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
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
        Command::Dpo { recipe } => {
            let text = std::fs::read_to_string(&recipe).with_context(|| format!("reading {}", recipe.display()))?;
            let recipe = toml::from_str(&text).with_context(|| format!("in the recipe {}", recipe.display()))?;
            let report = stages::dpo::dpo(&recipe)?;
            println!("{} steps, {} tokens, loss {:.4}", report.steps, report.tokens, report.loss);
            Ok(())
        }
        Command::Sample { recipe, prompts, out } => {
            let recipe = Iterate::read(&recipe)?;
            let Iterate { seed, ref sample, ref search, bad_lines, .. } = recipe;
            let settings = stages::draft::Settings { seed, sample, search, bad_lines };
            let (actor, refiner) = (&recipe.actor, &recipe.refiner);
            let files = stages::draft::Files { prompts: &prompts, actor, refiner, out: &out };
            show(&stages::draft::sample(&settings, files).await?);
            Ok(())
        }
        Command::Search { recipe, samples, out } => {
            let recipe = Iterate::read(&recipe)?;
            let (seed, parallel) = (recipe.seed, recipe.sample.parallel);
            let settings = stages::grow::Settings { seed, search: &recipe.search, parallel };
            let files = stages::grow::Files { samples: &samples, refiner: &recipe.refiner, out: &out };
            show(&stages::grow::grow(&settings, files).await?);
            Ok(())
        }
        Command::Build { recipe, samples, trees, from_traffic, out } => {
            let recipe = Iterate::read(&recipe)?;
            let (samples, trees) = match (samples, trees, from_traffic) {
                (_, _, Some(traffic)) => stages::build::collect_traffic(&traffic, &out)?,
                (Some(samples), Some(trees), None) => (samples, trees),
                _ => anyhow::bail!("name --samples and --trees, or --from-traffic"),
            };
            let templates = ModelDir::open(recipe.refiner.clone())?.templates;
            let settings = stages::build::Settings { seed: recipe.seed, build: &recipe.build };
            let files = stages::build::Files { samples: &samples, trees: &trees, refiner: &recipe.refiner, out: &out };
            show(&stages::build::build(&settings, files, &templates)?);
            Ok(())
        }
        Command::Iterate { recipe, out, seed } => {
            let mut recipe = Iterate::read(&recipe)?;
            recipe.seed = seed.unwrap_or(recipe.seed);
            let manifest = stages::iterate::iterate(&recipe, &out).await?;
            for (round, scores) in manifest.held_out.iter().enumerate() {
                println!("after round {round}, held out: greedy {}, search {}", scores.greedy, scores.search);
            }
            println!("{}", out.join("index.html").display());
            Ok(())
        }
        Command::Ablate { recipe, out } => {
            stages::ablate::ablate(&recipe, &out).await?;
            print!("{}", std::fs::read_to_string(out.join("ablations.md"))?);
            Ok(())
        }
        Command::Plan { recipe } => {
            for plan in stages::plan::plan(&Iterate::read(&recipe)?)? {
                println!("{plan}");
            }
            Ok(())
        }
        Command::Report { run } => spar_training::report::write(&run),
        Command::Merge { base, adapter, out } => {
            show(&stages::merge::merge(&base, &adapter, &out)?);
            Ok(())
        }
        Command::Unpack { file, out } => Ok(spar::weights::gguf::Gguf::open(&file)?.export(&out)?),
        Command::Evolve { prompts, model, out, most, seed } => {
            let bad_lines = BadLines::Stop;
            let settings = stages::evolve::Settings { seed, most, temperature: 0.9, bad_lines, parallel: 64 };
            show(&stages::evolve::evolve(&settings, &prompts, &model, &out).await?);
            Ok(())
        }
        Command::JudgeEval(options) => {
            let qualities = judge_eval::run(&options).await?;
            println!("{}", judge_eval::HEADING);
            for quality in qualities {
                println!("{quality}");
            }
            Ok(())
        }
        Command::Calibrate(options) => {
            println!("{}", calibrate::run(&options).await?);
            Ok(())
        }
        Command::Prompts { split, count, seed, out } => stages::sample::write_prompts(split, seed, count, &out),
        Command::Swap { url, role, model, adapter, expected, dry_run, rollback } => {
            let admin = Admin::new(&url)?;
            let report = if rollback {
                admin.rollback(&role, expected.as_deref()).await?
            } else {
                admin.swap(&Weights { role, model, adapter, expected, dry_run }).await?
            };
            println!("{report:#}");
            Ok(())
        }
        Command::Eval { actor, refiner, data, limit, budgets, seed, out } => {
            let refiner = refiner.unwrap_or_else(|| actor.clone());
            let (actor, refiner) = (stages::bootstrap::load(&actor)?, stages::bootstrap::load(&refiner)?);
            let mut prompts = read_prompts(&data)?.items;
            // Whether a response to these is right is not known.
            prompts.retain(|prompt| prompt.unchecked.is_empty());
            prompts.truncate(limit.unwrap_or(usize::MAX));
            let models = Models { actor: &actor, refiner: &refiner, templates: &refiner.dir().templates };
            let options = eval::Options { budgets, seed, parallel: 64 };
            let report = eval::evaluate(models, &prompts, &options).await?;
            println!("{report}");
            out.map_or(Ok(()), |path| stages::write_json(&path, &report))
        }
    }
}

/// What a stage counted.
fn show(record: &Record) {
    for (name, count) in &record.counts {
        println!("{name:32} {count:>10}");
    }
    for line in &record.skipped {
        println!("skipped {line}");
    }
}
