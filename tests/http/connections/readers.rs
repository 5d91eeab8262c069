//! Clients that do not read what they asked for.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::future::join_all;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use spar::engine::fake::{FakeEngine, Replies};
use spar::engine::{Purpose, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::harness::{Events, Server, asked, eventually, says, with, within_seconds};
use super::{address, dial_narrow, post};

/// Words of 64 kB, more of them than all buffers on the way hold: 12 MB.
const WORDS: usize = 180;
const WORD: usize = 64 << 10;

/// `all` is answered by `words` words of `bytes` bytes each, everything else by one word.
fn talkative(words: usize, bytes: usize) -> FakeEngine {
    let at_length = |request: &Request| asked(request).contains("all") && request.purpose == Purpose::Answer;
    let engine = FakeEngine::new(move |request, _| {
        Ok(if at_length(request) { format!("{} ", "x".repeat(bytes)).repeat(words) } else { "short".into() })
    });
    engine.paced(move |request, _| Duration::from_millis(at_length(request).into()))
}

fn everything() -> String {
    with(says("all"), json!({"stream": true})).to_string()
}

/// Asks for everything and reads nothing.
async fn deaf(server: &Server) -> TcpStream {
    let mut stream = dial_narrow(server).await;
    stream.write_all(post("/v1/chat/completions", "", &everything()).as_bytes()).await.unwrap();
    stream
}

/// A server for a few requests at a time.
async fn small(flags: &[&str]) -> (Server, Arc<Replies>) {
    let engine = talkative(WORDS, WORD);
    let replies = Arc::clone(&engine.replies);
    let server = Server::start(engine, &[&["--max-running", "4"], flags].concat()).await;
    server.ready().await;
    (server, replies)
}

#[tokio::test]
async fn clients_that_never_read_do_not_keep_others_from_being_served() {
    let (server, replies) = small(&["--write-timeout", "300ms", "--max-waiting", "100"]).await;
    let before = replies.started();
    let deaf = join_all((0..24).map(|_| deaf(&server))).await;
    eventually("they run", || replies.started() >= before + 4).await;
    let hello = says("hello");
    let others = join_all((0..8).map(|_| server.answer(&hello))).await;
    assert!(others.iter().all(|answer| answer["choices"][0]["message"]["content"] == "short"));
    eventually("all of them had their turn", || replies.started() >= before + 24 + 8).await;
    eventually("nothing is left of them", || replies.running() == 0).await;
    // Every permit is returned, and no request holds the generation.
    join_all((0..4).map(|_| server.answer(&hello))).await;
    eventually("the live generation is free", || Arc::strong_count(&server.pinned().actor) <= 4).await;
    drop(deaf);
}

#[tokio::test]
async fn the_deadline_of_a_request_ends_it_even_if_its_client_does_not_read() {
    let (server, replies) = small(&["--write-timeout", "5m", "--request-timeout", "1500ms"]).await;
    let deaf = join_all((0..4).map(|_| deaf(&server))).await;
    eventually("they run", || replies.running() == 4).await;
    eventually("their time is over", || replies.running() == 0).await;
    server.answer(&says("hello")).await;
    drop(deaf);
}

#[tokio::test]
async fn a_slow_reader_gets_everything() {
    let (server, _) = small(&["--write-timeout", "500ms"]).await;
    let mut stream = deaf(&server).await;
    let mut text = Vec::new();
    let mut part = vec![0; 256 << 10];
    // Slower than the server writes, and for longer than it would wait for a client that takes nothing.
    while !text.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n") {
        let count = within_seconds(5, stream.read(&mut part)).await.unwrap();
        assert_ne!(count, 0, "closed after {} bytes", text.len());
        text.extend_from_slice(&part[..count]);
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    assert!(text.len() > WORDS * WORD);
}

#[tokio::test]
async fn a_stream_that_is_not_read_does_not_harm_others_on_its_connection() {
    // Small enough for a client to have no reason to take its time over one of them, and 3 MB together.
    let engine = talkative(1500, 2 << 10);
    let replies = Arc::clone(&engine.replies);
    let server = Server::start(engine, &["--write-timeout", "300ms"]).await;
    server.ready().await;
    let stream = TcpStream::connect(address(&server.url)).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(64 << 10);
    let (client, connection) = builder.handshake::<_, Body>(TokioIo::new(stream)).await.unwrap();
    let running = tokio::spawn(connection);
    let request = |body: String| {
        let request = hyper::Request::post(format!("{}/v1/chat/completions", server.url));
        request.header("content-type", "application/json").body(Body::from(body)).unwrap()
    };
    let unread = client.clone().send_request(request(everything())).await.unwrap();
    assert_eq!(unread.status(), 200);
    eventually("it runs", || replies.running() == 1).await;
    eventually("it is dropped", || replies.running() == 0).await;
    let other = with(says("hello"), json!({"stream": true})).to_string();
    let read = within_seconds(5, client.clone().send_request(request(other))).await.unwrap();
    let text = read.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(Events::read(std::str::from_utf8(&text).unwrap()).text(0), "short");
    assert!(!running.is_finished());
    let rest = within_seconds(5, unread.into_body().collect()).await;
    assert!(rest.is_err(), "a response that was cut off does not look complete");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_client_that_does_not_read() {
    let (mut server, replies) = small(&["--write-timeout", "5m", "--shutdown-grace", "200ms"]).await;
    let deaf = deaf(&server).await;
    eventually("it runs", || replies.running() == 1).await;
    server.begin_shutdown();
    within_seconds(4, server.ended()).await;
    eventually("its reply is dropped", || replies.running() == 0).await;
    drop(deaf);
}
