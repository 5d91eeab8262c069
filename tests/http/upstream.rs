//! Another server as the engine: ours in front of ours, and in front of servers that misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode as Status;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use futures::StreamExt;
use serde_json::json;
use spar::chat::Message;
use spar::engine::fake::FakeEngine;
use spar::engine::upstream::{Siblings, UpstreamConfig, UpstreamEngine};
use spar::engine::{Constraint, Engine, EngineError, FinishReason, Input, Purpose, Request, Sampling};
use spar::prompts::Templates;
use tokio::net::TcpListener;

use super::harness::{Server, asked, eventually, recording, says, with};

async fn in_front_of(url: &str, siblings: Siblings) -> UpstreamEngine {
    let config = UpstreamConfig { url: url.into(), siblings, ..UpstreamConfig::default() };
    UpstreamEngine::connect(config).await.unwrap()
}

fn hello() -> Request {
    Request::chat(Purpose::Answer, vec![Message::user("hello")])
}

/// As `improving`, told by what is asked alone: the wire does not say what a request is for.
fn improving_by_content() -> FakeEngine {
    let text = Templates::general().text;
    FakeEngine::new(move |request, sibling| {
        let turns = match &request.input {
            Input::Chat(turns) => turns.len(),
            Input::Text(_) => 1,
        };
        let asked = asked(request);
        Ok(if turns == 3 {
            format!("I change it. {}the refined text{}", text.start, text.end)
        } else if !asked.contains(&text.verdict) {
            format!("draft number {sibling}")
        } else if asked.contains("the refined text") {
            format!("Good.\n{} Yes", text.verdict)
        } else {
            format!("Bad.\n{} No", text.verdict)
        })
    })
}

#[tokio::test]
async fn a_search_in_front_of_another_server_improves_its_answers() {
    let back = Server::start(improving_by_content(), &[]).await;
    for siblings in [Siblings::Choices, Siblings::Requests] {
        let front = Server::start(in_front_of(&back.url, siblings).await, &[]).await;
        let answer = front.answer(&with(says("hello"), json!({"search_budget": 2}))).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "the refined text");
        let direct = back.answer(&with(says("hello"), json!({"search_budget": 2}))).await;
        assert_eq!(answer["search"]["calls"], direct["search"]["calls"]);
        assert_eq!(
            answer["search"]["tokens"], direct["search"]["tokens"],
            "tokens are counted as the server counts them"
        );
        assert_eq!(answer["usage"]["prompt_tokens"], 1);
    }
}

#[tokio::test]
async fn what_is_asked_arrives_and_what_is_said_comes_back() {
    let (engine, seen) = recording();
    let back = Server::start(engine.constraining(), &[]).await;
    back.ready().await;
    let upstream = in_front_of(&back.url, Siblings::Choices).await;
    assert_eq!((upstream.info().name.as_str(), upstream.info().context), ("fake", 4096));
    let sampling = Sampling {
        temperature: 0.5,
        top_k: Some(5),
        min_p: 0.25,
        repetition_penalty: 1.5,
        logit_bias: vec![(3, 1.0)],
        seed: 42,
        ..Sampling::default()
    };
    let request = Request {
        sampling: sampling.clone(),
        samples: 2,
        max_tokens: Some(1),
        stop: vec!["END".into()],
        constraint: Some(Constraint::JsonSchema(json!({"type": "array"}))),
        ..hello()
    };
    let replies = upstream.start(request.clone()).await.unwrap();
    for reply in replies {
        let done = reply.complete().await.unwrap();
        assert_eq!((done.text.as_str(), done.tokens, done.prompt_tokens), ("noted", 1, 1));
    }
    let arrived = seen.lock().unwrap().iter().rfind(|request| request.samples == 2).cloned().unwrap();
    // The seed travels as a signed number without its lowest bit.
    assert_eq!(arrived, Request { sampling: Sampling { seed: 21, ..sampling }, ..request });

    let text = Request { input: Input::Text("once".into()), max_tokens: Some(9), ..hello() };
    assert_eq!(upstream.generate(text).await.unwrap().text, "noted");
    let arrived = seen.lock().unwrap().last().cloned().unwrap();
    assert_eq!((arrived.input, arrived.max_tokens), (Input::Text("once".into()), Some(9)));
}

#[tokio::test]
async fn a_cut_reply_says_so() {
    let back = Server::start(FakeEngine::new(|_, _| Ok("one two three".into())), &[]).await;
    let upstream = in_front_of(&back.url, Siblings::Choices).await;
    let done = upstream.generate(Request { max_tokens: Some(2), ..hello() }).await.unwrap();
    assert_eq!((done.text.as_str(), done.tokens, done.finish), ("one two ", 2, FinishReason::Length));
}

#[tokio::test]
async fn dropping_the_replies_cancels_them_on_the_other_side() {
    let engine = FakeEngine::new(|_, _| Ok("word ".repeat(10_000))).paced(|_, _| Duration::from_millis(1));
    let running = Arc::clone(&engine.replies);
    let back = Server::start(engine, &[]).await;
    for siblings in [Siblings::Choices, Siblings::Requests] {
        let upstream = in_front_of(&back.url, siblings).await;
        let mut replies = upstream.start(Request { samples: 3, ..hello() }).await.unwrap();
        for reply in &mut replies {
            reply.chunks.next().await.unwrap().unwrap();
        }
        assert!(running.running() >= 3);
        drop(replies.pop());
        assert!(replies[0].chunks.next().await.unwrap().is_ok(), "the others go on");
        drop(replies);
        eventually("every call is cancelled", || running.running() == 0).await;
    }
}

/// A server that lists a model and answers chats with `answer`.
async fn serving(answer: impl Fn() -> axum::response::Response + Clone + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let models = || async { axum::Json(json!({"data": [{"id": "m"}]})) };
    let chat = move || async move { answer() };
    let router = Router::new().route("/v1/models", get(models)).route("/v1/chat/completions", post(chat));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

fn events(lines: &'static str) -> axum::response::Response {
    ([("content-type", "text/event-stream")], lines).into_response()
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let url = serving(move || match count.fetch_add(1, Ordering::SeqCst) {
        0 => (Status::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response(),
        _ => events("data: {\"choices\": [{\"delta\": {\"content\": \"hi\"}, \"finish_reason\": \"stop\"}]}\n\n"),
    })
    .await;
    let upstream = in_front_of(&url, Siblings::Choices).await;
    assert_eq!((upstream.generate(hello()).await.unwrap().text.as_str(), asked.load(Ordering::SeqCst)), ("hi", 2));
}

#[tokio::test]
async fn what_a_server_does_wrong_is_an_error_that_says_so() {
    let cut = "data: {\"choices\": [{\"delta\": {\"content\": \"hi\"}}]}\n\n";
    let broken =
        "data: {\"choices\": [{\"delta\": {\"content\": \"hi\"}}]}\n\ndata: {\"error\": {\"message\": \"oom\"}}\n\n";
    type Answer = fn() -> axum::response::Response;
    let cases: [(Answer, &str); 6] = [
        (|| (Status::BAD_REQUEST, "{\"error\": {\"message\": \"no such thing\"}}").into_response(), "no such thing"),
        (|| (Status::UNAUTHORIZED, "no").into_response(), "SPAR_UPSTREAM_KEY"),
        (|| (Status::INTERNAL_SERVER_ERROR, "{}").into_response(), "the upstream failed"),
        (|| axum::Json(json!({"choices": []})).into_response(), "instead of an event stream"),
        (|| events(""), "without a finish reason"),
        (|| events("data: <html>\n\n"), "no chunk"),
    ];
    for (answer, expected) in cases {
        let upstream = in_front_of(&serving(answer).await, Siblings::Choices).await;
        let error = upstream.generate(hello()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
    for (lines, expected) in [(cut, "without a finish reason"), (broken, "oom")] {
        let upstream = in_front_of(&serving(move || events(lines)).await, Siblings::Choices).await;
        let error = upstream.generate(hello()).await.unwrap_err();
        assert!(matches!(&error, EngineError::Crashed(m) if m.contains(expected)), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let config = UpstreamConfig { url: "http://127.0.0.1:1".into(), ..UpstreamConfig::default() };
    let error = UpstreamEngine::connect(config).await.err().unwrap();
    assert!(matches!(&error, EngineError::Unavailable(m) if m.contains("http://127.0.0.1:1/v1")), "{error}");
}
