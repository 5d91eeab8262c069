//! The HTTP server from outside.

mod admission;
mod chat;
mod checks;
mod clients;
mod completions;
mod connections;
mod constraints;
mod engines;
mod errors;
mod eval;
mod extremes;
mod gguf;
mod greeting;
pub mod harness;
mod hub;
mod keys;
mod life;
mod metrics;
mod models;
mod openapi;
mod reasoning;
mod search;
mod swap;
mod tenants;
mod tools;
mod upstream;
