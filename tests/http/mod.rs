//! The HTTP server from outside.

mod chat;
mod clients;
mod completions;
mod embedded;
mod errors;
mod harness;
mod life;
mod openapi;
mod search;
mod swap;
