//! The result of an evaluation: a point per strategy and budget, each compared with greedy decoding, and strategies compared with best-of-N
//! at the same number of tokens.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::Trial;
use super::stats::{Estimate, estimate, paired, ratio};
use crate::search::Strategy;

/// All cases of one strategy at one budget, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The strategy; `None` is greedy, plain decoding.
    pub strategy: Option<Strategy>,
    /// The node budget; 0 for plain decoding.
    pub budget: usize,
    /// One trial per case.
    pub trials: Vec<Trial>,
}

/// The results of one strategy at one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// The strategy; `null` is plain decoding.
    pub strategy: Option<Strategy>,
    /// The node budget.
    pub budget: usize,
    /// Share of prompts whose instructions are all followed strictly. Prompts with an instruction that cannot be checked are excluded.
    pub prompt_strict: Estimate,
    /// Share of prompts whose instructions are all followed by the loose check.
    pub prompt_loose: Estimate,
    /// Share of instructions that are followed strictly; intervals resample prompts.
    pub instruction_strict: Estimate,
    /// Share of instructions that are followed by the loose check.
    pub instruction_loose: Estimate,
    /// `prompt_strict` minus that of greedy decoding on the same prompts; `null` for greedy itself.
    pub gain: Option<Estimate>,
    /// Generated tokens per prompt.
    pub tokens: f64,
    /// Prompt tokens of all calls per prompt, counted for each sibling; `null` if a server does not report them.
    pub prompt_tokens: Option<f64>,
    /// Model calls per prompt.
    pub calls: f64,
    /// Seconds per prompt, with other prompts running concurrently.
    pub seconds: f64,
    /// Mean number of refinements from the draft to the answer.
    pub depth: f64,
    /// Mean number of judged refinements.
    pub nodes: f64,
    /// Share of prompts whose answer the search accepted.
    pub accepted: f64,
    /// Number of searches by stop reason.
    pub stops: BTreeMap<String, usize>,
}

/// A strategy compared with best-of-N that may generate at least as many tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The strategy that is compared.
    pub strategy: Strategy,
    /// The strategy's node budget.
    pub budget: usize,
    /// Best-of-N's budget: the smallest measured one with at least as many tokens, or the largest if none has.
    pub best_of_n: usize,
    /// Tokens per prompt of the strategy and of best-of-N.
    pub tokens: (f64, f64),
    /// The score of best-of-N.
    pub score: Estimate,
    /// The strategy's score minus that of best-of-N on the same prompts.
    pub difference: Estimate,
}

/// All results of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Greedy first, then sorted by strategy and budget.
    pub points: Vec<Point>,
    /// Comparisons with best-of-N, if that is among the strategies.
    pub equal_tokens: Vec<Comparison>,
}

impl Report {
    /// Summarises `runs`. The plain run comes first.
    pub fn new(runs: &[Run]) -> Self {
        let greedy = runs.iter().find(|run| run.strategy.is_none());
        Self { points: runs.iter().map(|run| point(run, greedy)).collect(), equal_tokens: equal_tokens(runs) }
    }
}

/// Trials compared with best-of-N on the same prompts.
#[derive(Clone, Debug, PartialEq)]
pub struct DraftComparison {
    /// Best-of-N's budget: the smallest measured one with at least as many tokens, or the largest if none has.
    pub best_of_n: usize,
    /// Tokens per prompt of the trials and of best-of-N.
    pub tokens: (f64, f64),
    /// The score of best-of-N.
    pub score: Estimate,
    /// The score of the trials minus that of best-of-N.
    pub difference: Estimate,
}

/// Compares `trials` with best-of-N, measured at `budgets` in ascending order; `None` if there are none.
pub fn compare_with_drafts(trials: &[Trial], budgets: &[(usize, &[Trial])]) -> Option<DraftComparison> {
    let spent = tokens(trials);
    let (best_of_n, drafts) = budgets.iter().find(|(_, drafts)| tokens(drafts) >= spent).or(budgets.last())?;
    Some(DraftComparison {
        best_of_n: *best_of_n,
        tokens: (spent, tokens(drafts)),
        score: estimate(&scores(drafts)),
        difference: paired(&scores(trials), &scores(drafts)),
    })
}

/// The score of each trial whose instructions could all be checked.
pub fn scores(trials: &[Trial]) -> Vec<f64> {
    trials.iter().filter(|trial| trial.unchecked == 0).map(Trial::score).collect()
}

/// The mean of `value` over `trials`.
pub fn mean(trials: &[Trial], value: impl Fn(&Trial) -> f64) -> f64 {
    trials.iter().map(value).sum::<f64>() / trials.len().max(1) as f64
}

/// Generated tokens per prompt.
pub fn tokens(trials: &[Trial]) -> f64 {
    mean(trials, |trial| trial.tokens as f64)
}

fn point(run: &Run, greedy: Option<&Run>) -> Point {
    let trials = &run.trials;
    let whole = |verdicts: fn(&Trial) -> &Vec<bool>| {
        let all = |trial: &Trial| f64::from(u8::from(verdicts(trial).iter().all(|right| *right)));
        estimate(&trials.iter().filter(|trial| trial.unchecked == 0).map(all).collect::<Vec<_>>())
    };
    let each = |verdicts: fn(&Trial) -> &Vec<bool>| {
        let share = |trial: &Trial| {
            let verdicts = verdicts(trial);
            (verdicts.iter().filter(|right| **right).count() as f64, verdicts.len() as f64)
        };
        ratio(&trials.iter().map(share).collect::<Vec<_>>())
    };
    let against = greedy.filter(|_| run.strategy.is_some());
    let mut stops = BTreeMap::new();
    for stop in trials.iter().filter_map(|trial| trial.stop) {
        *stops.entry(name_of(stop)).or_default() += 1;
    }
    Point {
        strategy: run.strategy,
        budget: run.budget,
        prompt_strict: whole(|trial| &trial.strict),
        prompt_loose: whole(|trial| &trial.loose),
        instruction_strict: each(|trial| &trial.strict),
        instruction_loose: each(|trial| &trial.loose),
        gain: against.map(|greedy| paired(&scores(trials), &scores(&greedy.trials))),
        tokens: tokens(trials),
        prompt_tokens: trials
            .iter()
            .map(|trial| trial.prompt_tokens)
            .sum::<Option<usize>>()
            .map(|sum| sum as f64 / trials.len().max(1) as f64),
        calls: mean(trials, |trial| trial.calls as f64),
        seconds: mean(trials, |trial| trial.seconds),
        depth: mean(trials, |trial| trial.depth as f64),
        nodes: mean(trials, |trial| trial.nodes as f64),
        accepted: mean(trials, |trial| f64::from(u8::from(trial.accepted))),
        stops,
    }
}

fn equal_tokens(runs: &[Run]) -> Vec<Comparison> {
    let drafts = runs.iter().filter(|run| run.strategy == Some(Strategy::BestOfN));
    let mut drafts: Vec<(usize, &[Trial])> = drafts.map(|run| (run.budget, run.trials.as_slice())).collect();
    drafts.sort_by_key(|(budget, _)| *budget);
    let compare = |run: &Run| {
        let strategy = run.strategy.filter(|strategy| *strategy != Strategy::BestOfN)?;
        let DraftComparison { best_of_n, tokens, score, difference } = compare_with_drafts(&run.trials, &drafts)?;
        Some(Comparison { strategy, budget: run.budget, best_of_n, tokens, score, difference })
    };
    runs.iter().filter_map(compare).collect()
}

/// The JSON name of a value.
fn name_of(value: impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

/// A strategy's name in tables and files, which is `greedy` for plain decoding.
pub fn strategy_name(strategy: Option<Strategy>) -> String {
    strategy.map_or_else(|| "greedy".to_owned(), name_of)
}

/// Tables for human readers.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prompts, whole) =
            self.points.first().map_or((0, 0), |point| (point.instruction_strict.n, point.prompt_strict.n));
        writeln!(f, "{prompts} prompts, means with 95 % bootstrap intervals")?;
        if whole < prompts {
            writeln!(
                f,
                "not in the scores by prompt: {} prompts with an instruction that cannot be checked",
                prompts - whole
            )?;
        }
        writeln!(f)?;
        let head =
            ["strategy", "budget", "prompts strict", "prompts loose", "instructions strict", "instructions loose"];
        writeln!(
            f,
            "{:<12} {:>6}  {:<20}  {:<20}  {:<20}  {:<20}  {:<22} {:>7} {:>6} {:>7} {:>5} {:>8}",
            head[0],
            head[1],
            head[2],
            head[3],
            head[4],
            head[5],
            "to greedy",
            "tokens",
            "calls",
            "seconds",
            "depth",
            "accepted"
        )?;
        for p in &self.points {
            writeln!(
                f,
                "{:<12} {:>6}  {:<20}  {:<20}  {:<20}  {:<20}  {:<22} {:>7.0} {:>6.1} {:>7.2} {:>5.2} {:>8.3}",
                strategy_name(p.strategy),
                p.budget,
                p.prompt_strict.to_string(),
                p.prompt_loose.to_string(),
                p.instruction_strict.to_string(),
                p.instruction_loose.to_string(),
                p.gain.map_or_else(String::new, |gain| format!("{gain:+}")),
                p.tokens,
                p.calls,
                p.seconds,
                p.depth,
                p.accepted
            )?;
        }
        if !self.equal_tokens.is_empty() {
            writeln!(f, "\ncompared with best-of-N at the same or a larger number of tokens\n")?;
            writeln!(
                f,
                "{:<12} {:>6} {:>9}  {:<20}  {:<22} {:>15}",
                "strategy", "budget", "best of N", "best of N strict", "strategy minus it", "tokens"
            )?;
        }
        for c in &self.equal_tokens {
            let (name, n) = (strategy_name(Some(c.strategy)), c.best_of_n);
            let tokens = format!("{:.0} / {:.0}", c.tokens.0, c.tokens.1);
            let (score, difference) = (c.score.to_string(), format!("{:+}", c.difference));
            writeln!(f, "{name:<12} {:>6} {n:>9}  {score:<20}  {difference:<22} {tokens:>15}", c.budget)?;
        }
        Ok(())
    }
}
