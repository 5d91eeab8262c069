//! The model's own responses to the prompts: several temperatures, many prompts at a time, siblings that share their prompt. A reply that
//! loops is dropped as soon as it does, and one that is cut off keeps its whole sentences.

use std::path::Path;

use anyhow::{Context, Result};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use spar::chat::Message;
use spar::engine::native::NativeEngine;
use spar::engine::{Engine, EngineError, FinishReason, Purpose, Reply, Request, Sampling, derive_seed};
use spar::search::ends_in_loop;

use super::settings::{Sample, Settings};
use crate::records::Asked;
use crate::stages::journal::Journal;
use crate::stages::manifest::{Record, Stage};
use crate::stages::read_lines;

/// A line of `responses.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answered {
    /// The prompt with its rules.
    #[serde(flatten)]
    pub asked: Asked,
    /// The usable responses, without repetitions.
    pub responses: Vec<String>,
    /// How many replies there were, and why some are not used.
    pub replies: Replies,
}

/// Counts of replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies {
    /// The number of all replies.
    pub all: usize,
    /// Replies that repeated themselves until they were stopped.
    pub looped: usize,
    /// Replies at their maximum length. Their whole sentences are used.
    pub cut: usize,
    /// Replies without a usable text.
    pub empty: usize,
    /// Replies that are equal to another one.
    pub equal: usize,
    /// Whether the prompt is too long for the model.
    pub too_long: bool,
}

/// A reply after it has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Whole(String),
    Cut(String),
    Looped,
}

/// Bytes of new text between two looks for a loop. They are fixed places, so that what is dropped does not depend on timing.
const STRIDE: usize = 64;
/// The share of a reply that must be left after a cut at the end of a sentence.
const LEAST_KEPT: f64 = 0.5;

/// Samples responses to `prompts` into `out` from the model that `load` opens. The first of the two paths is the model's, the second that
/// of the prompts.
///
/// # Errors
/// Fails if a file or a model call fails.
pub async fn sample(
    settings: &Settings,
    load: impl FnOnce() -> Result<NativeEngine>,
    (base, file): (&Path, &Path),
    prompts: &[Asked],
    out: &Path,
) -> Result<(Record, Vec<Answered>)> {
    // The number of prompts at a time does not influence what is written.
    let decides = Sample { parallel: 0, ..settings.sample.clone() };
    let decides = (settings.seed, decides, prompts.len(), settings.bad_lines);
    let inputs = [("prompts", file), ("model", base)];
    let record = match Stage::begin(&out.with_extension("stage.json"), "responses", &decides, &inputs)? {
        Stage::Finished(record) => record,
        Stage::Running(running) => {
            let journal = Journal::open(out)?;
            let engine = load()?;
            let line = |i, asked| answer(settings, &engine, i, asked);
            journal.fill("sampling", prompts, settings.sample.parallel, line).await?;
            running.finish(&counts(&lines(out)?), Vec::new(), &[("responses", out)])?
        }
    };
    Ok((record, lines(out)?))
}

fn lines(path: &Path) -> Result<Vec<Answered>> {
    read_lines(path)?.with_context(|| format!("{} is missing", path.display()))
}

async fn answer(settings: &Settings, engine: &dyn Engine, index: usize, asked: &Asked) -> Result<Answered> {
    let sample = &settings.sample;
    let mut found = Answered { asked: asked.clone(), responses: Vec::new(), replies: Replies::default() };
    for (i, &temperature) in sample.temperatures.iter().enumerate() {
        let seed = derive_seed(derive_seed(settings.seed, index as u64), i as u64);
        let request = Request {
            samples: sample.count(temperature),
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            max_tokens: Some(sample.max_tokens),
            ..Request::chat(Purpose::Answer, vec![Message::user(&asked.prompt)])
        };
        let replies = match engine.start(request).await {
            Err(EngineError::PromptTooLong { .. }) => {
                found.replies.too_long = true;
                return Ok(found);
            }
            replies => replies.with_context(|| format!("prompt {}", asked.key))?,
        };
        for heard in futures::future::try_join_all(replies.into_iter().map(listen)).await? {
            found.take(heard);
        }
    }
    Ok(found)
}

impl Answered {
    fn take(&mut self, heard: Heard) {
        let counts = &mut self.replies;
        counts.all += 1;
        let text = match heard {
            Heard::Looped => {
                counts.looped += 1;
                return;
            }
            Heard::Whole(text) => text.trim().to_owned(),
            Heard::Cut(text) => {
                counts.cut += 1;
                whole_sentences(&text).to_owned()
            }
        };
        if text.is_empty() {
            counts.empty += 1;
        } else if self.responses.contains(&text) {
            counts.equal += 1;
        } else {
            self.responses.push(text);
        }
    }
}

/// Waits for the end of a reply or its first loop.
async fn listen(mut reply: Reply) -> Result<Heard, EngineError> {
    let (mut text, mut next) = (String::new(), STRIDE);
    while let Some(chunk) = reply.chunks.next().await {
        let chunk = chunk?;
        text.push_str(&chunk.text);
        while text.len() >= next {
            let end = (0..=next).rev().find(|&end| text.is_char_boundary(end)).unwrap_or_default();
            if ends_in_loop(&text[..end]) {
                return Ok(Heard::Looped);
            }
            next += STRIDE;
        }
        match chunk.finish {
            Some(FinishReason::Length) => return Ok(Heard::Cut(text)),
            Some(_) => return Ok(Heard::Whole(text)),
            None => {}
        }
    }
    Err(EngineError::Crashed("the reply ended without a finish reason".into()))
}

/// The text up to its last whole sentence or line; empty if less than half of it is left.
fn whole_sentences(text: &str) -> &str {
    let text = text.trim();
    let mark = |(at, c): (usize, char)| match c {
        '.' | '!' | '?' if text[at + 1..].chars().next().is_none_or(char::is_whitespace) => Some(at + 1),
        '\n' => Some(at),
        _ => None,
    };
    let end = text.char_indices().rev().find_map(mark).unwrap_or_default();
    if end as f64 >= LEAST_KEPT * text.len() as f64 { text[..end].trim_end() } else { "" }
}

fn counts(lines: &[Answered]) -> Vec<(&'static str, u64)> {
    let sum = |of: fn(&Replies) -> usize| lines.iter().map(|line| of(&line.replies) as u64).sum();
    vec![
        ("prompts", lines.len() as u64),
        ("prompts too long", sum(|replies| usize::from(replies.too_long))),
        ("replies", sum(|replies| replies.all)),
        ("looped", sum(|replies| replies.looped)),
        ("cut at a sentence", sum(|replies| replies.cut)),
        ("without text", sum(|replies| replies.empty)),
        ("equal", sum(|replies| replies.equal)),
        ("responses", lines.iter().map(|line| line.responses.len() as u64).sum()),
    ]
}

#[cfg(test)]
mod tests {
    use spar::engine::fake::FakeEngine;

    use super::*;

    #[test]
    fn a_reply_that_is_cut_keeps_its_whole_sentences() {
        for (text, expected) in [
            ("One is here. Two is here. Thr", "One is here. Two is here."),
            ("* one\n* two\n* thr", "* one\n* two"),
            ("Version 1.5", ""),
            ("Short. Then a very long rest that never ends and is cut", ""),
            ("", ""),
        ] {
            assert_eq!(whole_sentences(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn loops_are_dropped_and_equal_replies_count_once() {
        let engine = FakeEngine::new(|request: &Request, sibling| {
            Ok(match (request.sampling.temperature > 0.5, sibling) {
                (false, _) => "The river waits.".into(),
                (true, 0) => "The same words again. ".repeat(60),
                (true, 1) => " The river waits.\n".into(),
                (true, _) => "  ".into(),
            })
        });
        let sample = Sample { temperatures: vec![0.0, 1.0], per_temperature: 3, ..Sample::default() };
        let settings = Settings { sample, ..Settings::default() };
        let asked =
            Asked { key: 1.into(), prompt: "Write.".into(), instruction_id_list: Vec::new(), kwargs: Vec::new() };
        let found = answer(&settings, &engine, 0, &asked).await.unwrap();
        assert_eq!(found.responses, ["The river waits."]);
        let expected = Replies { all: 4, looped: 1, empty: 1, equal: 1, ..Replies::default() };
        assert_eq!(found.replies, expected);
    }
}
