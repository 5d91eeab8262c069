//! A scripted engine: tests, the fast lane, and the controller's benchmarks run on it.

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;

use super::{Chunk, Engine, EngineError, FinishReason, ModelInfo, Reply, Request};

type Script = dyn Fn(&Request, usize) -> Result<String, EngineError> + Send + Sync;

/// Answers every request by a function of the request and the sibling's index. One word is one token.
#[derive(Clone)]
pub struct FakeEngine {
    script: Arc<Script>,
    info: ModelInfo,
}

impl FakeEngine {
    /// An engine that says what `script` returns for sibling `index` of a request.
    pub fn new(script: impl Fn(&Request, usize) -> Result<String, EngineError> + Send + Sync + 'static) -> Self {
        Self { script: Arc::new(script), info: ModelInfo { name: "fake".into(), context: 4096, vocabulary: 0 } }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        (0..request.samples)
            .map(|index| {
                let text = (self.script)(&request, index)?;
                let mut chunks: Vec<_> = text
                    .split_inclusive(' ')
                    .map(|word| Ok(Chunk { text: word.into(), tokens: 1, ..Chunk::default() }))
                    .collect();
                chunks.push(Ok(Chunk { finish: Some(FinishReason::Stop), ..Chunk::default() }));
                Ok(Reply { prompt_tokens: 1, cached_tokens: 0, chunks: Box::pin(stream::iter(chunks)) })
            })
            .collect()
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }
}
