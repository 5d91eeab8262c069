//! A response body that a client holds on a lease.
//!
//! The work behind a streamed response is a future inside its body, so it runs only while the connection asks for more, and a
//! connection does not ask while its client does not read. A second task then takes over: it continues the work
//! into a bounded backlog, so that the work can end and release what it holds, and it drops the body when the client takes nothing
//! for too long or when the deadline of the request has passed.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::Version;
use hyper::body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::activity::Busy;
use super::limits::{Backlog, Limits};
use crate::telemetry::metrics::{self, TimedOut};

/// When a client has taken nothing for this long, the second task continues the work.
const STALL: Duration = Duration::from_secs(1);
/// An answer ends by itself at its deadline, with an event that says so; this much later it is cut off.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes that wait for one client at most.
const ROOM: usize = 1 << 20;
/// Bytes of one frame that a client must take in a second.
const PACE: usize = 1 << 10;

/// The request that a response belongs to.
pub(super) struct Asked {
    /// When it came.
    pub received: Instant,
    /// How it came.
    pub version: Version,
    /// Its connection is busy with it.
    pub busy: Busy,
}

/// `body` of the response to a request, on a lease.
pub(super) fn leased(body: Body, asked: Asked, limits: &Limits) -> Body {
    if HttpBody::is_end_stream(&body) {
        return body;
    }
    let Asked { received, version, busy } = asked;
    let hint = HttpBody::size_hint(&body);
    let now = Instant::now();
    let deadline = received.checked_add(limits.request.saturating_add(GRACE));
    let multiplexed = version == Version::HTTP_2;
    let state = State {
        work: Some(body),
        _busy: Some(busy),
        backlog: VecDeque::new(),
        waiting_bytes: 0,
        lent: 0,
        taken: now,
        last: 0,
        asks: None,
        failed: None,
    };
    // A response of known length is complete, so no deadline is needed for its work.
    let streamed = hint.exact().is_none();
    let terms = Terms {
        deadline: deadline.filter(|_| streamed).unwrap_or(now + Duration::from_secs(1 << 30)),
        // The socket of an HTTP/1 connection knows better: it sees every byte. Streams of HTTP/2 share theirs.
        write: multiplexed.then_some(limits.write),
        stall: STALL.min(limits.write / 2),
        backlog: limits.backlog.clone(),
    };
    let shared = Arc::new(Shared { state: Mutex::new(state), terms });
    let watch = (streamed || multiplexed).then(|| tokio::spawn(watch(Arc::clone(&shared))).abort_handle());
    Body::new(Lease { shared, watch, hint })
}

/// The body as a connection takes it.
struct Lease {
    shared: Arc<Shared>,
    watch: Option<AbortHandle>,
    hint: SizeHint,
}

struct Shared {
    state: Mutex<State>,
    terms: Terms,
}

struct Terms {
    deadline: Instant,
    write: Option<Duration>,
    stall: Duration,
    backlog: Backlog,
}

struct State {
    /// The body itself, until its end.
    work: Option<Body>,
    _busy: Option<Busy>,
    /// Frames that the work produced while the connection did not ask.
    backlog: VecDeque<Frame<Bytes>>,
    waiting_bytes: usize,
    /// The part of these bytes that was taken from the shared room.
    lent: usize,
    /// When the connection last took something.
    taken: Instant,
    /// Bytes of the last frame that it took.
    last: usize,
    /// Set while the connection waits for the work.
    asks: Option<Waker>,
    /// The error that ends the body once the backlog is empty.
    failed: Option<axum::Error>,
}

#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the client takes nothing of the response")]
    Unread,
    #[error("the time for the request is over")]
    Deadline,
}

/// The second task.
async fn watch(shared: Arc<Shared>) {
    loop {
        match shared.judge(Instant::now()) {
            ControlFlow::Break(()) => return,
            ControlFlow::Continue(Next::Sleep(until)) => sleep_until(until).await,
            ControlFlow::Continue(Next::Work) => {
                // This is checked again after a while, since the connection may have continued.
                let while_stalled = poll_fn(|cx| shared.work_on(cx));
                drop(tokio::time::timeout(shared.terms.stall, while_stalled).await);
            }
        }
    }
}

enum Next {
    Sleep(Instant),
    Work,
}

impl Shared {
    fn judge(&self, now: Instant) -> ControlFlow<(), Next> {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // The connection runs the work right now.
            Err(TryLockError::WouldBlock) => {
                return ControlFlow::Continue(Next::Sleep(now + self.terms.stall));
            }
        };
        let Terms { deadline, write, stall, backlog } = &self.terms;
        if state.work.is_none() && state.backlog.is_empty() {
            return ControlFlow::Break(());
        }
        if state.work.is_some() && now >= *deadline {
            metrics::timed_out(TimedOut::Request);
            state.cut(Cut::Deadline, backlog);
            return ControlFlow::Break(());
        }
        if state.asks.is_some() {
            return ControlFlow::Continue(Next::Sleep((*deadline).min(now + *stall)));
        }
        let unread = write.map(|write| state.taken + write + Duration::from_secs((state.last / PACE) as u64));
        if unread.is_some_and(|limit| now >= limit) {
            metrics::timed_out(TimedOut::Write);
            state.cut(Cut::Unread, backlog);
            return ControlFlow::Break(());
        }
        let has_room = state.waiting_bytes < ROOM && !backlog.is_full();
        if state.work.is_some() && has_room && now >= state.taken + *stall {
            return ControlFlow::Continue(Next::Work);
        }
        ControlFlow::Continue(Next::Sleep((*deadline).min(unread.unwrap_or(*deadline)).min(now + *stall)))
    }

    /// Runs the work in place of the connection, until it ends, the backlog is full, or the connection continues.
    fn work_on(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Ok(mut state) = self.state.try_lock() else { return Poll::Ready(()) };
        let state = &mut *state;
        while state.asks.is_none()
            && state.taken.elapsed() >= self.terms.stall
            && state.waiting_bytes < ROOM
            && !self.terms.backlog.is_full()
        {
            let Some(work) = &mut state.work else { return Poll::Ready(()) };
            match std::task::ready!(Pin::new(work).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let bytes = length(&frame);
                    state.waiting_bytes += bytes;
                    state.lent += self.terms.backlog.take(bytes);
                    state.backlog.push_back(frame);
                }
                Some(Err(error)) => {
                    state.failed = Some(error);
                    state.work = None;
                }
                None => state.work = None,
            }
        }
        Poll::Ready(())
    }
}

impl State {
    /// Drops the work and what it has made.
    fn cut(&mut self, cut: Cut, backlog: &Backlog) {
        tracing::info!(reason = %cut, "a response is cut off");
        self.failed = Some(axum::Error::new(cut));
        self.drop_all(backlog);
        if let Some(connection) = self.asks.take() {
            connection.wake();
        }
    }

    fn drop_all(&mut self, backlog: &Backlog) {
        self.work = None;
        self._busy = None;
        self.backlog.clear();
        self.waiting_bytes = 0;
        backlog.give_back(std::mem::take(&mut self.lent));
    }

    fn next(&mut self, cx: &mut Context<'_>, backlog: &Backlog) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(frame) = self.backlog.pop_front() {
            let bytes = length(&frame);
            self.waiting_bytes -= bytes;
            let returned = bytes.min(self.lent);
            self.lent -= returned;
            backlog.give_back(returned);
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.failed.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let Some(work) = &mut self.work else { return Poll::Ready(None) };
        let next = std::task::ready!(Pin::new(work).poll_frame(cx));
        if next.is_none() {
            self.work = None;
        }
        Poll::Ready(next)
    }
}

fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

impl HttpBody for Lease {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let next = state.next(cx, &self.shared.terms.backlog);
        state.taken = Instant::now();
        if let Poll::Ready(Some(Ok(frame))) = &next {
            state.last = length(frame);
        }
        state.asks = next.is_pending().then(|| cx.waker().clone());
        next
    }

    fn is_end_stream(&self) -> bool {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let over = state.work.as_ref().is_none_or(HttpBody::is_end_stream);
        over && state.backlog.is_empty() && state.failed.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
        // The task may be dropped later than its handle is aborted; the work must not.
        let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.drop_all(&self.shared.terms.backlog);
    }
}

#[cfg(test)]
mod tests;
