//! Labels read from the forward pass: questions that begin alike are one sequence up to the token where they part, and each
//! of them continues from its keys and values.

use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedSender};
use futures::channel::oneshot;
use futures::future::try_join_all;

use super::NativeEngine;
use super::blocks::BLOCK;
use super::job::Job;
use super::runtime::Place;
use super::sequence::Sequence;
use crate::engine::labels::points::{Points, Wanted, common_beginning};
use crate::engine::sampling::log_total;
use crate::engine::{EngineError, LabelRequest, LabelScores, Origin, Purpose};

/// Tokens that several points have in common, up to the first one that ends or the token where they part.
struct Branch {
    /// The tokens after those of the branch from which this one grows, at least one.
    tokens: Vec<u32>,
    /// Whether they belong to a question; otherwise only to labels.
    asks: bool,
    /// Tokens whose log-probabilities are wanted after the last token, with their places among all that are wanted.
    wanted: Vec<(u32, usize)>,
    parts: Vec<Branch>,
}

impl Branch {
    /// Sequences at whose ends something is wanted and from which nothing continues.
    fn ends(&self) -> usize {
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
fn branches(points: &[(&Vec<u32>, &Wanted)], from: usize) -> Vec<Branch> {
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
    branch: Branch,
    /// Prompt tokens that this sequence has computed since it parted from others.
    pub(super) computed: usize,
    pub(super) listener: UnboundedSender<Read>,
}

/// What one sequence has found.
pub(super) struct Read {
    computed: usize,
    /// Places with their log-probabilities.
    logprobs: Vec<(usize, f32)>,
}

impl Reading {
    /// The sequences that it may become.
    pub(super) fn places(&self) -> usize {
        self.branch.ends()
    }
}

impl Sequence {
    /// Reads what is wanted from the last token's logits. The sequences that continue from here take over its blocks.
    pub(super) fn read(&self, reading: Reading, logits: &[f32]) -> Vec<Sequence> {
        let Reading { branch, computed, listener } = reading;
        let logprobs = match branch.wanted.is_empty() {
            true => Vec::new(),
            false => {
                let total = log_total(logits);
                let logprob = |(token, place): (u32, usize)| (place, logits[token as usize] - total);
                branch.wanted.into_iter().map(logprob).collect()
            }
        };
        // A caller that disconnected is noticed before the next step.
        listener.unbounded_send(Read { computed, logprobs }).ok();
        let continued = |mut branch: Branch| {
            let tokens = [&self.tokens, std::mem::take(&mut branch.tokens).as_slice()].concat();
            Sequence {
                variant: self.variant.clone(),
                root: self.root,
                caller: self.caller,
                plain: self.plain,
                told: self.told,
                born: self.born,
                served: self.served,
                prompt: if branch.asks { tokens.len() } else { self.prompt },
                tokens,
                computed: self.computed,
                blocks: self.blocks.clone(),
                kept: self.kept.clone(),
                replies: Vec::new(),
                scoring: None,
                pooled: None,
                lookup: None,
                reading: Some(Reading { branch, computed: 0, listener: listener.clone() }),
                goes_on: false,
            }
        };
        branch.parts.into_iter().map(continued).collect()
    }
}

impl NativeEngine {
    /// The probabilities of the labels. Everything before the tokens after which something is read comes from the prefix
    /// tree where that has it, and is kept there.
    pub(super) async fn label_scores(&self, request: &LabelRequest) -> Result<LabelScores, EngineError> {
        request.check()?;
        let questions = self.dir.tokenize_labels(request, self.info.context, self.info.vocabulary).await?;
        let points = Points::new(&questions);
        let trees = branches(&points.points.iter().collect::<Vec<_>>(), 0);
        let mut place = self.variant.runtime.place(trees.iter().map(Branch::ends).sum())?;
        let reads = trees.into_iter().map(|tree| {
            let place = place.split(tree.ends());
            self.read_tree((request.purpose, request.origin), tree, place)
        });
        let reads = try_join_all(reads.collect::<Vec<_>>()).await?;
        let (mut computed, mut missing, mut found) = (0, points.count, vec![0.0; points.count]);
        for read in reads.into_iter().flatten() {
            computed += read.computed;
            missing -= read.logprobs.len();
            for (place, logprob) in read.logprobs {
                found[place] = logprob;
            }
        }
        if missing > 0 {
            return Err(stopped());
        }
        if found.iter().any(|logprob| logprob.is_nan()) {
            let reason = "it computes scores that are no numbers; the checkpoint may be damaged";
            return Err(EngineError::Crashed(reason.into()));
        }
        let prompt_tokens = points.prompt_tokens();
        // A few that are shared may be computed more than once.
        let cached_tokens = prompt_tokens.saturating_sub(computed);
        Ok(LabelScores { logprobs: points.label_logprobs(&found), prompt_tokens, cached_tokens })
    }

    async fn read_tree(
        &self,
        (purpose, origin): (Purpose, Origin),
        mut branch: Branch,
        place: Place,
    ) -> Result<Vec<Read>, EngineError> {
        let (listener, reads) = mpsc::unbounded();
        // The job is dropped from the line when its start is not awaited any more.
        let (started, _waiting) = oneshot::channel();
        let lost = self.variant.runtime.submit(Job {
            variant: self.variant.clone(),
            purpose,
            origin,
            prompt: std::mem::take(&mut branch.tokens),
            replies: Vec::new(),
            scoring: None,
            pooled: None,
            reading: Some(Reading { branch, computed: 0, listener }),
            started,
            place,
        })?;
        tokio::select! {
            reads = reads.collect() => Ok(reads),
            () = lost.cancelled() => Err(stopped()),
        }
    }
}

fn stopped() -> EngineError {
    EngineError::Crashed("the native engine stopped while it read labels".into())
}

#[cfg(test)]
mod tests;
