//! Behaviour over a real socket, a server on port 0 around a scripted engine; and what the shipped weights say.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

mod extreme;
mod http;
mod shipped;
