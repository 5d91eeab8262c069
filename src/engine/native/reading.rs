//! What is read after the last token of a sequence: log-probabilities of tokens, for labels that begin alike.

use futures::channel::mpsc::UnboundedSender;

use super::blocks::BLOCK;
use crate::engine::labels::points::{Wanted, common_beginning};

/// Tokens that several points have in common, up to the first one that ends or the token where they part.
pub(super) struct Branch {
    /// The tokens that follow the tokens of the parent branch, at least one.
    pub(super) tokens: Vec<u32>,
    /// Whether they belong to a question; otherwise only to labels.
    pub(super) asks: bool,
    /// Tokens whose log-probabilities are wanted after the last token, with their places among all that are wanted.
    pub(super) wanted: Vec<(u32, usize)>,
    pub(super) parts: Vec<Branch>,
}

impl Branch {
    /// Sequences at whose ends something is wanted and from which nothing continues.
    pub(super) fn ends(&self) -> usize {
        if self.parts.is_empty() { 1 } else { self.parts.iter().map(Self::ends).sum() }
    }

    /// The branch, or its parts where nothing is wanted between and few tokens are shared: computing these for each part
    /// takes no longer than a step for them alone.
    fn divided(mut self) -> Vec<Self> {
        if !self.wanted.is_empty() || (self.parts.len() - 1) * self.tokens.len() > BLOCK {
            return vec![self];
        }
        for part in &mut self.parts {
            part.tokens.splice(..0, self.tokens.iter().copied());
            part.asks |= self.asks;
        }
        self.parts
    }
}

/// The points in lexicographic order, which are equal in their first `from` tokens and all longer, as trees.
pub(super) fn branches(points: &[(&Vec<u32>, &Wanted)], from: usize) -> Vec<Branch> {
    let branch = |group: &[(&Vec<u32>, &Wanted)]| {
        let (first, last) = (group[0].0, group[group.len() - 1].0);
        let end = from + common_beginning(&first[from..], &last[from..]);
        let (own, rest) = group.split_at(usize::from(first.len() == end));
        let next = own.iter().flat_map(|(_, wanted)| &wanted.next);
        Branch {
            tokens: first[from..end].to_vec(),
            asks: group.iter().any(|(_, wanted)| wanted.asks),
            wanted: next.map(|(&token, &place)| (token, place)).collect(),
            parts: branches(rest, end),
        }
    };
    points.chunk_by(|one, other| one.0[from] == other.0[from]).map(branch).flat_map(Branch::divided).collect()
}

/// What is wanted after a sequence's last token, and the listener to it. When every sequence of a branch has ended, its
/// listener hears the end.
pub(super) struct Reading {
    pub(super) branch: Branch,
    /// Prompt tokens that this sequence has computed since it parted from others.
    pub(super) computed: usize,
    pub(super) listener: UnboundedSender<Read>,
}

/// What one sequence has found.
pub(super) struct Read {
    pub(super) computed: usize,
    /// Places with their log-probabilities.
    pub(super) logprobs: Vec<(usize, f32)>,
}

impl Reading {
    /// The sequences that it may become.
    pub(super) fn places(&self) -> usize {
        self.branch.ends()
    }
}
