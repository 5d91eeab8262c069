//! `spar completions` and `spar man`: what a shell and `man` know of the command.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use super::output::print;

/// For which shell.
#[derive(clap::Args, Debug)]
pub struct CompletionsArgs {
    /// Shell that completes the command
    shell: Shell,
}

/// The directory for manual pages.
#[derive(clap::Args, Debug)]
pub struct ManArgs {
    /// Directory for the pages of the command and of all its subcommands; absent: the command's own page goes to standard output
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Prints a shell's script.
///
/// # Errors
/// Standard output cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "spar", &mut script);
    Ok(print(&String::from_utf8(script)?)?)
}

/// Writes manual pages in the format of man(7).
///
/// # Errors
/// The directory or standard output cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    match &args.out {
        Some(directory) => pages(directory).with_context(|| format!("--out {}", directory.display())),
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            Ok(print(&String::from_utf8(page)?)?)
        }
    }
}

fn pages(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    clap_mangen::generate_to(Cli::command(), directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_page_and_completions() {
        let folder = tempfile::tempdir().unwrap();
        pages(folder.path()).unwrap();
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "spar", &mut script);
        let script = String::from_utf8(script).unwrap();
        for command in Cli::command().get_subcommands() {
            let name = command.get_name();
            let page = std::fs::read_to_string(folder.path().join(format!("spar-{name}.1"))).unwrap();
            assert!(page.contains(".SH OPTIONS") || page.contains(".SH \"OPTIONS\""), "{name}: {page}");
            assert!(script.contains(&format!("spar,{name})")) || script.contains(&format!("spar__{name}")), "{name}");
        }
        let page = std::fs::read_to_string(folder.path().join("spar.1")).unwrap();
        assert!(page.contains("SPAR_KV_CACHE_BYTES"), "the variables are in the manual");
    }
}
