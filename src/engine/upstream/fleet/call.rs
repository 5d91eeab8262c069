//! One call of a fleet: a replica is chosen and asked, and another one where that fails.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use futures::future::{Either, select};
use futures::{StreamExt, stream};
use tokio::time::{Instant, sleep, timeout};

use super::balance::{Candidate, choose};
use super::replica::{Place, Replica};
use super::{Fleet, Lease, Patience};
use crate::engine::Role;
use crate::engine::upstream::failure::{Failure, Kind};
use crate::engine::upstream::siblings::{Source, Step};
use crate::engine::upstream::{Asking, Siblings};
use crate::engine::{Conversation, EngineError, Input, LabelRequest, LabelScores, Origin, Purpose, Request, Waits};

/// The pause before a replica is asked again that has failed; it doubles.
const PAUSE: Duration = Duration::from_millis(250);
/// How long a call that waits for room sleeps at most before it looks again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Who calls: a role's model, perhaps with an adapter.
pub(super) struct Caller {
    pub fleet: Arc<Fleet>,
    /// The role whose replicas answer; `None`: by the purpose of each call.
    pub role: Option<Role>,
    pub adapter: Option<Lease>,
}

/// What is left of a call's tries.
pub(super) struct Attempts {
    left: usize,
    /// The replicas that have failed it.
    tried: Vec<u64>,
    pause: Duration,
}

impl Attempts {
    pub fn new(patience: &Patience) -> Self {
        Self { left: patience.tries.saturating_sub(1), tried: Vec::new(), pause: PAUSE }
    }
}

/// A call that a replica has begun to answer.
pub(super) struct Opened {
    place: Place,
    source: Source,
}

/// What a call wants.
#[derive(Clone, Copy)]
struct Wanted {
    role: Role,
    conversation: u64,
    replies: usize,
}

enum Taken {
    Place(Place),
    /// All that can be used are full.
    Full,
    /// None can be used, before this moment if it is known.
    Nobody(Option<Instant>),
}

impl Caller {
    pub fn adapter_name(&self) -> Option<&str> {
        self.adapter.as_ref().map(Lease::name)
    }

    /// Finds a replica that answers: the first step of its response has arrived.
    pub async fn begin(&self, request: &Request, attempts: &mut Attempts) -> Result<Opened, EngineError> {
        let wanted = self.wanted(request.purpose, &request.input, request.origin, request.samples);
        loop {
            let place = self.place(wanted, attempts).await?;
            let (place, result) = self.hedged(place, request, wanted).await;
            match result {
                Ok(source) => {
                    place.replica.began(place.began.elapsed());
                    return Ok(Opened { place, source });
                }
                Err(failure) => self.give_up_or_go_on(place, failure, wanted, attempts).await?,
            }
        }
    }

    /// Labels are read in one piece, so that they are read again where that fails.
    pub async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        let mut attempts = Attempts::new(&self.fleet.config.patience);
        let Some(first) = request.questions.first() else {
            return Ok(LabelScores::default());
        };
        let wanted = self.wanted(request.purpose, &first.input, request.origin, 1);
        loop {
            let mut place = self.place(wanted, &attempts).await?;
            let reading = async {
                let server = place.replica.server.load_full().ok_or_else(gone)?;
                server.label_scores(request.clone(), self.asking()).await
            };
            let silence = self.fleet.config.patience.silence;
            match timeout(silence, reading).await.unwrap_or_else(|_| Err(silent(silence))) {
                Ok(scores) => {
                    place.succeeded();
                    return Ok(scores);
                }
                Err(failure) => self.give_up_or_go_on(place, failure, wanted, &mut attempts).await?,
            }
        }
    }

    fn wanted(&self, purpose: Purpose, input: &Input, origin: Origin, replies: usize) -> Wanted {
        let by_purpose = if purpose == Purpose::Answer { Role::Actor } else { Role::Refiner };
        let conversation = origin.conversation.unwrap_or_else(|| match input {
            Input::Chat(chat) => Conversation::of(&chat.messages),
            Input::Text(text) => Conversation::of_text(text.as_bytes()),
            Input::Tokens(ids) => Conversation::of_text(bytemuck::cast_slice(ids)),
        });
        let conversation = conversation.number(origin.namespace);
        Wanted { role: self.role.unwrap_or(by_purpose), conversation, replies }
    }

    fn asking(&self) -> Asking<'_> {
        Asking { adapter: self.adapter_name(), tries: 1 }
    }

    /// Waits for a replica that can take the call.
    async fn place(&self, wanted: Wanted, attempts: &Attempts) -> Result<Place, EngineError> {
        let mut until: Option<Instant> = None;
        loop {
            let freed = self.fleet.freed.notified();
            tokio::pin!(freed);
            // It is registered before the look, so that no sign between the look and the wait is missed.
            freed.as_mut().enable();
            let wait = match self.take(wanted, &attempts.tried) {
                Taken::Place(place) => return Ok(place),
                Taken::Full => LOOK_AGAIN,
                Taken::Nobody(next) => {
                    let now = Instant::now();
                    let last = *until.get_or_insert(now + self.fleet.config.patience.nobody);
                    if now >= last {
                        return Err(self.fleet.nobody(wanted.role, self.adapter_name()));
                    }
                    next.unwrap_or(last).min(last) - now
                }
            };
            // The wait ends with the time or with a sign, whichever comes first.
            drop(timeout(wait.max(Duration::from_millis(1)), freed).await);
        }
    }

    /// A replica for the call, if one can take it now: not one that has failed it, unless there is no other.
    fn take(&self, wanted: Wanted, tried: &[u64]) -> Taken {
        let _turn = self.fleet.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, replicas) = (Instant::now(), self.fleet.replicas.load());
        let (mut able, mut next) = (Vec::new(), None);
        for replica in replicas.iter().filter(|replica| replica.has(wanted.role)) {
            match replica.check(self.adapter_name(), now) {
                Ok(()) => able.push(replica),
                Err(unusable) => next = next.into_iter().chain(unusable.until).min(),
            }
        }
        if able.iter().any(|replica| !tried.contains(&replica.id)) {
            able.retain(|replica| !tried.contains(&replica.id));
        }
        if able.is_empty() {
            return Taken::Nobody(next);
        }
        let candidate = |replica: &&Arc<Replica>| {
            let config = replica.config.load();
            let load = replica.load.load(Relaxed);
            Candidate { id: replica.id, weight: config.weight, load, most: config.max_in_flight }
        };
        let candidates: Vec<Candidate> = able.iter().map(candidate).collect();
        match choose(&candidates, wanted.conversation, wanted.replies) {
            Some(index) => {
                let freed = Arc::clone(&self.fleet.freed);
                Taken::Place(Place::take(Arc::clone(able[index]), wanted.replies, freed))
            }
            None => Taken::Full,
        }
    }

    /// Asks the replica, and another one as well where that takes longer than the settings allow. The first that answers is taken.
    async fn hedged(&self, mut place: Place, request: &Request, wanted: Wanted) -> (Place, Result<Source, Failure>) {
        let first = self.open(Arc::clone(&place.replica), request);
        tokio::pin!(first);
        let Some(delay) = self.fleet.config.patience.hedge else { return (place, first.await) };
        if let Ok(result) = timeout(delay, &mut first).await {
            return (place, result);
        }
        let other = match self.take(wanted, &[place.replica.id]) {
            Taken::Place(other) if other.replica.id != place.replica.id => other,
            _ => return (place, first.await),
        };
        place.replica.counts.hedges.fetch_add(1, Relaxed);
        let mut other = other;
        let second = self.open(Arc::clone(&other.replica), request);
        tokio::pin!(second);
        match select(first, second).await {
            Either::Left((Ok(source), _)) => (place, Ok(source)),
            Either::Right((Ok(source), _)) => (other, Ok(source)),
            Either::Left((Err(failure), second)) => {
                place.failed(&failure);
                (other, second.await)
            }
            Either::Right((Err(failure), first)) => {
                other.failed(&failure);
                (place, first.await)
            }
        }
    }

    /// Asks a replica and waits for the first step of its response.
    async fn open(&self, replica: Arc<Replica>, request: &Request) -> Result<Source, Failure> {
        let opening = async {
            let server = replica.server.load_full().ok_or_else(gone)?;
            let asking = self.asking();
            let mut source = match replica.siblings(&server) {
                Siblings::Requests if request.samples > 1 => server.open_each(request, asking).await?,
                _ => server.open(request, asking).await?,
            };
            match source.next().await {
                Some(Step::Failed(failure)) => Err(failure),
                Some(step) => Ok(Box::pin(stream::iter([step]).chain(source)) as Source),
                None => Err(cut()),
            }
        };
        let silence = self.fleet.config.patience.silence;
        timeout(silence, opening).await.unwrap_or_else(|_| Err(silent(silence)))
    }

    /// Counts a failure. Where the call may be sent again, waits until it should be; otherwise the failure is its end.
    async fn give_up_or_go_on(
        &self,
        mut place: Place,
        failure: Failure,
        wanted: Wanted,
        attempts: &mut Attempts,
    ) -> Result<(), EngineError> {
        place.failed(&failure);
        if !failure.may_pass() || attempts.left == 0 {
            return Err(failure.error);
        }
        attempts.left -= 1;
        let replica = Arc::clone(&place.replica);
        replica.counts.retries.fetch_add(1, Relaxed);
        drop(place);
        if failure.kind == Kind::Choices {
            tracing::warn!(
                upstream = replica.name(),
                "the upstream ignores `n`, so it is sent a request for each reply"
            );
            replica.ignores_n.store(true, Relaxed);
            return Ok(());
        }
        attempts.tried.push(replica.id);
        let (now, replicas) = (Instant::now(), self.fleet.replicas.load_full());
        let others = replicas.iter().any(|other| {
            other.has(wanted.role)
                && !attempts.tried.contains(&other.id)
                && other.check(self.adapter_name(), now).is_ok()
        });
        if !others {
            sleep(attempts.pause.mul_f64(0.5 + rand::random::<f64>())).await;
            attempts.pause *= 2;
        }
        Ok(())
    }
}

/// The steps of a call that was begun. If its replica fails, the call begins again on another one, unless the client has seen a
/// part of the answer.
pub(super) fn steps(caller: Arc<Caller>, request: Request, opened: Opened, attempts: Attempts) -> Source {
    let none = vec![false; request.samples];
    let running =
        Running { caller, request, opened, attempts, begun: none.clone(), restarted: none.clone(), finished: none };
    Box::pin(stream::unfold(Some(running), |running| async move {
        let mut running = running?;
        let step = running.next().await?;
        let ended = matches!(step, Step::Failed(_));
        Some((step, (!ended).then_some(running)))
    }))
}

struct Running {
    caller: Arc<Caller>,
    request: Request,
    opened: Opened,
    attempts: Attempts,
    /// The siblings of which something was given on.
    begun: Vec<bool>,
    /// Those that have begun again since.
    restarted: Vec<bool>,
    finished: Vec<bool>,
}

impl Running {
    async fn next(&mut self) -> Option<Step> {
        let silence = self.caller.fleet.config.patience.silence;
        loop {
            if self.finished.iter().all(|finished| *finished) {
                return None;
            }
            let failure = match timeout(silence, self.opened.source.next()).await {
                Ok(Some(Step::Chunk(index, mut chunk))) => {
                    if self.finished[index] {
                        continue;
                    }
                    chunk.restarts = std::mem::take(&mut self.restarted[index]);
                    self.begun[index] = true;
                    self.finished[index] = chunk.finish.is_some();
                    if self.finished.iter().all(|finished| *finished) {
                        self.opened.place.succeeded();
                    }
                    return Some(Step::Chunk(index, chunk));
                }
                Ok(Some(Step::Failed(failure))) => failure,
                Ok(None) => cut(),
                Err(_elapsed) => silent(silence),
            };
            if let Err(error) = self.begin_again(failure).await {
                return Some(Step::Failed(error.into()));
            }
        }
    }

    async fn begin_again(&mut self, failure: Failure) -> Result<(), EngineError> {
        let seen = self.begun.iter().zip(&self.finished).any(|(begun, finished)| *begun && !finished);
        if seen && self.request.origin.waits != Waits::Search {
            self.opened.place.failed(&failure);
            return Err(failure.error);
        }
        let Request { purpose, input, origin, samples, .. } = &self.request;
        let wanted = self.caller.wanted(*purpose, input, *origin, *samples);
        // The place is given back before another one is waited for.
        let nothing = Box::pin(stream::empty()) as Source;
        drop(std::mem::replace(&mut self.opened.source, nothing));
        self.opened.place.failed(&failure);
        let place = self.opened.place.hand_over();
        self.caller.give_up_or_go_on(place, failure, wanted, &mut self.attempts).await?;
        self.opened = self.caller.begin(&self.request, &mut self.attempts).await?;
        for ((restarted, begun), finished) in self.restarted.iter_mut().zip(&self.begun).zip(&self.finished) {
            *restarted = *begun && !finished;
        }
        Ok(())
    }
}

fn cut() -> Failure {
    Failure::new(Kind::Cut, EngineError::Crashed("the reply ended without a finish reason".into()))
}

fn silent(after: Duration) -> Failure {
    let reason = format!("the upstream sent nothing for {after:?}");
    Failure::new(Kind::Silent, EngineError::Upstream(reason))
}

fn gone() -> Failure {
    Failure::new(Kind::Unreachable, EngineError::Unavailable("the upstream was not reached yet".into()))
}
