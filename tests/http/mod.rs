//! The HTTP server from outside.

mod chat;
mod checks;
mod clients;
mod completions;
mod engines;
mod errors;
mod eval;
mod gguf;
mod greeting;
mod harness;
mod hub;
mod life;
mod metrics;
mod openapi;
mod reasoning;
mod search;
mod swap;
mod upstream;
