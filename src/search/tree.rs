//! The tree of judged responses, and which of them is the answer.

use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use super::config::{Mode, SearchConfig, Strategy};

/// A node's place in [`Tree::nodes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub usize);

/// The first draft.
pub const ROOT: NodeId = NodeId(0);

/// A judged response.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Node {
    /// `None` for the draft (and for every draft of best-of-N).
    pub parent: Option<NodeId>,
    /// Refinements since the draft.
    pub depth: usize,
    /// The response's text.
    pub response: String,
    /// What the refiner said before this response; empty for drafts.
    #[serde(skip)]
    pub reflection: String,
    /// The first critique that agrees with the decision.
    pub critique: String,
    /// Yes votes / valid votes, or the share of checks that hold; `None` where the draft could not be judged.
    pub value: Option<f64>,
    /// The refiner's probability that the response is right, where it was read; of several items the lowest.
    pub probability: Option<f64>,
    /// The probability of each item of the checklist.
    #[serde(skip)]
    pub items: Vec<f64>,
    /// The last round of votes.
    pub votes: Votes,
    /// Whether the response is right as far as the judge knows.
    pub accepted: bool,
    /// Instructions that hold.
    #[serde(skip)]
    pub held: usize,
    /// Instructions that are known to fail, each as one clause.
    pub failed: Vec<String>,
    /// Nodes refined from this one, in order.
    #[serde(skip)]
    pub children: Vec<NodeId>,
    /// Children asked for so far, those included that could not be read or judged.
    #[serde(skip)]
    pub tried: usize,
    /// Votes that were not asked for, since they could not change the decision; they could still change the value.
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
    /// Yes votes / valid votes; `None` without a valid one.
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
    /// The lowest and the highest value that the votes not yet asked for could lead to.
    pub(super) fn bounds(&self) -> (f64, f64) {
        let Votes { yes, no, .. } = self.votes;
        let all = (yes + no + self.unasked) as f64;
        match self.value {
            Some(_) if self.unasked > 0 => (yes as f64 / all, (yes + self.unasked) as f64 / all),
            Some(value) => (value, value),
            None => (-1.0, -1.0),
        }
    }

    /// An unjudged draft is below every judged node.
    pub(super) fn rank(&self) -> f64 {
        self.value.unwrap_or(-1.0)
    }
}

/// Every judged response, in the order in which they were made.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Tree {
    /// The nodes; the draft is the first.
    pub nodes: Vec<Node>,
    /// Drafts asked for after the first, those included that could not be judged.
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

    /// Judged refinements (or further drafts): everything but the draft.
    pub fn judged(&self) -> usize {
        self.nodes.len().saturating_sub(1)
    }

    /// The accepted node with the highest value; the earliest of equals.
    pub fn accepted(&self) -> Option<NodeId> {
        first_highest(self, (0..self.nodes.len()).map(NodeId).filter(|id| self[*id].accepted))
    }

    /// The answer: an accepted node, or else the best of the rest.
    ///
    /// Refining may do harm, so in `eager` mode a refinement takes the draft's place only if more instructions hold in it;
    /// of several such the one with the highest value and then the earliest, which has fewer edits, is the answer.
    /// Best-of-N has no refinements: there the highest value is. `paper` walks the tree depth first and takes the last of
    /// the highest values, as the reference does.
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

    /// The depth-first order from its end to its beginning: later siblings first, children before their parent.
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
