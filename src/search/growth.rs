//! What a search has found so far: its tree and further data about its nodes.

use std::collections::HashMap;

use super::budget::Spent;
use super::call::Halt;
use super::expand::{Candidate, Candidates};
use super::judgement::Judgement;
use super::tree::{Node, NodeId, ROOT, Tree, Votes};
use crate::engine::{EngineError, FinishReason, TokenLogprobs};

/// The results of a running search. They are still available if the search is cut off.
#[derive(Default)]
pub(super) struct Growth {
    pub tree: Tree,
    /// The seed of every node's draws, and how its response was generated.
    pub origins: Vec<Origin>,
    /// Judgements by response, so that identical texts are judged once.
    pub judged: HashMap<String, Judgement>,
    pub votes_saved: usize,
    /// Number of responses so far that were judged, or were to be judged, in order to join the tree.
    pub candidates: usize,
    pub root_is_judged: bool,
    pub failed: bool,
}

pub(super) struct Origin {
    pub seed: u64,
    pub tokens: usize,
    pub finish: FinishReason,
    pub logprobs: Vec<TokenLogprobs>,
    pub reasoning: String,
}

impl Growth {
    pub fn add(&mut self, parent: Option<NodeId>, made: Candidate, judgement: Judgement, seed: u64) -> NodeId {
        let Candidate { response, reflection, tokens, finish, logprobs, reasoning } = made;
        let depth = parent.map_or(0, |id| self.tree[id].depth + 1);
        self.origins.push(Origin { seed, tokens, finish, logprobs, reasoning });
        let node = Node { parent, depth, response, reflection, ..Node::default() };
        self.tree.push(node.judged(judgement))
    }

    pub fn judge_root(&mut self, judgement: Judgement) {
        let response = self.tree[ROOT].response.clone();
        self.remember(&response, judgement.clone());
        self.tree[ROOT] = std::mem::take(&mut self.tree[ROOT]).judged(judgement);
        self.root_is_judged = true;
    }

    pub fn remember(&mut self, response: &str, judgement: Judgement) -> Option<Judgement> {
        self.votes_saved += judgement.unasked;
        self.judged.insert(response.to_owned(), judgement.clone());
        Some(judgement)
    }

    /// Stores the complete votes on a node, and on every node with the same text. `None` means that the votes could not be obtained.
    pub fn settle(&mut self, id: NodeId, votes: Option<Votes>) {
        let response = self.tree[id].response.clone();
        if votes.is_some() {
            self.votes_saved -= self.tree[id].unasked;
        }
        for node in self.tree.nodes.iter_mut().filter(|node| node.response == response) {
            node.unasked = 0;
            if let Some(votes) = votes {
                (node.votes, node.value) = (votes, votes.value());
            }
        }
        if let Some(judgement) = self.judged.get_mut(&response) {
            let node = &self.tree[id];
            (judgement.votes, judgement.value, judgement.unasked) = (node.votes, node.value, 0);
        }
    }

    /// Replaces failed candidates by `None` and records that a call failed.
    pub fn usable(&mut self, made: Result<Candidates, Halt>) -> Result<Vec<Option<Candidate>>, Spent> {
        let made = match made {
            Ok(made) => made,
            Err(Halt::Spent(spent)) => return Err(spent),
            Err(Halt::Failed(error)) => vec![Err(error)],
        };
        Ok(made
            .into_iter()
            .map(|candidate| {
                candidate.unwrap_or_else(|error| {
                    self.fail(error);
                    None
                })
            })
            .collect())
    }

    pub fn fail(&mut self, error: EngineError) {
        tracing::debug!(%error, "a call of the search failed");
        self.failed = true;
    }
}

impl Node {
    fn judged(self, judgement: Judgement) -> Self {
        let Judgement { value, probability, items, votes, accepted, held, failed, critique, unasked } = judgement;
        Self { value, probability, items, votes, accepted, held, failed, critique, unasked, ..self }
    }
}
