//! What a request costs before it runs: refusals before the work, bodies in memory, and turns between keys.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::Request;
use spar::engine::fake::FakeEngine;

use super::harness::{Server, asked, eventually, json_of, says, with, within_seconds};

/// `hang` never ends; everything else is said at once.
fn hanging() -> FakeEngine {
    let slow = |request: &Request| asked(request).contains("hang");
    FakeEngine::new(|_, _| Ok("one two".into()))
        .paced(move |request, _| Duration::from_millis(if slow(request) { 600_000 } else { 0 }))
}

/// Begins a request with a large body of which nothing is sent, and reads what comes back.
fn announced(server: &Server, path: &str, headers: &str, bytes: usize) -> String {
    let host = server.url.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(host).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {bytes}\r\n{headers}\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = vec![0; 4096];
    let read = socket.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_comes_before_the_body_is_read() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::with_keys(engine, &["--max-running", "1", "--max-waiting", "0"], Some("alpha")).await;
    server.ready().await;
    let key = "authorization: bearer alpha\r\n";
    assert!(announced(&server, "/v1/chat/completions", "", 1000).starts_with("HTTP/1.1 401"));
    assert!(announced(&server, "/v1/chat/completions", key, 5_000_000).starts_with("HTTP/1.1 413"));
    let running = tokio::spawn(server.chat(&says("hang")).bearer_auth("alpha").send());
    eventually("the first request runs", || replies.running() == 1).await;
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/checks", "/tokenize", "/detokenize"] {
        let answer = announced(&server, path, key, 4_000_000);
        assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("queue_full"), "{path}: {answer}");
    }
    running.abort();
}

/// The memory that is the process's own, in megabytes.
fn resident(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() / 1024
}

/// A chat with so many bytes of fields that nobody reads.
fn stuffed(bytes: usize) -> String {
    let unread = r#"{"a":0},"#.repeat(bytes / 8);
    let chat = says("hang");
    format!(r#"{{"metadata":[{}0],"messages":{},"stream":true}}"#, unread, chat["messages"])
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn waiting_requests_keep_nothing_of_what_they_do_not_say() {
    // What answers is in this process, so that a request can hang; what waits is in one of its own.
    let engine = hanging();
    let replies = engine.replies.clone();
    let upstream = Server::start(engine, &[]).await;
    upstream.ready().await;
    let flags = ["--engine", "upstream", "--upstream-url", &upstream.url, "--max-running", "1", "--try-judge", "false"];
    let server = Server::process(env!("CARGO_BIN_EXE_spar"), &flags).await;
    server.ready().await;
    let before = resident(server.pid);
    let body = stuffed(4_000_000);
    let send = || {
        let url = format!("{}/v1/chat/completions", server.url);
        tokio::spawn(server.client.post(url).header("content-type", "application/json").body(body.clone()).send())
    };
    let mut sent = vec![send()];
    eventually("the first request runs", || replies.running() == 1).await;
    sent.extend((0..16).map(|_| send()));
    let waiting = async {
        while !server.metrics().await.contains("spar_requests_waiting 16") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_seconds(60, waiting).await;
    let after = resident(server.pid);
    // As they were sent they have 64 MB, and as trees of values they would have gigabytes.
    assert!(after < before + 100, "from {before} to {after} MB with 16 bodies of 4 MB that wait");
    sent.iter().for_each(tokio::task::JoinHandle::abort);
}

/// In this process: what is in memory is the clients' as well, so that only what waits is looked at.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_gone_before_its_request_waits() {
    let engine = hanging();
    let replies = engine.replies.clone();
    // Room for two such bodies: the third is read because nothing is left of the first two.
    let flags = ["--max-running", "1", "--max-body-bytes-in-flight", "8500000"];
    let server = Server::start(engine, &flags).await;
    server.ready().await;
    let send = || {
        let url = format!("{}/v1/chat/completions", server.url);
        tokio::spawn(server.client.post(url).header("content-type", "application/json").body(stuffed(4_000_000)).send())
    };
    let mut sent = vec![send()];
    eventually("the first request runs", || replies.running() == 1).await;
    sent.extend((0..8).map(|_| send()));
    let waiting = async {
        while !server.metrics().await.contains("spar_requests_waiting 8") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within_seconds(60, waiting).await;
    // A text that is kept counts on.
    let long = with(says("x"), json!({"messages": [{"role": "user", "content": "hang ".repeat(800_000)}]}));
    let long: Vec<_> = (0..3).map(|_| tokio::spawn(server.chat(&long).send())).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!server.metrics().await.contains("spar_requests_waiting 11"));
    sent.iter().chain(&long).for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_keys_searches_do_not_keep_another_keys_plain_requests_waiting() {
    let engine = FakeEngine::new(|_, _| Ok("one two".into())).paced(|request, _| {
        let plain = asked(request).contains("plain");
        Duration::from_millis(if plain { 1 } else { 50 })
    });
    let server = Server::with_keys(engine, &["--max-running", "8", "--max-waiting", "32"], Some("a,b")).await;
    server.ready().await;
    let search = with(says("large"), json!({"search_budget": 64, "n": 4, "search": {"deadline_ms": 5000}}));
    let searches: Vec<_> = (0..400).map(|_| tokio::spawn(server.chat(&search).bearer_auth("a").send())).collect();
    let crowded = async {
        while !server.metrics().await.contains("spar_requests_waiting 16") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_seconds(30, crowded).await;
    let mut took = Vec::new();
    for _ in 0..40 {
        let begun = Instant::now();
        json_of(server.chat(&says("plain")).bearer_auth("b"), StatusCode::OK).await;
        took.push(begun.elapsed());
    }
    took.sort();
    assert!(took[37] < Duration::from_secs(1), "{:?} at the 95th percentile", took[37]);
    let mut refused = 0;
    for search in &searches {
        refused += usize::from(search.is_finished());
    }
    assert!(refused >= 300, "{refused} of 400 were refused, four run and sixteen wait");
    searches.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_pass_searches_of_nobody_in_particular() {
    let engine = FakeEngine::new(|_, _| Ok("one two".into()))
        .paced(|request, _| Duration::from_millis(if asked(request).contains("hang") { 600_000 } else { 0 }));
    let replies = engine.replies.clone();
    let server = Server::start(engine, &["--max-running", "4", "--max-waiting", "8"]).await;
    server.ready().await;
    let search = with(says("hang"), json!({"search_budget": 8}));
    let searches: Vec<_> = (0..9).map(|_| tokio::spawn(server.chat(&search).send())).collect();
    eventually("three searches run", || replies.running() == 3).await;
    let waiting = async {
        while !server.metrics().await.contains("spar_requests_waiting 6") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_seconds(10, waiting).await;
    // Two places to wait are left, which are not for searches.
    json_of(server.chat(&search), StatusCode::TOO_MANY_REQUESTS).await;
    for _ in 0..5 {
        server.answer(&says("plain")).await;
    }
    searches.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn who_is_refused_learns_when_a_place_should_be_free() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::start(engine, &["--max-running", "1", "--max-waiting", "1"]).await;
    server.ready().await;
    let running = tokio::spawn(server.chat(&says("hang")).send());
    eventually("the first request runs", || replies.running() == 1).await;
    let waiting = tokio::spawn(server.chat(&says("hang")).send());
    let retry_after = async || {
        let response = server.chat(&says("hello")).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        response.headers()["retry-after"].to_str().unwrap().parse::<u64>().unwrap()
    };
    while !server.metrics().await.contains("spar_requests_waiting 1") {
        tokio::task::yield_now().await;
    }
    // Nothing has come free for more than a second, so that the next place is at least as far away.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let first = retry_after().await;
    assert!(first >= 2, "{first}");
    let second = retry_after().await;
    assert!(second > first, "the next place is promised to another one: {second}");
    running.abort();
    waiting.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_text_is_refused_unread_and_holds_nobody_up() {
    let server = Server::native(&[], None).await;
    server.ready().await;
    let long = says(&"word ".repeat(780_000));
    let completion = json!({"prompt": "word ".repeat(780_000)});
    let calls = (0..4).map(|_| server.chat(&long)).chain((0..2).map(|_| server.post("/v1/completions", &completion)));
    let calls: Vec<_> = calls.map(|call| tokio::spawn(call.send())).collect();
    let looks = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            json_of(server.get("/healthz"), StatusCode::OK).await;
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let slowest = looks.await;
    for call in calls {
        let response = call.await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
    }
    // Texts of any length are tokenized, on threads of their own.
    let tokenize = tokio::spawn(server.post("/tokenize", &json!({"prompt": "word ".repeat(40_000)})).send());
    while !tokenize.is_finished() {
        let begun = Instant::now();
        json_of(server.get("/healthz"), StatusCode::OK).await;
        assert!(begun.elapsed() < Duration::from_secs(2));
    }
    let tokens: Value = tokenize.await.unwrap().unwrap().json().await.unwrap();
    assert!(tokens["count"].as_u64().unwrap() >= 40_000, "{}", tokens["count"]);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}
