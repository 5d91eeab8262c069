//! Several servers as one engine: what they do wrong costs no answer, and what they do right is the same as from one of them.

mod adapters;
pub mod own;
mod scaling;
pub mod scripted;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse;
use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;
use spar::chat::Message;
use spar::engine::upstream::fleet::{Circuit, Fleet, FleetEngine, Kind, Patience, ReplicaConfig, Roles, State, View};
use spar::engine::{
    Engine, EngineError, EngineExt, Input, Label, LabelRequest, LabelSupport, Origin, Purpose, Question, Request, Waits,
};
use tokio::net::TcpListener;

use self::scripted::{Scripted, events, failures, fleet_of, fleet_with, half, patience, says, says_late};
use super::harness::{Server, eventually, json_of, says as chat, within_seconds};

fn engine(fleet: &Arc<Fleet>) -> FleetEngine {
    FleetEngine::new(fleet, None, None).unwrap()
}

/// A call of a search about `text`.
fn searching(text: &str) -> Request {
    let origin = Origin { waits: Waits::Search, ..Origin::default() };
    Request { origin, ..plain(text) }
}

fn plain(text: &str) -> Request {
    Request::chat(Purpose::Answer, vec![Message::user(text)])
}

fn view(fleet: &Fleet, index: usize) -> View {
    fleet.views().swap_remove(index)
}

fn errors(view: &View, kind: &str) -> u64 {
    view.counted.errors.iter().filter(|(found, _)| found.label() == kind).map(|(_, count)| count).sum()
}

/// The text of a call that goes to the fleet's first replica while all are well.
async fn text_of_first(fleet: &Arc<Fleet>) -> String {
    for number in 0.. {
        let text = format!("conversation {number}");
        let before = view(fleet, 0).counted.answered;
        engine(fleet).generate(plain(&text)).await.unwrap();
        if view(fleet, 0).counted.answered > before {
            return text;
        }
    }
    unreachable!("one of many conversations goes to the first replica")
}

#[tokio::test]
async fn whatever_a_replica_does_wrong_another_one_answers_and_it_is_counted() {
    for (what, kind, fail) in failures() {
        let ill = Arc::new(AtomicUsize::new(0));
        let state = Arc::clone(&ill);
        let bad = Scripted::start(move |asked| match state.load(Ordering::SeqCst) {
            0 => says(asked, "the answer"),
            _ => fail(),
        })
        .await;
        let good = Scripted::start(|asked| says(asked, "the answer")).await;
        let fleet = fleet_of(&[&bad.url, &good.url], patience()).await;
        let text = text_of_first(&fleet).await;
        ill.store(1, Ordering::SeqCst);
        for request in [searching(&text), Request { samples: 3, ..searching(&text) }] {
            let replies = within_seconds(9, engine(&fleet).start(request)).await.unwrap();
            for reply in replies {
                let done = within_seconds(9, reply.complete()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!((done.text.as_str(), done.prompt_tokens), ("the answer", 3), "{what}");
            }
        }
        let first = view(&fleet, 0);
        // A connection may also be lost before the head of the answer has left the scripted server.
        let kind = if kind == "cut" && errors(&first, kind) == 0 { "unreachable" } else { kind };
        assert!(errors(&first, kind) >= 1, "{what}: {first:?}");
        assert_eq!(first.counted.failed, first.counted.retries, "{what}");
        assert_eq!(first.counted.errors.iter().map(|(_, count)| count).sum::<u64>(), errors(&first, kind), "{what}");
        assert_eq!(view(&fleet, 1).counted.failed, 0, "{what}");
        eventually("every reply is given back", || fleet.views().iter().all(|view| view.in_flight == 0)).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_lost_before_the_answer_is_passed_over() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let lost = format!("http://{}", listener.local_addr().unwrap());
    let healthy = Arc::new(AtomicUsize::new(1));
    let state = Arc::clone(&healthy);
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut sent = [0; 4096];
            let count = socket.read(&mut sent).await.unwrap_or(0);
            if sent[..count].starts_with(b"GET /v1/models") && state.load(Ordering::SeqCst) == 1 {
                let body = json!({"data": [{"id": "m"}]}).to_string();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: ";
                drop(socket.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await);
            }
        }
    });
    let good = Scripted::start(|asked| says(asked, "the answer")).await;
    let slow_look = Patience { probe: Duration::from_secs(60), ..patience() };
    let fleet = fleet_of(&[&lost, &good.url], slow_look).await;
    for number in 0..12 {
        let done = engine(&fleet).generate(plain(&format!("conversation {number}"))).await.unwrap();
        assert_eq!(done.text, "the answer");
    }
    let first = view(&fleet, 0);
    assert_eq!((first.state, errors(&first, "unreachable")), (State::Down, 1), "it was asked once: {first:?}");
}

#[tokio::test]
async fn what_somebody_has_seen_does_not_begin_again() {
    let cut = || events(half());
    let first = Scripted::start(move |asked| if asked.number == 0 { cut() } else { says(asked, "the answer") }).await;
    let fleet = fleet_of(&[&first.url], patience()).await;
    let mut reply = engine(&fleet).start(plain("hello")).await.unwrap().remove(0);
    assert_eq!(reply.chunks.next().await.unwrap().unwrap().text, "half an ");
    let error = reply.chunks.next().await.unwrap().unwrap_err();
    assert!(error.to_string().contains("without a finish reason"), "{error}");
    assert_eq!((first.chats(), errors(&view(&fleet, 0), "cut")), (1, 1));
    // A search's call says that it begins again.
    let second = Scripted::start(move |asked| if asked.number == 0 { cut() } else { says(asked, "the answer") }).await;
    let fleet = fleet_of(&[&second.url], patience()).await;
    let mut reply = engine(&fleet).start(searching("hello")).await.unwrap().remove(0);
    assert_eq!(reply.chunks.next().await.unwrap().unwrap().text, "half an ");
    let again = reply.chunks.next().await.unwrap().unwrap();
    assert_eq!((again.text.as_str(), again.restarts), ("the answer", true));
}

#[tokio::test]
async fn what_the_request_does_wrong_is_not_repeated() {
    let refuse =
        |_: &scripted::Asked| (StatusCode::BAD_REQUEST, "{\"error\": {\"message\": \"too long\"}}").into_response();
    let (one, two) = (Scripted::start(refuse).await, Scripted::start(refuse).await);
    let fleet = fleet_of(&[&one.url, &two.url], patience()).await;
    let error = engine(&fleet).generate(plain("hello")).await.unwrap_err();
    assert!(matches!(&error, EngineError::Invalid(reason) if reason.contains("too long")), "{error}");
    assert_eq!(one.chats() + two.chats(), 1);
    assert!(fleet.views().iter().all(|view| view.state == State::Ready), "the servers work");
}

#[tokio::test]
async fn a_call_that_all_replicas_fail_is_given_up_by_name() {
    let fail = |_: &scripted::Asked| (StatusCode::INTERNAL_SERVER_ERROR, "as scripted").into_response();
    let (one, two) = (Scripted::start(fail).await, Scripted::start(fail).await);
    let fleet = fleet_of(&[&one.url, &two.url], patience()).await;
    let error = within_seconds(9, engine(&fleet).generate(plain("hello"))).await.unwrap_err();
    assert!(matches!(&error, EngineError::Upstream(reason) if reason.contains("as scripted")), "{error}");
    assert_eq!(one.chats() + two.chats(), patience().tries);
    drop((one, two));
    eventually("both are down", || fleet.views().iter().all(|view| view.state == State::Down)).await;
    let error = within_seconds(9, engine(&fleet).generate(plain("hello"))).await.unwrap_err();
    assert!(error.to_string().contains("no upstream for the actor can be used: 127.0.0.1"), "{error}");
    assert!(engine(&fleet).health().await.is_err());
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_none_of_the_calls_meanwhile() {
    let busy = |asked: &scripted::Asked| match asked.number {
        0 => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "1")]).into_response(),
        _ => says(asked, "the answer"),
    };
    let only = Scripted::start(busy).await;
    let fleet = fleet_of(&[&only.url], patience()).await;
    let begun = std::time::Instant::now();
    assert_eq!(engine(&fleet).generate(plain("hello")).await.unwrap().text, "the answer");
    assert!(begun.elapsed() >= Duration::from_millis(990), "{:?}", begun.elapsed());
    assert_eq!(only.chats(), 2);
}

#[tokio::test]
async fn a_replica_that_keeps_failing_is_left_alone() {
    let fail = |_: &scripted::Asked| (StatusCode::INTERNAL_SERVER_ERROR, "as scripted").into_response();
    let (bad, good) = (Scripted::start(fail).await, Scripted::start(|asked| says(asked, "the answer")).await);
    let fleet = fleet_of(&[&bad.url, &good.url], patience()).await;
    for number in 0..40 {
        engine(&fleet).generate(plain(&format!("conversation {number}"))).await.unwrap();
    }
    assert!((3..=9).contains(&bad.chats()), "{} calls", bad.chats());
    assert_ne!(view(&fleet, 0).circuit, Circuit::Closed);
    assert_eq!((good.chats(), view(&fleet, 1).counted.answered), (40, 40));
}

#[tokio::test]
async fn a_server_that_ignores_n_is_asked_for_each_reply() {
    let one = |asked: &scripted::Asked| {
        let mut body = asked.body.clone();
        body["n"] = json!(1);
        says(&scripted::Asked { number: asked.number, path: asked.path.clone(), body }, "the answer")
    };
    let only = Scripted::start(one).await;
    let fleet = fleet_of(&[&only.url], patience()).await;
    for calls in [4, 7] {
        let replies = engine(&fleet).start(Request { samples: 3, ..searching("hello") }).await.unwrap();
        for reply in replies {
            assert_eq!(reply.complete().await.unwrap().text, "the answer");
        }
        assert_eq!(only.chats(), calls, "it is found out once");
    }
    assert_eq!(errors(&view(&fleet, 0), Kind::Choices.label()), 1);
}

#[tokio::test]
async fn counts_that_are_wrong_and_probabilities_that_are_missing_spoil_no_answer() {
    let odd = |asked: &scripted::Asked| {
        let chunk = json!({"choices": [{"index": 0, "delta": {"content": "Yes"}, "finish_reason": "stop"}]});
        let usage = match asked.number % 3 {
            0 => json!({"prompt_tokens": -7, "completion_tokens": "many"}),
            1 => json!({"prompt_tokens": 3, "completion_tokens": 4_000_000_000u64}),
            _ => json!(null),
        };
        events(format!("data: {chunk}\n\ndata: {}\n\ndata: [DONE]\n\n", json!({"choices": [], "usage": usage})))
    };
    let only = Scripted::start(odd).await;
    let fleet = fleet_of(&[&only.url], patience()).await;
    for _ in 0..3 {
        let done = engine(&fleet).generate(Request { max_tokens: Some(9), ..plain("hello") }).await.unwrap();
        assert_eq!(done.text, "Yes");
        assert!(done.tokens <= 9, "{done:?}");
    }
    assert_eq!(engine(&fleet).capabilities().labels, LabelSupport::Prompts);
    let question = Question { input: Input::chat(vec![Message::user("hello")]), reply: String::new() };
    let labels = ["Yes", "No"].map(|text| Label { spellings: vec![text.into()] }).into();
    let request =
        LabelRequest { purpose: Purpose::Judge, questions: vec![question], labels, origin: Origin::default() };
    let error = engine(&fleet).read_labels(request).await.unwrap_err();
    assert!(matches!(&error, EngineError::Unsupported(reason) if reason.contains("no log-probabilities")), "{error}");
    assert_eq!(engine(&fleet).capabilities().labels, LabelSupport::Nothing, "it is found out once");
    assert_eq!(view(&fleet, 0).state, State::Ready);
}

#[tokio::test]
async fn calls_about_one_conversation_go_to_one_replica() {
    let servers = join_all((0..3).map(|_| Scripted::start(|asked| says(asked, "the answer")))).await;
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    let fleet = fleet_of(&urls, patience()).await;
    for number in 0..30 {
        let before: Vec<usize> = servers.iter().map(Scripted::chats).collect();
        let first = Message::user(format!("conversation {number}"));
        let follow_up = vec![first.clone(), Message::assistant("the answer"), Message::user("and now?")];
        for turns in [vec![first.clone()], follow_up] {
            engine(&fleet).generate(Request::chat(Purpose::Answer, turns)).await.unwrap();
        }
        let judged = Request { origin: Origin::default(), ..Request::chat(Purpose::Judge, vec![first]) };
        engine(&fleet).generate(judged).await.unwrap();
        let new: Vec<usize> = servers.iter().zip(&before).map(|(server, before)| server.chats() - before).collect();
        assert_eq!(new.iter().max(), Some(&3), "{new:?}");
    }
    assert!(servers.iter().all(|server| server.chats() > 0), "conversations are spread");
}

#[tokio::test]
async fn a_full_replica_gets_no_more_and_calls_wait_for_room() {
    let slow = |asked: &scripted::Asked| says_late(asked, "the answer", Duration::from_millis(30));
    let servers = [Scripted::start(slow).await, Scripted::start(slow).await];
    let replica = |server: &Scripted| ReplicaConfig { max_in_flight: Some(2), ..ReplicaConfig::at(&server.url) };
    let fleet = fleet_with(servers.iter().map(replica).collect(), patience()).await;
    let caller = engine(&fleet);
    let calls = (0..16).map(|number| caller.generate(plain(&format!("conversation {number}"))));
    let watch = async {
        loop {
            assert!(fleet.views().iter().all(|view| view.in_flight <= 2));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        done = join_all(calls) => assert!(done.iter().all(|reply| reply.as_ref().unwrap().text == "the answer")),
        () = watch => {}
    }
    assert_eq!(servers.iter().map(Scripted::chats).sum::<usize>(), 16);
}

#[tokio::test]
async fn a_slow_call_is_hedged_where_the_settings_ask_for_it() {
    for (hedge, hedged) in [(None, 0), (Some(Duration::from_millis(20)), 1)] {
        let slow = Arc::new(AtomicUsize::new(0));
        let state = Arc::clone(&slow);
        let answer = move |asked: &scripted::Asked| match state.load(Ordering::SeqCst) {
            0 => says(asked, "the answer"),
            _ => says_late(asked, "the answer", Duration::from_millis(300)),
        };
        let first = Scripted::start(answer).await;
        let second = Scripted::start(|asked| says(asked, "the answer")).await;
        let fleet = fleet_of(&[&first.url, &second.url], Patience { hedge, ..patience() }).await;
        let text = text_of_first(&fleet).await;
        slow.store(1, Ordering::SeqCst);
        let before = view(&fleet, 0).counted.hedges;
        assert_eq!(engine(&fleet).generate(plain(&text)).await.unwrap().text, "the answer");
        let counted = view(&fleet, 0).counted;
        assert_eq!((counted.hedges - before, counted.failed), (hedged, 0));
    }
}

#[tokio::test]
async fn actor_and_refiner_may_be_at_different_servers() {
    let drafts = Scripted::start(|asked| says(asked, "a draft")).await;
    let judges = Scripted::start(|asked| says(asked, "a verdict")).await;
    let replica = |server: &Scripted, roles| ReplicaConfig { roles, ..ReplicaConfig::at(&server.url) };
    let replicas = vec![replica(&drafts, Roles::Actor), replica(&judges, Roles::Refiner)];
    let fleet = fleet_with(replicas, patience()).await;
    assert!(fleet.is_split());
    for (purpose, expected) in
        [(Purpose::Answer, "a draft"), (Purpose::Judge, "a verdict"), (Purpose::Refine, "a verdict")]
    {
        let request = Request::chat(purpose, vec![Message::user("hello")]);
        assert_eq!(engine(&fleet).generate(request).await.unwrap().text, expected, "{purpose:?}");
    }
    engine(&fleet).health().await.unwrap();
    drop(judges);
    eventually("the refiner is down", || view(&fleet, 1).state == State::Down).await;
    let error = engine(&fleet).health().await.unwrap_err();
    assert!(error.to_string().contains("no upstream for the refiner"), "{error}");
}

#[tokio::test]
async fn the_list_changes_without_disturbing_calls() {
    let slow = Scripted::start(|asked| says_late(asked, "from the first", Duration::from_millis(300))).await;
    let next = Scripted::start(|asked| says(asked, "from the second")).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    // Renamed into its place, so that no half of it is read.
    let put = |text: String| {
        let next = file.path().with_extension("next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, file.path()).unwrap();
    };
    let list = |urls: &[&str]| {
        let text: String = urls.iter().map(|url| format!("[[upstreams]]\nurl = \"{url}\"\n\n")).collect();
        put(text);
    };
    list(&[&slow.url]);
    let path = file.path().to_str().unwrap();
    let server = Server::started(&["--port", "0", "--engine", "upstream", "--upstreams", path], Some("admin")).await;
    server.ready().await;
    let listed = || async {
        let answer = json_of(server.get("/admin/upstreams").bearer_auth("admin"), StatusCode::OK).await;
        answer["data"].as_array().unwrap().iter().map(|entry| entry["url"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [json!(slow.url)]);
    let ask = || async { server.answer(&with_model(chat("hello"))).await["choices"][0]["message"]["content"].clone() };
    let running = async { ask().await };
    let changing = async {
        let before = slow.chats();
        while slow.chats() == before {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        list(&[&next.url]);
        while listed().await != [json!(next.url)] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (answer, ()) = within_seconds(20, async { tokio::join!(running, changing) }).await;
    assert_eq!(answer, "from the first", "a call ends where it began");
    assert_eq!(ask().await, "from the second");
    put("nonsense".into());
    within_seconds(20, async {
        while !server.metrics().await.contains("spar_upstream_reloads_total{result=\"refused\"} 1") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert_eq!(ask().await, "from the second", "a list that cannot be read changes nothing");
}

/// The scripted servers' model in place of the harness's.
fn with_model(mut body: serde_json::Value) -> serde_json::Value {
    body["model"] = json!("m");
    body
}
