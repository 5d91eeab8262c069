//! Labels read from the forward pass: questions that begin alike are one sequence up to the token where they part, and each
//! of them continues from its keys and values.

use futures::StreamExt;
use futures::channel::mpsc;
use futures::channel::oneshot;
use futures::future::try_join_all;

use super::NativeEngine;
use super::job::Job;
use super::place::Place;
use super::reading::{Branch, Read, Reading, branches};
use crate::engine::labels::points::Points;
use crate::engine::{EngineError, LabelRequest, LabelScores, Origin, Purpose};

impl NativeEngine {
    /// The probabilities of the labels. Everything before the tokens after which something is read comes from the prefix
    /// tree where that has it, and is kept there.
    pub(super) async fn label_scores(&self, request: &LabelRequest) -> Result<LabelScores, EngineError> {
        request.check()?;
        let questions = self.dir.tokenize_labels(request, self.info.context, self.info.vocabulary).await?;
        let points = Points::new(&questions);
        let trees = branches(&points.points.iter().collect::<Vec<_>>(), 0);
        let mut place = self.runtime.place(trees.iter().map(Branch::ends).sum())?;
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
        let lost = self.runtime.submit(Job {
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
