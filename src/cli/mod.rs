//! The command line.

mod bench;
mod chat;
mod checks;
mod eval;
mod examples;
mod hub;
mod manual;
mod openapi;
mod output;
mod remote;
mod serve;
mod settings;
mod stop;
mod verify;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::ServeArgs;

/// OpenAI-compatible inference with judge-and-refine tree search.
#[derive(Parser, Debug)]
#[command(name = "spar", version, about, args_conflicts_with_subcommands = true, after_help = examples::SERVE)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
    /// Settings that differ from the defaults, to be printed at startup.
    #[arg(skip)]
    changed: Vec<String>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Serve a model over HTTP (the default)
    #[command(after_help = examples::SERVE)]
    Serve(Box<ServeArgs>),
    /// Print the API document
    #[command(after_help = examples::OPENAPI)]
    Openapi,
    /// Score a file of responses by IFEval's or IFBench's rules
    #[command(after_help = examples::VERIFY)]
    Verify(verify::VerifyArgs),
    /// Compare the checks that are found in prompts with those that a file states
    #[command(after_help = examples::CHECKS)]
    Checks(checks::ChecksArgs),
    /// Compare strategies and budgets on prompts that can be checked
    #[command(after_help = examples::EVAL)]
    Eval(Box<eval::EvalArgs>),
    /// Fetch a model from the hub into the local Hugging Face cache
    #[command(after_help = examples::PULL)]
    Pull(hub::PullArgs),
    /// List the models in the local Hugging Face cache
    #[command(after_help = examples::MODELS)]
    Models,
    /// Talk to a running server in the terminal
    #[command(after_help = examples::CHAT)]
    Chat(chat::ChatArgs),
    /// Load a running server and say how long its tokens take, or compare searches with greedy answers on own prompts
    #[command(after_help = examples::BENCH)]
    Bench(Box<bench::BenchArgs>),
    /// Print the script by which a shell completes this command
    #[command(after_help = examples::COMPLETIONS)]
    Completions(manual::CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = examples::MAN)]
    Man(manual::ManArgs),
}

impl Cli {
    /// Parses the command line. Ends the process if it is invalid or asks for help.
    pub fn typed() -> Self {
        let command = Self::command();
        let matches = command.clone().get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        let subcommand = |name: &str| command.find_subcommand(name);
        let (command, matches) = match matches.subcommand() {
            Some((name, matches)) => (subcommand(name).unwrap_or(&command), matches),
            None => (&command, &matches),
        };
        cli.changed = settings::changed(command, matches);
        cli
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Returns the message for the user.
    pub fn run(self) -> anyhow::Result<()> {
        match self.command {
            None => serve::run(self.serve, &self.changed),
            Some(Command::Serve(args)) => serve::run(*args, &self.changed),
            Some(Command::Openapi) => openapi::run(),
            Some(Command::Verify(args)) => verify::run(&args),
            Some(Command::Checks(args)) => checks::run(&args),
            Some(Command::Eval(args)) => eval::run(&args),
            Some(Command::Pull(args)) => hub::pull(&args),
            Some(Command::Models) => hub::models(),
            Some(Command::Chat(args)) => chat::run(args),
            Some(Command::Bench(args)) => bench::run(&args),
            Some(Command::Completions(args)) => manual::completions(&args),
            Some(Command::Man(args)) => manual::man(&args),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_arguments_are_one() {
        Cli::command().debug_assert();
    }
}
