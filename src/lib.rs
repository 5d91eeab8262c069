//! `spar`: an OpenAI-compatible inference server that can spend test-time compute on judge-and-refine tree search.
//!
//! The map: [`chat`], `openai` and `anthropic` hold the words everyone shares; [`engine`] is the seam to a model; [`prompts`] is what a
//! judge and a refiner are told and how their answers are read; `jinja` renders templates within limits; [`search`] spends the budget; [`verify`] checks rules;
//! `http` serves it all; [`causes`] writes an error for a person.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed test may panic"))]

#[cfg(feature = "server")]
pub mod anthropic;
pub mod causes;
pub mod chat;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
pub mod constraint;
pub mod engine;
pub mod eval;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "upstream")]
pub mod hub;
mod jinja;
pub mod kernels;
mod memory;
#[cfg(feature = "server")]
pub mod openai;
pub mod prompts;
pub mod question;
pub mod search;
#[cfg(feature = "server")]
pub mod swap;
#[cfg(feature = "server")]
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
pub mod verify;
pub mod weights;
