//! SPaR's judge-and-refine tree search (arXiv 2412.11605): draft, judge by voting, refine what was judged wrong.
//!
//! One loop: a strategy chooses a step from the tree, the step is done, its result joins the tree. Everything is one
//! future: dropping it cancels every call. The answer depends on the task's seed and on what the models say, not on the
//! order in which they say it: siblings are judged in their order, and the first accepted one wins even if a later one
//! is ready before it. Only a token or time budget that runs out in the middle depends on timing.
//!
//! The draft is judged in both modes. The reference starts from a response that has already failed; a draft that passes
//! is therefore the answer in `paper` mode too, and one whose votes stay tied is refined from its first negative
//! critique and has no value.

mod budget;
mod call;
mod config;
mod expand;
mod growth;
mod judge;
mod outcome;
mod strategy;
mod tree;

use std::collections::HashSet;

use futures::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::chat::{Message, TemplateOptions};
use crate::engine::{Completion, Constraint, Engine, EngineError, Sampling};
use crate::prompts::Templates;
use crate::verify::Check;

pub use budget::ByPurpose;
use budget::{Ledger, Spent};
use call::{Draw, Halt, Search};
pub use config::{Judge, Mode, SearchConfig, Strategy};
use growth::{Growth, Origin};
pub use judge::Judgement;
pub use outcome::{Outcome, Progress, StopReason};
use strategy::Step;
pub use tree::{Detail, Node, NodeId, ROOT, TraceNode, Tree, Votes};

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Task {
    /// The conversation, ending in a user turn.
    pub messages: Vec<Message>,
    /// What the chat template of a draft is given beside it.
    pub template: TemplateOptions,
    /// How the draft is drawn; its seed fixes the whole search.
    pub sampling: Sampling,
    /// Tokens of one draft at most.
    pub max_tokens: Option<usize>,
    /// Where a draft ends.
    pub stop: Vec<String>,
    /// Alternatives per token of the draft.
    pub logprobs: Option<usize>,
    /// What a draft and a refined response must match.
    pub constraint: Option<Constraint>,
    /// Rules that a response must follow.
    pub checks: Vec<Check>,
}

impl Task {
    /// An answer to `messages` from the model's plain distribution, without limits or rules.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self {
            messages,
            template: TemplateOptions::default(),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            constraint: None,
            checks: Vec::new(),
        }
    }
}

/// The models of one search, pinned from its start to its end.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// Drafts.
    pub actor: &'a dyn Engine,
    /// Judges and refines.
    pub refiner: &'a dyn Engine,
    /// The refiner's templates.
    pub templates: &'a Templates,
}

/// Drafts an answer to `task` and searches from it. Dropping the future cancels every call. The deadline counts from
/// here, but does not cut the draft itself: without it there is no answer. A caller who would rather have none drops
/// the future.
///
/// # Errors
/// Only when no draft could be made; later failures end the search with [`StopReason::Error`].
pub async fn answer(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Outcome, EngineError> {
    let started = Instant::now();
    let ledger = Ledger::new(config);
    let search = Search { models, config, task, ledger: &ledger };
    let request = search.draft_request(task.sampling.clone(), 1);
    let mut replies = search.call(models.actor, request).await.map_err(|halt| halt.without_room_for("a draft"))?;
    let draft = replies.swap_remove(0)?;
    Ok(run(search, started, draft.into(), None, observe).await)
}

/// Searches from a given draft, which counts as one call.
pub async fn refine(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    draft: Completion,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Outcome {
    let ledger = Ledger::new(config);
    ledger.enter(&draft);
    run(Search { models, config, task, ledger: &ledger }, Instant::now(), draft, None, observe).await
}

/// Searches from a draft that was judged before: the trainer's entrance. The reference's search starts like this.
pub async fn refine_judged(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    draft: Completion,
    judgement: Judgement,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Outcome {
    let ledger = Ledger::new(config);
    ledger.enter(&draft);
    run(Search { models, config, task, ledger: &ledger }, Instant::now(), draft, Some(judgement), observe).await
}

/// Judges one response as a search with this configuration would judge its draft.
///
/// # Errors
/// The engine's error, or [`EngineError::Invalid`] where the budgets leave no room for the votes.
pub async fn judge(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    response: &str,
) -> Result<Judgement, EngineError> {
    let ledger = Ledger::new(config);
    let search = Search { models, config, task, ledger: &ledger };
    search.judge(response, task.sampling.seed).await.map_err(|halt| halt.without_room_for("the votes"))
}

/// `None` once the deadline has passed; what ran until then is cancelled.
async fn within<T>(started: Instant, config: &SearchConfig, step: impl Future<Output = T>) -> Option<T> {
    match config.deadline.and_then(|deadline| started.checked_add(deadline)) {
        Some(at) => timeout_at(at, step).await.ok(),
        None => Some(step.await),
    }
}

async fn run(
    search: Search<'_>,
    started: Instant,
    draft: Completion,
    judgement: Option<Judgement>,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Outcome {
    let Search { models, config, task, ledger } = search;
    let (draft_prompt_tokens, draft_cached_tokens) = (draft.prompt_tokens, draft.cached_tokens);
    let mut growth = Growth::default();
    growth.add(None, draft.into(), Judgement::default(), task.sampling.seed);
    let stop = within(started, config, search.grow(&mut growth, judgement, observe)).await;
    let stop = stop.unwrap_or(StopReason::Deadline);
    let best = growth.tree.best(config.mode);
    if stop == StopReason::Accepted {
        observe(Progress::Accepted(best, &growth.tree[best]));
    }
    observe(Progress::Stopped(stop));
    let used = ledger.used();
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
        votes_saved: growth.votes_saved,
        finish,
        logprobs,
        reasoning,
        templates: models.templates.text.version.clone(),
        elapsed: started.elapsed(),
    }
}

impl Search<'_> {
    async fn grow(
        &self,
        growth: &mut Growth,
        judgement: Option<Judgement>,
        observe: &(dyn Fn(Progress<'_>) + Sync),
    ) -> StopReason {
        let seed = growth.origins[0].seed;
        let judged = match judgement {
            Some(judgement) => Ok(judgement),
            None => self.judge(&growth.tree[ROOT].response, seed).await,
        };
        match judged {
            Ok(judgement) => growth.judge_root(judgement),
            Err(Halt::Spent(spent)) => return spent.into(),
            Err(Halt::Failed(error)) => {
                growth.fail(error);
                return StopReason::Error;
            }
        }
        observe(Progress::RootJudged(&growth.tree[ROOT]));
        loop {
            let done = match strategy::next(&growth.tree, self.config) {
                Step::Accept => return StopReason::Accepted,
                Step::Spent => return StopReason::Budget,
                Step::Exhausted if growth.failed => return StopReason::Error,
                Step::Exhausted => return StopReason::Exhausted,
                Step::Settle(nodes) => self.settle(growth, &nodes).await,
                Step::Expand { parent, children } => self.expand(growth, parent, children, observe).await,
            };
            if let Err(spent) = done {
                return spent.into();
            }
        }
    }

    /// Makes `children` candidates from one prompt and judges them side by side; they join the tree in their order.
    async fn expand(
        &self,
        growth: &mut Growth,
        parent: NodeId,
        children: usize,
        observe: &(dyn Fn(Progress<'_>) + Sync),
    ) -> Result<(), Spent> {
        let drafts = self.config.strategy == Strategy::BestOfN;
        let (seed, tried) = (growth.origins[parent.0].seed, growth.tree[parent].tried);
        let made = if drafts {
            self.drafts(children, Draw::Draft.seed(seed, tried)).await
        } else {
            self.refinements(&growth.tree[parent], children, Draw::Refinement.seed(seed, tried)).await
        };
        let made = growth.usable(made)?;
        growth.tree[parent].tried += if drafts { made.len() } else { children };

        let mut seen = HashSet::new();
        let candidates: Vec<_> = made
            .into_iter()
            .enumerate()
            .filter_map(|(slot, candidate)| {
                let candidate = candidate?;
                let fresh = !growth.judged.contains_key(&candidate.response) && seen.insert(candidate.response.clone());
                Some((candidate, Draw::Child.seed(seed, tried + slot), fresh))
            })
            .collect();
        let side_by_side = (self.config.parallel / judge::first_votes(self.config)).max(1);
        let mut rulings = stream::iter(candidates)
            .map(async |(candidate, seed, fresh)| {
                let ruling = if fresh { Some(self.judge(&candidate.response, seed).await) } else { None };
                (candidate, seed, ruling)
            })
            .buffered(side_by_side);
        while let Some((candidate, seed, ruling)) = rulings.next().await {
            let judgement = match ruling {
                Some(Ok(judgement)) => growth.remember(&candidate.response, judgement),
                Some(Err(Halt::Spent(spent))) => return Err(spent),
                Some(Err(Halt::Failed(error))) => {
                    growth.fail(error);
                    continue;
                }
                None => growth.judged.get(&candidate.response).cloned(),
            };
            // Undecidable children, and copies of ones whose judge failed, are discarded.
            let Some(judgement) = judgement.filter(|judgement| judgement.value.is_some()) else { continue };
            let id = growth.add((!drafts).then_some(parent), candidate, judgement, seed);
            observe(Progress::NodeAdded(id, &growth.tree[id]));
            if self.config.mode == Mode::Eager && growth.tree[id].accepted {
                break;
            }
        }
        Ok(())
    }

    /// Asks for the votes that were saved on `nodes`.
    async fn settle(&self, growth: &mut Growth, nodes: &[NodeId]) -> Result<(), Spent> {
        let mut texts = HashSet::new();
        let first: Vec<_> = nodes.iter().copied().filter(|id| texts.insert(&growth.tree[*id].response)).collect();
        let votes: Vec<_> = stream::iter(first)
            .map(async |id| (id, self.settle_node(&growth.tree[id], growth.origins[id.0].seed).await))
            .buffered(self.config.parallel.max(1))
            .collect()
            .await;
        for (id, votes) in votes {
            match votes {
                Ok(votes) => growth.settle(id, Some(votes)),
                Err(Halt::Spent(spent)) => return Err(spent),
                Err(Halt::Failed(error)) => {
                    growth.fail(error);
                    growth.settle(id, None);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
