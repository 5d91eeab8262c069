//! SPaR's judge-and-refine tree search (arXiv 2412.11605): draft, judge, refine what was judged wrong.
//!
//! One loop: a strategy chooses a step from the tree, the step is done, its result joins the tree. Everything is one
//! future: dropping it cancels every call. The answer depends on the task's seed and on what the models say, not on the
//! order in which they say it: siblings are judged in their order, and the first accepted one wins even if a later one
//! is ready before it. Only a token or time budget that runs out in the middle depends on timing.
//!
//! The draft is judged in both modes. The reference starts from a response that has already failed; a draft that passes
//! is therefore the answer in `paper` mode too, and one whose votes stay tied is refined from its first negative
//! critique and has no value. `docs/paper-mode.md` lists what else `paper` mode does otherwise than the reference.

mod budget;
mod call;
mod checklist;
mod clock;
mod config;
mod expand;
mod growth;
mod judge;
mod loops;
mod outcome;
mod score;
mod session;
mod strategy;
mod tree;
mod votes;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use futures::{StreamExt, stream};
use tokio::time::timeout_at;

use crate::chat::{Message, TemplateOptions};
use crate::engine::tools::Offer;
use crate::engine::{Completion, Constraint, Engine, EngineError, Namespace, Sampling};
use crate::prompts::Templates;
use crate::verify::Check;

pub use budget::ByPurpose;
use budget::Spent;
use call::{Draw, Halt, Search};
pub use config::{Judge, Judging, Mode, SearchConfig, Strategy};
use expand::{Candidates, Refined};
use growth::{Growth, Origin};
pub use judge::Judgement;
pub use outcome::{Outcome, Progress, StopReason};
pub use score::{critique_request, room_for_critique};
use session::Session;
use strategy::Step;
pub use tree::{Node, NodeId, ROOT, Tree, Votes};

/// What is searched for.
#[derive(Clone, Debug)]
pub struct Task {
    /// The conversation, ending in a user turn.
    pub messages: Vec<Message>,
    /// Variables of a draft's chat template.
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
    /// Rules that a response must follow, found in the conversation or named.
    pub checks: Vec<Check>,
    /// Functions that a response may call.
    pub offer: Option<Arc<Offer>>,
    /// The namespace of the grammars that check what an engine does not follow itself.
    pub namespace: Namespace,
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
            offer: None,
            namespace: Namespace::SHARED,
        }
    }
}

/// The models of one search, pinned from its start to its end.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// The engine that drafts.
    pub actor: &'a dyn Engine,
    /// Judges and refines.
    pub refiner: &'a dyn Engine,
    /// The refiner's templates.
    pub templates: &'a Templates,
}

/// Drafts an answer to `task` and searches from it. Dropping the future cancels every call. The deadline counts from
/// here. A draft that would leave no time to judge it is cut off and is the answer as far as it got; only one that has
/// not begun is waited for, since without it there is no answer. A caller who would rather have none drops the future.
///
/// # Errors
/// Only when no draft could be made; later failures end the search with [`StopReason::Error`].
pub async fn answer(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    observe: &(dyn Fn(Progress<'_>) + Sync),
) -> Result<Outcome, EngineError> {
    let session = Session::start(config, observe);
    let search = Search { models, config, task, session: &session };
    let request = search.draft_request(task.sampling.clone(), 1);
    let replies = search.call_until(models.actor, request, session.clock.draft_until()).await;
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
    session.ledger.enter(&draft);
    run(Search { models, config, task, session: &session }, draft, None).await
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
    let session = Session::start(config, observe);
    session.ledger.enter(&draft);
    run(Search { models, config, task, session: &session }, draft, Some(judgement)).await
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
    judge_counted(models, config, task, response).await.map(|(judgement, _)| judgement)
}

/// Judges like [`judge`], and also returns the tokens that the judgement took.
///
/// # Errors
/// As [`judge`].
pub async fn judge_counted(
    models: Models<'_>,
    config: &SearchConfig,
    task: &Task,
    response: &str,
) -> Result<(Judgement, ByPurpose), EngineError> {
    let session = Session::start(config, &|_| {});
    let search = Search { models, config, task, session: &session };
    let judged = search.judge(response, task.sampling.seed).await;
    let judgement = judged.map_err(|halt| halt.without_room_for("the votes"))?;
    Ok((judgement, session.ledger.used().tokens))
}

async fn run(search: Search<'_>, draft: Completion, judgement: Option<Judgement>) -> Outcome {
    let Search { models, config, task, session } = search;
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
        (self.session.observe)(Progress::RootJudged(&growth.tree[ROOT]));
        if self.config.mode == Mode::Eager && self.session.is_unreadable() && !growth.tree[ROOT].accepted {
            return StopReason::JudgeUnreadable;
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
                Step::Draft(drafts) => self.draft_anew(growth, drafts).await,
            };
            if let Err(spent) = done {
                return spent.into();
            }
        }
    }

    /// Whether a reply as long as the one before it, and its judgement, cannot end before the deadline. `paper` mode runs
    /// into its deadline.
    fn ends_too_late(&self, growth: &Growth, step: &Step) -> bool {
        let tokens = match step {
            Step::Expand { parent, .. } => growth.origins[parent.0].tokens,
            Step::Draft(_) => growth.origins[0].tokens,
            _ => return false,
        };
        self.config.mode == Mode::Eager && self.session.clock.is_too_late_for(tokens)
    }

    /// Refines `parent` into `children` candidates from one prompt.
    async fn expand(&self, growth: &mut Growth, parent: NodeId, children: usize) -> Result<(), Spent> {
        let (seed, tried) = (growth.origins[parent.0].seed, growth.tree[parent].tried);
        growth.tree[parent].tried += children;
        if self.needs_critique(&growth.tree[parent]) {
            match self.one_critique(&growth.tree[parent].response, Draw::Critique.seed(seed, 0)).await {
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
        let of = Place { parent: Some(parent), seed, tried };
        let Origin { tokens, finish, .. } = growth.origins[parent.0];
        let refined = Refined { node: &growth.tree[parent], tokens, finish };
        let made = self.refinements(refined, children, Draw::Refinement.seed(seed, tried)).await;
        self.add_candidates(growth, made, of).await
    }

    /// Makes further drafts.
    async fn draft_anew(&self, growth: &mut Growth, drafts: usize) -> Result<(), Spent> {
        let (seed, tried) = (growth.origins[0].seed, growth.tree.redrafted);
        let made = self.drafts(drafts, Draw::Draft.seed(seed, tried)).await;
        growth.tree.redrafted += made.as_ref().map_or(drafts, |made| made.len().max(1));
        self.add_candidates(growth, made, Place { parent: None, seed, tried }).await
    }

    /// Judges candidates side by side; they join the tree in their order.
    async fn add_candidates(
        &self,
        growth: &mut Growth,
        made: Result<Candidates, Halt>,
        of: Place,
    ) -> Result<(), Spent> {
        let Place { parent, seed, tried } = of;
        let made = growth.usable(made)?;
        // Identical texts are judged once. In `paper` mode, as in the reference, one that stayed undecided is judged anew.
        let paper = self.config.mode == Mode::Paper;
        let mut seeds = HashMap::<String, Vec<u64>>::new();
        let mut candidates = Vec::new();
        for (slot, candidate) in made.into_iter().enumerate() {
            let Some(candidate) = candidate else { continue };
            // A refinement that only repeats its parent is no step, and neither is a further draft that repeats an earlier
            // answer, unless drafts are all that is asked for.
            let repeats = match parent {
                Some(parent) => growth.tree[parent].response.trim() == candidate.response.trim(),
                None => self.config.strategy == Strategy::Auto && growth.judged.contains_key(&candidate.response),
            };
            if !paper && repeats {
                continue;
            }
            let seed = Draw::Child.seed(seed, tried + slot);
            let copies = seeds.entry(candidate.response.clone()).or_default();
            if paper || copies.is_empty() {
                copies.push(seed);
            }
            candidates.push((candidate, seed));
        }
        let known = |text: &str| growth.judged.get(text).is_some_and(|known| known.value.is_some() || !paper);
        seeds.retain(|text, _| !known(text));
        let side_by_side = (self.config.parallel / self.judged_side_by_side()).max(1);
        let mut rulings = stream::iter(candidates)
            .map(|(candidate, seed)| {
                let seeds = seeds.remove(&candidate.response).unwrap_or_default();
                async move {
                    let rulings = self.judge_copies(&candidate.response, seeds).await;
                    (candidate, seed, rulings)
                }
            })
            .buffered(side_by_side);
        let mut waiting = HashMap::new();
        while let Some((candidate, seed, made)) = rulings.next().await {
            if !made.is_empty() {
                waiting.insert(candidate.response.clone(), made);
            }
            let judgement = match waiting.get_mut(&candidate.response).and_then(VecDeque::pop_front) {
                Some(Ok(judgement)) => growth.remember(&candidate.response, judgement),
                Some(Err(Halt::Spent(spent))) => return Err(spent),
                Some(Err(Halt::Failed(error))) => {
                    growth.fail(error);
                    continue;
                }
                None => growth.judged.get(&candidate.response).cloned(),
            };
            // Undecidable children are discarded, in `eager` mode also copies of ones whose judge failed.
            let Some(judgement) = judgement.filter(|judgement| judgement.value.is_some()) else { continue };
            let id = growth.add(parent, candidate, judgement, seed);
            (self.session.observe)(Progress::NodeAdded(id, &growth.tree[id]));
            if self.config.mode == Mode::Eager && growth.tree[id].accepted {
                break;
            }
        }
        Ok(())
    }

    /// Judges a text with one seed after the other until it is decided: the rulings of its first copies among siblings.
    async fn judge_copies(&self, response: &str, seeds: Vec<u64>) -> VecDeque<Result<Judgement, Halt>> {
        let mut rulings = VecDeque::new();
        for seed in seeds {
            let ruling = self.judge(response, seed).await;
            let last = match &ruling {
                Ok(judgement) => judgement.value.is_some(),
                Err(Halt::Spent(_)) => true,
                Err(Halt::Failed(_)) => false,
            };
            rulings.push_back(ruling);
            if last {
                break;
            }
        }
        rulings
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

/// Where candidates join the tree, and which draws were made there before.
struct Place {
    parent: Option<NodeId>,
    seed: u64,
    tried: usize,
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod scored;
#[cfg(test)]
mod tests;
