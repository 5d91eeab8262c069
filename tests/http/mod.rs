//! The HTTP server from outside.

mod chat;
mod checks;
mod clients;
mod completions;
mod connections;
mod engines;
mod errors;
mod eval;
mod greeting;
mod harness;
mod life;
mod metrics;
mod openapi;
mod reasoning;
mod search;
mod swap;
mod upstream;
