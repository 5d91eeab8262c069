//! A device whose spare memory is given back.

use std::ops::Deref;

use candle_core::Device;

/// Bytes that a device keeps for the next step rather than give them back: what a step of one-token rows needs.
const KEPT: u64 = 256 << 20;

/// A device that gets memory back when this is dropped.
pub(super) struct DeviceLease(pub(super) Device);

impl Deref for DeviceLease {
    type Target = Device;

    fn deref(&self) -> &Device {
        &self.0
    }
}

impl DeviceLease {
    /// Keeps up to `bytes` of freed memory cached from now on, and gives the rest back.
    pub(super) fn keep(&self, bytes: u64) {
        #[cfg(feature = "cuda")]
        if self.is_cuda() {
            use crate::kernels::device::{give_memory_back, keep_memory};
            if let Err(error) = keep_memory(self, bytes).and_then(|()| give_memory_back(self, bytes)) {
                tracing::warn!(error = line(&error), "the device keeps memory that is not used");
            }
        }
        #[cfg(not(feature = "cuda"))]
        let _ = bytes;
    }
}

impl Drop for DeviceLease {
    fn drop(&mut self) {
        self.keep(KEPT);
    }
}

/// What an error says, without the trace behind it.
pub(super) fn line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
