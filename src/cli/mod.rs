//! The command line.

mod bench;
mod eval;
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
    /// Compare strategies and budgets on prompts that can be checked
    Eval(Box<eval::EvalArgs>),
    /// Load a running server and say how long its tokens take
    Bench(bench::BenchArgs),
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
            Some(Command::Eval(args)) => eval::run(&args),
            Some(Command::Bench(args)) => bench::run(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn no_two_arguments_are_one() {
        super::Cli::command().debug_assert();
    }
}
