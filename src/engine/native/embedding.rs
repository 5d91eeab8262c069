//! Texts as vectors: the rows that leave the last layer are pooled where they are computed, without the product with the
//! vocabulary.

use futures::channel::oneshot;
use futures::{StreamExt, TryStreamExt, stream};

use super::NativeEngine;
use super::pooled::Pooled;
use crate::engine::embedding::Pooling;
use crate::engine::{EmbedRequest, Embeddings, EngineError, Input, Origin, Purpose};

/// Texts of one call that are computed at a time.
const AT_ONCE: usize = 8;

impl NativeEngine {
    /// A vector for each text, a few of them at a time.
    pub(super) async fn embeddings(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        if self.runtime.model.on_device() {
            let reason = "embeddings are computed on the CPU only; serve the model there";
            return Err(EngineError::Unsupported(reason.into()));
        }
        let EmbedRequest { inputs, pooling, origin } = request;
        let texts: Vec<_> = inputs.into_iter().map(|input| self.embedding(input, pooling, origin)).collect();
        let texts: Vec<(Vec<f32>, usize)> = stream::iter(texts).buffered(AT_ONCE).try_collect().await?;
        let prompt_tokens = texts.iter().map(|(_, tokens)| tokens).sum();
        Ok(Embeddings { vectors: texts.into_iter().map(|(vector, _)| vector).collect(), prompt_tokens })
    }

    async fn embedding(
        &self,
        input: Input,
        pooling: Pooling,
        origin: Origin,
    ) -> Result<(Vec<f32>, usize), EngineError> {
        let tokens = self.encode(&input, None).await?;
        let (count, limit) = (tokens.len(), self.info.context);
        if count > limit {
            return Err(EngineError::PromptTooLong { tokens: count, limit });
        }
        let (done, found) = oneshot::channel();
        let work = super::Work::Pooled(Pooled::new(pooling, done));
        let (_, lost) = self.run((Purpose::Answer, origin), tokens, work).await?;
        let stopped = || EngineError::Crashed("the native engine stopped while it computed an embedding".into());
        let vector = tokio::select! {
            found = found => found.map_err(|_| stopped())?,
            () = lost.cancelled() => return Err(stopped()),
        };
        match vector.iter().all(|x| x.is_finite()) {
            true => Ok((vector, count)),
            false => Err(EngineError::Crashed("it computes no numbers; the checkpoint may be damaged".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Engine;
    use crate::engine::native::NativeConfig;
    use crate::engine::native::tests::{engine_with, greedy};
    use crate::testing::TinyModel;

    fn texts(texts: &[&str], pooling: Pooling) -> EmbedRequest {
        let inputs = texts.iter().map(|&text| Input::Text(text.into())).collect();
        EmbedRequest { inputs, pooling, origin: Origin::default() }
    }

    #[tokio::test]
    async fn vectors_do_not_depend_on_what_is_computed_beside_them() {
        let engine = engine_with(&TinyModel::default(), NativeConfig::default());
        let long = "the hello and world ".repeat(30);
        let all = ["hello", "the world", &long, "x"];
        for pooling in [Pooling::Mean, Pooling::Last] {
            let running = engine.start(greedy("hello there", 60)).await.unwrap();
            let together = engine.embed(texts(&all, pooling)).await.unwrap();
            drop(running);
            let mut tokens = 0;
            for (text, vector) in all.iter().zip(&together.vectors) {
                let alone = engine.embed(texts(&[text], pooling)).await.unwrap();
                assert_eq!(alone.vectors[0], *vector, "{text:?} {pooling:?}");
                let length: f32 = vector.iter().map(|x| x * x).sum();
                assert!((length - 1.0).abs() < 1e-5, "{length}");
                tokens += alone.prompt_tokens;
            }
            assert_eq!(tokens, together.prompt_tokens);
            assert_ne!(together.vectors[0], together.vectors[1]);
        }
        let [mean, last] = [Pooling::Mean, Pooling::Last].map(|pooling| engine.embed(texts(&["x"], pooling)));
        let (mean, last) = (mean.await.unwrap(), last.await.unwrap());
        // A text of two tokens, the first of which the tokenizer adds.
        assert_eq!((mean.prompt_tokens, mean == last), (2, false));
    }

    #[tokio::test]
    async fn what_cannot_be_embedded_is_refused() {
        let engine = engine_with(&TinyModel::default(), NativeConfig::default());
        let empty = EmbedRequest { inputs: vec![Input::Tokens(Vec::new())], ..texts(&[], Pooling::Mean) };
        assert!(matches!(engine.embed(empty).await, Err(EngineError::Prompt(_))));
        let context = engine.info().context;
        let long = EmbedRequest { inputs: vec![Input::Tokens(vec![5; context + 1])], ..texts(&[], Pooling::Mean) };
        assert!(matches!(engine.embed(long).await, Err(EngineError::PromptTooLong { .. })));
        let whole = EmbedRequest { inputs: vec![Input::Tokens(vec![5; context])], ..texts(&[], Pooling::Mean) };
        assert_eq!(engine.embed(whole).await.unwrap().prompt_tokens, context);
    }
}
