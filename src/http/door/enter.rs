//! The way of a request through the door, the same for every route with a body: it is read, the model that it names is pinned, a
//! job is made of it, and it waits for its turn.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::admit::{Arrival, Ready};
use super::body::FromBody;
use super::chosen::Chosen;
use super::keys::{Caller, Tenant};
use super::limits::{Ask, Kind, Permit};
use crate::http::answer::hold::Clock;
use crate::http::answer::on_behalf::Behalf;
use crate::http::error::ApiError;
use crate::http::{Shared, served};

/// A request as it comes in.
pub struct Call {
    /// What all handlers share.
    pub state: Shared,
    /// The client that calls.
    pub tenant: Arc<Tenant>,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// Its body, not read yet.
    pub body: Body,
}

impl FromRequest<Shared> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Shared) -> Result<Self, ApiError> {
        let (mut parts, body) = request.into_parts();
        let Caller(tenant) = Caller::from_request_parts(&mut parts, state).await?;
        Ok(Self { state: Arc::clone(state), tenant, headers: parts.headers, body })
    }
}

/// Who calls, and with which headers.
pub struct Client {
    /// The key's owner.
    pub tenant: Arc<Tenant>,
    /// The headers of the request.
    pub headers: HeaderMap,
}

/// A job with what it asks of the gate.
pub struct Made<J> {
    /// What is done.
    pub job: J,
    /// Its weight in the line.
    pub ask: Ask,
    /// Bytes of text that it holds while it waits.
    pub bytes: usize,
}

impl<J> Made<J> {
    /// A job that weighs as much as one plain answer.
    pub fn plain(job: J, bytes: usize) -> Self {
        Self { job, ask: Ask::plain(1), bytes }
    }
}

/// A request whose turn has come.
pub struct Entered<J> {
    /// What is done.
    pub job: J,
    /// What all handlers share.
    pub state: Shared,
    /// The model that answers.
    pub chosen: Chosen,
    /// The request's time.
    pub clock: Clock,
    /// The right to run.
    pub permit: Permit,
    client: Client,
    kind: Kind,
}

/// Reads the body, pins the model that it names, makes a job of both, and waits for its turn.
///
/// # Errors
/// The body or a field of it is at fault, the model is not served or not allowed, or the request is refused before it runs.
pub async fn enter<T, J>(
    call: Call,
    make: impl FnOnce(T, &Chosen) -> Result<Made<J>, ApiError> + Send + 'static,
) -> Result<Entered<J>, ApiError>
where
    T: FromBody,
    J: Send + 'static,
{
    let state = Arc::clone(&call.state);
    let (ready, clock, client) = read(call, make).await?;
    finish(&state, ready, clock, client).await
}

/// A request that has made something of its body and its model, before it waits.
pub type Waiting<J> = (Ready<(J, Chosen)>, Clock, Client);

/// Reads the body, pins the model that it names, and makes something of both.
///
/// # Errors
/// As [`enter`].
pub async fn read<T, M>(
    call: Call,
    make: impl FnOnce(T, &Chosen) -> Result<M, ApiError> + Send + 'static,
) -> Result<Waiting<M>, ApiError>
where
    T: FromBody,
    M: Send + 'static,
{
    let Call { state, tenant, headers, body } = call;
    let arrival = Arrival::read(&state, Arc::clone(&tenant), &headers, body).await?;
    let clock = arrival.clock;
    let live = clock.bound(async { Ok(state.served.live_present().await) }).await?;
    let made = {
        let tenant = Arc::clone(&tenant);
        move |asked: T| {
            let served = &state.served.name;
            let chosen = match T::NEEDS_MODEL {
                true => Chosen::of(&live, served, asked.model(), &tenant)?,
                false => Chosen { name: served.clone(), pinned: live.pair },
            };
            Ok((make(asked, &chosen)?, chosen))
        }
    };
    Ok((arrival.made(made).await?, clock, Client { tenant, headers }))
}

/// Waits for the turn of what was made.
///
/// # Errors
/// As [`enter`].
pub async fn finish<J: Send + 'static>(
    state: &Shared,
    ready: Ready<(Made<J>, Chosen)>,
    clock: Clock,
    client: Client,
) -> Result<Entered<J>, ApiError> {
    let Made { ask, bytes, .. } = ready.job.0;
    let ((Made { job, .. }, chosen), permit) = ready.enter(&state.gate, ask, bytes).await?;
    Ok(Entered { job, state: Arc::clone(state), chosen, clock, permit, client, kind: ask.kind })
}

impl<J> Entered<J> {
    /// The client on whose behalf the answer's calls are made; `salt` keeps its prefixes apart.
    pub fn behalf(&self, salt: Option<&str>) -> Behalf {
        self.state.behalf(Arc::clone(&self.client.tenant), &self.client.headers, salt, self.kind)
    }
}

impl Chosen {
    /// A whole answer, with the weights that gave it in its headers.
    pub fn answers<T: Serialize>(&self, answer: T) -> Response {
        let mut response = Json(answer).into_response();
        served::show_generations(&mut response, &served::ids(&self.pinned));
        response
    }
}
