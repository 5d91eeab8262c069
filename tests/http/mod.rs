//! The HTTP server from outside.

mod admission;
mod chat;
mod checks;
mod clients;
mod completions;
mod engines;
mod errors;
mod eval;
mod greeting;
mod harness;
mod keys;
mod life;
mod metrics;
mod openapi;
mod reasoning;
mod search;
mod swap;
mod tenants;
mod upstream;
