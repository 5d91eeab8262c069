//! The trainer's command line.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use spar::engine::model_dir::ModelDir;
use spar::prompts::Templates;
use spar::search::Models;
use spar::verify::data::read_prompts;
use spar_training::recipe::{self, Bootstrap, iterate::Iterate};
use spar_training::records::BadLines;
use spar_training::stages::dpo::Dpo;
use spar_training::stages::external::Waiting;
use spar_training::stages::manifest::Record;
use spar_training::stages::sft::Sft;
use spar_training::stages::show::{self, Style};
use spar_training::stages::{self, bootstrap_refiner, calibrate, eval, export, import, judge_eval, prompts, swap};
use spar_training::tokenizer;
use spar_training::trainer::TrainReport;

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
    /// Makes a tokenizer, an actor and a refiner from scratch, as described by a recipe.
    Bootstrap {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// Directory of the run; a killed run resumes from it.
        #[arg(long, default_value = "runs/spar-tiny")]
        out: PathBuf,
    },
    /// Makes a refiner of an instruct model: rules judge its own responses, and an adapter learns verdicts, critiques and refinements.
    BootstrapRefiner(bootstrap_refiner::Options),
    /// Trains a tokenizer on the world's texts, as described by a bootstrap recipe.
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
    /// Fine-tunes a model on pairs of replies by direct preference optimization.
    Dpo {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
    },
    /// Samples answers to prompts and judges them, as described by a recipe's `[iterate]` section.
    Sample {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// File with one prompt per line.
        #[arg(long)]
        prompts: PathBuf,
        /// File for the judged drafts, one prompt per line.
        #[arg(long)]
        out: PathBuf,
    },
    /// Refines one failing draft of each prompt by tree search.
    Search {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// File that `sample` wrote.
        #[arg(long)]
        samples: PathBuf,
        /// File for the search trees, one per line.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes training data from drafts and trees: `dpo.jsonl` and `sft.jsonl`.
    Build {
        /// The recipe, a TOML file.
        #[arg(long)]
        recipe: PathBuf,
        /// File that `sample` wrote.
        #[arg(long, required_unless_present = "from_traffic")]
        samples: Option<PathBuf>,
        /// File that `search` wrote.
        #[arg(long, required_unless_present = "from_traffic")]
        trees: Option<PathBuf>,
        /// A server's --traffic-dir; its searches replace both files.
        #[arg(long, conflicts_with_all = ["samples", "trees"])]
        from_traffic: Option<PathBuf>,
        /// Directory for the training data.
        #[arg(long)]
        out: PathBuf,
    },
    /// Runs SPaR iterations: sample, search, build, train, and a gate after every round.
    Iterate {
        /// The recipe, a TOML file with an `[iterate]` section.
        #[arg(long)]
        recipe: PathBuf,
        /// Directory of the run; a killed run resumes from it.
        #[arg(long, default_value = "runs/iterate")]
        out: PathBuf,
        /// Replaces the recipe's seed.
        #[arg(long)]
        seed: Option<u64>,
        /// Waits for `import` where models are trained elsewhere, instead of ending with status 3.
        #[arg(long)]
        wait: bool,
    },
    /// Writes a training as files for LLaMA-Factory, TRL or Axolotl: data, configuration, a script that runs it, and what it needs.
    Export(export::Options),
    /// Checks what another program has trained from an export, and registers it as the export's result.
    Import(import::Options),
    /// Runs variants of a recipe with several seeds and tabulates them.
    Ablate {
        /// The recipe, a TOML file with `[iterate]` and `[ablate]` sections.
        #[arg(long)]
        recipe: PathBuf,
        /// Directory of the runs.
        #[arg(long, default_value = "runs/ablate")]
        out: PathBuf,
    },
    /// Prints what a recipe's training needs, without loading anything.
    Plan {
        /// The recipe, a TOML file with an `[iterate]` section.
        recipe: PathBuf,
    },
    /// Rewrites a run's report: `index.html` and `report.json`.
    Report {
        /// The run's directory.
        run: PathBuf,
    },
    /// Converts a GGUF file into a model directory, which every other command accepts as a base; blocks become half precision.
    Unpack {
        /// The GGUF file, or the first of its parts.
        #[arg(long)]
        file: PathBuf,
        /// The new model directory, which must not exist yet.
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
        /// Directory for the merged model.
        #[arg(long)]
        out: PathBuf,
    },
    /// Makes prompts harder by asking a model to add constraints.
    Evolve {
        /// File with one prompt per line.
        #[arg(long)]
        prompts: PathBuf,
        /// Directory of the model that is asked.
        #[arg(long)]
        model: PathBuf,
        /// File for the harder prompts.
        #[arg(long)]
        out: PathBuf,
        /// Maximum number of constraints added to a prompt.
        #[arg(long, default_value_t = 3)]
        most: usize,
        /// Seed of all random draws.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Measures a judge against labels or rules, by its votes or by the probability of Yes.
    JudgeEval(judge_eval::Options),
    /// Fits how a model's probabilities of Yes and No become a judgement, and writes the calibration into its spar.json.
    Calibrate(calibrate::Options),
    /// Writes prompts of a split in IFEval's JSONL format, with the rules that their responses can be checked by.
    Prompts(prompts::Options),
    /// Shows what `sft` or `dpo` would learn from a data file: every token with its weight in the loss.
    Show(show::Options),
    /// Swaps weights of a running server; its admin key is read from SPAR_ADMIN_KEY.
    Swap(swap::Options),
    /// Measures an actor and a refiner: greedy decoding, judge, one refinement, search, rules and best-of-N.
    Eval {
        /// The actor's model directory.
        #[arg(long)]
        actor: PathBuf,
        /// The refiner's model directory; default: the actor's.
        #[arg(long)]
        refiner: Option<PathBuf>,
        /// Prompts in IFEval's JSONL format.
        #[arg(long)]
        data: PathBuf,
        /// Maximum number of prompts to use.
        #[arg(long)]
        limit: Option<usize>,
        /// Node budgets of the search.
        #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4, 8, 16])]
        budgets: Vec<usize>,
        /// Seed of all random draws.
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// File for the report as JSON.
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
            if let Some(waiting) = error.downcast_ref::<Waiting>() {
                println!("{waiting}");
                return ExitCode::from(Waiting::STATUS);
            }
            eprintln!("error: {}", spar::causes::one_line(&*error));
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Bootstrap { recipe, out } => stages::bootstrap::bootstrap(&Bootstrap::read(&recipe)?, &out).await,
        Command::BootstrapRefiner(options) => {
            println!("{}", bootstrap_refiner::run(&options).await?);
            Ok(())
        }
        Command::Tokenizer { recipe, out } => {
            let recipe = Bootstrap::read(&recipe)?;
            let templates = Templates::new(recipe.templates.clone(), "the recipe")?;
            let made = tokenizer::train(recipe.tokenizer.vocabulary, recipe.seed, &templates)?;
            tokenizer::save(&made, recipe.context, &out)
        }
        Command::Sft { recipe } => {
            let mut recipe: Sft = recipe::read(&recipe)?;
            recipe.base_name.get_or_insert(recipe.base.to_string_lossy().into_owned());
            show_training(&stages::sft::sft(&recipe)?);
            Ok(())
        }
        Command::Dpo { recipe } => {
            let mut recipe: Dpo = recipe::read(&recipe)?;
            recipe.base_name.get_or_insert(recipe.base.to_string_lossy().into_owned());
            show_training(&stages::dpo::dpo(&recipe)?);
            Ok(())
        }
        Command::Sample { recipe, prompts, out } => {
            let recipe = Iterate::read(&recipe)?;
            let Iterate { seed, ref sample, ref search, bad_lines, .. } = recipe;
            let settings = stages::sample::Settings { seed, sample, search, bad_lines };
            let (actor, refiner) = (&recipe.actor, &recipe.refiner);
            let files = stages::sample::Files { prompts: &prompts, actor, refiner, out: &out };
            counts(&stages::sample::sample(&settings, files).await?);
            Ok(())
        }
        Command::Search { recipe, samples, out } => {
            let recipe = Iterate::read(&recipe)?;
            let (seed, parallel) = (recipe.seed, recipe.sample.parallel);
            let max_tokens = recipe.sample.max_tokens;
            let settings = stages::search::Settings { seed, search: &recipe.search, max_tokens, parallel };
            let files = stages::search::Files { samples: &samples, refiner: &recipe.refiner, out: &out };
            counts(&stages::search::search(&settings, files).await?);
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
            let record = stages::build::build(&settings, files, &templates)?;
            counts(&record);
            stages::build::ensure_data(&recipe, &[&record])
        }
        Command::Iterate { recipe, out, seed, wait } => {
            let mut recipe = Iterate::read(&recipe)?;
            recipe.wait = wait;
            recipe.seed = seed.unwrap_or(recipe.seed);
            let manifest = stages::iterate::iterate(&recipe, &out).await?;
            for (round, scores) in manifest.held_out.iter().enumerate() {
                println!("after round {round}, held out: greedy {}, search {}", scores.greedy, scores.search);
            }
            println!("{}", out.join("index.html").display());
            Ok(())
        }
        Command::Export(options) => {
            counts(&export::run(&options)?);
            println!("{}", options.out.join("README.md").display());
            Ok(())
        }
        Command::Import(options) => {
            counts(&import::run(&options)?);
            Ok(())
        }
        Command::Ablate { recipe, out } => {
            stages::ablate::ablate(&recipe, &out).await?;
            print!("{}", std::fs::read_to_string(out.join("ablations.md"))?);
            Ok(())
        }
        Command::Plan { recipe } => {
            let recipe = Iterate::read(&recipe)?;
            for plan in stages::plan::plan(&recipe)? {
                println!("{plan}");
            }
            print!("{}", stages::plan::elsewhere(&recipe)?);
            Ok(())
        }
        Command::Report { run } => spar_training::report::write(&run),
        Command::Merge { base, adapter, out } => {
            counts(&stages::merge::merge(&base, &adapter, &out)?);
            Ok(())
        }
        Command::Unpack { file, out } => Ok(spar::weights::gguf::Gguf::open(&file)?.export(&out)?),
        Command::Evolve { prompts, model, out, most, seed } => {
            let bad_lines = BadLines::Stop;
            let settings = stages::evolve::Settings { seed, most, temperature: 0.9, bad_lines, parallel: 64 };
            counts(&stages::evolve::evolve(&settings, &prompts, &model, &out).await?);
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
        Command::Prompts(options) => {
            print!("{}", prompts::run(&options)?);
            Ok(())
        }
        Command::Show(options) => {
            let style = if std::io::stdout().is_terminal() { Style::Coloured } else { Style::Plain };
            print!("{}", show::show(&options, style)?);
            Ok(())
        }
        Command::Swap(options) => {
            println!("{:#}", swap::run(&options).await?);
            Ok(())
        }
        Command::Eval { actor, refiner, data, limit, budgets, seed, out } => {
            let refiner = refiner.unwrap_or_else(|| actor.clone());
            let (actor, refiner) = (stages::engines::load(&actor)?, stages::engines::load(&refiner)?);
            let mut prompts = read_prompts(&data)?.items;
            // It is unknown whether a response to these prompts is right.
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

/// Prints the summary of a training run.
fn show_training(report: &TrainReport) {
    println!("{} steps, {} tokens, loss {:.4}", report.steps, report.tokens, report.loss);
    if let Some(loss) = report.eval_loss {
        println!("loss on data that was not learned from: {loss:.4}");
    }
}

/// Prints the counts and the skipped lines of a stage.
fn counts(record: &Record) {
    for (name, count) in &record.counts {
        println!("{name:32} {count:>10}");
    }
    for line in &record.skipped {
        println!("skipped {line}");
    }
}
