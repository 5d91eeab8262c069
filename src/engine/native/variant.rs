//! One set of weights of a running engine: its base alone or with an adapter. It goes with its last job and handle.

use std::sync::Arc;

use super::adapter::Adapter;
use super::blocks::Prefix;
use super::runtime::Runtime;

/// What computes a sequence, and where its prefixes begin.
pub(super) struct Variant {
    pub(super) runtime: Arc<Runtime>,
    pub(super) adapter: Option<Arc<Adapter>>,
    pub(super) root: Prefix,
}

impl Variant {
    pub(super) fn new(runtime: Arc<Runtime>, adapter: Option<Adapter>) -> Arc<Self> {
        let root = runtime.next_root();
        Arc::new(Self { runtime, adapter: adapter.map(Arc::new), root })
    }
}

impl Drop for Variant {
    fn drop(&mut self) {
        self.runtime.forget(self.root);
    }
}
