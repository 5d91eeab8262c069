//! The way in: connections become callers with keys, bodies are read within bounds, and requests wait for their turn.

pub mod admit;
pub mod auth;
pub mod body;
pub mod browsers;
pub mod chosen;
pub mod enter;
pub mod envelope;
pub mod glance;
pub mod hosts;
pub mod keys;
pub mod limits;
pub mod named;
pub mod observe;
pub mod refused;
