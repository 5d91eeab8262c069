//! Texts as vectors: the rows that leave the last layer are pooled where they are computed, without the product with the
//! vocabulary.

use futures::channel::oneshot;
use futures::{StreamExt, TryStreamExt, stream};

use super::NativeEngine;
use super::model::{Batch, Row};
use super::sequence::Sequence;
use crate::engine::embedding::Pooling;
use crate::engine::{EmbedRequest, Embeddings, EngineError, Input, Origin, Purpose};

/// Texts of one call that are computed at a time.
const AT_ONCE: usize = 8;

/// The rows of a text so far, as one vector.
pub(super) struct Pooled {
    pub(super) pooling: Pooling,
    /// The sum of the rows, or the last of them.
    vector: Vec<f32>,
    rows: usize,
    pub(super) done: oneshot::Sender<Vec<f32>>,
}

impl Pooled {
    fn new(pooling: Pooling, done: oneshot::Sender<Vec<f32>>) -> Self {
        Self { pooling, vector: Vec::new(), rows: 0, done }
    }

    fn add(&mut self, row: &[f32]) {
        self.rows += 1;
        match self.pooling {
            Pooling::Mean if self.rows > 1 => self.vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x),
            Pooling::Mean | Pooling::Last => self.vector = row.to_vec(),
        }
    }

    /// Forgets what was computed, which will be computed again.
    pub(super) fn clear(&mut self) {
        self.vector.clear();
        self.rows = 0;
    }

    /// Gives the vector to the one who waits for it.
    pub(super) fn finish(self) {
        // The mean and the sum have one direction, and only that is asked for. A caller that disconnected needs no answer.
        self.done.send(unit(self.vector)).ok();
    }
}

/// The vector of length 1 in the same direction; one without a direction stays as it is.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}

impl Batch {
    /// Gives the rows of texts that become vectors, which are `width` numbers each, to these texts and takes them out of
    /// the batch and of `rows`. The rest are those whose logits are asked for.
    pub(super) fn pool(&mut self, sequences: &mut [Sequence], rows: &mut [f32], width: usize) -> usize {
        let mut kept = 0;
        for index in 0..self.rows.len() {
            let Row { sequence, .. } = self.rows[index];
            match &mut sequences[sequence].pooled {
                Some(pooled) => pooled.add(&rows[index * width..][..width]),
                None => {
                    rows.copy_within(index * width..(index + 1) * width, kept * width);
                    self.rows[kept] = self.rows[index];
                    kept += 1;
                }
            }
        }
        self.rows.truncate(kept);
        kept
    }
}

impl NativeEngine {
    /// A vector for each text, a few of them at a time.
    pub(super) async fn embeddings(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        if self.variant.runtime.model.on_device() {
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
