//! `spar`: an OpenAI-compatible inference server that can spend test-time compute on judge-and-refine tree search.
//!
//! From the top: `cli` has the commands and `config` their settings; `http` serves the API, whose wire types are in `openai`;
//! `swap` changes weights while requests run; [`search`] spends the budget and [`eval`] measures it; [`engine`] is the seam to
//! a model; [`prompts`] asks judge and refiner and reads their answers; [`verify`] checks rules; [`weights`] reads
//! checkpoints; [`kernels`] multiplies; [`chat`] has messages and roles; `telemetry` has logs and metrics.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed test may panic"))]

pub mod chat;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "server")]
pub mod config;
pub mod engine;
pub mod eval;
#[cfg(feature = "server")]
pub mod http;
pub mod kernels;
#[cfg(feature = "server")]
pub mod openai;
pub mod prompts;
pub mod search;
#[cfg(feature = "server")]
pub mod swap;
#[cfg(feature = "server")]
pub mod telemetry;
#[doc(hidden)]
pub mod testing;
pub mod verify;
pub mod weights;
