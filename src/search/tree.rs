//! The tree of judged responses, and the choice of the answer among them.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use super::config::{Mode, SearchConfig, Strategy};
use crate::engine::Subject;

/// A node's index in [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub usize);

/// The first draft.
pub const ROOT: NodeId = NodeId(0);

/// A judged response.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// The refined node; `None` for the first and every further draft.
    pub parent: Option<NodeId>,
    /// Refinements since the draft.
    pub depth: usize,
    /// The response's text.
    pub response: String,
    /// What the refiner wrote before this response; empty for drafts.
    #[serde(skip)]
    pub reflection: String,
    /// The first critique that agrees with the decision.
    pub critique: String,
    /// Yes votes / valid votes, or the share of checks that hold; `None` if the draft could not be judged.
    pub value: Option<f64>,
    /// The refiner's probability that the response is right, if it was read. With several items it is the lowest.
    pub probability: Option<f64>,
    /// The probability of each item of the checklist.
    #[serde(skip)]
    pub items: Vec<f64>,
    /// The last round of votes.
    pub votes: Votes,
    /// Whether the response is right as far as the judge knows.
    pub accepted: bool,
    /// Number of instructions that hold.
    #[serde(skip)]
    pub held: usize,
    /// The instructions that are known to fail, one clause each.
    pub failed: Vec<String>,
    /// What the calls that judged this response were made for.
    #[serde(skip)]
    pub subject: Subject,
    /// Nodes refined from this one, in order.
    #[serde(skip)]
    pub children: Vec<NodeId>,
    /// Number of children requested so far, including those that could not be read or judged.
    #[serde(skip)]
    pub tried: usize,
    /// Votes that were skipped because they could not change the decision. They could still change the value.
    #[serde(skip)]
    pub unasked: usize,
}

/// Votes on one response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// Votes for yes.
    pub yes: usize,
    /// Votes for no.
    pub no: usize,
    /// Votes without a readable verdict.
    pub invalid: usize,
}

impl Votes {
    /// Yes votes / valid votes; `None` if there is no valid vote.
    pub fn value(self) -> Option<f64> {
        let valid = self.yes + self.no;
        (valid > 0).then(|| self.yes as f64 / valid as f64)
    }

    /// The number of all votes.
    pub fn total(self) -> usize {
        self.yes + self.no + self.invalid
    }
}

impl Node {
    /// The lowest and the highest value that the skipped votes could lead to.
    pub(super) fn bounds(&self) -> (f64, f64) {
        let Votes { yes, no, .. } = self.votes;
        let all = (yes + no + self.unasked) as f64;
        match self.value {
            Some(_) if self.unasked > 0 => (yes as f64 / all, (yes + self.unasked) as f64 / all),
            Some(value) => (value, value),
            None => (-1.0, -1.0),
        }
    }

    /// The value for comparisons. An unjudged draft ranks below every judged node.
    pub(super) fn rank(&self) -> f64 {
        self.value.unwrap_or(-1.0)
    }
}

/// Every judged response, in the order of creation.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Tree {
    /// The nodes; the draft is the first.
    pub nodes: Vec<Node>,
    /// Number of drafts requested after the first, including those that could not be judged.
    #[serde(skip)]
    pub redrafted: usize,
}

impl Index<NodeId> for Tree {
    type Output = Node;

    fn index(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }
}

impl IndexMut<NodeId> for Tree {
    fn index_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0]
    }
}

impl Tree {
    /// Adds a node to the tree and to its parent's children.
    pub fn push(&mut self, node: Node) -> NodeId {
        let id = NodeId(self.nodes.len());
        if let Some(parent) = node.parent {
            self[parent].children.push(id);
        }
        self.nodes.push(node);
        id
    }

    /// The number of judged refinements and further drafts, which is every node except the draft.
    pub fn judged(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }

    /// The accepted node with the highest value; with equal values the earliest.
    pub fn accepted(&self) -> Option<NodeId> {
        first_highest(self, (0..self.nodes.len()).map(NodeId).filter(|id| self[*id].accepted))
    }

    /// The answer: an accepted node, or else the best of the rest.
    ///
    /// Refining can do harm, so in `eager` mode a refinement replaces the draft only if more instructions hold in it. Among several such
    /// refinements the highest value wins, and then the earliest, which has fewer edits. Best-of-N has no refinements, so the highest value
    /// wins. `paper` walks the tree depth first and takes the last node with the highest value, as the reference does.
    pub fn best(&self, config: &SearchConfig) -> NodeId {
        if let Some(id) = self.accepted() {
            return id;
        }
        let all = (0..self.nodes.len()).map(NodeId);
        let best = match (config.mode, config.strategy) {
            (Mode::Paper, _) => first_highest(self, self.last_first().into_iter()),
            (Mode::Eager, Strategy::BestOfN) => first_highest(self, all),
            (Mode::Eager, _) => {
                let most = self.nodes.iter().map(|node| node.held).max().unwrap_or(0);
                let draft = self.nodes.first().map_or(0, |draft| draft.held);
                (most > draft).then(|| first_highest(self, all.filter(|id| self[*id].held == most))).flatten()
            }
        };
        best.unwrap_or(ROOT)
    }

    /// The nodes in the reverse of depth-first order: later siblings first, children before their parent.
    fn last_first(&self) -> Vec<NodeId> {
        let roots = (0..self.nodes.len()).map(NodeId).filter(|id| self[*id].parent.is_none());
        let mut stack: Vec<_> = roots.rev().collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(id) = stack.pop() {
            order.push(id);
            stack.extend(self[id].children.iter().rev());
        }
        order.reverse();
        order
    }
}

/// The first node with the highest value.
fn first_highest(tree: &Tree, ids: impl Iterator<Item = NodeId>) -> Option<NodeId> {
    ids.fold(None, |best: Option<NodeId>, id| match best {
        Some(best) if tree[best].rank() >= tree[id].rank() => Some(best),
        _ => Some(id),
    })
}
