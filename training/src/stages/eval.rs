//! `eval`: measures an actor and a refiner on prompts that can be checked, and whether search is worth its tokens.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use spar::engine::Sampling;
use spar::eval::report::{DraftComparison, compare_with_drafts, mean, scores, tokens};
use spar::eval::stats::{Estimate, estimate, paired};
use spar::eval::{self, JudgeScore, Method, Trial};
use spar::search::{Judge, Models, SearchConfig, Strategy};
use spar::verify::data::Prompt;

/// The budgets of best-of-N that are measured to find one that costs as much as the search.
const BEST_OF_N: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// The settings of an evaluation.
#[derive(Clone, Debug)]
pub struct Options {
    /// Node budgets of the search. The search with rules has a budget of 16.
    pub budgets: Vec<usize>,
    /// Seed of all random draws.
    pub seed: u64,
    /// Number of prompts at a time.
    pub parallel: usize,
}

/// A search at one budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtBudget {
    /// The node budget.
    pub budget: usize,
    /// Share of prompts whose instructions are all followed strictly.
    pub score: Estimate,
    /// The search's score minus the greedy score on the same prompts.
    pub gain: Estimate,
    /// Tokens generated per prompt.
    pub tokens: f64,
    /// Model calls per prompt.
    pub calls: f64,
    /// Refinement depth of the answers.
    pub depth: f64,
    /// Share of prompts on which the search accepted its answer.
    pub accepted: f64,
}

/// Search compared with best-of-N with at least as many tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The search's budget.
    pub budget: usize,
    /// The smallest budget at which best-of-N generates at least as many tokens as the search, or the largest measured one if none does.
    pub best_of_n: usize,
    /// Tokens per prompt of the search and of best-of-N.
    pub tokens: (f64, f64),
    /// The score of best-of-N.
    pub score: Estimate,
    /// The search's score minus that of best-of-N on the same prompts.
    pub difference: Estimate,
}

/// The results of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Share of prompts whose instructions are all followed by greedy responses.
    pub greedy: Estimate,
    /// Share of instructions that are followed by greedy responses.
    pub greedy_instructions: f64,
    /// The judge's decisions compared with the rules, on greedy and sampled responses.
    pub judge: JudgeScore,
    /// Mean of the accuracies on right and on wrong responses.
    pub judge_balanced_accuracy: Estimate,
    /// Share of failing greedy responses that one refinement fixes, after the refiner's own critique.
    pub refine_once: Estimate,
    /// Breadth-first search judged by votes, at each budget.
    pub search: Vec<AtBudget>,
    /// The search with rules as the judge, at a budget of 16.
    pub rules: AtBudget,
    /// The search compared with best-of-N, at each budget.
    pub best_of_n: Vec<Comparison>,
}

/// Measures `models` on `prompts`.
///
/// # Errors
/// The error of the first failing model call.
pub async fn evaluate(models: Models<'_>, prompts: &[Prompt], options: &Options) -> Result<Report> {
    let base = SearchConfig::by_votes();
    let parallel = options.parallel;
    let rounds = 4 + options.budgets.len() + BEST_OF_N.len();
    let bar = ProgressBar::new((rounds * prompts.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{msg:16} {wide_bar} {percent} % {eta}")?);
    let tick = || bar.inc(1);
    let draw = |temperature| Sampling { temperature, seed: options.seed, ..Sampling::default() };

    bar.set_message("greedy");
    let greedy = eval::trials(models, &Method::plain(draw(0.0)), prompts, parallel, &tick).await?;
    let greedy_scores = scores(&greedy);
    bar.set_message("samples");
    let sampled = eval::trials(models, &Method::plain(draw(1.0)), prompts, parallel, &tick).await?;

    bar.set_message("judge");
    let responses: Vec<(&Prompt, &str)> = [&greedy, &sampled]
        .into_iter()
        .flat_map(|t| prompts.iter().zip(t))
        .map(|(p, t)| (p, t.response.as_str()))
        .collect();
    let judged = eval::score_judge(models, &base, &responses, options.seed, parallel).await?;
    bar.inc(prompts.len() as u64);
    let failing: Vec<(&Prompt, &str)> =
        prompts.iter().zip(&greedy).filter(|(_, t)| t.score() < 1.0).map(|(p, t)| (p, t.response.as_str())).collect();
    let refine_once = eval::refine_once(models, &base, &failing, options.seed, parallel).await?;

    let searched = |config: SearchConfig| {
        let method = Method::search(config, draw(0.0));
        async move { eval::trials(models, &method, prompts, parallel, &tick).await }
    };
    let mut search = Vec::new();
    let mut trials = Vec::new();
    for &budget in &options.budgets {
        bar.set_message(format!("search {budget}"));
        let found = searched(SearchConfig { budget, ..base.clone() }).await?;
        search.push(at_budget(budget, &found, &greedy_scores));
        trials.push(found);
    }
    bar.set_message("rules 16");
    let rules = searched(SearchConfig { judge: Judge::Rules, budget: 16, ..base.clone() }).await?;
    let mut best = Vec::new();
    for budget in BEST_OF_N {
        bar.set_message(format!("best of {budget}"));
        let found = searched(SearchConfig { strategy: Strategy::BestOfN, budget, ..base.clone() }).await?;
        let spent = tokens(&found);
        best.push((budget, found));
        if search.iter().all(|s| s.tokens <= spent) {
            break;
        }
    }
    bar.finish_and_clear();
    let best: Vec<(usize, &[Trial])> = best.iter().map(|(budget, found)| (*budget, found.as_slice())).collect();
    let compare = |(&budget, found): (&usize, &Vec<Trial>)| {
        let DraftComparison { best_of_n, tokens, score, difference } = compare_with_drafts(found, &best)?;
        Some(Comparison { budget, best_of_n, tokens, score, difference })
    };
    let best_of_n = options.budgets.iter().zip(&trials).filter_map(compare).collect();
    let instructions: Vec<bool> = greedy.iter().flat_map(|t| t.strict.clone()).collect();
    Ok(Report {
        greedy: estimate(&greedy_scores),
        greedy_instructions: instructions.iter().filter(|&&s| s).count() as f64 / instructions.len().max(1) as f64,
        judge_balanced_accuracy: balanced(&judged),
        judge: judged,
        refine_once: estimate(&refine_once),
        search,
        rules: at_budget(16, &rules, &greedy_scores),
        best_of_n,
    })
}

fn at_budget(budget: usize, trials: &[Trial], greedy: &[f64]) -> AtBudget {
    let scores = scores(trials);
    AtBudget {
        budget,
        gain: paired(&scores, greedy),
        score: estimate(&scores),
        tokens: tokens(trials),
        calls: mean(trials, |t| t.calls as f64),
        depth: mean(trials, |t| t.depth as f64),
        accepted: mean(trials, |t| f64::from(u8::from(t.accepted))),
    }
}

/// The balanced accuracy. The accuracies of both sides are binomial, and the interval is the normal one of their mean, within the
/// values that a share can have.
fn balanced(score: &JudgeScore) -> Estimate {
    let right = score.true_yes + score.false_no + score.undecided_yes;
    let wrong = score.true_no + score.false_yes + score.undecided_no;
    let variance = |good: usize, n: usize| {
        let p = good as f64 / n.max(1) as f64;
        p * (1.0 - p) / n.max(1) as f64
    };
    let half = 1.96 * 0.5 * (variance(score.true_yes, right) + variance(score.true_no, wrong)).sqrt();
    let mean = score.balanced_accuracy();
    Estimate { mean, low: (mean - half).max(0.0), high: (mean + half).min(1.0), n: right + wrong }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "greedy              {}  ({} prompts; instructions {:.3})",
            self.greedy, self.greedy.n, self.greedy_instructions
        )?;
        writeln!(
            f,
            "judge, balanced     {}  ({} responses)",
            self.judge_balanced_accuracy, self.judge_balanced_accuracy.n
        )?;
        writeln!(f, "refine once         {}  ({} failing responses)", self.refine_once, self.refine_once.n)?;
        writeln!(f, "\nbudget  score                 gain over greedy        tokens  calls  depth  accepted")?;
        let rows = self.search.iter().map(|s| (s.budget.to_string(), s)).chain([("rules".to_owned(), &self.rules)]);
        for (name, s) in rows {
            writeln!(
                f,
                "{name:>6}  {}  {}  {:6.0}  {:5.1}  {:5.2}  {:.3}",
                s.score, s.gain, s.tokens, s.calls, s.depth, s.accepted
            )?;
        }
        writeln!(f, "\nbudget  best of  score                 search minus best of N  tokens")?;
        for c in &self.best_of_n {
            let (search, best) = c.tokens;
            writeln!(f, "{:>6}  {:>7}  {}  {}  {search:.0} / {best:.0}", c.budget, c.best_of_n, c.score, c.difference)?;
        }
        Ok(())
    }
}
