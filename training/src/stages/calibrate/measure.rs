//! Responses with their truth, and the verdicts of a model on them.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use spar::chat::Message;
use spar::engine::{
    Engine, EngineError, EngineExt, LabelRequest, Origin, Purpose, Question, Request, Sampling, derive_seed,
};
use spar::prompts::{READABLE, Templates, verdict_labels};
use spar::search::{SearchConfig, critique_request, room_for_critique};
use spar::verify::data::{Prompt, Response};

use super::fit::Case;
use super::options::Options;
use crate::records::{BadLines, read};
use crate::stages::progress::Progress;

/// Temperatures of sampled responses, used in turn.
const TEMPERATURES: [f32; 2] = [0.7, 1.0];
/// The value used for the log-probability of a label that has none.
const LEAST: f64 = -50.0;

/// A response to a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The prompt's position.
    pub prompt: usize,
    /// The text of the response.
    pub response: String,
    /// Whether every rule holds strictly.
    pub right: bool,
}

impl Answer {
    fn new(prompts: &[Prompt], prompt: usize, response: String) -> Self {
        let right = prompts[prompt].checks.iter().all(|check| check.strict(&response));
        Self { prompt, response, right }
    }
}

/// Verdicts of one kind.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// The verdicts that could be read, with the prompts' positions.
    pub cases: Vec<(usize, Case)>,
    /// Verdicts in which Yes and No together are too improbable to be read.
    pub unreadable: usize,
    /// Responses that are too long to be judged.
    pub too_long: usize,
    /// Mean probability of Yes and No together.
    pub mass: f64,
    /// Tokens that were generated.
    pub generated: usize,
    /// Prompt tokens of the verdicts.
    pub read: usize,
    /// Time for all verdicts together.
    pub time: Duration,
}

/// A single verdict.
struct Reading {
    yes: f64,
    no: f64,
    generated: usize,
    read: usize,
}

/// Reads responses. A prompt may have several.
///
/// # Errors
/// Fails if the file cannot be read, and names the line of a response without its prompt.
pub fn read_answers(path: &Path, prompts: &[Prompt]) -> Result<Vec<Answer>> {
    let positions: HashMap<&str, usize> = prompts.iter().enumerate().map(|(i, p)| (p.prompt.trim(), i)).collect();
    let join = |line: Response| {
        let position = positions.get(line.prompt.trim());
        let prompt = position.with_context(|| {
            let beginning: String = line.prompt.chars().take(60).collect();
            format!("`prompt` is none of the prompts that are used: {beginning}")
        })?;
        Ok(Answer::new(prompts, *prompt, line.response))
    };
    Ok(read(path, BadLines::Stop, join)?.items)
}

/// Makes a greedy response to every prompt and `samples` sampled ones. Equal responses to a prompt are kept once.
///
/// # Errors
/// Returns the error of the first failing call.
pub async fn draw(engine: &dyn Engine, prompts: &[Prompt], options: &Options) -> Result<Vec<Answer>> {
    let progress = Progress::new("answering", prompts.len(), 0);
    let progress = &progress;
    let answer = |(i, prompt): (usize, &Prompt)| {
        let request = Request::chat(Purpose::Answer, vec![Message::user(&prompt.prompt)]);
        let request = Request { max_tokens: Some(options.max_tokens), ..request };
        async move {
            let drawn = (0..options.samples).map(|draw| TEMPERATURES[draw % TEMPERATURES.len()]);
            let mut answers: Vec<Answer> = Vec::new();
            for (draw, temperature) in std::iter::once(0.0).chain(drawn).enumerate() {
                let seed = derive_seed(derive_seed(options.seed, i as u64), draw as u64);
                let sampling = Sampling { temperature, seed, ..Sampling::default() };
                let reply = match engine.generate(Request { sampling, ..request.clone() }).await {
                    Err(EngineError::PromptTooLong { .. }) => break,
                    reply => reply?,
                };
                if !answers.iter().any(|answer| answer.response == reply.text) {
                    answers.push(Answer::new(prompts, i, reply.text));
                }
            }
            progress.step();
            Ok(answers)
        }
    };
    let all: Vec<Result<Vec<Answer>>> =
        stream::iter(prompts.iter().enumerate()).map(answer).buffered(options.parallel).collect().await;
    progress.finish();
    Ok(all.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Reads verdicts without a critique.
///
/// # Errors
/// Returns the error of the first failing call.
pub async fn scores(
    engine: &dyn Engine,
    templates: &Templates,
    prompts: &[Prompt],
    answers: &[Answer],
    parallel: usize,
) -> Result<Measured> {
    let progress = Progress::new("scoring", answers.len(), 0);
    let read_verdict = async |_: usize, conversation: &[Message], response: &str| {
        verdict(engine, templates.score(conversation, response, &[])).await
    };
    measured(prompts, answers, parallel, &progress, read_verdict).await
}

/// Reads verdicts after writing one critique for each.
///
/// # Errors
/// Returns the error of the first failing call.
pub async fn critiques(
    engine: &dyn Engine,
    templates: &Templates,
    prompts: &[Prompt],
    answers: &[Answer],
    options: &Options,
) -> Result<Measured> {
    let progress = Progress::new("critiques", answers.len(), 0);
    let SearchConfig { judge_temperature: temperature, judge_tokens, .. } = SearchConfig::default();
    let read_verdict = async |index: usize, conversation: &[Message], response: &str| {
        let sampling = Sampling { temperature, seed: derive_seed(!options.seed, index as u64), ..Sampling::default() };
        let room = judge_tokens.min(room_for_critique(response));
        let request = critique_request(templates, conversation, response, sampling, room);
        let critique = engine.generate(request).await?;
        let question = templates.verdict_of(conversation, response, &critique.text);
        Ok(Reading { generated: critique.tokens, ..verdict(engine, question).await? })
    };
    measured(prompts, answers, options.parallel, &progress, read_verdict).await
}

async fn verdict(engine: &dyn Engine, question: Question) -> Result<Reading, EngineError> {
    let request = LabelRequest {
        purpose: Purpose::Judge,
        questions: vec![question],
        labels: verdict_labels(),
        origin: Origin::default(),
    };
    let scores = engine.read_labels(request).await?;
    match scores.logprobs.first().map(Vec::as_slice) {
        Some(&[yes, no]) => {
            let [yes, no] = [yes, no].map(|logprob| f64::from(logprob).max(LEAST));
            Ok(Reading { yes, no, generated: 0, read: scores.prompt_tokens })
        }
        _ => Err(EngineError::Crashed("the engine did not give one probability for each label".into())),
    }
}

async fn measured(
    prompts: &[Prompt],
    answers: &[Answer],
    parallel: usize,
    progress: &Progress,
    read_verdict: impl AsyncFn(usize, &[Message], &str) -> Result<Reading, EngineError>,
) -> Result<Measured> {
    let began = Instant::now();
    let read_verdict = &read_verdict;
    let readings: Vec<Result<Reading, EngineError>> = stream::iter(answers.iter().enumerate())
        .map(|(index, answer)| async move {
            let conversation = [Message::user(&prompts[answer.prompt].prompt)];
            let reading = read_verdict(index, &conversation, &answer.response).await;
            progress.step();
            reading
        })
        .buffered(parallel)
        .collect()
        .await;
    progress.finish();
    let mut measured = Measured { time: began.elapsed(), ..Measured::default() };
    let mut judged = 0;
    for (answer, reading) in answers.iter().zip(readings) {
        let Reading { yes, no, generated, read } = match reading {
            Err(EngineError::PromptTooLong { .. }) => {
                measured.too_long += 1;
                continue;
            }
            reading => reading?,
        };
        let mass = yes.exp() + no.exp();
        judged += 1;
        measured.mass += mass;
        measured.generated += generated;
        measured.read += read;
        if mass < READABLE {
            measured.unreadable += 1;
        } else {
            measured.cases.push((answer.prompt, Case { yes, no, right: answer.right }));
        }
    }
    measured.mass /= f64::from(judged.max(1));
    Ok(measured)
}
