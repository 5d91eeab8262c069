//! The program as shells, pipes and logs see it.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::harness::{json_of, says, with, within_seconds};

fn spar(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar"));
    command.args(words).env("RUST_BACKTRACE", "1");
    command
}

fn ended(words: &[&str]) -> Output {
    spar(words).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A server of scripted replies in a process of its own, which is killed at the end.
struct Serving {
    child: Child,
    url: String,
}

impl Serving {
    /// Starts it, and closes its standard output after the first line, as `head -1` does.
    fn start(flags: &[&str]) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
        let mut command = spar(&["--engine", "fake", "--port", &port, "--try-judge", "false"]);
        let mut child = command.args(flags).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("spar "), "{line}");
        Self { child, url: format!("http://127.0.0.1:{port}") }
    }

    /// Waits until it answers.
    async fn ready(&self, client: &reqwest::Client) {
        let ready = async {
            let mut often = tokio::time::interval(Duration::from_millis(20));
            while !client.get(format!("{}/readyz", self.url)).send().await.is_ok_and(|answer| answer.status() == 200) {
                often.tick().await;
            }
        };
        within_seconds(20, ready).await;
    }

    /// Asks it to end, and gives its log.
    fn log(mut self) -> String {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.child.kill());
        self.child.wait().unwrap();
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    for words in [&["--help"][..], &["openapi"], &["man"], &["completions", "bash"], &["models"]] {
        let mut child = spar(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Closed at once: what the program writes has no reader.
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "", "{words:?}");
    }
}

#[test]
fn an_error_is_one_line_without_a_backtrace_and_names_its_cause_once() {
    let missing = ["verify", "--prompts", "/no/such/file", "--responses", "/no/such/file"];
    let output = ended(&missing);
    assert!(!output.status.success());
    let error = text(&output.stderr);
    assert_eq!(error.lines().count(), 1, "{error}");
    assert_eq!(error.matches("No such file").count(), 1, "{error}");
}

#[test]
fn a_port_in_use_is_found_before_a_model_is_looked_for() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = ended(&["--port", &port, "--model", "/no/such/model"]);
    let error = text(&output.stderr);
    assert!(error.contains(&format!("cannot listen on 127.0.0.1:{port}")) && error.contains("by --port"), "{error}");
    assert!(!error.contains("/no/such/model"), "{error}");
}

#[tokio::test]
async fn a_server_whose_output_is_closed_serves_on_and_its_log_says_what_a_request_used() {
    let serving = Serving::start(&["--host", "localhost", "--request-timeout", "10", "--log", "info"]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    serving.ready(&client).await;
    let chat = |body: Value, id: &'static str| {
        let request =
            client.post(format!("{}/v1/chat/completions", serving.url)).header("x-request-id", id).json(&body);
        within_seconds(20, json_of(request, StatusCode::OK))
    };
    let plain = chat(says("hello"), "plain-1").await;
    let searched =
        chat(with(says("hello"), json!({"search_budget": 2, "search": {"checks": "off"}})), "search-1").await;
    let log = serving.log();
    assert!(!log.contains('\u{1b}'), "no colours in a pipe: {log}");
    let line = |id: &str| {
        let found = log.lines().find(|line| line.contains(id) && line.contains("status=200"));
        found.unwrap_or_else(|| panic!("no line of {id} in {log}")).to_owned()
    };
    let holds = |line: &str, parts: &[String]| {
        for part in parts {
            assert!(line.contains(part.as_str()), "{line} lacks {part}");
        }
    };
    let usage = |answer: &Value| {
        let usage = &answer["usage"];
        [
            format!("prompt_tokens={}", usage["prompt_tokens"]),
            format!("completion_tokens={}", usage["completion_tokens"]),
        ]
    };
    let said = [r#"model="fake""#, r#"mode="plain""#, r#"finish="stop""#].map(str::to_owned);
    holds(&line("plain-1"), &[&said[..], &usage(&plain)[..]].concat());
    let search = &searched["search"];
    let said = [
        r#"mode="search""#.to_owned(),
        format!("stop={}", search["stop_reason"]),
        format!("nodes={}", search["nodes"]),
    ];
    holds(&line("search-1"), &[&said[..], &usage(&searched)[..]].concat());
}

#[test]
fn completions_and_manuals_are_written() {
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&ended(&["completions", shell]).stdout);
        assert!(script.contains("kv-cache-bytes") && script.contains("spar"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man1");
    assert!(ended(&["man", "--out", path.to_str().unwrap()]).status.success());
    for page in ["spar.1", "spar-serve.1", "spar-eval.1"] {
        let page = std::fs::read_to_string(path.join(page)).unwrap();
        assert!(page.contains(".TH") && page.contains("Examples"), "{page}");
    }
}
