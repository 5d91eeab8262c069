//! One set of weights of a running engine: its base alone or with an adapter. It is dropped with its last job and handle.

use std::sync::Arc;

use super::adapter::Adapter;
use super::blocks::Prefix;

/// Keeps the keys and values of prefixes.
pub(super) trait PrefixKeeper: Send + Sync {
    /// Drops the prefixes below a root.
    fn forget(&self, root: Prefix);
}

/// What computes a sequence, and where its prefixes begin.
pub(super) struct Variant {
    keeper: Arc<dyn PrefixKeeper>,
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) root: Prefix,
}

impl Variant {
    /// The weights with this adapter, whose prefixes `keeper` keeps below `root`.
    pub(super) fn new(keeper: Arc<dyn PrefixKeeper>, root: Prefix, adapter: Option<Adapter>) -> Arc<Self> {
        Arc::new(Self { keeper, root, adapter: adapter.map(Arc::new) })
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        self.keeper.forget(self.root);
    }
}
