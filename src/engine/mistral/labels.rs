//! Labels read from mistral.rs: a sequence for every point at which log-probabilities are wanted, which ends with its prompt's
//! forward pass. Labels of one token in every spelling, as `Yes` and `No` are in most vocabularies, cost one such pass for a
//! question. mistral.rs keeps no prefix here, so that questions with a common beginning share nothing.

use std::sync::Arc;

use tokio::sync::mpsc::unbounded_channel;

use super::MistralEngine;
use super::hook::{Job, LabelWork, Work};
use crate::engine::labels::points::Points;
use crate::engine::{EngineError, LabelRequest, LabelScores};

impl MistralEngine {
    /// The probabilities of the labels after every question.
    pub(super) async fn label_scores(&self, request: &LabelRequest) -> Result<LabelScores, EngineError> {
        request.check()?;
        let questions = self.dir.tokenize_labels(request, self.info.context, self.info.vocabulary).await?;
        let points = Points::new(&questions);
        let (sender, mut reads) = unbounded_channel();
        for (tokens, wanted) in &points.points {
            let wanted = wanted.next.iter().map(|(&token, &place)| (token, place)).collect();
            let job = Job {
                prompt: tokens.as_slice().into(),
                most_tokens: 1,
                work: Work::Labels(LabelWork { wanted, found: sender.clone() }),
                shared: Arc::clone(&self.shared),
                retried: false,
            };
            // Each is a call of its own, since siblings on a GPU run as one batch and have one prompt.
            self.submit(request.purpose, vec![job])?;
        }
        drop(sender);
        let (mut missing, mut found) = (points.count, vec![0.0; points.count]);
        while let Some(read) = reads.recv().await {
            for (place, logprob) in read? {
                found[place] = logprob;
                missing -= 1;
            }
        }
        if missing > 0 {
            return Err(EngineError::Crashed("the engine stopped while it read labels".into()));
        }
        if found.iter().any(|logprob| logprob.is_nan()) {
            let reason = "it computes scores that are no numbers; the checkpoint may be damaged";
            return Err(EngineError::Crashed(reason.into()));
        }
        let prompt_tokens = points.prompt_tokens();
        Ok(LabelScores { logprobs: points.label_logprobs(&found), prompt_tokens, cached_tokens: 0 })
    }
}
