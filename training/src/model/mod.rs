//! A Llama with its gradient: [`cpu`] is the fast form for `f32` on a CPU, [`llama`] the same network in candle.

pub mod config;
pub mod cpu;
pub mod llama;
pub mod lora;
pub mod params;

pub use config::LlamaConfig;
pub use lora::LoraConfig;
pub use params::Params;
