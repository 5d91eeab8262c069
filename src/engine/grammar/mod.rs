//! Grammars over tokens: which tokens may come next so that the text can still match, and when it is complete.
//!
//! Clients' constraints come here as they are, so this is where they are bounded: [`limits`] says how much one may ask for,
//! `pool` compiles few at once on threads of their own, and [`memory`] holds what they take within a number of bytes.

mod compiled;
mod follower;
pub mod gbnf;
pub mod limits;
pub mod memory;
mod message;
mod pool;
mod source;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout, timeout_at};

use self::compiled::{Compiled, Memory};
pub use self::compiled::{Matcher, shared_memory};
use self::pool::{POOL, Pool};
use self::source::Source;
use self::vocabulary::Vocabulary;
pub use self::vocabulary::{Grammars, TokenText};
use super::pieces::Pieces;
use super::{Constraint, EngineError, Namespace};
pub use crate::constraint::{Spaces, with_known_formats};

/// Time for one compilation. A longer one is refused, and continues without its request.
const COMPILE_TIME: Duration = Duration::from_secs(10);
/// How long a request waits until its compilation may begin.
const QUEUE_TIME: Duration = Duration::from_secs(10);
/// Grammars that were not used for this long are dropped.
const UNUSED: Duration = Duration::from_secs(600);

/// Drops grammars that were not used for a while; called from time to time.
pub fn drop_unused() {
    shared_memory().drop_unused(UNUSED);
}

/// Whether all of `text` matches `constraint`, whose JSON may hold any white space, on behalf of a caller of `namespace`.
///
/// # Errors
/// The constraint does not compile, or cannot be compiled now.
pub async fn matches(constraint: &Constraint, namespace: Namespace, text: &str) -> Result<bool, EngineError> {
    static BYTES: LazyLock<ModelGrammars> =
        LazyLock::new(|| ModelGrammars::of(Vocabulary::Bytes, Spaces::Any, Arc::clone(shared_memory()), &POOL));
    let mut matcher = BYTES.matchers(constraint, namespace, 1).await?.pop().expect("one was asked for");
    let text = text.to_owned();
    let matched = tokio::task::spawn_blocking(move || matcher.matches(text.as_bytes()));
    matched.await.map_err(|_| EngineError::Constraint("it cannot be followed".into()))
}

/// The grammars of a model, made when the first constraint comes.
#[derive(Clone)]
pub struct ModelGrammars(Arc<Model>);

struct Model {
    /// The id that distinguishes the vocabulary's grammars from other ones.
    id: u64,
    vocabulary: Vocabulary,
    spaces: Spaces,
    memory: Arc<Memory>,
    pool: &'static Pool,
    grammars: OnceLock<Result<Grammars, EngineError>>,
    /// What is compiled at the moment, or is about to be.
    flights: Mutex<Vec<(Source, Weak<Flight>)>>,
}

impl Drop for Model {
    fn drop(&mut self) {
        self.memory.drop_owned(self.id);
    }
}

type Outcome = Result<Arc<Compiled>, EngineError>;

/// One compilation, for all requests that wait for it.
#[derive(Default)]
struct Flight {
    landed: OnceCell<Outcome>,
    /// Since when a thread compiles, and what it will say.
    begun: Mutex<Option<Begun>>,
}

type Begun = (Instant, watch::Receiver<Option<Outcome>>);

impl ModelGrammars {
    /// For a model whose replies end at `ends`.
    pub fn new(pieces: Arc<Pieces>, ends: Vec<u32>) -> Self {
        Self::of(Vocabulary::Model { pieces, ends }, Spaces::Bounded, Arc::clone(shared_memory()), &POOL)
    }

    fn of(vocabulary: Vocabulary, spaces: Spaces, memory: Arc<Memory>, pool: &'static Pool) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let (grammars, flights) = (OnceLock::new(), Mutex::default());
        Self(Arc::new(Model { id, vocabulary, spaces, memory, pool, grammars, flights }))
    }

    /// A matcher for each of `count` siblings. A constraint that was seen lately in the same namespace costs nothing. A new one
    /// is compiled on a thread of its own, once for all requests of the namespace that ask for it, and not at all if all of
    /// them have gone before it begins.
    ///
    /// # Errors
    /// The constraint is above the limits or does not compile in time, the vocabulary allows none, or too much is being
    /// compiled.
    pub async fn matchers(
        &self,
        constraint: &Constraint,
        namespace: Namespace,
        count: usize,
    ) -> Result<Vec<Matcher>, EngineError> {
        self.compiled(constraint, namespace).await?.matchers(count).await
    }

    async fn compiled(&self, constraint: &Constraint, namespace: Namespace) -> Outcome {
        let source = Source::new(constraint, self.0.spaces, namespace);
        if let Some(known) = self.0.known(&source) {
            return Ok(known);
        }
        limits::check(constraint).map_err(EngineError::Constraint)?;
        let flight = self.0.flight(&source);
        // The first request drives the compilation; if that request ends early, another one continues it.
        let landed =
            timeout(QUEUE_TIME + COMPILE_TIME, flight.landed.get_or_try_init(|| self.compile(&flight, source)));
        landed.await.map_err(|_| busy())?.cloned()?
    }

    /// The end of `flight`, which begins when there is a place for it, unless it has begun.
    async fn compile(&self, flight: &Arc<Flight>, source: Source) -> Result<Outcome, EngineError> {
        let begun = || flight.begun.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (since, mut ends) = match begun() {
            Some(begun) => begun,
            None => {
                let place = timeout(QUEUE_TIME, self.0.pool.place()).await.map_err(|_| busy())?;
                // It may have ended while this request was waiting.
                if let Some(known) = self.0.known(&source) {
                    return Ok(Ok(known));
                }
                let (end, ends) = watch::channel(None);
                let begun = (Instant::now(), ends);
                *flight.begun.lock().unwrap_or_else(PoisonError::into_inner) = Some(begun.clone());
                let (model, flight) = (Arc::clone(&self.0), Arc::clone(flight));
                let job = move || {
                    let outcome = model.compile(&source);
                    if let Ok(compiled) = &outcome {
                        model.memory.keep(Arc::clone(compiled));
                    }
                    end.send_replace(Some(outcome));
                    drop(flight);
                };
                pool::run(place, job)
                    .map_err(|error| EngineError::Unavailable(format!("no thread to compile a grammar on: {error}")))?;
                begun
            }
        };
        let slow = |_| {
            let seconds = COMPILE_TIME.as_secs();
            EngineError::Constraint(format!("it takes longer than {seconds} s to compile; make it smaller"))
        };
        let ended = timeout_at(since + COMPILE_TIME, ends.wait_for(Option::is_some)).await.map_err(slow)?;
        match ended {
            Ok(outcome) => Ok(outcome.clone().expect("it was waited for")),
            Err(_) => Err(EngineError::Constraint("it cannot be compiled".into())),
        }
    }
}

impl Model {
    fn known(&self, source: &Source) -> Option<Arc<Compiled>> {
        self.memory.find(|compiled| compiled.is(self.id, source))
    }

    fn flight(&self, source: &Source) -> Arc<Flight> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|(_, flight)| flight.strong_count() > 0);
        if let Some(flight) = flights.iter().find(|(other, _)| other == source).and_then(|(_, flight)| flight.upgrade())
        {
            return flight;
        }
        let flight = Arc::new(Flight::default());
        flights.push((source.clone(), Arc::downgrade(&flight)));
        flight
    }

    fn compile(&self, source: &Source) -> Outcome {
        let grammars = self.grammars.get_or_init(|| self.vocabulary.grammars());
        let grammars = grammars.as_ref().map_err(EngineError::clone)?;
        grammars.compile(source, self.id, &self.memory).map(Arc::new)
    }
}

fn busy() -> EngineError {
    EngineError::Unavailable("too many grammars are being compiled; try again later".into())
}
