//! The memory that grammars take: what running replies use and what is kept for later ones share one bound.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use crate::engine::EngineError;

/// Bytes of grammars in a process, where nothing else is said.
pub const DEFAULT_BYTES: usize = 256 << 20;
/// Grammars that are kept at most, however small they are.
const MOST_KEPT: usize = 256;
/// How long a request waits for memory that others hold.
const PATIENCE: Duration = Duration::from_secs(30);

/// A grammar that the memory can keep and drop.
pub trait Grammar {
    /// The vocabulary that it was compiled for.
    fn owner(&self) -> u64;

    /// Bytes of the grammar itself, whatever uses it.
    fn fresh_bytes(&self) -> usize;

    /// Bytes of the grammar and of its idle matchers.
    fn kept_bytes(&self) -> usize;

    /// Keeps no used matchers from now on.
    fn forget(&self);
}

/// A bound on bytes, and the grammars that are kept within it.
pub struct Memory<G> {
    limit: AtomicUsize,
    used: AtomicUsize,
    /// Requests that wait for memory; while there are any, nothing is kept.
    waiting: AtomicUsize,
    freed: Notify,
    /// The most recently used last.
    kept: Mutex<Vec<Kept<G>>>,
}

struct Kept<G> {
    compiled: Arc<G>,
    used: Instant,
}

/// Bytes by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Held by running replies, or by a compilation that just ended.
    pub running: usize,
    /// Kept for later replies.
    pub kept: usize,
}

/// Bytes that are taken until this is dropped.
pub struct Charge<G> {
    memory: Arc<Memory<G>>,
    bytes: usize,
}

impl<G> Drop for Charge<G> {
    fn drop(&mut self) {
        self.resize(0);
    }
}

impl<G> Charge<G> {
    /// Takes `bytes` instead, over the bound if need be: what exists is counted.
    pub fn resize(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            self.memory.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.memory.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
            self.memory.freed.notify_waiters();
        }
        self.bytes = bytes;
    }

    /// Gives a part away.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { memory: Arc::clone(&self.memory), bytes }
    }

    /// The number of charged bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The memory in which the grammars are counted.
    pub fn memory(&self) -> &Arc<Memory<G>> {
        &self.memory
    }
}

impl<G: Grammar> Memory<G> {
    /// A memory of at most `limit` bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            used: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            freed: Notify::new(),
            kept: Mutex::default(),
        })
    }

    /// The bound in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Another bound from now on.
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
        while self.used.load(Ordering::Relaxed) > bytes && self.evict_one(None) {}
    }

    /// What there is.
    pub fn bytes(&self) -> Bytes {
        let kept = self.kept().iter().map(|kept| kept.compiled.kept_bytes()).sum();
        Bytes { running: self.used.load(Ordering::Relaxed).saturating_sub(kept), kept }
    }

    /// Counts what exists already.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge<G> {
        let mut charge = Charge { memory: Arc::clone(self), bytes: 0 };
        charge.resize(bytes);
        charge
    }

    /// Takes `bytes` for replies that are held to `wanted`, once they are free. Grammars that were not used for longest go
    /// first.
    ///
    /// # Errors
    /// It is more than there is, or others hold it for too long.
    pub async fn reserve(self: &Arc<Self>, bytes: usize, wanted: &Arc<G>) -> Result<Charge<G>, EngineError> {
        let limit = self.limit();
        if bytes + wanted.fresh_bytes() > limit {
            let message = format!(
                "it takes {bytes} bytes for the replies of this request, and grammars may take {limit}; ask for a \
                 smaller `n`, or start the server with a larger --grammar-bytes"
            );
            return Err(EngineError::Constraint(message));
        }
        let _waiting = Waiting::new(&self.waiting);
        let enough = async {
            loop {
                let mut freed = std::pin::pin!(self.freed.notified());
                freed.as_mut().enable();
                if let Some(charge) = self.try_reserve(bytes, wanted) {
                    return charge;
                }
                freed.await;
            }
        };
        timeout(PATIENCE, enough).await.map_err(|_| {
            EngineError::Unavailable(format!("grammars of other requests fill the {limit} bytes of --grammar-bytes"))
        })
    }

    /// Reserves like [`Memory::reserve`], if that need not wait.
    pub fn try_reserve(self: &Arc<Self>, bytes: usize, wanted: &Arc<G>) -> Option<Charge<G>> {
        loop {
            let (limit, used) = (self.limit(), self.used.load(Ordering::Relaxed));
            if used + bytes > limit {
                if self.evict_one(Some(wanted)) {
                    continue;
                }
                return None;
            }
            let taken = self.used.compare_exchange(used, used + bytes, Ordering::Relaxed, Ordering::Relaxed);
            if taken.is_ok() {
                return Some(Charge { memory: Arc::clone(self), bytes });
            }
        }
    }

    /// Whether a matcher of a kept grammar should be kept as well.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0 && self.used.load(Ordering::Relaxed) <= self.limit()
    }

    /// The grammar for which `is_it` holds, if it is kept.
    pub fn find(&self, is_it: impl Fn(&G) -> bool) -> Option<Arc<G>> {
        let mut kept = self.kept();
        let index = kept.iter().position(|kept| is_it(&kept.compiled))?;
        let found = kept.remove(index).compiled;
        kept.push(Kept { compiled: Arc::clone(&found), used: Instant::now() });
        Some(found)
    }

    /// Keeps a grammar for later requests.
    pub fn keep(&self, compiled: Arc<G>) {
        self.kept().push(Kept { compiled, used: Instant::now() });
        while (self.kept().len() > MOST_KEPT || self.used.load(Ordering::Relaxed) > self.limit())
            && self.evict_one(None)
        {}
    }

    /// Drops what was not used for `time`.
    pub fn drop_unused(&self, time: Duration) {
        self.drop_where(|kept| kept.used.elapsed() >= time);
    }

    /// Drops the grammars of a vocabulary that was dropped.
    pub fn drop_owned(&self, owner: u64) {
        self.drop_where(|kept| kept.compiled.owner() == owner);
    }

    fn drop_where(&self, goes: impl Fn(&Kept<G>) -> bool) {
        let gone: Vec<Kept<G>> = self.kept().extract_if(.., |kept| goes(kept)).collect();
        gone.iter().for_each(|kept| kept.compiled.forget());
    }

    /// Drops the grammar that was not used for longest, other than `spared`. Whether there was one.
    fn evict_one(&self, spared: Option<&Arc<G>>) -> bool {
        let evicted = {
            let mut kept = self.kept();
            let spares = |kept: &Kept<G>| spared.is_some_and(|spared| Arc::ptr_eq(spared, &kept.compiled));
            kept.iter().position(|kept| !spares(kept)).map(|index| kept.remove(index))
        };
        // Outside of the lock, since this may free much.
        evicted.inspect(|evicted| evicted.compiled.forget()).is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept<G>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a request while it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
