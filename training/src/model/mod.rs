//! A Llama with its gradient: [`cpu`] is the fast form for a CPU, [`device`] the one for CUDA, and [`llama`] the same network for
//! candle's own gradients, which both are compared with.

pub mod computing;
pub mod cpu;
pub mod device;
pub mod llama;
pub mod lora;
pub mod params;
pub mod shape;

pub use lora::LoraConfig;
pub use params::Params;
pub use spar::weights::DenseConfig;
