//! Clients that hang up at any moment of any request: nothing of them runs on, and others are served as before.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use spar::engine::Purpose;
use spar::engine::fake::FakeEngine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::super::harness::{Server, eventually, says, with, within_seconds};
use super::{dial, post};

/// A few bodies of every route that does more than to look something up.
fn requests() -> Vec<(&'static str, Value)> {
    let chat = |fields: Value| ("/v1/chat/completions", with(says("Tell me all of it."), fields));
    let messages = says("Tell me all of it.")["messages"].clone();
    let search = json!({"search_budget": 8, "search": {"votes": 3}});
    let claude = |fields: Value| ("/v1/messages", with(json!({"messages": messages, "max_tokens": 500}), fields));
    let responses = |fields: Value| ("/v1/responses", with(json!({"input": "Tell me all of it."}), fields));
    let streamed = || json!({"stream": true});
    vec![
        chat(json!({})),
        chat(streamed()),
        chat(search.clone()),
        chat(with(search.clone(), json!({"stream": true, "n": 2, "search": {"events": true}}))),
        ("/v1/completions", json!({"prompt": ["All", "of it"], "max_tokens": 500})),
        ("/v1/completions", json!({"prompt": "All", "max_tokens": 500, "stream": true})),
        claude(streamed()),
        claude(with(search.clone(), streamed())),
        responses(json!({})),
        responses(with(search, streamed())),
        ("/v1/score", json!({"query": "a", "items": ["b"], "labels": ["c"]})),
        ("/v1/decisions", json!({"input": "a", "questions": [{"type": "predicate", "instructions": "b"}]})),
        ("/v1/checks", json!({"messages": messages})),
    ]
}

/// Sends a request, perhaps only a part of it, reads a part of the answer, and hangs up.
async fn hang_up(server: &Server, (path, body): &(&'static str, Value), seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let text = post(path, "", &body.to_string());
    let head = text.find("\r\n\r\n").unwrap() + 4;
    let (sent, read) = match random.random_range(0..4) {
        0 => (random.random_range(0..head), false),
        1 => (random.random_range(head..text.len()), false),
        2 => (text.len(), false),
        _ => (text.len(), true),
    };
    let mut stream = dial(server).await;
    stream.write_all(&text.as_bytes()[..sent]).await.unwrap();
    if random.random_bool(0.5) {
        tokio::time::sleep(Duration::from_millis(random.random_range(0..20))).await;
    }
    if read {
        let mut part = vec![0; random.random_range(1..2_000)];
        // An error's answer may be shorter, and a whole answer takes longer than this.
        drop(tokio::time::timeout(Duration::from_millis(20), stream.read(&mut part)).await);
    }
    if random.random_bool(0.5) {
        // Without lingering the peer sees a reset in place of an end.
        stream.set_zero_linger().unwrap();
    }
}

#[tokio::test]
async fn clients_that_hang_up_anywhere_leave_nothing_that_runs() {
    let engine = FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Judge => "It lacks an end.\n[[No]]".into(),
            _ => "word ".repeat(500),
        })
    });
    let engine = engine.reading(|_, _| Ok(vec![-1.0, -1.0])).paced(|_, _| Duration::from_millis(2));
    let replies = Arc::clone(&engine.replies);
    let server = Server::start(engine, &["--max-running", "16", "--max-waiting", "64"]).await;
    server.ready().await;
    let requests = requests();
    for round in 0..15 {
        let calls = (0..16).map(|at| {
            let number = round * 16 + at;
            hang_up(&server, &requests[number % requests.len()], number as u64)
        });
        futures::future::join_all(calls).await;
    }
    let started = replies.started();
    assert!(started > 50, "{started} replies began");
    eventually("no reply runs on", || replies.running() == 0 && server.waiting() == 0).await;
    assert!(replies.cancelled() > 50, "{} of {started} were given up", replies.cancelled());
    let counted = async {
        while !server.metrics().await.contains("\nspar_requests_running 0\n") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within_seconds(10, counted).await;
    let answer = server.answer(&with(says("hello"), json!({"max_tokens": 2}))).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
}
