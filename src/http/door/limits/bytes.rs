//! Bytes of bodies in memory: they are reserved before anything is read, so that the sum of all bodies is bounded whatever
//! clients send.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::http::door::keys::{Tenant, TenantId};

/// What is reserved at once; smaller bodies count as this much.
const UNIT: usize = 1024;

/// Bytes of bodies that may be in memory before their requests run.
pub struct ByteBudget {
    all: Arc<Semaphore>,
    units: usize,
    /// What one of several keys may have of it.
    share: usize,
    keys: Mutex<HashMap<TenantId, Weak<Semaphore>>>,
}

/// Bytes that are reserved for one request; given back when dropped.
pub struct Reserved {
    own: Option<OwnedSemaphorePermit>,
    all: OwnedSemaphorePermit,
}

impl ByteBudget {
    /// So many bytes for all. Each of several keys may have half of them, or one body of the largest size.
    pub fn new(bytes: usize, max_body: usize) -> Self {
        let units = bytes.div_ceil(UNIT).clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
        let share = (units / 2).max(max_body.div_ceil(UNIT)).min(units);
        Self { all: Arc::new(Semaphore::new(units)), units, share, keys: Mutex::default() }
    }

    /// Waits until `bytes` are free, those of the key first: who waits for more than its share is in nobody's way.
    pub async fn reserve(&self, tenant: &Tenant, bytes: usize) -> Reserved {
        let units = |most: usize| u32::try_from(bytes.div_ceil(UNIT).clamp(1, most)).unwrap_or(u32::MAX);
        let closed = "these semaphores are never closed";
        let own = match tenant.is_anonymous() {
            true => None,
            false => Some(self.of(tenant.id).acquire_many_owned(units(self.share)).await.expect(closed)),
        };
        let all = Arc::clone(&self.all).acquire_many_owned(units(self.units)).await.expect(closed);
        Reserved { own, all }
    }

    fn of(&self, id: TenantId) -> Arc<Semaphore> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = keys.get(&id).and_then(Weak::upgrade) {
            return own;
        }
        keys.retain(|_, own| own.strong_count() > 0);
        let own = Arc::new(Semaphore::new(self.share));
        keys.insert(id, Arc::downgrade(&own));
        own
    }
}

impl Reserved {
    /// Gives back what is above `bytes`.
    pub fn keep(&mut self, bytes: usize) {
        let units = bytes.div_ceil(UNIT);
        for permit in self.own.iter_mut().chain([&mut self.all]) {
            drop(permit.split(permit.num_permits().saturating_sub(units)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_key_cannot_have_all_and_what_is_not_needed_goes_back() {
        let budget = ByteBudget::new(8 * UNIT, 2 * UNIT);
        let (a, b) = (Tenant::test(1), Tenant::test(2));
        let mut held = budget.reserve(&a, 4 * UNIT).await;
        let mut more = Box::pin(budget.reserve(&a, 1));
        assert!(futures::poll!(&mut more).is_pending());
        let other = budget.reserve(&b, 4 * UNIT).await;
        held.keep(3 * UNIT);
        let more = more.await;
        assert_eq!((budget.all.available_permits(), budget.keys.lock().unwrap().len()), (0, 2));
        drop((held, more, other));
        assert_eq!(budget.all.available_permits(), 8);
        // More than there is counts as all of it, so that it can be read at all.
        let all = budget.reserve(&Tenant::anonymous(1, 1), 99 * UNIT).await;
        assert_eq!(budget.all.available_permits(), 0);
        drop(all);
        drop(budget.reserve(&b, 1).await);
        assert_eq!(budget.keys.lock().unwrap().len(), 1, "keys that hold nothing are forgotten");
    }
}
