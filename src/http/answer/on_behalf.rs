//! An engine on behalf of one caller: every call of an answer passes here, so that none finds another caller's prefixes and
//! all tokens are counted for the key, also those of an answer that its client does not wait for.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;

use crate::chat::Message;
use crate::engine::generation::Pinned;
use crate::engine::{
    Capabilities, Conversation, EmbedRequest, Embeddings, Engine, EngineError, Input, LabelRequest, LabelScores,
    ModelInfo, Origin, Reply, Request, ScoredToken, SharedBase, Subject,
};
use crate::http::door::keys::Tenant;
use crate::prompts::Templates;
use crate::search::Models;
use crate::telemetry::metrics::TokenKind;
use crate::telemetry::traces::{CallSpan, Spans};

/// Who an answer is for.
#[derive(Clone, Debug)]
pub struct Behalf {
    /// The caller, whose tokens are counted.
    pub tenant: Arc<Tenant>,
    /// What its calls say of themselves.
    pub origin: Origin,
    /// Where the spans of its calls belong.
    pub spans: Spans,
}

impl Behalf {
    /// For calls about this conversation.
    pub fn about(mut self, messages: &[Message]) -> Self {
        self.origin.conversation = Some(Conversation::of(messages));
        self
    }

    /// `engine`, for this caller.
    pub fn on<'a>(&'a self, engine: &'a dyn Engine) -> OnBehalf<'a> {
        OnBehalf { engine, behalf: self }
    }

    /// Both roles of a pinned pair, for this caller.
    pub fn pair<'a>(&'a self, pinned: &'a Pinned) -> Pair<'a> {
        let [actor, refiner] = [&pinned.actor, &pinned.refiner].map(|generation| self.on(generation.engine.as_ref()));
        Pair { actor, refiner, templates: &pinned.refiner.templates }
    }
}

/// A pinned pair on behalf of one caller.
pub struct Pair<'a> {
    /// The engine that drafts.
    pub actor: OnBehalf<'a>,
    /// Judges and rewrites.
    pub refiner: OnBehalf<'a>,
    templates: &'a Templates,
}

impl Pair<'_> {
    /// The models as a search takes them.
    pub fn models(&self) -> Models<'_> {
        Models { actor: &self.actor, refiner: &self.refiner, templates: self.templates }
    }
}

/// An engine whose calls are all on behalf of one caller.
pub struct OnBehalf<'a> {
    engine: &'a dyn Engine,
    behalf: &'a Behalf,
}

impl OnBehalf<'_> {
    /// What a call with this span says of itself.
    fn origin(&self, subject: Subject, span: &CallSpan) -> Origin {
        Origin { subject, trace: span.place, ..self.behalf.origin }
    }

    fn sent(&self, tokens: usize) {
        self.behalf.tenant.uses(TokenKind::Prompt, tokens);
    }

    /// A reply whose tokens are counted as they come.
    fn counted(&self, reply: Reply, is_first: bool) -> Reply {
        let tenant = Arc::clone(&self.behalf.tenant);
        let count = move |chunk: &Result<crate::engine::Chunk, EngineError>| {
            let Ok(chunk) = chunk else { return };
            if chunk.tokens > 0 {
                tenant.uses(TokenKind::Generated, chunk.tokens);
            }
            if let Some(prompt) = chunk.prompt.filter(|_| is_first) {
                tenant.uses(TokenKind::Prompt, prompt.sent);
            }
        };
        Reply { chunks: Box::pin(reply.chunks.inspect(count)), ..reply }
    }
}

#[async_trait]
impl Engine for OnBehalf<'_> {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let span = self.behalf.spans.reply(&request, self.engine.info());
        let origin = self.origin(request.origin.subject, &span);
        let replies = span.follow(self.engine.start(Request { origin, ..request }).await)?;
        if !self.behalf.tenant.is_metered() {
            return Ok(replies);
        }
        // Siblings share their prompt: it counts once.
        self.sent(replies.first().map_or(0, |reply| reply.prompt_tokens));
        Ok(replies.into_iter().enumerate().map(|(index, reply)| self.counted(reply, index == 0)).collect())
    }

    async fn score(&self, input: Input, top: usize, _origin: Origin) -> Result<Vec<ScoredToken>, EngineError> {
        let span = self.behalf.spans.prompt(self.engine.info());
        let scored = self.engine.score(input, top, self.origin(Subject::Whole, &span)).await;
        span.ends(&scored, Vec::len);
        let scored = scored?;
        self.sent(scored.len());
        Ok(scored)
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        let span = self.behalf.spans.labels(&request, self.engine.info());
        let origin = self.origin(request.origin.subject, &span);
        let scores = self.engine.read_labels(LabelRequest { origin, ..request }).await;
        span.ends(&scores, |scores| scores.prompt_tokens);
        let scores = scores?;
        self.sent(scores.prompt_tokens);
        Ok(scores)
    }

    async fn embed(&self, request: EmbedRequest) -> Result<Embeddings, EngineError> {
        let span = self.behalf.spans.embeddings(self.engine.info());
        let origin = self.origin(Subject::Whole, &span);
        let found = self.engine.embed(EmbedRequest { origin, ..request }).await;
        span.ends(&found, |found| found.prompt_tokens);
        let found = found?;
        self.sent(found.prompt_tokens);
        Ok(found)
    }

    fn info(&self) -> &ModelInfo {
        self.engine.info()
    }

    fn capabilities(&self) -> Capabilities {
        self.engine.capabilities()
    }

    fn base(&self) -> Option<&dyn SharedBase> {
        self.engine.base()
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.engine.health().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::engine::{Namespace, Purpose, Waits};

    #[tokio::test]
    async fn calls_say_whose_they_are_and_their_tokens_count_though_nobody_waits_for_the_end() {
        let (namespace, caller) = (Namespace::of([3; 32]), Namespace::of([4; 32]));
        let origin = Origin { namespace, caller, waits: Waits::Search, ..Origin::default() };
        let engine = FakeEngine::new(move |request, _| {
            assert_eq!(request.origin, origin);
            Ok("one two three four".into())
        });
        let tenant = Arc::new(Tenant { tokens_per_minute: Some(1), ..Tenant::test(1) });
        let behalf = Behalf { tenant: Arc::clone(&tenant), origin, spans: Spans::Off(None) };
        let request = Request { samples: 2, ..Request::chat(Purpose::Answer, vec![Message::user("x")]) };
        let mut replies = behalf.on(&engine).start(request).await.unwrap();
        let used = |tokens| tenant.spending.wait(tokens).is_some() && tenant.spending.wait(tokens + 1).is_none();
        assert!(used(1), "the prompt");
        for _ in 0..2 {
            replies[1].chunks.next().await;
        }
        drop(replies);
        assert!(used(3));
    }
}
