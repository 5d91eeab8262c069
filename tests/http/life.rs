//! Admission, deadlines, disconnects, shutdown, ids, keys, health and metrics.

use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::json;
use spar::engine::Input;
use spar::engine::fake::FakeEngine;

use super::harness::{Server, asked, eventually, improving, json_of, recording, says, with, within_seconds};

/// `hang` never ends; everything else is said at once.
fn hanging() -> FakeEngine {
    let slow = |request: &spar::engine::Request| asked(request).contains("hang");
    FakeEngine::new(|_, _| Ok("one two".into()))
        .paced(move |request, _| Duration::from_millis(if slow(request) { 600_000 } else { 0 }))
}

#[tokio::test]
async fn a_full_queue_is_429_with_retry_after() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::start(engine, &["--max-running", "1", "--max-waiting", "0"]).await;
    server.ready().await;
    let running = tokio::spawn(server.chat(&says("hang")).send());
    eventually("the first request runs", || replies.running() == 1).await;
    let refused = server.chat(&says("hello")).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "1");
    running.abort();
    eventually("its call is cancelled", || replies.running() == 0).await;
    server.answer(&says("hello")).await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_is_408() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let flags = ["--max-running", "1", "--max-waiting", "4", "--request-timeout", "100ms"];
    let server = Server::start(engine, &flags).await;
    server.ready().await;
    let first = tokio::spawn(server.chat(&says("hang")).send());
    eventually("the first request runs", || replies.running() == 1).await;
    let second = server.chat(&says("hang")).send().await.unwrap();
    assert_eq!(second.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(first.await.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    eventually("both calls are cancelled", || replies.running() == 0).await;
}

#[tokio::test]
async fn a_disconnect_cancels_every_call() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::start(engine, &["--heartbeat", "5ms"]).await;
    server.ready().await;
    let bodies = [
        says("hang"),
        with(says("hang"), json!({"n": 3})),
        with(says("hang"), json!({"search_budget": 4})),
        with(says("hang"), json!({"search_budget": 4, "stream": true})),
    ];
    for body in bodies {
        let before = replies.started();
        let mut asking = Box::pin(server.chat(&body).send());
        // A streamed search begins with signs of life, so its response is there: read on until the draft is asked for.
        let waiting = eventually("a call runs", || replies.started() > before && replies.running() > 0);
        let response = tokio::select! {
            response = &mut asking => Some(response.unwrap()),
            () = waiting => None,
        };
        eventually("a call runs", || replies.running() > 0).await;
        drop(response);
        drop(asking);
        eventually("every call is cancelled", || replies.running() == 0).await;
    }
    let metrics = server.metrics().await;
    assert!(metrics.contains("spar_http_requests_total{route=\"/v1/chat/completions\",status=\"499\"}"), "{metrics}");
}

#[tokio::test]
async fn shutdown_lets_running_requests_end() {
    let engine = improving().paced(|_, _| Duration::from_millis(20));
    let replies = engine.replies.clone();
    let mut server = Server::start(engine, &[]).await;
    server.ready().await;
    let running = tokio::spawn(server.chat(&with(says("hello"), json!({"stream": true}))).send());
    eventually("the request runs", || replies.running() == 1).await;
    server.begin_shutdown();
    let mut response = within_seconds(5, running).await.unwrap().unwrap().bytes_stream();
    let ready = server.get("/readyz").send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let refused = json_of(server.chat(&says("hello")), StatusCode::SERVICE_UNAVAILABLE).await;
    assert_eq!(refused["error"]["code"], "shutting_down");
    let mut text = String::new();
    while let Some(bytes) = within_seconds(5, response.next()).await {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    server.ended().await;
    assert!(server.get("/healthz").send().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn after_the_grace_period_running_requests_are_dropped() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let mut server = Server::start(engine, &["--shutdown-grace", "20ms"]).await;
    server.ready().await;
    let running = tokio::spawn(server.chat(&says("hang")).send());
    eventually("the request runs", || replies.running() == 1).await;
    server.begin_shutdown();
    let response = within_seconds(5, running).await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    server.ended().await;
    assert_eq!(replies.running(), 0);
}

#[tokio::test]
async fn every_response_has_the_callers_request_id_or_a_new_one() {
    let server = Server::start(improving(), &[]).await;
    let own = server.get("/healthz").header("x-request-id", "mine-1").send().await.unwrap();
    assert_eq!(own.headers()["x-request-id"], "mine-1");
    for path in ["/healthz", "/nowhere"] {
        let made = server.get(path).send().await.unwrap();
        assert!(made.headers()["x-request-id"].to_str().unwrap().starts_with("req_"), "{path}");
    }
    let long = server.get("/healthz").header("x-request-id", "x".repeat(129)).send().await.unwrap();
    assert!(long.headers()["x-request-id"].to_str().unwrap().starts_with("req_"));
}

#[tokio::test]
async fn keys_are_required_where_configured_but_not_for_health() {
    let server = Server::with_keys(improving(), &[], Some("alpha,beta")).await;
    let error = json_of(server.chat(&says("hello")), StatusCode::UNAUTHORIZED).await;
    assert_eq!(error["error"]["code"], "invalid_api_key");
    json_of(server.chat(&says("hello")).bearer_auth("gamma"), StatusCode::UNAUTHORIZED).await;
    json_of(server.chat(&says("hello")).bearer_auth("beta"), StatusCode::OK).await;
    json_of(server.get("/v1/models"), StatusCode::UNAUTHORIZED).await;
    json_of(server.get("/healthz"), StatusCode::OK).await;
    assert!(server.metrics().await.contains("spar_build_info"));
}

#[tokio::test]
async fn browsers_may_call_from_configured_origins_only() {
    let server = Server::start(improving(), &["--cors-origins", "http://a.test"]).await;
    for (origin, allowed) in [("http://a.test", true), ("http://b.test", false)] {
        let response = server.get("/healthz").header("origin", origin).send().await.unwrap();
        assert_eq!(response.headers().contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn readiness_follows_the_canary() {
    let (engine, seen) = recording();
    let server = Server::start(engine, &[]).await;
    server.ready().await;
    let canary = seen.lock().unwrap()[0].clone();
    assert_eq!((canary.max_tokens, canary.sampling.temperature), (Some(1), 0.0));
    let version = json_of(server.get("/version"), StatusCode::OK).await;
    assert_eq!((&version["model"], &version["generation"]["actor"]), (&json!("fake"), &json!("g-1")));
    assert_eq!(version["embedded"], true, "these settings name no model");
}

#[tokio::test]
async fn a_judge_is_tried_at_the_start_and_readiness_says_what_was_found() {
    // Log-probabilities of Yes for a right and a wrong answer, and of No for both.
    for (right, wrong, no, expected) in
        [(-0.1, -3.0, -1.0, "able"), (-0.5, -0.5, -1.0, "indifferent"), (-30.0, -30.0, -30.0, "unreadable")]
    {
        let engine = improving().reading(move |request, index| {
            let Input::Chat(turns) = &request.questions[index].input else { panic!("a chat") };
            let is_wrong = turns.iter().any(|turn| turn.content.starts_with("THE"));
            Ok(vec![if is_wrong { wrong } else { right }, no])
        });
        let server = Server::start(engine, &["--judging", "score", "--try-judge", "true"]).await;
        server.ready().await;
        let mut found = json!("untried");
        for _ in 0..200 {
            found = json_of(server.get("/readyz"), StatusCode::OK).await["judge"].clone();
            if found != "untried" {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(found, expected);
        let line = format!("spar_judge_state{{state=\"{expected}\"}} 1");
        assert!(server.metrics().await.contains(&line), "{line}");
    }
}
