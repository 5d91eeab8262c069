//! Accepting connections: their limit, which of them the door answers itself, and the refusal of those beyond the limit.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::TcpListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::activity::Activity;
use super::connection::{self, Terms};
use super::descriptors;
use super::socket::Socket;
use super::tls::Tls;
use crate::http::error::ApiError;
use crate::telemetry::metrics::{self, TimedOut};

/// Unsent bytes that the kernel buffers for a client. Without this limit it buffers megabytes for each client that does not read,
/// and a slow reader frees its buffer so rarely that it looks like a client that does not read.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 << 10;
/// Pause where the system has nothing left to accept with.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// The first byte of a TLS connection: a handshake.
const HANDSHAKE: u8 = 22;

/// The main port.
pub(super) struct Front {
    /// The server's runtime.
    pub main: Handle,
    /// Room for connections.
    pub slots: Arc<Semaphore>,
    /// The number of slots.
    pub most: usize,
    /// Set if the port speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// What every connection uses.
    pub terms: Terms,
}

impl Front {
    /// Accepts until the server closes.
    pub async fn accept(self: Arc<Self>, listener: StdListener) {
        let closing = self.terms.closing.clone();
        let beyond = Terms {
            router: self.terms.router.clone().layer(from_fn_with_state(self.most, health_only)),
            limits: self.terms.limits.hurried(),
            ..self.terms.clone()
        };
        // Connections beyond the limit are read, so that requests about health are answered and others get a refusal.
        let mut crowd = Crowd::new(descriptors::reserved());
        let accepting = each(listener, |stream| match Arc::clone(&self.slots).try_acquire_owned() {
            Ok(slot) => drop(tokio::spawn(Arc::clone(&self).admit(stream, slot))),
            Err(_full) => crowd.add(tokio::spawn(turn_away(stream, self.tls.clone(), beyond.clone())).abort_handle()),
        });
        tokio::select! {
            () = accepting => {}
            () = closing.cancelled() => {}
        }
    }

    /// Looks at a connection's first bytes and brings it to where it belongs.
    async fn admit(self: Arc<Self>, stream: TcpStream, slot: OwnedSemaphorePermit) {
        let opened = Instant::now();
        let terms = &self.terms;
        let mut first = [0; 16];
        let seen = tokio::select! {
            seen = timeout_at(opened + terms.limits.header, stream.peek(&mut first)) => seen,
            () = terms.closing.cancelled() => return,
        };
        let seen = match seen {
            Ok(Ok(count)) => &first[..count],
            Ok(Err(error)) => return tracing::debug!(%error, "a connection ended before its first byte"),
            Err(_elapsed) => return metrics::timed_out(TimedOut::Header),
        };
        match Opening::of(seen, self.tls.is_some()) {
            Opening::Nothing => {}
            Opening::Health => {
                let mut terms = terms.clone();
                // Later requests belong to the main runtime, so there must be none.
                terms.limits.keep_alive = false;
                serve(stream, None, opened, terms).await;
            }
            Opening::PlainText => explain_tls(stream).await,
            Opening::Request => match stream.into_std() {
                Ok(stream) => {
                    let (tls, terms) = (self.tls.clone(), terms.clone());
                    // The task owns the slot, and the end of the server waits for all slots.
                    drop(self.main.spawn(async move {
                        let _until_its_end = slot;
                        match TcpStream::from_std(stream) {
                            Ok(stream) => serve(stream, tls, opened, terms).await,
                            Err(error) => tracing::warn!(%error, "a connection is lost"),
                        }
                    }));
                }
                Err(error) => tracing::warn!(%error, "a connection is lost"),
            },
        }
    }
}

/// How a connection begins.
#[derive(Debug, PartialEq, Eq)]
enum Opening {
    /// The peer closed it.
    Nothing,
    /// It begins with a request about health.
    Health,
    /// It begins without TLS on a TLS port.
    PlainText,
    /// It begins with any other request, or with a TLS handshake.
    Request,
}

impl Opening {
    fn of(first: &[u8], tls: bool) -> Self {
        match first {
            [] => Self::Nothing,
            [byte, ..] if tls => {
                if *byte == HANDSHAKE {
                    Self::Request
                } else {
                    Self::PlainText
                }
            }
            _ if HEALTH_ROUTES.iter().any(|route| asks_for(first, route)) => Self::Health,
            _ => Self::Request,
        }
    }
}

/// The routes that are answered at the door.
pub(in crate::http) const HEALTH_ROUTES: [&str; 2] = ["/healthz", "/readyz"];

fn asks_for(first: &[u8], route: &str) -> bool {
    ["GET ", "HEAD "].iter().any(|method| {
        let rest = first.strip_prefix(method.as_bytes()).and_then(|rest| rest.strip_prefix(route.as_bytes()));
        rest.is_some_and(|rest| matches!(rest, [] | [b' ' | b'?', ..]))
    })
}

/// Calls `take` with every connection; ends only where the listener cannot be used at all.
pub(super) async fn each(listener: StdListener, mut take: impl FnMut(TcpStream)) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "nothing can be accepted"),
    };
    let mut exhausted = false;
    loop {
        match listener.accept().await {
            Ok((stream, _peer)) => {
                exhausted = false;
                if let Err(error) = prepare(&stream) {
                    tracing::debug!(%error, "options of a socket");
                }
                take(stream);
                // Aborted connections are closed only when the runtime runs their tasks.
                tokio::task::yield_now().await;
            }
            // The peer has closed the connection.
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                if !exhausted {
                    tracing::error!(%error, "no connection can be accepted; trying again");
                }
                exhausted = true;
                sleep(EXHAUSTED).await;
            }
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Events must not wait for more bytes.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)?;
    Ok(())
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::ConnectionRefused)
}

/// Serves a connection from its first byte on.
pub(super) async fn serve(stream: TcpStream, tls: Option<Arc<Tls>>, opened: Instant, terms: Terms) {
    let _counted = metrics::Counted::connection();
    let activity = Activity::new(opened);
    let socket = Socket::new(stream, Arc::clone(&activity), terms.limits.write);
    let Some(tls) = tls else { return connection::serve(socket, activity, terms).await };
    let handshake = timeout_at(opened + terms.limits.header, tls.acceptor().accept(socket));
    let result = tokio::select! {
        result = handshake => result,
        () = terms.closing.cancelled() => return,
    };
    match result {
        Ok(Ok(stream)) => connection::serve(stream, activity, terms).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_elapsed) => metrics::timed_out(TimedOut::Header),
    }
}

/// Serves a connection beyond the limit, mostly to refuse its request.
async fn turn_away(stream: TcpStream, tls: Option<Arc<Tls>>, terms: Terms) {
    metrics::connection_refused();
    serve(stream, tls, Instant::now(), terms).await;
}

/// Refuses everything but health.
async fn health_only(State(most): State<usize>, request: Request, next: Next) -> Response {
    let mut response = match HEALTH_ROUTES.contains(&request.uri().path()) {
        true => next.run(request).await,
        false => ApiError::TooManyConnections(most).into_response(),
    };
    if response.version() < axum::http::Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Says in plain HTTP that this is a TLS port.
async fn explain_tls(mut stream: TcpStream) {
    let text = "this port speaks HTTPS: call it by https://\n";
    let length = text.len();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}"
    );
    let patience = Instant::now() + Duration::from_secs(1);
    // The request is read first: closing a socket with unread bytes resets the connection, and the answer may be lost.
    let mut rest = [0; 8 << 10];
    drop(stream.try_read(&mut rest));
    if let Ok(Err(error)) = timeout_at(patience, stream.write_all(answer.as_bytes())).await {
        tracing::debug!(%error, "a client without TLS has closed its connection");
    }
}

/// A bounded set of connections: a new one replaces the oldest.
pub(super) struct Crowd {
    room: usize,
    tasks: VecDeque<AbortHandle>,
}

impl Crowd {
    pub fn new(room: usize) -> Self {
        Self { room, tasks: VecDeque::new() }
    }

    pub fn add(&mut self, task: AbortHandle) {
        if self.tasks.len() == self.room {
            self.tasks.retain(|task| !task.is_finished());
        }
        if self.tasks.len() == self.room
            && let Some(oldest) = self.tasks.pop_front()
        {
            oldest.abort();
        }
        self.tasks.push_back(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_by_its_first_bytes() {
        for (first, tls, expected) in [
            ("", false, Opening::Nothing),
            ("GET /healthz HTT", false, Opening::Health),
            ("GET /healthz?a=b", false, Opening::Health),
            ("GET /readyz HTTP", false, Opening::Health),
            ("HEAD /readyz HTT", false, Opening::Health),
            ("HEAD /healthz HT", false, Opening::Health),
            ("GET /healthzz HT", false, Opening::Request),
            ("GET /health", false, Opening::Request),
            ("POST /healthz HT", false, Opening::Request),
            ("GET / HTTP/1.1\r\n", false, Opening::Request),
            ("PRI * HTTP/2.0\r\n", false, Opening::Request),
            ("\u{16}\u{3}\u{1}", false, Opening::Request),
            ("\u{16}\u{3}\u{1}", true, Opening::Request),
            ("GET /healthz HTT", true, Opening::PlainText),
        ] {
            assert_eq!(Opening::of(first.as_bytes(), tls), expected, "{first:?}");
        }
    }
}
