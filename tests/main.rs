//! Behaviour over a real socket: a server on port 0 around a scripted engine.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

mod http;
