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
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::engine::upstream::{Siblings, UpstreamConfig, UpstreamEngine};
use spar::engine::{
    Constraint, Engine, EngineError, EngineExt, FinishReason, Input, Label, LabelRequest, LabelScores, LabelSupport,
    Origin, Purpose, Question, Request, Sampling, WireSeed,
};
use spar::prompts::Templates;
use spar::testing::{TinyModel, write_model};
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
pub fn improving_by_content() -> FakeEngine {
    let text = Templates::general().text;
    FakeEngine::new(move |request, sibling| {
        let turns = match &request.input {
            Input::Chat(turns) => turns.len(),
            Input::Text(_) | Input::Tokens(_) => 1,
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
    let sampling = Sampling { wire_seed: WireSeed::Given(42), ..sampling };
    assert_eq!(arrived, Request { sampling, origin: arrived.origin, ..request });

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
    let bare = "data: {\"object\": \"error\", \"message\": \"oom\"}\n\n";
    let named = "event: error\ndata: oom\n\n";
    for (lines, expected) in [(cut, "without a finish reason"), (broken, "oom"), (bare, "oom"), (named, "oom")] {
        let upstream = in_front_of(&serving(move || events(lines)).await, Siblings::Choices).await;
        let error = upstream.generate(hello()).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(matches!(error, EngineError::Upstream(_)), "{error:?}");
        let front = Server::start(upstream, &["--try-judge", "false"]).await;
        for stream in [false, true] {
            let answer = front.chat(&with(says("hello"), json!({"stream": stream}))).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert!(text.contains("upstream_failed") && text.contains(expected), "{text}");
            // A stream has begun when its upstream breaks off after some text.
            assert_eq!(status, if stream && lines.contains("content") { 200 } else { 502 }, "{text}");
        }
    }
}

#[tokio::test]
async fn a_byte_order_mark_before_a_stream_is_skipped() {
    let lines = "\u{FEFF}data: {\"choices\": [{\"delta\": {\"content\": \"hi\"}, \"finish_reason\": \"stop\"}]}\n\ndata: [DONE]\n\n";
    let upstream = in_front_of(&serving(move || events(lines)).await, Siblings::Choices).await;
    assert_eq!(upstream.generate(hello()).await.unwrap().text, "hi");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let config = UpstreamConfig { url: "http://127.0.0.1:1".into(), ..UpstreamConfig::default() };
    let error = UpstreamEngine::connect(config).await.err().unwrap();
    assert!(matches!(&error, EngineError::Unavailable(m) if m.contains("http://127.0.0.1:1/v1")), "{error}");
}

fn asking(questions: Vec<Question>, labels: &[&[&str]]) -> LabelRequest {
    let label = |spellings: &&[&str]| Label { spellings: spellings.iter().map(|&s| s.into()).collect() };
    LabelRequest {
        purpose: Purpose::Judge,
        questions,
        labels: labels.iter().map(label).collect(),
        origin: Origin::default(),
    }
}

fn asked_of(text: &str, reply: &str) -> Question {
    Question { input: Input::chat(vec![Message::user(text)]), reply: reply.into() }
}

#[tokio::test]
async fn labels_are_read_from_another_server_as_that_server_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let native = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), NativeConfig::default()).unwrap();
    // The random model's likeliest first tokens that are whole letters.
    let question = || asked_of("hello", "");
    let request = Request {
        input: question().input,
        max_tokens: Some(1),
        logprobs: Some(20),
        ..Request::chat(Purpose::Judge, vec![])
    };
    let listed = native.generate(request).await.unwrap().logprobs.remove(0).top;
    let letters: Vec<String> = listed
        .iter()
        .filter(|token| token.bytes.len() == 1 && token.bytes[0].is_ascii_graphic())
        .map(|token| String::from_utf8(token.bytes.clone()).unwrap())
        .collect();
    let [first, second, third, ..] = letters.as_slice() else { panic!("{letters:?}") };
    let request = asking(vec![question()], &[&[first, second], &[third]]);
    let alone = native.read_labels(request.clone()).await.unwrap();
    let back = Server::start(native, &[]).await;
    let upstream = in_front_of(&back.url, Siblings::Choices).await;
    assert_eq!(upstream.capabilities().labels, LabelSupport::Prompts);
    let scores =
        upstream.read_labels(LabelRequest { questions: vec![question(); 2], ..request.clone() }).await.unwrap();
    for found in &scores.logprobs {
        let near = found.iter().zip(&alone.logprobs[0]).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near, "{found:?} {alone:?}");
    }
    assert_eq!(scores.prompt_tokens, 2 * alone.prompt_tokens, "what prompts share is counted for each");
    // What cannot be read is refused, and this says nothing of other calls.
    for (request, reason) in [
        (LabelRequest { questions: vec![asked_of("hello", "begun")], ..request.clone() }, "has begun"),
        (asking(vec![question()], &[&["Yes"], &["No"]]), "likeliest first tokens"),
    ] {
        let error = upstream.read_labels(request).await.unwrap_err();
        assert!(matches!(&error, EngineError::Unsupported(m) if m.contains(reason)), "{error}");
    }
    let empty = upstream.read_labels(asking(vec![], &[&["Yes"]])).await;
    assert!(matches!(&empty, Err(EngineError::Invalid(m)) if m.contains("questions")), "{empty:?}");
    assert_eq!(upstream.capabilities().labels, LabelSupport::Prompts);
}

#[tokio::test]
async fn a_server_without_logprobs_is_asked_for_labels_once() {
    let plain =
        || events("data: {\"choices\": [{\"delta\": {\"content\": \"Yes\"}, \"finish_reason\": \"length\"}]}\n\n");
    let refuses = || (Status::BAD_REQUEST, "{\"error\": {\"message\": \"logprobs is not supported\"}}").into_response();
    let hidden =
        || events("data: {\"choices\": [{\"delta\": {\"content\": null}, \"finish_reason\": \"length\"}]}\n\n");
    let other = || (Status::BAD_REQUEST, "{\"error\": {\"message\": \"too long\"}}").into_response();
    type Answer = fn() -> axum::response::Response;
    let cases: [(Answer, bool, &str); 4] = [
        (plain, true, "gives no log-probabilities"),
        (refuses, true, "logprobs is not supported"),
        (hidden, false, "nothing that is shown"),
        (other, false, "too long"),
    ];
    for (answer, learnt, expected) in cases {
        let calls = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&calls);
        let url = serving(move || {
            count.fetch_add(1, Ordering::SeqCst);
            answer()
        })
        .await;
        let upstream = in_front_of(&url, Siblings::Choices).await;
        for call in 1..=2 {
            let error =
                upstream.read_labels(asking(vec![asked_of("hello", "")], &[&["Yes"], &["No"]])).await.unwrap_err();
            let reason = if learnt && call == 2 { "gives no log-probabilities" } else { expected };
            assert!(error.to_string().contains(reason), "{error}");
            assert_eq!(matches!(error, EngineError::Unsupported(_)), expected != "too long", "{error}");
        }
        let support = if learnt { LabelSupport::Nothing } else { LabelSupport::Prompts };
        assert_eq!(upstream.capabilities().labels, support, "{expected}");
        assert_eq!(calls.load(Ordering::SeqCst), if learnt { 1 } else { 2 }, "{expected}");
    }
}

#[tokio::test]
async fn a_label_that_the_server_does_not_list_is_at_most_as_likely_as_the_last_one_listed() {
    let url = serving(|| {
        events(concat!(
            "data: {\"choices\": [{\"delta\": {\"content\": \"Yes\"}, \"logprobs\": {\"content\": [{\"token\": \"Yes\", ",
            "\"logprob\": -0.25, \"top_logprobs\": [{\"token\": \"Yes\", \"logprob\": -0.25}, {\"token\": \" Yes\", ",
            "\"logprob\": -2.5}, {\"token\": \"Sure\", \"logprob\": -4.5}]}]}, \"finish_reason\": \"length\"}]}\n\n",
            "data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 7, \"completion_tokens\": 1}}\n\ndata: [DONE]\n\n"
        ))
    })
    .await;
    let upstream = in_front_of(&url, Siblings::Choices).await;
    let many = vec![asked_of("hello", ""); 20];
    let scores = upstream.read_labels(asking(many, &[&["yes", "Yes"], &["No", "no"]])).await.unwrap();
    assert_eq!(scores, LabelScores { logprobs: vec![vec![-0.25, -4.5]; 20], prompt_tokens: 140, cached_tokens: 0 });
}
