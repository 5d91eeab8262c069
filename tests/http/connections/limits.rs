//! More connections than the limit.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream as StdStream;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures::future::join_all;
use reqwest::StatusCode;
use tokio::io::AsyncWriteExt;

use super::super::harness::{Server, improving, says};
use super::{address, dial, exchange, post};

#[tokio::test]
async fn beyond_the_limit_only_health_is_answered() {
    let server = Server::start(improving(), &["--max-connections", "3"]).await;
    server.ready().await;
    // One that says nothing, one with half a request, and one with a request behind it.
    let mut taken = join_all((0..3).map(|_| dial(&server))).await;
    taken[1].write_all(b"POST /v1/chat/completions HTTP/1.1\r\n").await.unwrap();
    taken[2].write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    super::response(&mut taken[2]).await;
    let refused = exchange(&server, &post("/v1/chat/completions", "", &says("hello").to_string())).await;
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    for part in ["too_many_connections", "--max-connections", "connection: close", "retry-after: 1"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(server.get(path).send().await.unwrap().status(), StatusCode::OK, "{path}");
    }
    // However many say nothing at all.
    let silent = join_all((0..100).map(|_| dial(&server))).await;
    assert_eq!(server.get("/healthz").send().await.unwrap().status(), StatusCode::OK);
    drop(silent);
    taken.pop();
    let served = async {
        while server.chat(&says("hello")).send().await.unwrap().status() != StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    super::super::harness::within_seconds(5, served).await;
}

#[tokio::test]
async fn a_response_to_a_body_that_was_not_read_says_that_its_connection_ends() {
    let server = Server::start(improving(), &["--max-body", "3000"]).await;
    let hello = says("hello").to_string();
    let long = "x".repeat(4_000);
    for (path, body, status, ends) in [
        ("/v1/chat/completions", &hello, "200", false),
        ("/v1/chat/completions", &long, "413", true),
        ("/no/such/route", &hello, "404", true),
        ("/admin/generations", &hello, "403", true),
    ] {
        let mut stream = dial(&server).await;
        stream.write_all(post(path, "", body).as_bytes()).await.unwrap();
        let response = super::response(&mut stream).await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {response}");
        assert_eq!(response.contains("connection: close"), ends, "{path}: {response}");
    }
}

#[tokio::test]
async fn a_client_that_sends_all_of_a_body_that_is_too_long_reads_its_answer() {
    let server = Server::start(improving(), &["--max-body", "3000"]).await;
    let long = "x".repeat(1_100_000);
    for round in 0..20 {
        let path = if round % 2 == 0 { "/v1/chat/completions" } else { "/v1/checks" };
        let mut stream = dial(&server).await;
        stream.write_all(post(path, "", &long).as_bytes()).await.unwrap();
        let response = super::response(&mut stream).await;
        assert!(response.starts_with("HTTP/1.1 413") && response.contains("connection: close"), "{round}: {response}");
    }
}

#[test]
fn a_small_limit_of_open_files_is_respected() {
    for (limit, room) in [(64, 16), (128, 32)] {
        let program = env!("CARGO_BIN_EXE_spar");
        let shell = format!("ulimit -n {limit}; exec {program} --engine fake --port 0 --try-judge false");
        let mut child =
            Command::new("sh").args(["-c", &shell]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.strip_prefix("serving fake on ").map(str::to_owned)).unwrap();
        let silent: Vec<StdStream> = (0..300).map(|_| StdStream::connect(address(&url)).unwrap()).collect();
        for _ in 0..3 {
            let mut asking = StdStream::connect(address(&url)).unwrap();
            asking.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            asking.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
            let mut answer = String::new();
            asking.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{limit}: {answer}");
        }
        drop(silent);
        child.kill().unwrap();
        let mut log = String::new();
        child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        child.wait().unwrap();
        let said = format!("--max-connections is 4096, but the limit of {limit} open files leaves room for {room}");
        assert!(log.contains(&said), "{log}");
        assert!(!log.contains("no connection can be accepted"), "{log}");
    }
}
