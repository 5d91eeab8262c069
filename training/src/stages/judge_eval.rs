//! `judge-eval`: measures how often a judge is right, compared with rules or with human labels, and what a judgement costs.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use spar::chat::Message;
use spar::engine::{Engine, EngineError, EngineExt, Purpose, Request, Sampling, derive_seed};
use spar::prompts::{Templates, Verdict};
use spar::search::{self, Models, SearchConfig, Task};

use super::calibrate::quality::{Judged, bins, calibration_error};
use super::engines;
use crate::records::{Asked, BadLines, read, read_prompts};

/// The judge to measure, and the responses it judges.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// The judge's model directory.
    #[arg(long)]
    pub judge: PathBuf,
    /// Labelled responses: LLMBar's items, or `prompt`, `response` and `label`.
    #[arg(long, conflicts_with = "prompts")]
    pub labels: Option<PathBuf>,
    /// Checkable prompts, whose rules judge the responses of `--actor`.
    #[arg(long, requires = "actor")]
    pub prompts: Option<PathBuf>,
    /// The model directory that answers `--prompts`.
    #[arg(long)]
    pub actor: Option<PathBuf>,
    /// Maximum number of prompts to use.
    #[arg(long)]
    pub count: Option<usize>,
    /// Maximum tokens of a response of `--actor`.
    #[arg(long)]
    pub max_tokens: Option<usize>,
    /// How the judge judges.
    #[arg(long, value_enum, default_value = "votes")]
    pub judging: Judging,
    /// Maximum number of votes per response, or of critiques for a cascade.
    #[arg(long, default_value_t = 5)]
    pub votes: usize,
    /// Temperature of the votes.
    #[arg(long, default_value_t = 0.7)]
    pub temperature: f32,
    /// Seed of all random draws.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Number of responses at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    pub parallel: usize,
}

/// How a judge judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Judging {
    /// Critiques are written and their verdicts counted. The judge is measured for each odd number of votes.
    Votes,
    /// The probability of Yes is read without a critique.
    Score,
    /// The probability of Yes is read, first without a critique and, if it is uncertain, after critiques.
    Cascade,
}

/// Measures a judge with the given options.
///
/// # Errors
/// Fails if a file, a label or a model call fails.
pub async fn run(options: &Options) -> Result<Vec<Quality>> {
    let judge = engines::load(&options.judge)?;
    let labelled = match (&options.labels, &options.prompts, &options.actor) {
        (Some(path), _, _) => read_labels(path)?,
        (None, Some(prompts), Some(actor)) => {
            let actor = engines::load(actor)?;
            label_by_rules(prompts, &actor, options).await?
        }
        _ => bail!("name --labels, or --prompts and --actor"),
    };
    let templates = &judge.dir().templates;
    match options.judging {
        Judging::Votes => judge_eval(&judge, templates, &labelled, options).await,
        Judging::Score | Judging::Cascade => Ok(vec![probability_eval(&judge, templates, &labelled, options).await?]),
    }
}

/// A response whose truth is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// The text of the prompt.
    pub prompt: String,
    /// The text of the response.
    pub response: String,
    /// Whether the response follows the prompt.
    pub right: bool,
}

/// The quality of a judge. Yes is the positive verdict; a tie or an unreadable verdict counts as wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// How the judge judges.
    pub judging: Judging,
    /// Votes per response, or the maximum number of critiques; 0 if none are written.
    pub votes: usize,
    /// Share of right verdicts.
    pub accuracy: f64,
    /// Share of right responses among those that the judge accepts.
    pub precision: f64,
    /// Share of the right responses that the judge accepts.
    pub recall: f64,
    /// The harmonic mean of precision and recall.
    pub f1: f64,
    /// Mean of the shares of right verdicts on right and on wrong responses.
    pub balanced: f64,
    /// Expected calibration error over ten bins, with the value as the probability that a response is right. Responses without a decision
    /// have no value.
    pub calibration_error: f64,
    /// Number of responses without a decision.
    pub undecided: usize,
    /// Number of responses.
    pub n: usize,
    /// The average cost of a judgement.
    pub cost: Cost,
}

/// The cost of a judgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Mean number of generated tokens.
    pub generated: f64,
    /// Mean number of prompt tokens of verdicts that are read as probabilities.
    pub scored: f64,
    /// Wall time per judgement; several judgements run at a time. `None` for fewer than all votes, since all votes on a response are drawn
    /// at once.
    pub milliseconds: Option<f64>,
}

/// A judge's decision on a response, and the value it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Decision {
    accepted: Option<bool>,
    value: Option<f64>,
}

/// Reads a file of labels, as JSON lines or one JSON list. Items have LLMBar's `input`, `output_1`, `output_2` and `label` (the number of
/// the better output), which gives two responses, or `prompt`, `response` and `label` (true or false).
///
/// # Errors
/// Fails if the file cannot be read or an item cannot be used, and names the file, the line or item, and the problem.
pub fn read_labels(path: &Path) -> Result<Vec<Labelled>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let labelled: Vec<Vec<Labelled>> = if text.trim_start().starts_with('[') {
        let items: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let place = |i: usize| format!("{}: item {}", path.display(), i + 1);
        items.iter().enumerate().map(|(i, item)| read_item(item).with_context(|| place(i))).collect::<Result<_>>()?
    } else {
        read(path, BadLines::Stop, |item: Value| read_item(&item))?.items
    };
    ensure!(!labelled.is_empty(), "{}: no labels", path.display());
    Ok(labelled.concat())
}

fn read_item(item: &Value) -> Result<Vec<Labelled>> {
    let text = |name: &str| {
        let value = item[name].as_str().with_context(|| format!("`{name}` must be a text, got {}", item[name]))?;
        Ok::<_, anyhow::Error>(value.to_owned())
    };
    if item.get("output_1").is_some() {
        let better = match item["label"].as_u64() {
            Some(label @ (1 | 2)) => label,
            _ => bail!("`label` must be 1 or 2, got {}", item["label"]),
        };
        let labelled = |number: u64| {
            let response = text(&format!("output_{number}"))?;
            Ok::<_, anyhow::Error>(Labelled { prompt: text("input")?, response, right: number == better })
        };
        return Ok(vec![labelled(1)?, labelled(2)?]);
    }
    let right =
        item["label"].as_bool().with_context(|| format!("`label` must be true or false, got {}", item["label"]))?;
    Ok(vec![Labelled { prompt: text("prompt")?, response: text("response")?, right }])
}

/// Responses of an actor to checkable prompts, labelled by the rules: one greedy and one sampled response to each.
///
/// # Errors
/// Fails if a file or a model call fails, or if a prompt has no rules.
pub async fn label_by_rules(prompts: &Path, actor: &dyn Engine, options: &Options) -> Result<Vec<Labelled>> {
    let Options { seed, max_tokens, .. } = *options;
    let mut asked = read_prompts(prompts, BadLines::Stop)?.items;
    asked.truncate(options.count.unwrap_or(usize::MAX));
    let label = |(i, asked): (usize, &Asked)| {
        let asked = asked.clone();
        async move {
            let checks = asked.checks()?;
            ensure!(!checks.is_empty(), "prompt {} has no rules to check a response by", asked.key);
            let mut labelled = Vec::new();
            for temperature in [0.0, 1.0] {
                let request = Request {
                    sampling: Sampling { temperature, seed: derive_seed(seed, i as u64), ..Sampling::default() },
                    max_tokens,
                    ..Request::chat(Purpose::Answer, vec![Message::user(&asked.prompt)])
                };
                let response = actor.generate(request).await?.text;
                let right = checks.iter().all(|check| check.strict(&response));
                labelled.push(Labelled { prompt: asked.prompt.clone(), response, right });
            }
            Ok(labelled)
        }
    };
    let all: Vec<Result<Vec<Labelled>>> =
        stream::iter(asked.iter().enumerate()).map(label).buffered(options.parallel).collect().await;
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Asks for all votes on every response, and scores the majorities of the first 1, 3, 5, … of them.
///
/// # Errors
/// The error of the first failing call.
pub async fn judge_eval(
    judge: &dyn Engine,
    templates: &Templates,
    labelled: &[Labelled],
    options: &Options,
) -> Result<Vec<Quality>> {
    let judge_item = |(i, item): (usize, &Labelled)| {
        let request = Request {
            samples: options.votes,
            sampling: Sampling {
                temperature: options.temperature,
                seed: derive_seed(options.seed, i as u64),
                ..Sampling::default()
            },
            max_tokens: Some(SearchConfig::by_votes().judge_tokens),
            ..Request::chat(Purpose::Judge, templates.judge(&[Message::user(&item.prompt)], &item.response))
        };
        async move {
            let replies = match judge.start(request).await {
                Err(EngineError::PromptTooLong { .. }) => return Ok(Vec::new()),
                replies => replies?,
            };
            let replies = futures::future::try_join_all(replies.into_iter().map(|reply| reply.complete())).await?;
            Ok(replies.iter().map(|reply| (templates.parse_verdict(&reply.text), reply.tokens)).collect::<Vec<_>>())
        }
    };
    let began = Instant::now();
    let asked: Vec<Result<Vec<Vote>>> =
        stream::iter(labelled.iter().enumerate()).map(judge_item).buffered(options.parallel).collect().await;
    let asked: Vec<Vec<Vote>> = asked.into_iter().collect::<Result<_>>()?;
    let milliseconds = began.elapsed().as_secs_f64() * 1e3 / labelled.len().max(1) as f64;
    let truths: Vec<bool> = labelled.iter().map(|item| item.right).collect();
    let by_count = (1..=options.votes).step_by(2).map(|count| {
        let quality = by_votes(count, &truths, &asked);
        let milliseconds = (count == options.votes).then_some(milliseconds);
        Quality { cost: Cost { milliseconds, ..quality.cost }, ..quality }
    });
    Ok(by_count.collect())
}

/// Judges every response like a search that reads probabilities.
///
/// # Errors
/// The error of the first failing call.
pub async fn probability_eval(
    judge: &dyn Engine,
    templates: &Templates,
    labelled: &[Labelled],
    options: &Options,
) -> Result<Quality> {
    let (judging, votes) = match options.judging {
        Judging::Votes => bail!("`judging` must be score or cascade to read probabilities"),
        Judging::Score => (search::Judging::Score, 0),
        Judging::Cascade => (search::Judging::Cascade, options.votes),
    };
    let models = Models { actor: judge, refiner: judge, templates };
    let config = SearchConfig {
        judging: Some(judging),
        votes: options.votes,
        judge_temperature: options.temperature,
        ..SearchConfig::default()
    };
    let judge_item = |(i, item): (usize, &Labelled)| {
        let sampling = Sampling { seed: derive_seed(options.seed, i as u64), ..Sampling::default() };
        let task = Task { sampling, ..Task::chat(vec![Message::user(&item.prompt)]) };
        let (config, response) = (&config, item.response.clone());
        async move {
            match search::judge_counted(models, config, &task, &response).await {
                Err(EngineError::PromptTooLong { .. }) => Ok(Default::default()),
                judged => judged,
            }
        }
    };
    let began = Instant::now();
    let judged: Vec<Result<_, EngineError>> =
        stream::iter(labelled.iter().enumerate()).map(judge_item).buffered(options.parallel).collect().await;
    let judged: Vec<(search::Judgement, search::ByPurpose)> = judged.into_iter().collect::<Result<_, _>>()?;
    let n = labelled.len().max(1) as f64;
    let cost = Cost {
        generated: judged.iter().map(|(_, tokens)| tokens.generated()).sum::<usize>() as f64 / n,
        scored: judged.iter().map(|(_, tokens)| tokens.score).sum::<usize>() as f64 / n,
        milliseconds: Some(began.elapsed().as_secs_f64() * 1e3 / n),
    };
    let decisions = judged.iter().map(|(judgement, _)| Decision {
        accepted: judgement.value.map(|_| judgement.accepted),
        value: judgement.value,
    });
    let truths: Vec<bool> = labelled.iter().map(|item| item.right).collect();
    Ok(quality(options.judging, votes, &truths, &decisions.collect::<Vec<_>>(), cost))
}

/// A vote, or `None` if it is unreadable, and its number of tokens.
type Vote = (Option<Verdict>, usize);

/// The quality of the majority of the first `votes` votes.
fn by_votes(votes: usize, truths: &[bool], asked: &[Vec<Vote>]) -> Quality {
    let decide = |cast: &Vec<Vote>| {
        let count = |wanted| cast.iter().take(votes).filter(|(verdict, _)| *verdict == Some(wanted)).count();
        let (yes, no) = (count(Verdict::Yes), count(Verdict::No));
        let value = (yes + no > 0).then(|| yes as f64 / (yes + no) as f64);
        Decision { accepted: (yes != no).then_some(yes > no), value }
    };
    let decisions: Vec<Decision> = asked.iter().map(decide).collect();
    let tokens: usize = asked.iter().flat_map(|cast| cast.iter().take(votes)).map(|(_, tokens)| tokens).sum();
    let cost = Cost { generated: tokens as f64 / asked.len().max(1) as f64, ..Cost::default() };
    quality(Judging::Votes, votes, truths, &decisions, cost)
}

fn quality(judging: Judging, votes: usize, truths: &[bool], decisions: &[Decision], cost: Cost) -> Quality {
    let count = |verdict: Option<bool>, truth: bool| {
        decisions.iter().zip(truths).filter(|&(decision, &t)| decision.accepted == verdict && t == truth).count() as f64
    };
    let (true_yes, false_yes, true_no) = (count(Some(true), true), count(Some(true), false), count(Some(false), false));
    let right = truths.iter().filter(|&&truth| truth).count() as f64;
    let wrong = truths.len() as f64 - right;
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let (precision, recall) = (share(true_yes, true_yes + false_yes), share(true_yes, right));
    let valued = decisions.iter().zip(truths);
    let valued = valued.filter_map(|(decision, &right)| Some(Judged { probability: decision.value?, right }));
    Quality {
        judging,
        votes,
        accuracy: share(true_yes + true_no, truths.len() as f64),
        precision,
        recall,
        f1: share(2.0 * precision * recall, precision + recall),
        balanced: f64::midpoint(recall, share(true_no, wrong)),
        calibration_error: calibration_error(&bins(&valued.collect::<Vec<_>>())),
        undecided: decisions.iter().filter(|decision| decision.accepted.is_none()).count(),
        n: truths.len(),
        cost,
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { judging, votes, accuracy, precision, recall, f1, balanced, calibration_error, .. } = self;
        let Self { undecided, n, cost: Cost { generated, scored, milliseconds }, .. } = self;
        let judging = match judging {
            Judging::Votes => "votes",
            Judging::Score => "score",
            Judging::Cascade => "cascade",
        };
        let milliseconds = milliseconds.map_or_else(|| "–".into(), |ms| format!("{ms:.1}"));
        write!(
            f,
            "{judging:7}  {votes:5}  {accuracy:8.3}  {precision:9.3}  {recall:6.3}  {f1:5.3}  {balanced:8.3}  \
             {calibration_error:5.3}  {undecided:9}  {n:5}  {generated:9.1}  {scored:6.1}  {milliseconds:>6}"
        )
    }
}

/// The heading of a table of [`Quality`].
pub const HEADING: &str = "judging  votes  accuracy  precision  recall     F1  balanced    ECE  undecided      n  \
                           generated  scored      ms";

#[cfg(test)]
mod tests {
    use spar::engine::fake::FakeEngine;

    use super::*;

    #[test]
    fn qualities_follow_their_definitions() {
        let (yes, no, none) = ((Some(Verdict::Yes), 5), (Some(Verdict::No), 7), (None, 9));
        let truths = [true, true, false, false, true];
        let asked =
            vec![vec![yes, no, no], vec![yes, yes, none], vec![yes, no, no], vec![no, no, no], vec![none, none, none]];
        let one = by_votes(1, &truths, &asked);
        assert_eq!((one.accuracy, one.recall, one.undecided), (0.6, 2.0 / 3.0, 1));
        assert!((one.precision - 2.0 / 3.0).abs() < 1e-12 && (one.f1 - 2.0 / 3.0).abs() < 1e-12);
        assert!((one.cost.generated - 31.0 / 5.0).abs() < 1e-12);
        // Of three cases with value 1, two are right; the case with value 0 is wrong.
        assert!((one.calibration_error - 3.0 / 4.0 * (1.0 / 3.0)).abs() < 1e-12, "{one:?}");
        let three = by_votes(3, &truths, &asked);
        assert_eq!((three.accuracy, three.precision), (0.6, 1.0));
        assert!((three.balanced - f64::midpoint(1.0 / 3.0, 1.0)).abs() < 1e-12);
        // The cases with value 1/3 are one right and one wrong response, the one with value 1 is right, and the one with value 0 is wrong.
        assert!((three.calibration_error - 2.0 / 4.0 * (0.5 - 1.0 / 3.0)).abs() < 1e-12, "{three:?}");
        assert_eq!(HEADING.chars().count(), three.to_string().chars().count(), "{three}");
    }

    /// An engine whose probability of Yes shows whether a response is right: it is .9 or .4.
    fn engine() -> FakeEngine {
        let script = |request: &Request, _: usize| {
            assert_eq!(request.purpose, Purpose::Judge);
            Ok("It is what was asked for. ".to_owned())
        };
        FakeEngine::new(script).reading(|request, index| {
            let question = format!("{:?}", request.questions[index]);
            let critiqued = request.questions[index].reply.contains("asked for");
            let p: f32 = match (question.contains("marigold"), critiqued) {
                (true, _) => 0.9,
                (false, true) => 0.1,
                (false, false) => 0.4,
            };
            Ok(vec![p.ln(), (1.0 - p).ln()])
        })
    }

    #[tokio::test]
    async fn probabilities_are_judged_as_a_search_judges() {
        let labelled: Vec<Labelled> = (0..10)
            .map(|i| Labelled {
                prompt: format!("Say something, {i}."),
                response: if i < 4 { "marigold" } else { "thistle" }.into(),
                right: i < 4,
            })
            .collect();
        for (judging, error, generated) in [(Judging::Score, 0.28, 0.0), (Judging::Cascade, 0.1, 3.6)] {
            let options = Options {
                judge: PathBuf::new(),
                labels: None,
                prompts: None,
                actor: None,
                count: None,
                max_tokens: None,
                judging,
                votes: 3,
                temperature: 0.7,
                seed: 1,
                parallel: 2,
            };
            let quality = probability_eval(&engine(), &Templates::general(), &labelled, &options).await.unwrap();
            assert_eq!((quality.accuracy, quality.balanced, quality.undecided), (1.0, 1.0, 0), "{quality}");
            assert!((quality.calibration_error - error).abs() < 1e-6, "{quality}");
            assert!((quality.cost.generated - generated).abs() < 1e-9, "{quality}");
            assert!(quality.cost.scored > 0.0 && quality.cost.milliseconds.is_some(), "{quality}");
        }
    }

    #[test]
    fn both_forms_of_labels_are_read_and_defects_are_named() {
        let pair = r#"{"input": "q", "output_1": "a", "output_2": "b", "label": 2}"#;
        let single = r#"{"prompt": "q", "response": "a", "label": true}"#;
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            std::fs::write(file.path(), text).unwrap();
            read_labels(file.path())
        };
        for text in [format!("[{pair}, {single}]"), format!("{pair}\n\n{single}\n")] {
            let labelled = read(&text).unwrap();
            assert_eq!(labelled.iter().map(|l| l.right).collect::<Vec<_>>(), [false, true, true]);
        }
        for (text, expected) in [
            (format!("[{}]", pair.replace('2', "3")), "item 1"),
            (format!("{single}\n{}", single.replace("true", "1")), ":2: `label` must be true or false, got 1"),
            (single.replace("\"a\"", "3"), "`response` must be a text"),
            (String::new(), "no labels"),
        ] {
            let message = format!("{:#}", read(&text).unwrap_err());
            assert!(message.contains(expected), "{message}");
        }
    }
}
