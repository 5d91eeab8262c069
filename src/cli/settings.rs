//! Collects the settings that differ from their defaults, as flags.

use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

/// Every setting of `command` that was given and differs from its default, as `--flag value`. If it came from the environment, the name of
/// the variable is added.
pub(super) fn changed(command: &Command, matches: &ArgMatches) -> Vec<String> {
    command.get_arguments().filter_map(|argument| line(argument, matches)).collect()
}

fn line(argument: &Arg, matches: &ArgMatches) -> Option<String> {
    let (id, flag) = (argument.get_id().as_str(), argument.get_long()?);
    let source = matches.try_contains_id(id).is_ok().then(|| matches.value_source(id))??;
    let values: Vec<&OsStr> = matches.try_get_raw(id).ok()??.collect();
    if source == ValueSource::DefaultValue || values == argument.get_default_values() {
        return None;
    }
    let shown: Vec<_> = values.iter().map(|value| without_login(&value.to_string_lossy())).collect();
    let variable = argument.get_env().filter(|_| source == ValueSource::EnvVariable);
    let from = variable.map_or(String::new(), |name| format!(" (from {})", name.to_string_lossy()));
    Some(format!("--{flag} {}{from}", shown.join(",")))
}

/// Removes a user name and password from a URL; any other value is unchanged.
fn without_login(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.into() };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://(hidden)@{}", &rest[at + 1..]),
        None => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::builder::Resettable;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn only_what_differs_from_the_defaults_is_said() {
        let table: [(&[&str], &[&str]); 6] = [
            (&[], &[]),
            (&["--port", "8080", "--search-budget", "16", "--heartbeat", "500ms", "--engine", "auto"], &[]),
            (&["--search-budget", "9", "--port", "0"], &["--port 0", "--search-budget 9"]),
            (&["--model", "a b", "--adapter", "c"], &["--model a b", "--adapter c"]),
            (&["--cors-origins", "http://a,http://b"], &["--cors-origins http://a,http://b"]),
            (
                &["--engine", "upstream", "--upstream-url", "http://me:secret@h:1/v1@2"],
                &["--engine upstream", "--upstream-url http://(hidden)@h:1/v1@2"],
            ),
        ];
        for (flags, expected) in table {
            // Settings in the environment of the tests are ignored.
            let command = Cli::command().mut_args(|argument| argument.env(Resettable::Reset));
            let matches = command.clone().get_matches_from([&["spar"], flags].concat());
            assert_eq!(changed(&command, &matches), expected, "{flags:?}");
        }
    }
}
