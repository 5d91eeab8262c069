//! What every answer holds from its start to its end.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::on_behalf::Behalf;
use crate::engine::generation::Pinned;
use crate::http::door::limits::Permit;
use crate::http::error::ApiError;

/// When a request came, and when it must be answered.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// When it came.
    pub received: Instant,
    /// When it must be answered.
    pub deadline: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start(timeout: Duration) -> Self {
        let received = Instant::now();
        // The far future stands in for a timeout that overflows.
        let deadline = received.checked_add(timeout).unwrap_or(received + Duration::from_secs(1 << 30));
        Self { received, deadline }
    }

    /// `step`, if it ends in time.
    ///
    /// # Errors
    /// The call's own error, or [`ApiError::Deadline`].
    pub async fn bound<T>(self, step: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        timeout_at(self.deadline, step).await.unwrap_or(Err(ApiError::Deadline))
    }
}

/// What every answer holds from its start to its end.
pub struct Hold {
    /// The right to run.
    pub permit: Permit,
    /// The generations that answer.
    pub pinned: Pinned,
    /// Who it is for.
    pub behalf: Behalf,
    /// The request's time.
    pub clock: Clock,
    /// Cancelled when the server gives up on running requests.
    pub abort: CancellationToken,
}
