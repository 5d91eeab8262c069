//! What new weights must do before requests get them: answer, judge readably, and be sure enough of what they say.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::chat::{Chat, Message};
use crate::config::{SearchArgs, SwapArgs};
use crate::engine::generation::{Generation, Pinned, Role};
use crate::engine::{Completion, EngineError, EngineExt, Input, Origin, Purpose, Request, Sampling};
use crate::verify::Check;
use crate::verify::data::{self, Prompt};

/// A canary that takes longer than this has failed.
const PATIENCE: Duration = Duration::from_secs(120);
/// Tokens of an answer that is asked for nothing but to be one.
const SHORT: usize = 12;
/// Votes, of which one must be readable.
const VOTES: u64 = 3;
const PROMPT: &str = "Write about the river. Do not use any commas.";
const RESPONSE: &str = "The river is wide and slow.";

/// Prompts and bounds.
pub(super) struct Canary {
    prompts: Vec<Prompt>,
    max_perplexity: f64,
    judge_tokens: usize,
    /// The last actor that was accepted, and its short answer: what its successor should not find absurd.
    accepted: Mutex<Option<(String, String)>>,
}

impl Canary {
    /// The canary that the settings ask for.
    ///
    /// # Errors
    /// The file with prompts cannot be used.
    pub(super) fn new(swap: &SwapArgs, search: &SearchArgs) -> Result<Self, data::DataError> {
        let read = |path: &Path| data::read_prompts(path).map(|lines| lines.items);
        let prompts = swap.canary.as_deref().map(read).transpose()?.unwrap_or_default();
        let (max_perplexity, judge_tokens) = (swap.canary_perplexity, search.judge_tokens);
        Ok(Self { prompts, max_perplexity, judge_tokens, accepted: Mutex::default() })
    }

    /// Tries a generation out in the roles that it will have, in place of `live`.
    ///
    /// # Errors
    /// The error says what it did wrong.
    pub(super) async fn try_out(&self, generation: &Generation, roles: &[Role], live: &Pinned) -> Result<(), String> {
        let all = async {
            for role in roles {
                match role {
                    Role::Actor => self.answers(generation, &live.actor).await?,
                    Role::Refiner => self.judges(generation).await?,
                }
            }
            Ok(())
        };
        let slow = |_| Err(format!("the canary was not answered within {PATIENCE:?}"));
        timeout(PATIENCE, all).await.unwrap_or_else(slow)
    }

    async fn answers(&self, generation: &Generation, live: &Generation) -> Result<(), String> {
        let reply = short_answer(generation).await?;
        if reply.text.trim().is_empty() && reply.reasoning.text.is_empty() {
            return Err("the canary's answer is empty".into());
        }
        self.is_sure(&reply)?;
        self.finds_likely(generation, live).await?;
        for prompt in &self.prompts {
            let reply = say(generation, Purpose::Answer, vec![Message::user(&prompt.prompt)], None, 0).await?;
            if let Some(broken) = prompt.checks.iter().find(|check| !check.strict(&reply.text)) {
                return Err(format!(
                    "the canary's prompt {} is not answered as it must be: {}",
                    prompt.key,
                    Check::describe(broken)
                ));
            }
            self.is_sure(&reply)?;
        }
        *self.accepted() = Some((generation.id.clone(), reply.text));
        Ok(())
    }

    /// Whether what the live actor answers is not absurd to its successor. Engines that score no text are believed.
    async fn finds_likely(&self, generation: &Generation, live: &Generation) -> Result<(), String> {
        let known = self.accepted().clone().filter(|(id, _)| *id == live.id).map(|(_, text)| text);
        let text = match known {
            Some(text) => text,
            None => match short_answer(live).await {
                Ok(reply) => reply.text,
                // It is away, or ill: its successor is not measured by it.
                Err(_) => return Ok(()),
            },
        };
        let engine = &generation.engine;
        let Some(dir) = engine.info().dir.as_ref().filter(|_| engine.capabilities().scores) else { return Ok(()) };
        let failed = |error: EngineError| format!("the canary failed: {error}");
        let prompt = dir.render(&Chat::without_thinking(vec![Message::user(PROMPT)])).map_err(failed)?;
        let asked = dir.encode(&Input::Text(prompt.clone())).map_err(failed)?.len();
        let scored = engine.score(Input::Text(prompt + &text), 0, Origin::default()).await.map_err(failed)?;
        self.is_likely(
            scored.iter().skip(asked).filter_map(|token| token.logprobs.as_ref()).map(|found| found.token.logprob),
        )
    }

    async fn judges(&self, generation: &Generation) -> Result<(), String> {
        let prompt = self.prompts.first().map_or(PROMPT, |prompt| prompt.prompt.as_str());
        let templates = &generation.templates;
        for vote in 0..VOTES {
            let turns = templates.judge(&[Message::user(prompt)], RESPONSE);
            let critique = say(generation, Purpose::Judge, turns, Some(self.judge_tokens), vote).await?;
            if vote == 0 {
                self.is_sure(&critique)?;
            }
            if templates.parse_verdict(&critique.text).is_some() {
                return Ok(());
            }
        }
        Err(format!("no verdict can be read in {VOTES} critiques of the canary"))
    }

    fn accepted(&self) -> MutexGuard<'_, Option<(String, String)>> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The perplexity of a greedy reply under the model itself: near 1 for trained weights, that of a guess for damaged ones.
    fn is_sure(&self, reply: &Completion) -> Result<(), String> {
        self.is_likely(reply.logprobs.iter().map(|token| token.token.logprob))
    }

    fn is_likely(&self, logprobs: impl Iterator<Item = f32>) -> Result<(), String> {
        let logprobs: Vec<f64> = logprobs.map(f64::from).collect();
        let perplexity = (-logprobs.iter().sum::<f64>() / logprobs.len().max(1) as f64).exp();
        if !perplexity.is_finite() {
            return Err("the canary's probabilities are not finite numbers".into());
        }
        if self.max_perplexity > 0.0 && perplexity > self.max_perplexity {
            let most = self.max_perplexity;
            return Err(format!("the canary's perplexity is {perplexity:.1}, above the {most} of --canary-perplexity"));
        }
        Ok(())
    }
}

async fn short_answer(generation: &Generation) -> Result<Completion, String> {
    say(generation, Purpose::Answer, vec![Message::user(PROMPT)], Some(SHORT), 0).await
}

/// A reply that does not think if the template can prevent it: its room and its probabilities are the answer's. The first of a
/// prompt is greedy.
async fn say(
    generation: &Generation,
    purpose: Purpose,
    turns: Vec<Message>,
    max_tokens: Option<usize>,
    draw: u64,
) -> Result<Completion, String> {
    let temperature = if draw == 0 { 0.0 } else { 1.0 };
    let sampling = Sampling { temperature, seed: draw, ..Sampling::default() };
    let room = max_tokens.unwrap_or(usize::MAX).min(generation.engine.info().context / 2);
    let input = Input::chat_without_thinking(turns);
    let request =
        Request { input, sampling, max_tokens: Some(room), logprobs: Some(0), ..Request::chat(purpose, Vec::new()) };
    generation.engine.generate(request).await.map_err(|error| format!("the canary failed: {error}"))
}
