//! The answer to a job as a stream of parts: plain replies as they come, or a search and then its best response.
//!
//! The work is a future inside the stream: dropping the stream drops the work, and with it every model call.

pub mod account;
pub mod echo;
pub mod hold;
pub mod kept;
pub mod on_behalf;
pub mod part;
pub mod said;
pub mod search_header;
pub mod sse;
pub mod traffic;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::channel::mpsc::{self, UnboundedSender};
use futures::stream::{FuturesUnordered, SelectAll};
use futures::{FutureExt, Stream, StreamExt, future, stream};
use tokio::time::{Instant, interval_at, timeout_at};

use self::account::Account;
use self::echo::{Echo, PromptTokens};
use self::hold::{Clock, Hold};
use self::kept::KeptSearches;
use self::on_behalf::Behalf;
use self::part::Part;
use self::traffic::Traffic;
use crate::engine::{Engine, EngineError, FinishReason, Request, derive_seed};
use crate::http::error::ApiError;
use crate::http::job::plan::{Events, SearchPlan};
use crate::http::served;
use crate::openai::{About, ProgressFields, SearchEvent, SearchReport, Trace, TreeNode, Usage};
use crate::search::{self, Outcome, Progress, ROOT, SearchConfig, Task};
use crate::telemetry::metrics::{self, Answering};
use crate::telemetry::traces::SearchAbout;

/// What `n` searches need.
pub struct SearchWork {
    /// The search that is asked for.
    pub plan: SearchPlan,
    /// What is searched for.
    pub task: Task,
    /// How many independent searches.
    pub choices: usize,
    /// Time between two signs of life.
    pub heartbeat: Duration,
    /// Where finished searches go.
    pub kept: KeptSearches,
    /// Where accepted ones are kept as training data, if anywhere.
    pub traffic: Option<Arc<Traffic>>,
}

/// Replies to `requests`, as they come, after their prompts where these are echoed. Choices count through the requests in order.
pub fn plain(
    hold: Hold,
    requests: Vec<Request>,
    echo: Option<Echo>,
) -> impl Stream<Item = Result<Part, ApiError>> + Send + 'static {
    driven(Answering::Plain, hold, move |hold, outbox| async move {
        match echo {
            Some(echo @ Echo::Alone(_)) => hold.clock.bound(prompts(&hold, &requests, echo, &outbox)).await,
            echo => hold.clock.bound(replies(&hold, requests, echo, &outbox)).await,
        }
    })
}

/// Searches, then shows the best responses.
pub fn searched(hold: Hold, work: SearchWork) -> impl Stream<Item = Result<Part, ApiError>> + Send + 'static {
    driven(Answering::Search, hold, move |hold, outbox| async move { searches(&hold, &work, &outbox).await })
}

type Outbox = UnboundedSender<Result<Part, ApiError>>;

/// Runs `work` whenever its stream is polled, and yields what it sends, an error last.
fn driven<W>(
    mode: Answering,
    hold: Hold,
    work: impl FnOnce(Hold, Outbox) -> W + Send + 'static,
) -> impl Stream<Item = Result<Part, ApiError>> + Send + 'static
where
    W: Future<Output = Result<(), ApiError>> + Send + 'static,
{
    let (outbox, inbox) = mpsc::unbounded();
    let abort = hold.abort.clone();
    let mut account = Account::open(mode, &hold);
    let running = work(hold, outbox.clone());
    let running = async move {
        let ended = tokio::select! {
            ended = running => ended,
            () = abort.cancelled() => Err(ApiError::ShuttingDown),
        };
        if let Err(error) = ended {
            send(&outbox, Err(error));
        }
    };
    let parts = stream::select(inbox, running.into_stream().filter_map(|()| future::ready(None)));
    parts.inspect(move |part| account.sees(part))
}

fn send(outbox: &Outbox, part: Result<Part, ApiError>) {
    // The inbox lives in the same stream as the sender's future: if it was dropped, this does not run.
    drop(outbox.unbounded_send(part));
}

async fn prompts(hold: &Hold, requests: &[Request], echo: Echo, outbox: &Outbox) -> Result<(), ApiError> {
    let scored = echo.tokens(&hold.behalf.pair(&hold.pinned).actor, requests).await?;
    let usage = Usage { prompt_tokens: scored.iter().map(|tokens| tokens.len()).sum(), ..Usage::default() };
    show_prompts(requests, scored, outbox);
    for choice in 0..requests.iter().map(|request| request.samples).sum() {
        send(outbox, Ok(Part::Finished { choice, reason: FinishReason::Length }));
    }
    done(hold, usage, outbox);
    Ok(())
}

fn show_prompts(requests: &[Request], scored: Vec<PromptTokens>, outbox: &Outbox) {
    let by_choice = requests.iter().zip(scored).flat_map(|(request, tokens)| vec![tokens; request.samples]);
    for (choice, tokens) in by_choice.enumerate() {
        send(outbox, Ok(Part::Echo { choice, tokens }));
    }
}

fn done(hold: &Hold, mut usage: Usage, outbox: &Outbox) {
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    metrics::answered(Answering::Plain, hold.clock.received.elapsed());
    send(outbox, Ok(Part::Done { usage, searches: Vec::new() }));
}

async fn replies(hold: &Hold, requests: Vec<Request>, echo: Option<Echo>, outbox: &Outbox) -> Result<(), ApiError> {
    let actor = hold.behalf.pair(&hold.pinned).actor;
    let choices: usize = requests.iter().map(|request| request.samples).sum();
    // First, so that the replies find their prompts computed.
    let scored = match echo {
        Some(echo) => Some(echo.tokens(&actor, &requests).await?),
        None => None,
    };
    let groups = future::try_join_all(requests.iter().map(|request| actor.start(request.clone()))).await?;
    if let Some(scored) = scored {
        show_prompts(&requests, scored, outbox);
    }
    let mut usage = Usage::default();
    let mut running = SelectAll::new();
    for group in groups {
        // Siblings share their prompt: it counts once.
        if let Some(reply) = group.first() {
            usage.prompt_tokens += reply.prompt_tokens;
            usage.prompt_tokens_details.cached_tokens += reply.cached_tokens;
        }
        for (sibling, reply) in group.into_iter().enumerate() {
            let choice = running.len();
            running.push(reply.chunks.map(move |chunk| (choice, sibling, chunk)));
        }
    }
    let mut pace = Pace::new(hold.clock);
    let mut unfinished = choices;
    while unfinished > 0 {
        let Some((choice, sibling, chunk)) = running.next().await else {
            return Err(EngineError::Crashed("a reply ended without a finish reason".into()).into());
        };
        let chunk = chunk?;
        if let Some(prompt) = chunk.prompt.filter(|_| sibling == 0) {
            usage.prompt_tokens += prompt.sent;
            usage.prompt_tokens_details.cached_tokens += prompt.cached;
        }
        usage.completion_tokens += chunk.tokens;
        pace.tokens(choice, chunk.tokens);
        usage.completion_tokens_details.reasoning_tokens += chunk.reasoning.tokens;
        let reasoning = chunk.reasoning.text;
        if !chunk.text.is_empty() || !reasoning.is_empty() || !chunk.logprobs.is_empty() {
            send(outbox, Ok(Part::Delta { choice, text: chunk.text, reasoning, logprobs: chunk.logprobs }));
        }
        if let Some(reason) = chunk.finish {
            unfinished -= 1;
            send(outbox, Ok(Part::Finished { choice, reason }));
        }
    }
    done(hold, usage, outbox);
    Ok(())
}

/// Time to the first token, and between tokens.
struct Pace {
    clock: Clock,
    last: HashMap<usize, Instant>,
}

impl Pace {
    fn new(clock: Clock) -> Self {
        Self { clock, last: HashMap::new() }
    }

    fn tokens(&mut self, choice: usize, count: usize) {
        let Ok(count @ 1..) = u32::try_from(count) else { return };
        let now = Instant::now();
        if self.last.is_empty() {
            metrics::first_token(Answering::Plain, now - self.clock.received);
        }
        if let Some(last) = self.last.insert(choice, now) {
            metrics::next_token(Answering::Plain, (now - last) / count);
        }
    }
}

async fn searches(hold: &Hold, work: &SearchWork, outbox: &Outbox) -> Result<(), ApiError> {
    let mut running: FuturesUnordered<_> =
        (0..work.choices).map(|choice| one_search(hold, work, choice, outbox)).collect();
    let mut beat = interval_at(Instant::now() + work.heartbeat, work.heartbeat);
    let mut usage = Usage::default();
    let mut reports: Vec<Option<SearchReport>> = vec![None; work.choices];
    loop {
        let (choice, outcome, report) = tokio::select! {
            ended = running.next() => match ended {
                Some(ended) => ended?,
                None => break,
            },
            _ = beat.tick() => {
                send(outbox, Ok(Part::Alive));
                continue;
            }
        };
        if usage.completion_tokens == 0 {
            metrics::first_token(Answering::Search, hold.clock.received.elapsed());
        }
        // The choices share their prompt: it counts once.
        usage.prompt_tokens = outcome.draft_prompt_tokens;
        if choice == 0 {
            usage.prompt_tokens_details.cached_tokens = outcome.draft_cached_tokens;
        }
        usage.completion_tokens += outcome.tokens.generated();
        usage.completion_tokens_details.reasoning_tokens +=
            outcome.tokens.generated().saturating_sub(outcome.answer_tokens);
        show_best(choice, outcome, outbox);
        reports[choice] = Some(report);
    }
    usage.total_tokens = usage.prompt_tokens + usage.completion_tokens;
    metrics::answered(Answering::Search, hold.clock.received.elapsed());
    send(outbox, Ok(Part::Done { usage, searches: reports.into_iter().flatten().collect() }));
    Ok(())
}

/// Grace beyond a search's deadline for a first draft that is still running; otherwise the best answer so far is returned.
const DRAFT_GRACE: Duration = Duration::from_millis(250);

async fn one_search(
    hold: &Hold,
    work: &SearchWork,
    choice: usize,
    outbox: &Outbox,
) -> Result<(usize, Outcome, SearchReport), ApiError> {
    let left = hold.clock.deadline.saturating_duration_since(Instant::now());
    let deadline = work.plan.config.deadline.map_or(left, |asked| asked.min(left));
    let config = SearchConfig { deadline: Some(deadline), ..work.plan.config.clone() };
    let mut task = work.task.clone();
    if choice > 0 {
        task.sampling.seed = derive_seed(task.sampling.seed, choice as u64);
    }
    let id = format!("srch_{}", uuid::Uuid::new_v4().simple());
    let spans = hold.behalf.spans.search(SearchAbout { id: &id, config: &config });
    let behalf = Behalf { spans, ..hold.behalf.clone() };
    let observe = |progress: Progress<'_>| {
        if let Some(spans) = behalf.spans.of_search() {
            spans.sees(&progress);
        }
        if let Progress::Voted(verdict, _) = progress {
            metrics::vote_cast(verdict);
        }
        if work.plan.events == Events::Progress {
            send(outbox, Ok(Part::Progress(progress_fields(choice, progress, &work.plan))));
        }
    };
    let limit = Instant::now() + deadline + DRAFT_GRACE;
    let pair = behalf.pair(&hold.pinned);
    let outcome = timeout_at(limit, search::answer(pair.models(), &config, &task, &observe))
        .await
        .map_err(|_elapsed| ApiError::Deadline)??;
    metrics::search_ended(config.strategy, &outcome);
    if let Some(spans) = behalf.spans.of_search() {
        spans.found(&outcome);
    }
    if let Some(traffic) = &work.traffic {
        traffic.keep(&task, &outcome);
    }
    let report = |trace| {
        let about = About {
            id: id.clone(),
            strategy: config.strategy,
            mode: config.mode,
            checks: &work.plan.checks,
            generation: served::ids(&hold.pinned),
        };
        SearchReport::new(about, &outcome, trace)
    };
    work.kept.keep(|| report(Trace::Full));
    let report = report(work.plan.trace);
    metrics::checks_held(&report.checks);
    Ok((choice, outcome, report))
}

fn show_best(choice: usize, mut outcome: Outcome, outbox: &Outbox) {
    let best = outcome.tree.nodes.get_mut(outcome.best.0).map(|node| std::mem::take(&mut node.response));
    let text = best.unwrap_or_default();
    let (reasoning, logprobs) = (outcome.reasoning, outcome.logprobs);
    if !reasoning.is_empty() {
        send(outbox, Ok(Part::Delta { choice, text: String::new(), reasoning, logprobs: Vec::new() }));
    }
    if logprobs.is_empty() {
        for piece in text.split_inclusive(char::is_whitespace) {
            let (text, reasoning) = (piece.to_owned(), String::new());
            send(outbox, Ok(Part::Delta { choice, text, reasoning, logprobs: Vec::new() }));
        }
    } else {
        send(outbox, Ok(Part::Delta { choice, text, reasoning: String::new(), logprobs }));
    }
    send(outbox, Ok(Part::Finished { choice, reason: outcome.finish }));
}

fn progress_fields(choice: usize, progress: Progress<'_>, plan: &SearchPlan) -> ProgressFields {
    let event = |search_event| ProgressFields {
        search_event,
        search_choice: choice,
        search_node: None,
        search_votes: None,
        search_stop_reason: None,
    };
    let at = |search_event, id, node| {
        let shown = if plan.trace == Trace::Full { TreeNode::full(id, node) } else { TreeNode::summary(id, node) };
        ProgressFields { search_node: Some(shown.marked(&plan.checks, plan.config.mode)), ..event(search_event) }
    };
    match progress {
        Progress::Drafted(node) => {
            let shown = TreeNode { text: Some(node.response.clone()), ..TreeNode::summary(ROOT, node) };
            ProgressFields { search_node: Some(shown), ..event(SearchEvent::Drafted) }
        }
        Progress::Voted(_, votes) => ProgressFields { search_votes: Some(votes.into()), ..event(SearchEvent::Judging) },
        Progress::RootJudged(node) => at(SearchEvent::RootJudged, ROOT, node),
        Progress::NodeAdded(id, node) => at(SearchEvent::NodeAdded, id, node),
        Progress::Accepted(id, node) => at(SearchEvent::Accepted, id, node),
        Progress::Stopped(reason) => ProgressFields { search_stop_reason: Some(reason), ..event(SearchEvent::Stopped) },
    }
}
