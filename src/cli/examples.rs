//! The examples at the end of each `--help`.

/// Examples of `spar` and `spar serve`.
pub(super) const SERVE: &str = "\
Examples:
  spar                                                      serve the embedded model on 127.0.0.1:8080
  spar --model org/name:Q4_K_M --kv-cache-bytes 1G          fetch a model and serve it
  spar --engine upstream --upstream-url http://h:8000/v1    search on top of another server";

/// Examples of `spar openapi`.
pub(super) const OPENAPI: &str = "\
Examples:
  spar openapi                                              print the document
  spar openapi | head                                       look at its beginning
  spar openapi > openapi.json                               keep it, for a generator of clients";

/// Examples of `spar verify`.
pub(super) const VERIFY: &str = "\
Examples:
  spar verify --prompts p.jsonl --responses r.jsonl         print the scores as a table
  spar verify --prompts p.jsonl --responses r.jsonl --json   print every verdict
  spar verify --help                                        say which fields the files have";

/// Examples of `spar checks`.
pub(super) const CHECKS: &str = "\
Examples:
  spar checks --prompts p.jsonl                             compare what is found with what the file states
  spar checks --prompts p.jsonl --json                      print every difference
  spar checks --prompts p.jsonl | head -20                  look at the first kinds";

/// Examples of `spar chat`.
pub(super) const CHAT: &str = "\
Examples:
  spar chat                                                 talk to the server on 127.0.0.1:8080
  spar chat --url http://h:8080 --search 8                  search each answer, and watch the tree grow
  spar chat --search 8 < questions.txt                      one question per line, and the answers alone";

/// Examples of `spar eval`.
pub(super) const EVAL: &str = "\
Examples:
  spar eval --data p.jsonl --out runs/e1                    the embedded model at the default budgets
  spar eval --data p.jsonl --out runs/e2 --url http://h:8080   a server that runs already
  spar eval --data p.jsonl --out runs/e3 --budgets 0,8 --strategy bfs,best_of_n --limit 100   a first look";

/// Examples of `spar pull`.
pub(super) const PULL: &str = "\
Examples:
  spar pull org/name                                        the weights and the tokenizer
  spar pull org/name:Q4_K_M                                 one of its GGUF files
  spar pull org/name@v1.0                                   a revision";

/// Examples of `spar models`.
pub(super) const MODELS: &str = "\
Examples:
  spar models                                               all models of the cache
  HF_HOME=/data/hf spar models                              those of another cache
  spar models | sort                                        by name";

/// Examples of `spar bench`.
pub(super) const BENCH: &str = "\
Examples:
  spar bench                                                one plain client for 10 seconds
  spar bench --data p.jsonl --budgets 1,4                   greedy answers against searched ones on own prompts
  spar bench --searches 8 --budget 16 --json                what a plain client feels during 8 searches";

/// Examples of `spar completions`.
pub(super) const COMPLETIONS: &str = "\
Examples:
  spar completions bash > /etc/bash_completion.d/spar       for every user of bash
  spar completions zsh > ~/.zfunc/_spar                     for zsh, where ~/.zfunc is in fpath
  spar completions fish > ~/.config/fish/completions/spar.fish   for fish";

/// Examples of `spar man`.
pub(super) const MAN: &str = "\
Examples:
  spar man | man -l -                                       read the manual page
  spar man --out /usr/local/share/man/man1                  install the pages of all commands
  spar man > spar.1                                         keep the page";

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use crate::cli::Cli;

    #[test]
    fn every_help_has_three_examples_that_are_valid_commands() {
        let root = Cli::command();
        let commands = root.get_subcommands().chain([&root]);
        for command in commands.filter(|command| command.get_name() != "help") {
            let name = command.get_name();
            let text = command.get_after_help().unwrap_or_else(|| panic!("{name} has no examples")).to_string();
            let lines: Vec<&str> = text.lines().skip(1).collect();
            assert_eq!(lines.len(), 3, "{name}: {text}");
            for line in lines {
                let typed = line.trim_start().split("   ").next().unwrap();
                let own = typed.split(['|', '>', '<']).next().unwrap();
                let words = own.split_whitespace().skip_while(|word| word.contains('='));
                match Cli::try_parse_from(words) {
                    Ok(_) => {}
                    Err(error) => assert_eq!(error.exit_code(), 0, "{line}: {error}"),
                }
                assert!(line.starts_with("  ") && own.contains("spar"), "{line}");
            }
        }
    }
}
