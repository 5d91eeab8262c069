//! The command line.

mod openapi;
mod serve;
mod verify;

use clap::{Parser, Subcommand};

use crate::config::ServeArgs;

/// OpenAI-compatible inference with judge-and-refine tree search.
#[derive(Parser, Debug)]
#[command(name = "spar", version, about, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve a model over HTTP (the default)
    Serve(Box<ServeArgs>),
    /// Print the API document
    Openapi,
    /// Score a file of responses by IFEval's rules
    Verify(verify::VerifyArgs),
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// What is shown to the person who typed it.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            None => serve::run(self.serve),
            Some(Command::Serve(args)) => serve::run(*args),
            Some(Command::Openapi) => openapi::run(),
            Some(Command::Verify(args)) => verify::run(&args),
        }
    }
}
