//! Other weights while the server runs: the embedded model's directories, variants of them, and every way to spoil one.

mod adapters;
mod api;
mod hostile;
mod limits;
mod load;
mod refused;
mod start;
pub mod world;
