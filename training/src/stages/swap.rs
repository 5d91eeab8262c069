//! `swap`: swaps weights of a running server.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::publish::{Admin, Weights};

/// What is swapped.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  spar-train swap --role actor --model models/actor-1
  spar-train swap --role refiner --adapter runs/refiner/adapter --dry-run
  spar-train swap --role actor --rollback")]
pub struct Options {
    /// The server's address.
    #[arg(long, default_value = "http://127.0.0.1:8080")]
    pub url: String,
    /// The role whose weights are swapped.
    #[arg(long, value_parser = ["actor", "refiner", "both"])]
    pub role: String,
    /// A model's directory, inside one of the server's --weights-root.
    #[arg(long)]
    pub model: Option<PathBuf>,
    /// A LoRA adapter's directory, inside one of the server's --weights-root.
    #[arg(long)]
    pub adapter: Option<PathBuf>,
    /// The generation that must be live; otherwise the server refuses the swap.
    #[arg(long)]
    pub expected: Option<String>,
    /// Checks the weights and does everything except the switch.
    #[arg(long)]
    pub dry_run: bool,
    /// Rolls back to the previous generation instead.
    #[arg(long, conflicts_with_all = ["model", "adapter", "dry_run"])]
    pub rollback: bool,
}

/// Swaps or rolls back, and returns the server's report.
///
/// # Errors
/// Fails if the server cannot be reached or refuses; its message says why.
pub async fn run(options: &Options) -> Result<Value> {
    let Options { url, role, model, adapter, expected, dry_run, rollback } = options.clone();
    let admin = Admin::new(&url)?;
    match rollback {
        true => admin.rollback(&role, expected.as_deref()).await,
        false => admin.swap(&Weights { role, model, adapter, expected, dry_run }).await,
    }
}
