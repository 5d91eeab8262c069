//! Labels read from what a server lists of its first token: one token is asked for, with the likeliest in its place.

use std::sync::atomic::Ordering::Relaxed;

use futures::{StreamExt, TryStreamExt, stream};

use super::failure::Failure;
use super::{Asking, UpstreamEngine};
use crate::engine::labels::points::log_sum_exp;
use crate::engine::{
    Completion, EngineError, Input, Label, LabelRequest, LabelScores, Origin, Purpose, Request, Sampling, Spelling,
    TokenProb,
};

/// Tokens that are asked for; OpenAI's own limit.
const LISTED: usize = 20;

/// Questions of one call that are asked at a time.
const AT_ONCE: usize = 8;

impl UpstreamEngine {
    /// The labels' probabilities after each prompt. The server does not say which tokens several prompts share, so that all
    /// of them are counted.
    pub(super) async fn label_scores(&self, request: LabelRequest, asking: Asking<'_>) -> Result<LabelScores, Failure> {
        request.check()?;
        if self.lists_nothing.load(Relaxed) {
            return Err(lists_nothing("it gave none before").into());
        }
        if request.questions.iter().any(|question| !question.reply.is_empty()) {
            let reason = "an upstream continues no reply that has begun; labels are read where it begins";
            return Err(EngineError::Unsupported(reason.into()).into());
        }
        if request
            .labels
            .iter()
            .flat_map(|label| &label.spellings)
            .any(|spelling| matches!(spelling, Spelling::Token(_)))
        {
            let reason = "an upstream says its tokens as texts, so labels are texts and not token ids";
            return Err(EngineError::Unsupported(reason.into()).into());
        }
        let LabelRequest { purpose, questions, labels, origin } = request;
        let asked: Vec<_> =
            questions.into_iter().map(|question| self.first_token(purpose, question.input, origin, asking)).collect();
        let answers: Vec<Completion> = stream::iter(asked).buffered(AT_ONCE).try_collect().await?;
        let mut scores = LabelScores::default();
        for answer in answers {
            scores.prompt_tokens += answer.prompt_tokens;
            scores.cached_tokens += answer.cached_tokens;
            scores.logprobs.push(self.listed(&answer, &labels)?);
        }
        Ok(scores)
    }

    async fn first_token(
        &self,
        purpose: Purpose,
        input: Input,
        origin: Origin,
        asking: Asking<'_>,
    ) -> Result<Completion, Failure> {
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let max_tokens = Some(1);
        let request = Request {
            input,
            sampling,
            max_tokens,
            origin,
            logprobs: Some(LISTED),
            ..Request::chat(purpose, Vec::new())
        };
        match self.open(&request, asking).await {
            Ok(source) => {
                let reply = self.replies(source, &request).pop();
                let reply = reply.ok_or_else(|| EngineError::Crashed("the upstream began no reply".into()))?;
                Ok(reply.complete().await?)
            }
            Err(Failure { error: EngineError::Invalid(reason), .. }) if reason.contains("logprobs") => {
                Err(self.note_nothing(&reason).into())
            }
            Err(failure) => Err(failure),
        }
    }

    fn listed(&self, answer: &Completion, labels: &[Label]) -> Result<Vec<f32>, EngineError> {
        match answer.logprobs.first().filter(|first| !first.top.is_empty()) {
            Some(first) => label_logprobs(&first.top, labels).ok_or_else(|| {
                // A model that thinks first begins with something else, and in another call it may not.
                EngineError::Unsupported("none of the labels is among the upstream's likeliest first tokens".into())
            }),
            // Neither does it say anything where its first token is hidden, or ends the reply.
            None if answer.text.is_empty() && answer.logprobs.is_empty() => {
                Err(EngineError::Unsupported("the upstream's reply began with nothing that is shown".into()))
            }
            None => Err(self.note_nothing("its answer has none")),
        }
    }

    /// Remembers that labels cannot be read here.
    fn note_nothing(&self, reason: &str) -> EngineError {
        if !self.lists_nothing.swap(true, Relaxed) {
            tracing::warn!(reason, "the upstream gives no log-probabilities, so verdicts are not read from it");
        }
        lists_nothing(reason)
    }
}

fn lists_nothing(reason: &str) -> EngineError {
    EngineError::Unsupported(format!("the upstream gives no log-probabilities: {reason}"))
}

/// The log-probability of each label by the texts of the tokens that are listed, or `None` where no label is among them.
fn label_logprobs(listed: &[TokenProb], labels: &[Label]) -> Option<Vec<f32>> {
    let spells = |label: &Label, token: &TokenProb| {
        label.spellings.iter().any(|s| matches!(s, Spelling::Text(text) if text.as_bytes() == token.bytes))
    };
    let found = |label: &Label| {
        let tokens = listed.iter().filter(|token| spells(label, token));
        log_sum_exp(tokens.map(|token| token.logprob))
    };
    let found: Vec<f32> = labels.iter().map(found).collect();
    if found.iter().all(|logprob| *logprob == f32::NEG_INFINITY) {
        return None;
    }
    // A token that is not listed has at most the probability of the last one that is: an upper bound, which makes the
    // difference to the label that was found too small rather than too large.
    let floor = listed.iter().map(|token| token.logprob).fold(f32::INFINITY, f32::min);
    Some(found.into_iter().map(|logprob| if logprob == f32::NEG_INFINITY { floor } else { logprob }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_by_their_spellings() {
        let listed: Vec<TokenProb> =
            [("Yes", -0.5f32), (" Yes", -1.5), ("no", -3.0), ("<think>", -4.0), ("Maybe", -5.0)]
                .map(|(text, logprob)| TokenProb { id: 0, bytes: text.into(), logprob })
                .into();
        let label = |spellings: &[&str]| Label { spellings: spellings.iter().map(|&s| s.into()).collect() };
        let both = ((-0.5f64).exp() + (-1.5f64).exp()).ln() as f32;
        type Case<'a> = (&'a [&'a [&'a str]], Option<&'a [f32]>);
        let table: [Case<'_>; 5] = [
            (&[&["Yes", " Yes"], &["No", "no"]], Some(&[both, -3.0])),
            (&[&["Yes"], &["No"]], Some(&[-0.5, -5.0])),
            (&[&[" Yes"], &["Ma"], &[" no"]], Some(&[-1.5, -5.0, -5.0])),
            (&[&["yes"], &["No"]], None),
            (&[&["Yes ", ""], &["N"]], None),
        ];
        for (labels, expected) in table {
            let labels: Vec<Label> = labels.iter().map(|spellings| label(spellings)).collect();
            let found = label_logprobs(&listed, &labels);
            match (&found, expected) {
                (Some(found), Some(expected)) => {
                    assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{labels:?}: {found:?}")
                }
                _ => assert_eq!(found.as_deref(), expected, "{labels:?}"),
            }
        }
    }
}
