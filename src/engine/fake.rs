//! A scripted engine: tests, the fast lane, and the controller's benchmarks run on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;

use super::reasoning::{Splitter, split_chunks};
use super::{
    Capabilities, Chunk, ConstraintSupport, Engine, EngineError, FinishReason, LabelRequest, LabelScores, LabelSupport,
    ModelInfo, Reply, Request,
};

type Script = dyn Fn(&Request, usize) -> Result<String, EngineError> + Send + Sync;
type Reading = dyn Fn(&LabelRequest, usize) -> Result<Vec<f32>, EngineError> + Send + Sync;
type Pace = dyn Fn(&Request, usize) -> Duration + Send + Sync;

/// Answers every request by a function of the request and the sibling's index. One word is one token; `max_tokens` cuts.
#[derive(Clone)]
pub struct FakeEngine {
    script: Arc<Script>,
    pace: Option<Arc<Pace>>,
    reading: Option<Arc<Reading>>,
    info: ModelInfo,
    constrains: bool,
    splitter: Option<Splitter>,
    /// What became of the replies.
    pub replies: Arc<Replies>,
}

/// Counts of replies over an engine's life.
#[derive(Debug, Default)]
pub struct Replies {
    started: AtomicUsize,
    finished: AtomicUsize,
    cancelled: AtomicUsize,
    most: AtomicUsize,
    label_calls: AtomicUsize,
    questions: AtomicUsize,
}

impl Replies {
    /// Replies that were started.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// Replies that ended or failed.
    pub fn finished(&self) -> usize {
        self.finished.load(Ordering::SeqCst)
    }

    /// Replies that were dropped before their end.
    pub fn cancelled(&self) -> usize {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Replies that neither ended nor were dropped.
    pub fn running(&self) -> usize {
        self.started() - self.finished() - self.cancelled()
    }

    /// The most replies that ever ran at a time.
    pub fn most(&self) -> usize {
        self.most.load(Ordering::SeqCst)
    }

    /// Calls of [`Engine::read_labels`], including those that failed.
    pub fn label_calls(&self) -> usize {
        self.label_calls.load(Ordering::SeqCst)
    }

    /// Questions of these calls.
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

impl FakeEngine {
    /// An engine that says what `script` returns for sibling `index` of a request. An error for the first sibling fails
    /// the start, one for another sibling fails that reply.
    pub fn new(script: impl Fn(&Request, usize) -> Result<String, EngineError> + Send + Sync + 'static) -> Self {
        Self {
            script: Arc::new(script),
            pace: None,
            reading: None,
            info: ModelInfo::new("fake", 4096, 0),
            constrains: false,
            splitter: None,
            replies: Arc::default(),
        }
    }

    /// Every token of sibling `index` of a request takes as long as `pace` says.
    #[must_use]
    pub fn paced(mut self, pace: impl Fn(&Request, usize) -> Duration + Send + Sync + 'static) -> Self {
        self.pace = Some(Arc::new(pace));
        self
    }

    /// Claims to honour constraints; keeping them is left to the script.
    #[must_use]
    pub fn constraining(mut self) -> Self {
        self.constrains = true;
        self
    }

    /// Reads labels: `reading` gives the log-probability of each label for the question of that index in the request.
    /// A prompt counts as one token. An error fails the call.
    #[must_use]
    pub fn reading(
        mut self,
        reading: impl Fn(&LabelRequest, usize) -> Result<Vec<f32>, EngineError> + Send + Sync + 'static,
    ) -> Self {
        self.reading = Some(Arc::new(reading));
        self
    }

    /// Replies have reasoning, which `splitter` takes from them as it does for a real model.
    #[must_use]
    pub fn thinking(mut self, splitter: Splitter) -> Self {
        self.splitter = Some(splitter);
        self
    }

    fn reply(&self, request: &Request, index: usize, text: Result<String, EngineError>) -> Reply {
        let most = request.max_tokens.unwrap_or(self.info.context);
        let chunks = text.map(|text| {
            let words: Vec<_> = text.split_inclusive(' ').map(str::to_owned).collect();
            let finish = if words.len() > most { FinishReason::Length } else { FinishReason::Stop };
            let word = |text| Chunk { text, tokens: 1, ..Chunk::default() };
            let end = Chunk { finish: Some(finish), ..Chunk::default() };
            words.into_iter().take(most).map(word).chain([end]).collect::<Vec<_>>().into_iter()
        });
        let pace = self.pace.as_ref().map(|pace| pace(request, index));
        let running = Running::start(&self.replies);
        let chunks = stream::unfold((chunks, running), move |(chunks, mut running)| async move {
            if let Some(pace) = pace {
                tokio::time::sleep(pace).await;
            }
            let mut chunks = match chunks {
                Ok(chunks) => chunks,
                Err(error) => {
                    running.end();
                    return Some((Err(error), (Ok(Vec::new().into_iter()), running)));
                }
            };
            let chunk = chunks.next()?;
            if chunk.finish.is_some() {
                running.end();
            }
            Some((Ok(chunk), (Ok(chunks), running)))
        });
        let chunks = split_chunks(Box::pin(chunks), self.splitter.clone());
        Reply { prompt_tokens: 1, cached_tokens: 0, chunks }
    }
}

#[async_trait]
impl Engine for FakeEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let first = (self.script)(&request, 0)?;
        let others = (1..request.samples).map(|index| (self.script)(&request, index));
        let texts: Vec<_> = std::iter::once(Ok(first)).chain(others).take(request.samples).collect();
        Ok(texts.into_iter().enumerate().map(|(index, text)| self.reply(&request, index, text)).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        let constraints = if self.constrains { ConstraintSupport::Everything } else { ConstraintSupport::Nothing };
        let labels = if self.reading.is_some() { LabelSupport::Replies } else { LabelSupport::Nothing };
        Capabilities { constraints, labels, ..Capabilities::default() }
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        let count = request.questions.len();
        self.replies.label_calls.fetch_add(1, Ordering::SeqCst);
        self.replies.questions.fetch_add(count, Ordering::SeqCst);
        let reading = self.reading.as_ref().ok_or_else(|| {
            EngineError::Unsupported("this fake engine has no script for labels; give it one by `reading`".into())
        })?;
        let logprobs = (0..count).map(|question| reading(&request, question)).collect::<Result<_, _>>()?;
        Ok(LabelScores { logprobs, prompt_tokens: count, cached_tokens: 0 })
    }
}

/// Counts one reply from its start to its end or its drop.
struct Running {
    replies: Arc<Replies>,
    ended: bool,
}

impl Running {
    fn start(replies: &Arc<Replies>) -> Self {
        let replies = Arc::clone(replies);
        replies.started.fetch_add(1, Ordering::SeqCst);
        replies.most.fetch_max(replies.running(), Ordering::SeqCst);
        Self { replies, ended: false }
    }

    fn end(&mut self) {
        self.ended = true;
        self.replies.finished.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.replies.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Input, Label, Purpose, Question};
    use super::*;

    #[tokio::test]
    async fn labels_are_read_by_the_script_and_calls_are_counted() {
        let silent = FakeEngine::new(|_, _| Ok(String::new()));
        let question = |text: &str| Question { input: Input::Text(text.into()), reply: String::new() };
        let request = LabelRequest {
            purpose: Purpose::Judge,
            questions: vec![question("a"), question("b")],
            labels: vec![Label { spellings: vec!["Yes".into()] }, Label { spellings: vec!["No".into()] }],
            origin: crate::engine::Origin::default(),
        };
        assert_eq!(silent.capabilities().labels, LabelSupport::Nothing);
        assert!(matches!(silent.read_labels(request.clone()).await, Err(EngineError::Unsupported(_))));
        let engine = silent.reading(|request, question| match &request.questions[question].input {
            Input::Text(text) if text == "a" => Ok(vec![-0.1, -2.0]),
            Input::Text(text) if text == "b" => Ok(vec![-2.0, -0.1]),
            _ => Err(EngineError::Crashed("a script that fails".into())),
        });
        assert_eq!(engine.capabilities().labels, LabelSupport::Replies);
        let scores = engine.read_labels(request.clone()).await.unwrap();
        assert_eq!(scores.logprobs, [[-0.1, -2.0], [-2.0, -0.1]]);
        let failing = LabelRequest { questions: vec![question("c")], ..request };
        assert_eq!(engine.read_labels(failing).await, Err(EngineError::Crashed("a script that fails".into())));
        assert_eq!((engine.replies.label_calls(), engine.replies.questions()), (3, 5));
    }
}
