//! What the program says when it starts.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use spar::testing::random_adapter;

/// The lines up to the address, of a server that is then ended.
fn said(flags: &[&str], variables: &[(&str, &str)]) -> Vec<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar"));
    command.args(["--port", "0", "--log", "error"]).args(flags).envs(variables.iter().copied());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let last = line.starts_with("serving ");
        lines.push(line);
        if last {
            break;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    lines
}

/// Whether the lines are these, each with its parts in it.
fn are(lines: &[String], expected: &[&[&str]]) {
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, parts) in lines.iter().zip(expected) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line} lacks one of {parts:?}");
    }
}

#[test]
fn models_keys_and_changed_settings_are_a_few_lines() {
    let version = format!("spar {}, to listen on 127.0.0.1:0", env!("CARGO_PKG_VERSION"));
    are(
        &said(&["--engine", "fake"], &[]),
        &[
            &[&version],
            &["API keys: none, everybody may call"],
            &["admin key: not set"],
            &["settings that are not the defaults:"],
            &["--engine fake"],
            &["--port 0"],
            &["--log error"],
            &["actor and refiner g-1: scripted replies; engine fake: --engine asks for it"],
            &["serving fake on http://127.0.0.1:"],
        ],
    );
    let root = tempfile::tempdir().unwrap();
    let actor = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/actor");
    let adapter = root.path().join("lora");
    random_adapter(&actor, 0.1, 1).save(&adapter).unwrap();
    let swaps = root.path().join("swaps");
    let [model, adapter, swaps] = [&actor, &adapter, &swaps].map(|path| path.to_str().unwrap());
    let flags = ["--model", model, "--adapter", adapter, "--engine", "native", "--swap-dir", swaps];
    let variables = [("SPAR_ADMIN_KEY", "secret-1"), ("SPAR_API_KEYS", "secret-2,secret-3"), ("SPAR_THREADS", "1")];
    let lines = said(&flags, &variables);
    are(
        &lines,
        &[
            &[&version],
            &["API keys: 2 (hidden)"],
            &["admin key: set (hidden)"],
            &["settings that are not the defaults:"],
            &["--model ", "actor"],
            &["--adapter ", "lora"],
            &["--engine native"],
            &["--threads 1 (from SPAR_THREADS)"],
            &["--port 0"],
            &["--log error"],
            &["--swap-dir"],
            &["actor g-1: ", "spar-tiny/actor with the adapter ", "lora; engine native: --engine asks for it"],
            &["refiner g-2: ", "spar-tiny/actor; engine native"],
            &["serving actor on http://127.0.0.1:"],
        ],
    );
    assert!(!lines.concat().contains("secret"), "{lines:?}");
}
