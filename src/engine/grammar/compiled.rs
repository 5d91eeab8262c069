//! A grammar that is ready to be followed, with matchers that were used before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use super::follower::Follower;
use super::memory::{self, DEFAULT_BYTES, Grammar};
use super::source::Source;
use crate::engine::EngineError;

/// Matchers of one small grammar that are kept.
const MOST_IDLE: usize = 128;
/// The part of all memory that kept matchers of one grammar may take; of a larger grammar one is kept.
const IDLE_SHARE: usize = 32;
/// Memory of a grammar without its matchers, in bytes per byte of its text.
const BYTES_PER_SOURCE_BYTE: usize = 24;

/// Bytes that compiled grammars take.
pub type Charge = memory::Charge<Compiled>;
/// The bound on them.
pub type Memory = memory::Memory<Compiled>;

/// The memory of this process's grammars.
pub fn shared_memory() -> &'static Arc<Memory> {
    static SHARED: LazyLock<Arc<Memory>> = LazyLock::new(|| Memory::new(DEFAULT_BYTES));
    &SHARED
}

/// A grammar for one vocabulary.
pub struct Compiled {
    source: Source,
    owner: u64,
    tokens: u32,
    fresh: Follower,
    /// The memory of the grammar itself and of `fresh`.
    charge: Charge,
    /// Used before: what they have learned of the vocabulary makes them faster than fresh ones.
    idle: Mutex<Vec<(Follower, Charge)>>,
    /// It is no longer kept, so used matchers are not kept either.
    forgotten: AtomicBool,
}

impl Compiled {
    /// The grammar of `source`, compiled for the vocabulary `owner`, which has `tokens`.
    pub fn new(source: Source, owner: u64, tokens: u32, fresh: Follower, memory: &Arc<Memory>) -> Self {
        let charge = memory.charge(fresh.bytes() + source.len() * BYTES_PER_SOURCE_BYTE);
        let (idle, forgotten) = (Mutex::default(), AtomicBool::new(false));
        Self { source, owner, tokens, fresh, charge, idle, forgotten }
    }

    /// Whether it was made of `source` for the vocabulary `owner`.
    pub fn is(&self, owner: u64, source: &Source) -> bool {
        self.owner == owner && self.source == *source
    }

    /// `count` matchers at the start of the text, once there is memory for them.
    ///
    /// # Errors
    /// There is not enough memory for `count` matchers.
    pub async fn matchers(self: &Arc<Self>, count: usize) -> Result<Vec<Matcher>, EngineError> {
        let mut matchers: Vec<Matcher> = {
            let mut idle = self.idle();
            let left = idle.len().saturating_sub(count);
            idle.drain(left..).map(|(state, charge)| Matcher::new(self, state, charge)).collect()
        };
        let (memory, each) = (self.charge.memory(), self.fresh.bytes());
        let missing = count - matchers.len();
        let charge = match memory.try_reserve(each * missing, self) {
            Some(charge) => charge,
            None => {
                // A waiting request holds no memory that another one may wait for.
                drop(std::mem::take(&mut matchers));
                drop(std::mem::take(&mut *self.idle()));
                memory.reserve(each * count, self).await?
            }
        };
        matchers.extend(self.copies(count - matchers.len(), each, charge).await?);
        Ok(matchers)
    }

    /// Fresh matchers of `each` bytes, whose memory `charge` has reserved.
    async fn copies(
        self: &Arc<Self>,
        count: usize,
        each: usize,
        mut charge: Charge,
    ) -> Result<Vec<Matcher>, EngineError> {
        /// Copies of more bytes than this are made on a thread that may block.
        const AT_ONCE: usize = 1 << 20;
        let compiled = Arc::clone(self);
        let mut copy = move || -> Vec<Matcher> {
            (0..count).map(|_| Matcher::new(&compiled, compiled.fresh.copy(), charge.split(each))).collect()
        };
        if each * count <= AT_ONCE {
            return Ok(copy());
        }
        let failed = |_| EngineError::Constraint("its matchers cannot be copied".into());
        tokio::task::spawn_blocking(copy).await.map_err(failed)
    }

    /// A matcher at the start of the text, whatever memory there is.
    pub fn matcher(self: &Arc<Self>) -> Matcher {
        let idle = self.idle().pop();
        let (state, charge) = idle.unwrap_or_else(|| {
            let state = self.fresh.copy();
            let charge = self.charge.memory().charge(state.bytes());
            (state, charge)
        });
        Matcher::new(self, state, charge)
    }

    /// Keeps a matcher that was used, if it is worth it.
    fn give_back(&self, mut state: Follower, mut charge: Charge) {
        if self.forgotten.load(Ordering::Relaxed) || !charge.memory().has_room() || !state.rewind() {
            return;
        }
        charge.resize(state.bytes());
        let share = charge.memory().limit() / IDLE_SHARE;
        let mut idle = self.idle();
        let held: usize = idle.iter().map(|(_, charge)| charge.bytes()).sum();
        if idle.is_empty() || (idle.len() < MOST_IDLE && held + charge.bytes() <= share) {
            idle.push((state, charge));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<(Follower, Charge)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grammar for Compiled {
    fn owner(&self) -> u64 {
        self.owner
    }

    fn fresh_bytes(&self) -> usize {
        self.charge.bytes()
    }

    fn kept_bytes(&self) -> usize {
        self.charge.bytes() + self.idle().iter().map(|(_, charge)| charge.bytes()).sum::<usize>()
    }

    fn forget(&self) {
        self.forgotten.store(true, Ordering::Relaxed);
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
    }
}

/// Follows one reply through a grammar.
pub struct Matcher {
    /// `None` only while it is dropped.
    state: Option<(Follower, Charge)>,
    compiled: Arc<Compiled>,
}

impl Clone for Matcher {
    /// An independent matcher in the same state.
    fn clone(&self) -> Self {
        let copy = |(state, charge): &(Follower, Charge)| (state.copy(), charge.memory().charge(charge.bytes()));
        Self { state: self.state.as_ref().map(copy), compiled: Arc::clone(&self.compiled) }
    }
}

impl Drop for Matcher {
    fn drop(&mut self) {
        if let Some((state, charge)) = self.state.take() {
            self.compiled.give_back(state, charge);
        }
    }
}

impl Matcher {
    fn new(compiled: &Arc<Compiled>, state: Follower, charge: Charge) -> Self {
        Self { state: Some((state, charge)), compiled: Arc::clone(compiled) }
    }

    fn state(&mut self) -> &mut (Follower, Charge) {
        self.state.as_mut().expect("a matcher has its state until it is dropped")
    }

    /// The tokens that may come next: token `t` is bit `t % 32` of word `t / 32`. An end token is among them where the text
    /// may end.
    ///
    /// # Errors
    /// Fails when the grammar is too costly to follow.
    pub fn allowed(&mut self) -> Result<Vec<u32>, EngineError> {
        let (state, charge) = self.state();
        let allowed = state.allowed();
        charge.resize(state.bytes());
        allowed
    }

    /// Advances by `token` if it is allowed, which costs much less than computing all allowed tokens. Returns whether the text
    /// is then complete, so that nothing can follow; `None` when the token is not allowed.
    ///
    /// # Errors
    /// Fails when the grammar is too costly to follow.
    pub fn accept(&mut self, token: u32) -> Result<Option<bool>, EngineError> {
        let tokens = self.compiled.tokens;
        let (state, _) = self.state();
        if token >= tokens || state.is_over() {
            return Ok(None);
        }
        Ok(state.accept(token)?.then(|| state.is_over()))
    }
}
