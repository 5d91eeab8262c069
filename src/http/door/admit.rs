//! The way of a request from its first byte to its turn: refused before it is read where it has no chance, its bytes reserved
//! before they are in memory, parsed where that holds nobody up, and gone before it waits.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use tokio::time::timeout;

use super::body::{self, FromBody};
use super::keys::Tenant;
use super::limits::{Ask, Gate, Permit, Reserved};
use crate::engine::blocking::{SHORT, blocking};
use crate::engine::{Engine, EngineError};
use crate::http::AppState;
use crate::http::answer::hold::Clock;
use crate::http::error::ApiError;

/// Bytes a second that a body must come with at least, since its room is reserved meanwhile.
const SLOWEST: usize = 64 << 10;
/// Time that a body has in addition.
const SETUP: Duration = Duration::from_secs(10);

/// A request whose body was read.
pub struct Arrival {
    /// The request's time.
    pub clock: Clock,
    tenant: Arc<Tenant>,
    bytes: Bytes,
    reserved: Reserved,
}

/// A request of which the body is gone: what was made of it waits for its turn.
pub struct Ready<J> {
    /// What was made of the body.
    pub job: J,
    clock: Clock,
    tenant: Arc<Tenant>,
    reserved: Reserved,
}

impl Arrival {
    /// Reads the body of a request that has a chance to be answered.
    ///
    /// # Errors
    /// The gate refuses the caller, the body is too large or not JSON, or time is up.
    pub async fn read(
        state: &AppState,
        tenant: Arc<Tenant>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Self, ApiError> {
        let http = &state.settings.http;
        let clock = Clock::start(http.request_timeout);
        let announced = body::announced(headers, http.max_body)?;
        state.gate.knock(&tenant)?;
        let reserved = clock.bound(async { Ok(state.bytes.reserve(&tenant, announced).await) }).await?;
        let arrives =
            timeout(SETUP + Duration::from_secs((announced / SLOWEST) as u64), body::read(body, http.max_body));
        let bytes = clock.bound(async { arrives.await.unwrap_or(Err(ApiError::Deadline)) }).await?;
        Ok(Self { clock, tenant, bytes, reserved })
    }

    /// Makes a job of the body where that holds nobody up; then the body is gone.
    ///
    /// # Errors
    /// The body is at fault, or time is up.
    pub async fn made<T, J>(
        self,
        make: impl FnOnce(T) -> Result<J, ApiError> + Send + 'static,
    ) -> Result<Ready<J>, ApiError>
    where
        T: FromBody,
        J: Send + 'static,
    {
        let Self { clock, tenant, bytes, reserved } = self;
        let work = blocking(bytes.len(), move || {
            let asked = body::parse(&bytes)?;
            drop(bytes);
            make(asked)
        });
        Ok(Ready { job: clock.bound(work).await?, clock, tenant, reserved })
    }
}

impl<J: Send + 'static> Ready<J> {
    /// Makes something else of it, which holds no other request up.
    ///
    /// # Errors
    /// The request is at fault, or time is up.
    pub async fn then<K: Send + 'static>(
        self,
        make: impl FnOnce(J) -> Result<K, ApiError> + Send + 'static,
    ) -> Result<Ready<K>, ApiError> {
        let Self { job, clock, tenant, reserved } = self;
        let job = clock.bound(blocking(SHORT, move || make(job))).await?;
        Ok(Ready { job, clock, tenant, reserved })
    }

    /// Waits for its turn with so many bytes of text, all that is left of the body.
    ///
    /// # Errors
    /// As [`Gate::enter`].
    pub async fn enter(mut self, gate: &Arc<Gate>, ask: Ask, bytes: usize) -> Result<(J, Permit), ApiError> {
        self.reserved.keep(bytes);
        let permit = gate.enter(&self.tenant, ask, self.clock.deadline).await?;
        Ok((self.job, permit))
    }
}

/// Refuses a text that cannot fit into the context, before it waits for anything.
///
/// # Errors
/// [`ApiError::TooLong`].
pub fn fits(engine: &dyn Engine, bytes: usize) -> Result<(), ApiError> {
    let limit = engine.info().context;
    match engine.info().most_bytes() {
        Some(most) if bytes > most => {
            let longest = (most / limit.max(1)).max(1);
            Err(EngineError::PromptTooLong { tokens: bytes.div_ceil(longest), limit }.into())
        }
        _ => Ok(()),
    }
}
