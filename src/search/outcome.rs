//! The result of a search, and the steps that are reported while it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::{ByPurpose, Spent};
use super::config::Judging;
use super::tree::{Node, NodeId, Tree, Votes};
use crate::engine::{FinishReason, TokenLogprobs};
use crate::prompts::Verdict;

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// A node was accepted.
    Accepted,
    /// The node budget is spent.
    Budget,
    /// The token budget is spent.
    Tokens,
    /// The call budget is spent.
    Calls,
    /// The deadline passed.
    Deadline,
    /// No node is left to expand.
    Exhausted,
    /// A judge or refine call failed.
    Error,
    /// No verdict could be read from the judge, and there were no rules to judge by.
    JudgeUnreadable,
    /// The judge does not know the words of the conversation, and there were no rules to judge by.
    OutsideDomain,
    /// The deadline left room only for the draft, which was not judged.
    Unjudged,
}

/// The result of a search.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// All judged responses.
    pub tree: Tree,
    /// The node whose response is the answer.
    pub best: NodeId,
    /// Whether the answer was accepted.
    pub accepted: bool,
    /// Why the search ended.
    pub stop: StopReason,
    /// Model calls started.
    pub calls: ByPurpose,
    /// Generated tokens by purpose.
    pub tokens: ByPurpose,
    /// Prompt tokens sent.
    pub prompt_tokens: ByPurpose,
    /// Tokens of the answer alone, without the reflection around it.
    pub answer_tokens: usize,
    /// Prompt tokens of the draft.
    pub draft_prompt_tokens: usize,
    /// Prompt tokens of the draft that came from the prefix cache.
    pub draft_cached_tokens: usize,
    /// How the refiner judged.
    pub judging: Judging,
    /// The items of the checklist; empty if the whole prompt was judged at once.
    pub checklist: Vec<String>,
    /// Votes that were skipped because the majority could no longer change.
    pub votes_saved: usize,
    /// How the reply that contains the answer ended.
    pub finish: FinishReason,
    /// Log-probabilities of the answer's tokens, if they were requested.
    pub logprobs: Vec<TokenLogprobs>,
    /// The model's reasoning before the answer, which was not judged.
    pub reasoning: String,
    /// The version of the templates that judged and refined.
    pub templates: String,
    /// Time from the start to the end.
    pub elapsed: Duration,
}

/// A step of a running search.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// The draft was made.
    Drafted(&'a Node),
    /// A vote was cast, or a verdict was read after a critique. Carries the verdict (`None` if it could not be read) and the votes of this
    /// judgement so far.
    Voted(Option<Verdict>, Votes),
    /// The draft was judged.
    RootJudged(&'a Node),
    /// A refinement was judged.
    NodeAdded(NodeId, &'a Node),
    /// A node was accepted.
    Accepted(NodeId, &'a Node),
    /// The search ended.
    Stopped(StopReason),
}

impl From<Spent> for StopReason {
    fn from(spent: Spent) -> Self {
        match spent {
            Spent::Calls => Self::Calls,
            Spent::Tokens => Self::Tokens,
        }
    }
}
