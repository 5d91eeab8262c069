//! Admission: how many requests run and wait, by key and in all, in which order, and when who is refused may come back.

mod bytes;
mod line;
mod pace;
mod spending;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

pub use self::bytes::{ByteBudget, Reserved};
pub use self::line::{Ask, Kind, Share};
use self::line::{Line, Place};
use self::pace::Pace;
pub use self::spending::{Spending, Spent};
use crate::config::Capacity;
use crate::http::door::keys::{Tenant, TenantId};
use crate::http::error::ApiError;
use crate::telemetry::metrics::{self, Answering, Counted, KeyGauge, Rejection};

/// The door of the server.
pub struct Gate {
    state: Mutex<State>,
    closing: AtomicBool,
    /// Notified when nothing runs or waits any more.
    emptied: Notify,
}

struct State {
    line: Line<oneshot::Sender<Permit>>,
    /// How fast the whole line moves, and each key's part of it.
    pace: Pace,
    paces: HashMap<TenantId, Pace>,
}

/// The right to run; given back when dropped.
pub struct Permit {
    gate: Arc<Gate>,
    place: Place,
    _counted: Counted,
    _of_key: Option<KeyGauge>,
}

impl Gate {
    /// A door with this much room.
    pub fn new(capacity: Capacity) -> Arc<Self> {
        let state = State { line: Line::new(capacity), pace: Pace::default(), paces: HashMap::new() };
        Arc::new(Self { state: Mutex::new(state), closing: AtomicBool::new(false), emptied: Notify::new() })
    }

    /// Whether a request of this caller can have a chance at all, before anything of it is read.
    ///
    /// # Errors
    /// [`ApiError::QueueFull`], [`ApiError::TokensSpent`] or [`ApiError::ShuttingDown`].
    pub fn knock(&self, tenant: &Tenant) -> Result<(), ApiError> {
        if self.is_closing() {
            metrics::request_rejected(Rejection::ShuttingDown);
            return Err(ApiError::ShuttingDown);
        }
        if let Some((limit, retry_after)) = tenant.must_wait() {
            metrics::request_rejected(Rejection::TokensSpent);
            return Err(ApiError::TokensSpent { limit, retry_after });
        }
        let mut state = self.state();
        match state.line.is_closed_to(tenant.id, tenant.share) {
            true => Err(state.refusal(tenant)),
            false => Ok(()),
        }
    }

    /// Waits for its turn until `deadline`.
    ///
    /// # Errors
    /// As [`Gate::knock`], or [`ApiError::Deadline`].
    pub async fn enter(self: &Arc<Self>, tenant: &Tenant, ask: Ask, deadline: Instant) -> Result<Permit, ApiError> {
        if self.is_closing() {
            metrics::request_rejected(Rejection::ShuttingDown);
            return Err(ApiError::ShuttingDown);
        }
        let (came, mode) = (Instant::now(), ask.kind.into());
        let (granted, mut turn) = oneshot::channel();
        let place = self.state().line.join(tenant.id, tenant.share, ask, granted);
        let waiting = Waiting { gate: self, place };
        self.dispatch();
        if let Ok(mut permit) = turn.try_recv() {
            permit._of_key = tenant.running_gauge();
            metrics::queued(mode, came.elapsed());
            return Ok(permit);
        }
        {
            let mut state = self.state();
            if state.line.is_overfull(tenant.id, ask.kind) && state.left_by(place) {
                return Err(state.refusal(tenant));
            }
            let now = Instant::now();
            state.pace.waits(now);
            state.paces.entry(tenant.id).or_default().waits(now);
        }
        let _counted = (Counted::waiting(), tenant.waiting_gauge());
        let turn = timeout_at(deadline, turn).await;
        drop(waiting);
        match turn {
            Ok(Ok(mut permit)) => {
                permit._of_key = tenant.running_gauge();
                metrics::queued(mode, came.elapsed());
                Ok(permit)
            }
            // The gate keeps the other end as long as the request waits.
            Ok(Err(_)) | Err(_) => {
                metrics::request_rejected(Rejection::Deadline);
                Err(ApiError::Deadline)
            }
        }
    }

    /// Whether new requests are refused since the server is shutting down.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Refuses new requests; those inside and in the queue go on.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        self.state().line.waiting()
    }

    /// Resolves when nobody is inside or in the queue.
    pub async fn empty(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.state().line.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts everybody who may run now.
    fn dispatch(self: &Arc<Self>) {
        loop {
            let next = self.state().line.next();
            let Some((place, granted)) = next else { return };
            let permit = Permit { gate: Arc::clone(self), place, _counted: Counted::running(), _of_key: None };
            // A request that has gone in this moment gives its permit back, which starts the next one.
            drop(granted.send(permit));
        }
    }

    /// Called after a request has left.
    fn left(&self) {
        if self.state().line.is_empty() {
            self.emptied.notify_waiters();
        }
    }
}

impl State {
    fn refusal(&mut self, tenant: &Tenant) -> ApiError {
        metrics::request_rejected(Rejection::QueueFull);
        let now = Instant::now();
        let (own, all) = (self.line.waiting_of(tenant.id), self.line.waiting());
        // A key whose own part of the line is full waits for that to move, others wait for the whole line.
        let own_is_full = own >= tenant.share.waiting && own < all;
        let promised = match self.paces.get_mut(&tenant.id).filter(|_| own_is_full) {
            Some(pace) => pace.promise(now),
            None => self.pace.promise(now),
        };
        ApiError::QueueFull { waiting: if own_is_full { own } else { all }, retry_after: promised }
    }

    /// Takes a request out of the line; whether it was still there.
    fn left_by(&mut self, place: Place) -> bool {
        let left = self.line.leave(place).is_some();
        if left && self.line.waiting() == 0 {
            self.pace.rests();
        }
        if left && self.line.waiting_of(place.caller) == 0 {
            self.paces.entry(place.caller).and_modify(Pace::rests);
        }
        left
    }

    /// A place came free for one of the callers.
    fn freed(&mut self, id: TenantId) {
        let now = Instant::now();
        self.pace.freed(now, self.line.waiting() > 0);
        let waiting = self.line.waiting_of(id) > 0;
        if let Some(pace) = self.paces.get_mut(&id) {
            pace.freed(now, waiting);
        }
        // Callers that nothing is known of need no entry; a bound, since keys come and go with their file.
        if self.paces.len() > 4096 {
            let line = &self.line;
            self.paces.retain(|id, _| line.waiting_of(*id) > 0);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        {
            let mut state = self.gate.state();
            state.line.end(self.place);
            state.freed(self.place.caller);
        }
        self.gate.dispatch();
        self.gate.left();
    }
}

/// A request in the line; its place is given up when it goes.
struct Waiting<'a> {
    gate: &'a Gate,
    place: Place,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // It is not there any more where its turn has come.
        let left = self.gate.state().left_by(self.place);
        if left {
            self.gate.left();
        }
    }
}

impl From<Kind> for Answering {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Plain => Self::Plain,
            Kind::Search => Self::Search,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn gate(running: usize, waiting: usize) -> Arc<Gate> {
        Gate::new(Capacity { running, waiting, reserved_running: running / 4, reserved_waiting: waiting / 4 })
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn one_runs_one_waits_the_third_is_refused() {
        let gate = gate(1, 1);
        let anybody = Tenant::anonymous(1, 1);
        let enter = || gate.enter(&anybody, Ask::plain(1), soon());
        let refused = |retry_after| ApiError::QueueFull { waiting: 1, retry_after };
        let first = enter().await.unwrap();
        gate.knock(&anybody).unwrap();
        let mut second = Box::pin(enter());
        assert!(futures::poll!(&mut second).is_pending());
        assert_eq!(gate.knock(&anybody).err(), Some(refused(Duration::ZERO)));
        tokio::time::advance(Duration::from_millis(500)).await;
        assert_eq!(enter().await.err(), Some(refused(Duration::from_millis(500))));
        drop(first);
        let second = second.await.unwrap();
        assert_eq!(enter().await.err(), Some(ApiError::Deadline));
        let mut empty = Box::pin(gate.empty());
        assert!(futures::poll!(&mut empty).is_pending());
        gate.close();
        assert_eq!(enter().await.err(), Some(ApiError::ShuttingDown));
        assert_eq!(gate.knock(&anybody).err(), Some(ApiError::ShuttingDown));
        drop(second);
        empty.await;
    }

    #[tokio::test(start_paused = true)]
    async fn one_key_with_many_searches_leaves_room_for_another() {
        let gate = gate(4, 8);
        let keyed = |id| Tenant { share: Share { running: 2, waiting: 4 }, ..Tenant::test(id) };
        let (a, b) = (keyed(1), keyed(2));
        let search = || gate.enter(&a, Ask::search(1, 64), soon());
        let running = [search().await.unwrap(), search().await.unwrap()];
        let mut waiting: Vec<_> = (0..4).map(|_| Box::pin(search())).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let Some(ApiError::QueueFull { waiting: 4, .. }) = search().await.err() else { panic!("it is full") };
        assert!(gate.knock(&a).is_err());
        gate.knock(&b).unwrap();
        let own = [(); 2].map(|()| gate.enter(&b, Ask::plain(1), soon()));
        let own = futures::future::join_all(own).await;
        assert!(own.iter().all(Result::is_ok));
        drop(waiting);
        drop((running, own));
        gate.empty().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_while_it_waits_leaves_its_place() {
        let gate = gate(1, 1);
        let anybody = Tenant::anonymous(1, 1);
        let first = gate.enter(&anybody, Ask::plain(1), soon()).await.unwrap();
        let mut second = Box::pin(gate.enter(&anybody, Ask::plain(1), soon()));
        assert!(futures::poll!(&mut second).is_pending());
        drop(second);
        let mut third = Box::pin(gate.enter(&anybody, Ask::plain(1), soon()));
        assert!(futures::poll!(&mut third).is_pending());
        // Its turn comes, but it never looks.
        drop(first);
        drop(third);
        drop(gate.enter(&anybody, Ask::plain(1), soon()).await.unwrap());
        gate.empty().await;
    }
}
