//! An engine with a meter: every call is counted, timed and traced by its purpose.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use async_trait::async_trait;
use futures::Stream;

use super::{
    Capabilities, Chunk, EmbedRequest, Embeddings, Engine, EngineError, Input, LabelRequest, LabelScores, ModelInfo,
    Origin, Purpose, Reply, Request, ScoredToken, SharedBase,
};
use crate::telemetry::metrics;

/// Wraps an engine.
pub struct Metered(pub Arc<dyn Engine>);

#[async_trait]
impl Engine for Metered {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let (purpose, started) = (request.purpose, Instant::now());
        tracing::debug!(?purpose, samples = request.samples, "model call");
        let replies = self.0.start(request).await.inspect_err(metrics::call_failed)?;
        metrics::tokens_sent(purpose, replies.first().map_or(0, |reply| reply.prompt_tokens));
        let meter = |(sibling, reply): (usize, Reply)| Reply {
            chunks: Box::pin(MeteredChunks {
                chunks: reply.chunks,
                call: Timed { purpose, started },
                first: sibling == 0,
            }),
            ..reply
        };
        Ok(replies.into_iter().enumerate().map(meter).collect())
    }

    async fn score(&self, input: Input, top: usize, origin: Origin) -> Result<Vec<ScoredToken>, EngineError> {
        let scored = self.0.score(input, top, origin).await.inspect_err(metrics::call_failed)?;
        metrics::tokens_sent(Purpose::Answer, scored.len());
        Ok(scored)
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        let (purpose, questions) = (request.purpose, request.questions.len());
        tracing::debug!(?purpose, questions, "label call");
        let _timed = Timed { purpose, started: Instant::now() };
        let scores = self.0.read_labels(request).await.inspect_err(metrics::call_failed)?;
        metrics::tokens_sent(purpose, scores.prompt_tokens);
        metrics::items_scored(questions);
        Ok(scores)
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        let _timed = Timed { purpose: Purpose::Answer, started: Instant::now() };
        let found = self.0.embed(request).await.inspect_err(metrics::call_failed)?;
        metrics::tokens_sent(Purpose::Answer, found.prompt_tokens);
        Ok(found)
    }

    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.capabilities()
    }

    fn base(&self) -> Option<&dyn SharedBase> {
        self.0.base()
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.0.health().await
    }
}

/// Counts what passes.
struct MeteredChunks {
    chunks: Pin<Box<dyn Stream<Item = Result<Chunk, EngineError>> + Send>>,
    call: Timed,
    /// Whether this is the first of its siblings, which share their prompt.
    first: bool,
}

impl Stream for MeteredChunks {
    type Item = Result<Chunk, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.chunks.as_mut().poll_next(cx);
        match &next {
            Poll::Ready(Some(Ok(chunk))) => {
                metrics::tokens_generated(self.call.purpose, chunk.tokens);
                if let Some(prompt) = chunk.prompt.filter(|_| self.first) {
                    metrics::tokens_sent(self.call.purpose, prompt.sent);
                }
            }
            Poll::Ready(Some(Err(error))) => metrics::call_failed(error),
            _ => {}
        }
        next
    }
}

/// Dropping it ends the call, whatever the reason.
struct Timed {
    purpose: Purpose,
    started: Instant,
}

impl Drop for Timed {
    fn drop(&mut self) {
        metrics::call_ended(self.purpose, self.started.elapsed());
    }
}
