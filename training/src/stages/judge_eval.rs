//! `judge-eval`: how often a judge is right, against rules or against people's labels, by number of votes.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use futures::{StreamExt, stream};
use serde::Serialize;
use serde_json::Value;
use spar::chat::Message;
use spar::engine::{Engine, EngineError, Purpose, Request, Sampling, derive_seed};
use spar::prompts::{Templates, Verdict};

use crate::records::{Asked, BadLines, read, read_prompts};

/// A response whose truth is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// What was asked.
    pub prompt: String,
    /// What was said.
    pub response: String,
    /// Whether it follows the prompt.
    pub right: bool,
}

/// How a judge does with a number of votes. Yes is the positive verdict; a tie or no readable vote counts as wrong.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quality {
    /// Votes on a response.
    pub votes: usize,
    /// Share of right verdicts.
    pub accuracy: f64,
    /// Share of right ones among the responses that it accepts.
    pub precision: f64,
    /// Share of the right responses that it accepts.
    pub recall: f64,
    /// Their harmonic mean.
    pub f1: f64,
    /// Mean of the shares of right verdicts on right and on wrong responses.
    pub balanced: f64,
    /// Responses without a majority.
    pub undecided: usize,
    /// Responses.
    pub n: usize,
}

/// Reads a file of labels, as JSON lines or one JSON list: LLMBar's `input`, `output_1`, `output_2` and `label` (1 or 2: the
/// better output; each item is two responses), or `prompt`, `response` and `label` (true or false).
///
/// # Errors
/// The file cannot be read, or an item cannot be used: file, line or item, and what is wrong.
pub fn read_labels(path: &Path) -> Result<Vec<Labelled>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let labelled: Vec<Vec<Labelled>> = if text.trim_start().starts_with('[') {
        let items: Vec<Value> = serde_json::from_str(&text).with_context(|| format!("in {}", path.display()))?;
        let place = |i: usize| format!("{}: item {}", path.display(), i + 1);
        items.iter().enumerate().map(|(i, item)| of_item(item).with_context(|| place(i))).collect::<Result<_>>()?
    } else {
        read(path, BadLines::Stop, |item: Value| of_item(&item))?.items
    };
    ensure!(!labelled.is_empty(), "{}: no labels", path.display());
    Ok(labelled.concat())
}

fn of_item(item: &Value) -> Result<Vec<Labelled>> {
    let text = |name: &str| {
        let value = item[name].as_str().with_context(|| format!("`{name}` must be a text, got {}", item[name]))?;
        Ok::<_, anyhow::Error>(value.to_owned())
    };
    if item.get("output_1").is_some() {
        let better = match item["label"].as_u64() {
            Some(label @ (1 | 2)) => label,
            _ => bail!("`label` must be 1 or 2, got {}", item["label"]),
        };
        let of = |number: u64| {
            let response = text(&format!("output_{number}"))?;
            Ok::<_, anyhow::Error>(Labelled { prompt: text("input")?, response, right: number == better })
        };
        return Ok(vec![of(1)?, of(2)?]);
    }
    let right =
        item["label"].as_bool().with_context(|| format!("`label` must be true or false, got {}", item["label"]))?;
    Ok(vec![Labelled { prompt: text("prompt")?, response: text("response")?, right }])
}

/// Responses of an actor to checkable prompts, labelled by the rules: one sampled and one greedy response to each.
///
/// # Errors
/// A file's, a prompt's without rules, or a model call's.
pub async fn label_by_rules(prompts: &Path, actor: &dyn Engine, seed: u64, parallel: usize) -> Result<Vec<Labelled>> {
    let asked = read_prompts(prompts, BadLines::Stop)?.items;
    let one = |(i, asked): (usize, &Asked)| {
        let asked = asked.clone();
        async move {
            let checks = asked.checks()?;
            ensure!(!checks.is_empty(), "prompt {} has no rules to check a response by", asked.key);
            let mut labelled = Vec::new();
            for temperature in [0.0, 1.0] {
                let request = Request {
                    sampling: Sampling { temperature, seed: derive_seed(seed, i as u64), ..Sampling::default() },
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
        stream::iter(asked.iter().enumerate()).map(one).buffered(parallel).collect().await;
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Asks for `most` votes on every response and scores majorities of the first 1, 3, 5, … of them.
///
/// # Errors
/// The first failing call's.
pub async fn judge_eval(
    judge: &dyn Engine,
    templates: &Templates,
    labelled: &[Labelled],
    votes: Votes,
) -> Result<Vec<Quality>> {
    let one = |(i, item): (usize, &Labelled)| {
        let request = Request {
            samples: votes.most,
            sampling: Sampling {
                temperature: votes.temperature,
                seed: derive_seed(votes.seed, i as u64),
                ..Sampling::default()
            },
            ..Request::chat(Purpose::Judge, templates.judge(&[Message::user(&item.prompt)], &item.response))
        };
        async move {
            let replies = match judge.start(request).await {
                Err(EngineError::PromptTooLong { .. }) => return Ok(Vec::new()),
                replies => replies?,
            };
            let replies = futures::future::try_join_all(replies.into_iter().map(|reply| reply.complete())).await?;
            Ok(replies.iter().map(|reply| templates.parse_verdict(&reply.text)).collect::<Vec<_>>())
        }
    };
    let asked: Vec<Result<Vec<Option<Verdict>>>> =
        stream::iter(labelled.iter().enumerate()).map(one).buffered(votes.parallel).collect().await;
    let asked: Vec<Vec<Option<Verdict>>> = asked.into_iter().collect::<Result<_>>()?;
    let truths: Vec<bool> = labelled.iter().map(|item| item.right).collect();
    Ok((1..=votes.most).step_by(2).map(|count| quality(count, &truths, &asked)).collect())
}

/// How a judge is asked.
#[derive(Clone, Copy, Debug)]
pub struct Votes {
    /// Votes on a response.
    pub most: usize,
    /// Of the votes.
    pub temperature: f32,
    /// Of every draw.
    pub seed: u64,
    /// Responses at a time.
    pub parallel: usize,
}

fn quality(votes: usize, truths: &[bool], asked: &[Vec<Option<Verdict>>]) -> Quality {
    let majority = |verdicts: &[Option<Verdict>]| {
        let count = |wanted| verdicts.iter().take(votes).filter(|verdict| **verdict == Some(wanted)).count();
        match count(Verdict::Yes).cmp(&count(Verdict::No)) {
            std::cmp::Ordering::Greater => Some(true),
            std::cmp::Ordering::Less => Some(false),
            std::cmp::Ordering::Equal => None,
        }
    };
    let verdicts: Vec<Option<bool>> = asked.iter().map(|verdicts| majority(verdicts)).collect();
    let count = |verdict: Option<bool>, truth: bool| {
        verdicts.iter().zip(truths).filter(|&(&v, &t)| v == verdict && t == truth).count() as f64
    };
    let (true_yes, false_yes, true_no) = (count(Some(true), true), count(Some(true), false), count(Some(false), false));
    let right = truths.iter().filter(|&&truth| truth).count() as f64;
    let wrong = truths.len() as f64 - right;
    let share = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
    let (precision, recall) = (share(true_yes, true_yes + false_yes), share(true_yes, right));
    Quality {
        votes,
        accuracy: share(true_yes + true_no, truths.len() as f64),
        precision,
        recall,
        f1: share(2.0 * precision * recall, precision + recall),
        balanced: f64::midpoint(recall, share(true_no, wrong)),
        undecided: verdicts.iter().filter(|verdict| verdict.is_none()).count(),
        n: truths.len(),
    }
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { votes, accuracy, precision, recall, f1, balanced, undecided, n } = self;
        write!(
            f,
            "{votes:5}  {accuracy:8.3}  {precision:9.3}  {recall:6.3}  {f1:5.3}  {balanced:8.3}  {undecided:9}  {n}"
        )
    }
}

/// The heading of a table of [`Quality`].
pub const HEADING: &str = "votes  accuracy  precision  recall     F1  balanced  undecided  n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualities_follow_their_definitions() {
        use Verdict::{No, Yes};
        let truths = [true, true, false, false, true];
        let asked = vec![
            vec![Some(Yes), Some(No), Some(No)],
            vec![Some(Yes), Some(Yes), None],
            vec![Some(Yes), Some(No), Some(No)],
            vec![Some(No), Some(No), Some(No)],
            vec![None, None, None],
        ];
        let one = quality(1, &truths, &asked);
        assert_eq!((one.accuracy, one.recall, one.undecided), (0.6, 2.0 / 3.0, 1));
        assert!((one.precision - 2.0 / 3.0).abs() < 1e-12 && (one.f1 - 2.0 / 3.0).abs() < 1e-12);
        let three = quality(3, &truths, &asked);
        assert_eq!((three.accuracy, three.precision), (0.6, 1.0));
        assert!((three.balanced - f64::midpoint(1.0 / 3.0, 1.0)).abs() < 1e-12);
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
