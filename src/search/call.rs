//! Model calls of a search: reserved, counted while they run, cancelled by dropping them.

use futures::StreamExt;
use futures::future::join_all;
use tokio::time::{Instant, timeout_at};
use tracing::Instrument;

use super::budget::{Permit, Spent};
use super::config::{Mode, SearchConfig};
use super::loops::LoopWatch;
use super::session::Session;
use super::task::{Models, Task};
use crate::engine::reasoning::Reasoning;
use crate::engine::{
    Engine, EngineError, FinishReason, LabelRequest, LabelScores, Origin, PromptTokens, Reply, Request, Subject,
    TokenLogprobs, derive_seed,
};

/// Data that all steps of one search share.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub models: Models<'a>,
    pub config: &'a SearchConfig,
    pub task: &'a Task,
    pub session: &'a Session<'a>,
    /// The part of the search that calls are made for.
    pub subject: Subject,
}

/// Why a step could not be finished.
#[derive(Debug)]
pub(super) enum Halt {
    /// A budget does not allow another call, so the search ends.
    Spent(Spent),
    /// The call failed, so the branch ends.
    Failed(EngineError),
}

impl From<Spent> for Halt {
    fn from(spent: Spent) -> Self {
        Halt::Spent(spent)
    }
}

impl Halt {
    /// Turns the cause into the request's error, for a search that can return nothing at all.
    pub fn without_room_for(self, what: &str) -> EngineError {
        match self {
            Halt::Failed(error) => error,
            Halt::Spent(_) => EngineError::Invalid(format!("the budgets leave no room for {what}")),
        }
    }
}

/// Independent random draws that all derive from one seed. A node's draws depend only on its path from the root. Two strategies that reach
/// the same node therefore see the same text, and a larger budget extends the tree of a smaller one.
#[derive(Clone, Copy)]
pub(super) enum Draw {
    Draft,
    Vote,
    Settle,
    Refinement,
    Child,
    Critique,
}

impl Draw {
    pub fn seed(self, parent: u64, index: usize) -> u64 {
        derive_seed(derive_seed(parent, 1 + self as u64), index as u64)
    }
}

/// A finished reply.
#[derive(Debug)]
pub(super) struct FinishedReply {
    pub text: String,
    pub tokens: usize,
    pub prompt_tokens: usize,
    pub cached_tokens: usize,
    pub finish: FinishReason,
    pub logprobs: Vec<TokenLogprobs>,
    /// Whether the reply was cut off because it repeated itself.
    pub looped: bool,
    /// The reasoning before the text. Its tokens are included in `tokens`.
    pub reasoning: Reasoning,
    /// For each chunk, the byte offset at which its text ends and its number of tokens.
    ends: Vec<(usize, usize)>,
}

impl<'a> Search<'a> {
    /// A search whose calls are not made for a node yet.
    pub fn new(models: Models<'a>, config: &'a SearchConfig, task: &'a Task, session: &'a Session<'a>) -> Self {
        Self { models, config, task, session, subject: Subject::Whole }
    }

    /// Returns the same search, whose calls are made for `subject`.
    pub fn on(&self, subject: Subject) -> Self {
        Self { subject, ..*self }
    }
}

impl Search<'_> {
    /// Whether a failed call is repeated. `paper` mode does so, like the reference, unless the request itself is at fault. The next attempt
    /// has its own seed, so a search stays a function of its seed.
    pub fn tries_again(&self, error: &EngineError) -> bool {
        self.config.mode == Mode::Paper
            && matches!(error, EngineError::Unavailable(_) | EngineError::Crashed(_) | EngineError::Upstream(_))
    }

    /// Starts `request.samples` sibling replies, or as many as the budgets allow but at least one, and waits for all of them. Returns at
    /// least one reply; a reply that fails is an error in its place.
    pub async fn call(
        &self,
        engine: &dyn Engine,
        request: Request,
    ) -> Result<Vec<Result<FinishedReply, EngineError>>, Halt> {
        self.call_until(engine, request, None).await
    }

    /// Calls like [`Search::call`], but cuts off replies that still run at `until`, once they have at least one token.
    pub async fn call_until(
        &self,
        engine: &dyn Engine,
        request: Request,
        until: Option<Instant>,
    ) -> Result<Vec<Result<FinishedReply, EngineError>>, Halt> {
        let purpose = request.purpose;
        let wanted = request.max_tokens.unwrap_or(engine.info().context);
        let permit = self.session.ledger.reserve(purpose, request.samples, wanted).await?;
        let origin = Origin { subject: self.subject, ..request.origin };
        let request = Request { samples: permit.calls, max_tokens: Some(permit.tokens), origin, ..request };
        let span = tracing::debug_span!("call", ?purpose, samples = request.samples);
        async {
            let replies = engine.start(request).await.map_err(Halt::Failed)?;
            if replies.is_empty() {
                return Err(Halt::Failed(EngineError::Crashed("the engine started no reply".into())));
            }
            let replies = replies.into_iter().take(permit.calls);
            Ok(join_all(replies.map(|reply| self.listen(reply, &permit, until))).await)
        }
        .instrument(span)
        .await
    }

    /// Reads verdicts as probabilities.
    pub async fn read(&self, request: LabelRequest) -> Result<LabelScores, Halt> {
        let questions = request.questions.len();
        let request = LabelRequest { origin: Origin { subject: self.subject, ..request.origin }, ..request };
        self.session.ledger.count_reading(questions)?;
        let span = tracing::debug_span!("read_labels", questions);
        let scores = self.models.refiner.read_labels(request).instrument(span).await.map_err(Halt::Failed)?;
        self.session.ledger.count_read_tokens(scores.prompt_tokens);
        Ok(scores)
    }

    async fn listen(
        &self,
        mut reply: Reply,
        permit: &Permit<'_>,
        until: Option<Instant>,
    ) -> Result<FinishedReply, EngineError> {
        permit.count_prompt(reply.prompt_tokens);
        let began = Instant::now();
        let mut spoken = FinishedReply {
            text: String::new(),
            tokens: 0,
            prompt_tokens: reply.prompt_tokens,
            cached_tokens: reply.cached_tokens,
            finish: FinishReason::Length,
            logprobs: Vec::new(),
            looped: false,
            reasoning: Reasoning::default(),
            ends: Vec::new(),
        };
        let mut watch = LoopWatch::default();
        loop {
            let next = match until.filter(|_| spoken.tokens > 0) {
                Some(until) => match timeout_at(until, reply.chunks.next()).await {
                    Ok(next) => next,
                    Err(_elapsed) => break,
                },
                None => reply.chunks.next().await,
            };
            let Some(chunk) = next else {
                return Err(EngineError::Crashed("the reply ended without a finish reason".into()));
            };
            let chunk = chunk?;
            if chunk.restarts {
                spoken.begin_again();
                watch = LoopWatch::default();
            }
            permit.spend(chunk.tokens);
            if let Some(PromptTokens { sent, cached }) = chunk.prompt {
                permit.count_prompt(sent.saturating_sub(spoken.prompt_tokens));
                (spoken.prompt_tokens, spoken.cached_tokens) = (sent, cached);
            }
            spoken.tokens += chunk.tokens;
            spoken.text.push_str(&chunk.text);
            spoken.reasoning.add(&chunk.reasoning);
            spoken.ends.push((spoken.text.len(), chunk.tokens));
            spoken.logprobs.extend(chunk.logprobs);
            if let Some(finish) = chunk.finish {
                spoken.finish = finish;
                break;
            }
            if spoken.tokens >= permit.tokens {
                break;
            }
            if self.config.mode == Mode::Eager && watch.sees_loop(&spoken.text) {
                spoken.looped = true;
                break;
            }
        }
        self.session.clock.generated(spoken.tokens, began.elapsed());
        Ok(spoken)
    }
}

impl FinishedReply {
    /// Drops what came before a reply began again. Its tokens stay spent.
    fn begin_again(&mut self) {
        self.text.clear();
        self.logprobs.clear();
        self.ends.clear();
        (self.tokens, self.reasoning) = (0, Reasoning::default());
    }

    /// The number of tokens that lie, even partly, in the bytes `start..end` of the text.
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

    /// The logprobs of the tokens in the bytes `start..end`. The bytes of all tokens add up to the text.
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
