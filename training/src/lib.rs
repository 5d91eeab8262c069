//! `spar-training`: makes the weights that `spar` serves.
//!
//! The map: [`model`] is the network with its gradient (a fast form for the CPU, and candle's for everything else); [`tokens`] turns
//! sequences into steps; [`loss`] defines the losses; [`optimizer`] and [`schedule`] turn gradients into updates; [`trainer`] is the loop;
//! [`resume`] lets a killed run resume; [`checkpoint`] writes the files that the server loads; [`curve`] draws loss curves; [`world`] is
//! the task of the tiny model, [`conversation`] its examples, [`instructions`] are the prompts and [`chats`] the examples of any model,
//! [`lessons`] what rules teach a refiner; [`stages`] are the steps of a run, each from a
//! [`recipe`], between files of [`records`]; [`report`] shows a run; [`adapter`] reads and writes PEFT's files;
//! [`cluster`] computes what training on several cards needs.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a failed test may panic"))]

pub mod adapter;
pub mod chats;
pub mod checkpoint;
pub mod cluster;
pub mod conversation;
pub mod curve;
pub mod formats;
pub mod gradient;
pub mod instructions;
pub mod lessons;
pub mod loss;
pub mod model;
pub mod optimizer;
pub mod publish;
pub mod recipe;
pub mod records;
pub mod report;
pub mod resume;
pub mod schedule;
pub mod stages;
pub mod tokenizer;
pub mod tokens;
pub mod trainer;
pub mod world;
