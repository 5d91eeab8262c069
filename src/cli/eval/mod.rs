//! `spar eval`: compares strategies and budgets on prompts that can be checked, and writes a table, JSON and a plot.

pub(super) mod own;
mod plot;
mod server;
mod trial_files;

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressStyle};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::hub;
use super::output::print;
use crate::config::{EngineArgs, EngineKind};
use crate::engine::Sampling;
use crate::engine::load::{Loaded, load};
use crate::eval::report::{Report, Run, strategy_name, tokens};
use crate::eval::{Checks, Method, Trial, trial};
use crate::http::served;
use crate::search::{Judge, Judging, Mode, SearchConfig, Strategy};
use crate::telemetry::metrics;
use crate::verify::data::{Prompt, read_prompts};
use server::RunningServer;
use trial_files::TrialFiles;

/// The maximum number of drafts of best-of-N, when its budget is raised to the cost of a search.
const MOST_DRAFTS: usize = 64;
/// Costs that differ at most by this factor count as equal.
const EQUAL: f64 = 1.05;

/// What is measured, on which prompts, and where the results are written.
#[derive(clap::Args, Clone, Debug)]
pub struct EvalArgs {
    /// Prompts in the JSONL format of IFEval and IFBench: key, prompt, instruction_id_list, kwargs
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Node budgets; 0 is greedy decoding, which is always measured
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0,1,4,16")]
    budgets: Vec<usize>,
    /// Strategies, separated by commas; if best_of_n and another are named, best_of_n is also measured at budgets that cost as many tokens
    /// as the others
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', default_value = "auto", value_parser = named::<Strategy>)]
    strategy: Vec<Strategy>,
    /// Search mode: eager or paper
    #[arg(long, default_value = "eager", value_parser = named::<Mode>)]
    mode: Mode,
    /// Judge: model, rules or both; with both, the model judges prompts that have no rules
    #[arg(long, default_value = "model", value_parser = named::<Judge>)]
    judge: Judge,
    /// Source of the rules: file uses the instructions named in the prompt file, auto finds them in the prompts' words
    #[arg(long, default_value = "file", value_parser = named::<Checks>)]
    checks: Checks,
    /// How the model judges: votes, score or cascade; default: chosen by the model, as in a server
    #[arg(long, value_name = "NAME", value_parser = named::<Judging>)]
    judging: Option<Judging>,
    /// List each prompt's instructions first and judge them one by one
    #[arg(long)]
    checklist: bool,
    /// Votes per judgement
    #[arg(long, value_name = "N", default_value_t = SearchConfig::default().votes)]
    votes: usize,
    /// Temperature of drafts; 0 is greedy
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f32,
    /// Maximum tokens of one draft; default: the rest of the context
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Seed of all random draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Use only the first N prompts
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Number of prompts at a time
    #[arg(long, value_name = "N", default_value_t = 16)]
    parallel: usize,
    /// URL of a running spar server that searches; default: load a model in this process
    #[arg(long, value_name = "URL", conflicts_with_all = ["model", "refiner", "adapter", "refiner_adapter", "templates", "engine", "upstream_url", "upstreams"])]
    url: Option<String>,
    /// Directory for trials, responses (in the format of `spar verify`), report.json, report.txt and scores.svg; an interrupted evaluation
    /// resumes from it
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    engine: EngineArgs,
}

/// Parses a name in its JSON spelling.
fn named<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    // Serde's message lists the names.
    serde_json::from_value(Value::from(text)).map_err(|error| error.to_string())
}

/// Runs the evaluation and prints the table.
///
/// # Errors
/// Fails if a file, the models or the server cannot be used, or if a call fails.
pub fn run(args: &EvalArgs) -> anyhow::Result<()> {
    args.check()?;
    let mut cases = read_prompts(&args.data)?.items;
    cases.truncate(args.limit.unwrap_or(usize::MAX));
    let (report, recorder) = measure(args, &cases)?;
    let table = report.to_string();
    if let Some(out) = &args.out {
        let write = |name: &str, text: &str| {
            let path = out.join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        let settings: Value = serde_json::from_str(&std::fs::read_to_string(out.join(trial_files::SETTINGS))?)?;
        let mut json = serde_json::to_value(&report)?;
        json["settings"] = settings;
        write("report.json", &serde_json::to_string_pretty(&json)?)?;
        write("report.txt", &table)?;
        if args.url.is_none() {
            // The times and tokens of this process. Results reused from an earlier process are not included.
            metrics::publish_engines();
            write("metrics.txt", &recorder.render())?;
        }
        write("scores.svg", &plot::scores(&report)?)?;
    }
    Ok(print(&table)?)
}

/// Answers all cases in every way that `args` ask for. The metrics are those of this process.
fn measure(args: &EvalArgs, cases: &[Prompt]) -> anyhow::Result<(Report, PrometheusHandle)> {
    // Models are loaded outside of the runtime, since the connection to an upstream is tested during loading.
    let mut engine = args.engine.clone();
    let loaded = match &args.url {
        Some(_) => None,
        None => {
            hub::find(&mut engine)?;
            Some(load(&engine, None)?)
        }
    };
    let recorder = metrics::install();
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    let report = runtime.block_on(async {
        let subject = match (&args.url, loaded) {
            (Some(url), _) => Subject::Server(RunningServer::connect(url, std::env::var("SPAR_API_KEY").ok()).await?),
            (None, Some(loaded)) => Subject::Loaded(Box::new(loaded)),
            (None, None) => unreachable!("without a server models were loaded"),
        };
        Evaluation::new(args, cases, &subject)?.measure().await
    })?;
    Ok((report, recorder))
}

impl EvalArgs {
    fn check(&self) -> anyhow::Result<()> {
        self.engine.check()?;
        let votes = SearchConfig::VOTES;
        ensure!(
            votes.contains(&self.votes),
            "--votes must be between {} and {}, got {}",
            votes.start(),
            votes.end(),
            self.votes
        );
        ensure!(
            (0.0..=2.0).contains(&self.temperature),
            "--temperature must be between 0 and 2, got {}",
            self.temperature
        );
        for (flag, value) in [
            ("--parallel", self.parallel),
            ("--limit", self.limit.unwrap_or(1)),
            ("--max-tokens", self.max_tokens.unwrap_or(1)),
        ] {
            ensure!(value >= 1, "{flag} must be at least 1, got {value}");
        }
        if self.mode == Mode::Paper
            && self.strategy.iter().any(|strategy| !matches!(strategy, Strategy::Bfs | Strategy::Dfs))
        {
            bail!("--mode paper exists for the strategies bfs and dfs only");
        }
        Ok(())
    }

    fn method(&self, strategy: Option<Strategy>, budget: usize) -> Method {
        let config = |strategy| SearchConfig {
            strategy,
            budget,
            mode: self.mode,
            judge: self.judge,
            votes: self.votes,
            judging: self.judging,
            checklist: self.checklist,
            ..SearchConfig::default()
        };
        let sampling = Sampling { temperature: self.temperature, seed: self.seed, ..Sampling::default() };
        Method { search: strategy.map(config), sampling, max_tokens: self.max_tokens, checks: self.checks }
    }
}

/// The models that answer, in this process or behind a server.
enum Subject {
    Loaded(Box<Loaded>),
    Server(RunningServer),
}

impl Subject {
    async fn trial(&self, method: &Method, index: usize, case: &Prompt) -> anyhow::Result<Trial> {
        match self {
            Self::Loaded(loaded) => {
                let pinned = loaded.generations.pin();
                Ok(trial(served::of(&pinned), method, index, case).await?)
            }
            Self::Server(server) => server.trial(method, index, case).await,
        }
    }
}

/// The number of drafts to measure next in order to cost `spent` tokens, given measured numbers of drafts and their costs. Returns `None`
/// if one costs at least as many and at most `EQUAL` times as many, or if none can come closer.
fn next_drafts(measured: impl Iterator<Item = (usize, f64)>, spent: f64) -> Option<usize> {
    let (dear, cheap): (Vec<_>, Vec<_>) = measured.partition(|(_, cost)| *cost >= spent);
    let below = cheap.into_iter().max_by_key(|(drafts, _)| *drafts).unwrap_or((0, 0.0));
    let Some(above) = dear.into_iter().min_by_key(|(drafts, _)| *drafts) else {
        return (below.0 < MOST_DRAFTS).then(|| (2 * below.0).clamp(1, MOST_DRAFTS));
    };
    let between = below.0 + 1..above.0;
    if above.1 <= EQUAL * spent || between.is_empty() {
        return None;
    }
    let share = (spent - below.1) / (above.1 - below.1);
    Some((below.0 + (share * (above.0 - below.0) as f64).ceil() as usize).clamp(between.start, between.end - 1))
}

struct Evaluation<'a> {
    args: &'a EvalArgs,
    cases: &'a [Prompt],
    subject: &'a Subject,
    files: Option<TrialFiles>,
    bar: ProgressBar,
}

impl<'a> Evaluation<'a> {
    fn new(args: &'a EvalArgs, cases: &'a [Prompt], subject: &'a Subject) -> anyhow::Result<Self> {
        let settings = settings(args, cases.len(), subject)?;
        let files = args.out.as_deref().map(|out| TrialFiles::open(out, &settings)).transpose()?;
        let bar = ProgressBar::new(0);
        bar.set_style(ProgressStyle::with_template("{msg:16} {wide_bar} {pos}/{len} {eta}")?);
        Ok(Self { args, cases, subject, files, bar })
    }

    async fn measure(&self) -> anyhow::Result<Report> {
        let budgets: Vec<usize> = self.args.budgets.iter().copied().filter(|budget| *budget > 0).collect();
        let (drafts, others): (Vec<_>, Vec<_>) =
            self.args.strategy.iter().copied().partition(|strategy| *strategy == Strategy::BestOfN);
        self.bar.inc_length((self.cases.len() * (1 + budgets.len() * self.args.strategy.len())) as u64);
        let mut runs = vec![self.run(None, 0).await?];
        for &strategy in others.iter().chain(&drafts) {
            for &budget in &budgets {
                runs.push(self.run(Some(strategy), budget).await?);
            }
        }
        if !drafts.is_empty() && !others.is_empty() {
            self.equal_tokens(&mut runs).await?;
        }
        let first_drafts = runs.partition_point(|run| run.strategy != Some(Strategy::BestOfN));
        runs[first_drafts..].sort_by_key(|run| run.budget);
        self.bar.finish_and_clear();
        Ok(Report::new(&runs))
    }

    /// Measures best-of-N at further budgets, until for each other run one costs as many tokens or slightly more.
    async fn equal_tokens(&self, runs: &mut Vec<Run>) -> anyhow::Result<()> {
        let is_drafts = |run: &&Run| run.strategy == Some(Strategy::BestOfN);
        let others: Vec<f64> = runs.iter().filter(|run| !is_drafts(run)).map(|run| tokens(&run.trials)).collect();
        for spent in others {
            while let Some(budget) =
                next_drafts(runs.iter().filter(is_drafts).map(|r| (r.budget, tokens(&r.trials))), spent)
            {
                self.bar.inc_length(self.cases.len() as u64);
                runs.push(self.run(Some(Strategy::BestOfN), budget).await?);
            }
        }
        Ok(())
    }

    async fn run(&self, strategy: Option<Strategy>, budget: usize) -> anyhow::Result<Run> {
        let name = format!("{}-{budget}", strategy_name(strategy));
        self.bar.set_message(name.clone());
        let mut file = self.files.as_ref().map(|files| files.run(&name, self.cases.len())).transpose()?;
        let mut trials = match &mut file {
            Some(file) => file.take_trials(),
            None => vec![None; self.cases.len()],
        };
        let missing: Vec<usize> = (0..trials.len()).filter(|index| trials[*index].is_none()).collect();
        self.bar.inc((trials.len() - missing.len()) as u64);
        let method = self.args.method(strategy, budget);
        let answer = async |index: usize| {
            let trial = self.subject.trial(&method, index, &self.cases[index]).await;
            (index, trial)
        };
        let mut answers = stream::iter(missing).map(answer).buffer_unordered(self.args.parallel);
        while let Some((index, trial)) = answers.next().await {
            let trial = trial.with_context(|| format!("prompt {} of {name}", self.cases[index].key))?;
            if let Some(file) = &mut file {
                file.append(index, &trial)?;
            }
            trials[index] = Some(trial);
            self.bar.inc(1);
        }
        drop(answers);
        let trials: Vec<Trial> = trials.into_iter().flatten().collect();
        if let Some(files) = &self.files {
            files.write_responses(&name, self.cases, &trials)?;
        }
        Ok(Run { strategy, budget, trials })
    }
}

/// The settings that must be equal for trials to be comparable.
fn settings(args: &EvalArgs, prompts: usize, subject: &Subject) -> anyhow::Result<Value> {
    let data = std::fs::read(&args.data).with_context(|| format!("cannot read {}", args.data.display()))?;
    let digest: String = Sha256::digest(&data).iter().map(|byte| format!("{byte:02x}")).collect();
    let model = match subject {
        Subject::Server(server) => server.identity.clone(),
        Subject::Loaded(loaded) => {
            let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
            // The name of the embedded model's directory identifies its contents.
            let embedded = loaded.files.embedded.as_ref().map(|files| files.actor());
            let embedded =
                embedded.as_ref().and_then(|actor| actor.parent()?.file_name()).map(|name| name.to_string_lossy());
            // One address alone, so that evaluations started before there were several can resume.
            let upstream = (args.engine.engine == EngineKind::Upstream).then(|| {
                match args.engine.upstream.upstream_url.as_slice() {
                    [one] if args.engine.upstream.upstreams.is_none() => json!(one),
                    several => json!({"urls": several, "file": path(&args.engine.upstream.upstreams)}),
                }
            });
            let mut model = json!({"name": loaded.name, "model": path(&args.engine.model),
                "refiner": path(&args.engine.refiner), "embedded": embedded, "upstream": upstream});
            // Omitted if there is none, so that evaluations started by versions without adapters can resume.
            for (name, adapter) in
                [("adapter", &args.engine.adapter), ("refiner_adapter", &args.engine.refiner_adapter)]
            {
                if let Some(adapter) = path(adapter) {
                    model[name] = adapter.into();
                }
            }
            model
        }
    };
    Ok(json!({
        "data": {"file": args.data.file_name().map(|name| name.to_string_lossy()), "sha256": digest, "prompts": prompts},
        "model": model, "mode": args.mode, "judge": args.judge, "votes": args.votes, "temperature": args.temperature,
        "max_tokens": args.max_tokens, "seed": args.seed, "checks": args.checks, "judging": args.judging,
        "checklist": args.checklist,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_double_and_then_close_in_on_what_the_search_costs() {
        let measured = [(1, 100.0), (2, 200.0), (4, 400.0)];
        for (spent, of, next) in [
            (50.0, &measured[..0], Some(1)),
            (500.0, &measured[..], Some(8)),
            (400.0, &measured[..], None),
            (390.0, &measured[..], None),
            (290.0, &measured[..], Some(3)),
            (210.0, &measured[..], Some(3)),
            (120.0, &measured[..], None),
            (60.0, &measured[..], None),
            (9e9, &[(MOST_DRAFTS, 1.0)][..], None),
            (9e9, &[(MOST_DRAFTS - 1, 1.0)][..], Some(MOST_DRAFTS)),
        ] {
            assert_eq!(next_drafts(of.iter().copied(), spent), next, "{spent} with {of:?}");
        }
    }
}
