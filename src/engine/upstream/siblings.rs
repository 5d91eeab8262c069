//! One response feeds several replies. Whichever reply is polled drives the response for all of them; the last one that is
//! dropped closes it. Nothing runs in between.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures::Stream;

use super::failure::Failure;
use crate::engine::{Chunk, EngineError, Reply};

/// What a response says next.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// A chunk of the sibling with this index.
    Chunk(usize, Chunk),
    /// The end of all that have not finished.
    Failed(Failure),
}

/// A response as steps.
pub(super) type Source = Pin<Box<dyn Stream<Item = Step> + Send>>;

/// `samples` replies that share `source`. Their prompt's tokens come with their last chunks.
pub(super) fn replies(source: Source, samples: usize) -> Vec<Reply> {
    let wakers = Arc::new(Wakers(Mutex::new(vec![None; samples])));
    let queues = (0..samples).map(|_| VecDeque::new()).collect();
    let shared = Arc::new(Mutex::new(Shared { source: Some(source), queues, waker: Waker::from(Arc::clone(&wakers)) }));
    let reply = |index| {
        let sibling = Sibling { index, shared: Arc::clone(&shared), wakers: Arc::clone(&wakers) };
        Reply { prompt_tokens: 0, cached_tokens: 0, chunks: Box::pin(sibling) }
    };
    (0..samples).map(reply).collect()
}

struct Shared {
    /// The response's stream; `None` after its end.
    source: Option<Source>,
    /// What was said to each sibling and not yet heard.
    queues: Vec<VecDeque<Result<Chunk, EngineError>>>,
    /// Wakes every sibling: any of them may be the one that is still listened to.
    waker: Waker,
}

impl Shared {
    /// Takes all that the response has ready.
    fn advance(&mut self) {
        let mut context = Context::from_waker(&self.waker);
        while let Some(source) = &mut self.source {
            match source.as_mut().poll_next(&mut context) {
                Poll::Pending => return,
                Poll::Ready(Some(Step::Chunk(index, chunk))) => self.queues[index].push_back(Ok(chunk)),
                Poll::Ready(Some(Step::Failed(failure))) => {
                    self.queues.iter_mut().for_each(|queue| queue.push_back(Err(failure.error.clone())));
                    self.source = None;
                }
                Poll::Ready(None) => self.source = None,
            }
        }
    }
}

struct Sibling {
    index: usize,
    shared: Arc<Mutex<Shared>>,
    wakers: Arc<Wakers>,
}

impl Stream for Sibling {
    type Item = Result<Chunk, EngineError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Registered before the response is looked at, so that nothing that comes in between is missed.
        self.wakers.lock()[self.index] = Some(cx.waker().clone());
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.queues[self.index].is_empty() {
            shared.advance();
            if shared.queues.iter().enumerate().any(|(index, queue)| index != self.index && !queue.is_empty()) {
                self.wakers.wake_all_but(self.index);
            }
        }
        match shared.queues[self.index].pop_front() {
            None if shared.source.is_some() => Poll::Pending,
            next => Poll::Ready(next),
        }
    }
}

impl Drop for Sibling {
    fn drop(&mut self) {
        self.wakers.lock()[self.index] = None;
    }
}

struct Wakers(Mutex<Vec<Option<Waker>>>);

impl Wakers {
    fn lock(&self) -> MutexGuard<'_, Vec<Option<Waker>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all_but(&self, index: usize) {
        let others: Vec<Waker> = self
            .lock()
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index)
            .filter_map(|(_, w)| w.clone())
            .collect();
        others.iter().for_each(Waker::wake_by_ref);
    }
}

impl Wake for Wakers {
    fn wake(self: Arc<Self>) {
        self.wake_all_but(usize::MAX);
    }
}

#[cfg(test)]
mod tests {
    use futures::channel::mpsc;
    use futures::future::join_all;
    use futures::{FutureExt, StreamExt};

    use super::*;
    use crate::engine::FinishReason;

    fn chunk(text: &str) -> Chunk {
        Chunk { text: text.into(), tokens: 1, ..Chunk::default() }
    }

    fn last() -> Chunk {
        Chunk { finish: Some(FinishReason::Stop), ..Chunk::default() }
    }

    #[tokio::test]
    async fn every_sibling_hears_its_own() {
        let steps = (0..300).map(|i| Step::Chunk(i % 3, chunk(&format!("{} ", i % 3))));
        let steps = steps.chain((0..3).map(|i| Step::Chunk(i, last())));
        let paced = futures::stream::iter(steps).then(|step| async move {
            tokio::task::yield_now().await;
            step
        });
        let tasks = replies(Box::pin(paced), 3).into_iter().map(|reply| tokio::spawn(reply.complete()));
        for (index, done) in join_all(tasks).await.into_iter().enumerate() {
            assert_eq!(done.unwrap().unwrap().text, format!("{index} ").repeat(100));
        }
    }

    #[tokio::test]
    async fn one_that_is_dropped_leaves_the_others_awake() {
        let (sender, source) = mpsc::unbounded();
        let mut both = replies(Box::pin(source), 2);
        let (mut first, second) = (both.remove(0), both.remove(0));
        let second = tokio::spawn(second.complete());
        tokio::task::yield_now().await;
        assert!(first.chunks.next().now_or_never().is_none(), "the first was the last to look");
        drop(first);
        sender.unbounded_send(Step::Chunk(1, last())).unwrap();
        assert_eq!(second.await.unwrap().unwrap().finish, FinishReason::Stop);
    }

    #[tokio::test]
    async fn the_last_drop_closes_the_response_and_an_error_is_everybodys() {
        let (sender, source) = mpsc::unbounded();
        let mut both = replies(Box::pin(source), 2);
        drop(both.pop());
        assert!(!sender.is_closed());
        drop(both);
        assert!(sender.is_closed());
        let broken = EngineError::Crashed("as scripted".into());
        let source = futures::stream::iter([Step::Failed(broken.clone().into())]);
        for reply in replies(Box::pin(source), 2) {
            assert_eq!(reply.complete().await, Err(broken.clone()));
        }
    }
}
