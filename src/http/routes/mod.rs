//! The handlers: one file or folder for each route or family of routes.

pub mod adapters;
pub mod admin;
pub mod chat;
pub mod checks;
pub mod completions;
pub mod decisions;
pub mod embeddings;
pub mod health;
pub mod key_usage;
pub mod messages;
pub mod models;
pub mod page;
pub mod responses;
pub mod score;
pub mod searches;
pub mod tokens;
pub mod upstreams;
