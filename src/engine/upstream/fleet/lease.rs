//! The use of an adapter on the servers of a fleet.

use tokio::sync::mpsc;

use crate::engine::Role;

/// An order to the watching thread, in addition to its regular checks.
pub(super) enum Order {
    /// An adapter is not used any more.
    Unload(String),
}

/// An adapter that every replica of its roles should have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// The path at which the servers find the adapter.
    pub(super) path: String,
    pub(super) roles: Vec<Role>,
}

/// The use of an adapter that a fleet has loaded. It is unloaded everywhere when the last use is dropped.
pub struct Lease {
    pub(super) name: String,
    pub(super) orders: mpsc::UnboundedSender<Order>,
}

impl Lease {
    /// The adapter's name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // If the fleet has ended, the order is not received, and its servers keep the adapter.
        drop(self.orders.send(Order::Unload(std::mem::take(&mut self.name))));
    }
}
