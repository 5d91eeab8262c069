//! SPaR's judge-and-refine tree search (arXiv 2412.11605): draft, judge, refine what was judged wrong.
//!
//! The search is one loop: a strategy chooses a step from the tree, the step runs, and its result joins the tree. Everything is one future,
//! and dropping it cancels every call. The answer depends on the task's seed and on the model's replies, not on their timing: siblings are
//! judged in order, and the first accepted one wins even if a later one is ready before it. Only a token or time budget that runs out in
//! the middle depends on timing.
//!
//! The draft is judged in both modes, while the reference starts from a response that has already failed. A draft that passes is therefore
//! the answer in `paper` mode too. A draft whose votes stay tied is refined from its first negative critique and has no value.
//! `docs/paper-mode.md` lists the other differences between `paper` mode and the reference.

mod budget;
mod call;
mod candidates;
mod checklist;
mod clock;
mod config;
mod expand;
mod growth;
mod judge;
mod judgement;
mod loops;
mod outcome;
mod score;
mod session;
mod strategy;
mod task;
mod tree;
mod votes;

use tokio::time::timeout_at;

use crate::engine::{Completion, EngineError, Subject};

pub use budget::ByPurpose;
use budget::Spent;
use call::{Draw, Halt, Search};
use candidates::Place;
pub use config::{Judge, Judging, Mode, SearchConfig, Strategy};
use expand::Refined;
use growth::{Growth, Origin};
pub use judgement::Judgement;
pub use loops::ends_in_loop;
pub use outcome::{Outcome, Progress, StopReason};
pub use score::{critique_request, room_for_critique};
use session::Session;
use strategy::Step;
pub use task::{Models, Task};
pub use tree::{Node, NodeId, ROOT, Tree, Votes};

/// Drafts an answer to `task` and searches from it. Dropping the future cancels every call. The deadline counts from the call of this
/// function. A draft that would leave no time to judge it is cut off, and its text so far is the answer. A draft without any token is
/// waited for even beyond the deadline, since there is no answer without it; a caller who prefers no answer drops the future.
///
/// # Errors
/// Fails only if no draft could be made. Later failures end the search with [`StopReason::Error`].
pub async fn answer(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Outcome, EngineError> {
    let session = Session::start(config, observe);
    let search = Search::new(models, config, task, &session);
    let request = search.draft_request(task.sampling.clone(), 1);
    let root = search.on(Subject::Node(ROOT.0));
    let replies = root.call_until(models.actor, request, session.clock.draft_until()).await;
    let mut replies = replies.map_err(|halt| halt.without_room_for("a draft"))?;
    let draft = replies.swap_remove(0)?;
    Ok(run(search, draft.into(), None).await)
}

/// Searches from a given draft, which counts as one call.
pub async fn refine(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    draft: Completion,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Outcome {
    let session = Session::start(config, observe);
    session.ledger.count_draft(&draft);
    run(Search::new(models, config, task, &session), draft, None).await
}

/// Searches from a draft that was judged before, as the reference does. The trainer uses it.
pub async fn refine_judged(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    draft: Completion,
    judgement: Judgement,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Outcome {
    let session = Session::start(config, observe);
    session.ledger.count_draft(&draft);
    run(Search::new(models, config, task, &session), draft, Some(judgement)).await
}

/// Judges one response as a search with this configuration would judge its draft.
///
/// # Errors
/// Returns the engine's error, or [`EngineError::Invalid`] if the budgets leave no room for the votes.
pub async fn judge(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    response: &str,
) -> Result<Judgement, EngineError> {
    judge_counted(models, config, task, response).await.map(|(judgement, _)| judgement)
}

/// Judges like [`judge`], and also returns the tokens that the judgement took.
///
/// # Errors
/// Fails like [`judge`].
pub async fn judge_counted(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    response: &str,
) -> Result<(Judgement, ByPurpose), EngineError> {
    let session = Session::start(config, &|_| {});
    let search = Search::new(models, config, task, &session);
    let judged = search.judge(response, task.sampling.seed).await;
    let judgement = judged.map_err(|halt| halt.without_room_for("the votes"))?;
    Ok((judgement, session.ledger.used().tokens))
}

async fn run(search: Search<'_>, draft: Completion, judgement: Option<Judgement>) -> Outcome {
    let Search { models, config, task, session, .. } = search;
    let (draft_prompt_tokens, draft_cached_tokens) = (draft.prompt_tokens, draft.cached_tokens);
    let mut growth = Growth::default();
    growth.add(None, draft.into(), Judgement::default(), task.sampling.seed);
    (session.observe)(Progress::Drafted(&growth.tree[ROOT]));
    let grown = search.grow(&mut growth, judgement);
    let stop = match session.clock.deadline {
        Some(deadline) => timeout_at(deadline, grown).await.ok(),
        None => Some(grown.await),
    };
    let stop = match stop {
        Some(stop) => stop,
        None if growth.root_is_judged => StopReason::Deadline,
        None => {
            growth.tree[ROOT].votes = session.last_votes();
            StopReason::Unjudged
        }
    };
    let best = growth.tree.best(config);
    if stop == StopReason::Accepted {
        (session.observe)(Progress::Accepted(best, &growth.tree[best]));
    }
    (session.observe)(Progress::Stopped(stop));
    let used = session.ledger.used();
    let Origin { tokens: answer_tokens, finish, logprobs, reasoning, .. } = growth.origins.swap_remove(best.0);
    Outcome {
        accepted: growth.tree[best].accepted,
        tree: growth.tree,
        best,
        stop,
        calls: used.calls,
        tokens: used.tokens,
        prompt_tokens: used.prompt_tokens,
        answer_tokens,
        draft_prompt_tokens,
        draft_cached_tokens,
        judging: search.judging(),
        checklist: session.checklist.get().cloned().unwrap_or_default(),
        votes_saved: growth.votes_saved,
        finish,
        logprobs,
        reasoning,
        templates: models.templates.text.version.clone(),
        elapsed: session.clock.started.elapsed(),
    }
}

impl Search<'_> {
    async fn grow(&self, growth: &mut Growth, judgement: Option<Judgement>) -> StopReason {
        let seed = growth.origins[0].seed;
        let judged = match judgement {
            Some(judgement) => Ok(judgement),
            None => self.on(Subject::Node(ROOT.0)).judge(&growth.tree[ROOT].response, seed).await,
        };
        match judged {
            Ok(judgement) => growth.judge_root(judgement),
            Err(Halt::Spent(spent)) => return spent.into(),
            Err(Halt::Failed(error)) => {
                growth.fail(error);
                return StopReason::Error;
            }
        }
        (self.session.observe)(Progress::RootJudged(&growth.tree[ROOT]));
        if self.config.mode == Mode::Eager && self.session.is_unreadable() && !growth.tree[ROOT].accepted {
            return StopReason::JudgeUnreadable;
        }
        if growth.tree[ROOT].value.is_none() && self.config.judge != Judge::Rules && self.is_outside() {
            return StopReason::OutsideDomain;
        }
        loop {
            let step = strategy::next(&growth.tree, self.config);
            if self.ends_too_late(growth, &step) {
                return StopReason::Deadline;
            }
            let done = match step {
                Step::Accept => return StopReason::Accepted,
                Step::Spent => return StopReason::Budget,
                Step::Exhausted if growth.failed => return StopReason::Error,
                Step::Exhausted => return StopReason::Exhausted,
                Step::Settle(nodes) => self.settle(growth, &nodes).await,
                Step::Expand { parent, children } => self.expand(growth, parent, children).await,
                Step::Draft(drafts) => self.draft_again(growth, drafts).await,
            };
            if let Err(spent) = done {
                return spent.into();
            }
        }
    }

    /// Whether a reply as long as the one before it, and its judgement, would end after the deadline. `paper` mode does not check this and
    /// runs into its deadline.
    fn ends_too_late(&self, growth: &Growth, step: &Step) -> bool {
        let tokens = match step {
            Step::Expand { parent, .. } => growth.origins[parent.0].tokens,
            Step::Draft(_) => growth.origins[0].tokens,
            _ => return false,
        };
        self.config.mode == Mode::Eager && self.session.clock.is_too_late_for(tokens)
    }

    /// Refines `parent` into `children` candidates with one prompt.
    async fn expand(&self, growth: &mut Growth, parent: NodeId, children: usize) -> Result<(), Spent> {
        let (seed, tried) = (growth.origins[parent.0].seed, growth.tree[parent].tried);
        growth.tree[parent].tried += children;
        let search = self.on(Subject::Node(parent.0));
        if self.needs_critique(&growth.tree[parent]) {
            match search.write_critique(&growth.tree[parent].response, Draw::Critique.seed(seed, 0)).await {
                Ok(critique) => {
                    let critique = critique.unwrap_or_default();
                    growth.tree[parent].critique = self.models.templates.with_verdict(&critique, false);
                }
                Err(Halt::Spent(spent)) => return Err(spent),
                Err(Halt::Failed(error)) => {
                    growth.fail(error);
                    return Ok(());
                }
            }
        }
        let place = Place { parent: Some(parent), seed, tried };
        let Origin { tokens, finish, .. } = growth.origins[parent.0];
        let refined = Refined { node: &growth.tree[parent], tokens, finish };
        let made = search.refinements(refined, children, Draw::Refinement.seed(seed, tried)).await;
        self.add_candidates(growth, made, place).await
    }

    /// Makes further drafts and adds them to the tree.
    async fn draft_again(&self, growth: &mut Growth, drafts: usize) -> Result<(), Spent> {
        let (seed, tried) = (growth.origins[0].seed, growth.tree.redrafted);
        let made = self.drafts(drafts, Draw::Draft.seed(seed, tried)).await;
        growth.tree.redrafted += made.as_ref().map_or(drafts, |made| made.len().max(1));
        self.add_candidates(growth, made, Place { parent: None, seed, tried }).await
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod scored;
#[cfg(test)]
mod tests;
