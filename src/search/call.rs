//! Model calls of a search: reserved, counted while they run, cancelled by dropping them.

use futures::StreamExt;
use futures::future::join_all;
use tracing::Instrument;

use super::budget::{Permit, Spent};
use super::{Models, SearchConfig, Task, budget::Ledger};
use crate::engine::reasoning::Reasoning;
use crate::engine::{Engine, EngineError, FinishReason, PromptTokens, Reply, Request, TokenLogprobs, derive_seed};

/// What all steps of one search share.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub models: Models<'a>,
    pub config: &'a SearchConfig,
    pub task: &'a Task,
    pub ledger: &'a Ledger,
}

/// Why a step could not be finished.
#[derive(Debug)]
pub(super) enum Halt {
    /// A budget does not allow another call: the search ends.
    Spent(Spent),
    /// The call failed: the branch ends.
    Failed(EngineError),
}

impl From<Spent> for Halt {
    fn from(spent: Spent) -> Self {
        Halt::Spent(spent)
    }
}

impl Halt {
    /// Where nothing at all can be made, a spent budget is the request's fault.
    pub fn without_room_for(self, what: &str) -> EngineError {
        match self {
            Halt::Failed(error) => error,
            Halt::Spent(_) => EngineError::Invalid(format!("the budgets leave no room for {what}")),
        }
    }
}

/// Independent draws below one seed. A node's draws depend on its path from the root alone, so two strategies that
/// reach the same node see the same text, and a larger budget extends the tree of a smaller one.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    Draft,
    Vote,
    Settle,
    Refinement,
    Child,
}

impl Draw {
    pub fn seed(self, parent: u64, index: usize) -> u64 {
        derive_seed(derive_seed(parent, 1 + self as u64), index as u64)
    }
}

/// A finished reply.
#[derive(Debug)]
pub(super) struct Spoken {
    pub text: String,
    pub tokens: usize,
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub finish: FinishReason,
    pub logprobs: Vec<TokenLogprobs>,
    /// What was thought before the text; its tokens are among `tokens`.
    pub reasoning: Reasoning,
    /// Per chunk: where its text ends, in bytes, and how many tokens it holds.
    ends: Vec<(usize, usize)>,
}

impl Search<'_> {
    /// Starts `request.samples` siblings, or as many as the budgets allow (at least one), and waits for all of them.
    /// There is at least one reply; one that fails is an error of its own.
    pub async fn call(&self, engine: &dyn Engine, request: Request) -> Result<Vec<Result<Spoken, EngineError>>, Halt> {
        let purpose = request.purpose;
        let wanted = request.max_tokens.unwrap_or(engine.info().context);
        let permit = self.ledger.reserve(purpose, request.samples, wanted).await?;
        let request = Request { samples: permit.calls, max_tokens: Some(permit.tokens), ..request };
        let span = tracing::debug_span!("call", ?purpose, samples = request.samples);
        async {
            let replies = engine.start(request).await.map_err(Halt::Failed)?;
            if replies.is_empty() {
                return Err(Halt::Failed(EngineError::Crashed("the engine started no reply".into())));
            }
            Ok(join_all(replies.into_iter().take(permit.calls).map(|reply| listen(reply, &permit))).await)
        }
        .instrument(span)
        .await
    }
}

async fn listen(mut reply: Reply, permit: &Permit<'_>) -> Result<Spoken, EngineError> {
    permit.sent(reply.prompt_tokens);
    let mut spoken = Spoken {
        text: String::new(),
        tokens: 0,
        prompt_tokens: reply.prompt_tokens,
        cached_tokens: reply.cached_tokens,
        finish: FinishReason::Length,
        logprobs: Vec::new(),
        reasoning: Reasoning::default(),
        ends: Vec::new(),
    };
    while let Some(chunk) = reply.chunks.next().await {
        let chunk = chunk?;
        permit.spend(chunk.tokens);
        if let Some(PromptTokens { sent, cached }) = chunk.prompt {
            permit.sent(sent.saturating_sub(spoken.prompt_tokens));
            (spoken.prompt_tokens, spoken.cached_tokens) = (sent, cached);
        }
        spoken.tokens += chunk.tokens;
        spoken.text.push_str(&chunk.text);
        spoken.reasoning.add(&chunk.reasoning);
        spoken.ends.push((spoken.text.len(), chunk.tokens));
        spoken.logprobs.extend(chunk.logprobs);
        if let Some(finish) = chunk.finish {
            spoken.finish = finish;
            return Ok(spoken);
        }
        if spoken.tokens >= permit.tokens {
            return Ok(spoken);
        }
    }
    Err(EngineError::Crashed("the reply ended without a finish reason".into()))
}

impl Spoken {
    /// How many tokens lie, even in part, in the bytes `start..end` of the text.
    pub fn tokens_within(&self, start: usize, end: usize) -> usize {
        let mut begin = 0;
        let mut tokens = 0;
        for &(stop, count) in &self.ends {
            if begin < end && stop > start {
                tokens += count;
            }
            begin = stop;
        }
        tokens
    }

    /// The logprobs of these tokens; their bytes add up to the text.
    pub fn logprobs_within(&mut self, start: usize, end: usize) -> Vec<TokenLogprobs> {
        let mut begin = 0;
        let mut within = std::mem::take(&mut self.logprobs);
        within.retain(|entry| {
            let stop = begin + entry.token.bytes.len();
            let inside = begin < end && stop > start;
            begin = stop;
            inside
        });
        within
    }
}
