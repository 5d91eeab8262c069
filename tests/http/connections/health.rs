//! Health is answered at any time, and follows what it depends on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode as Status;
use axum::response::IntoResponse;
use axum::routing::get;
use reqwest::StatusCode;
use spar::engine::fake::FakeEngine;
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};
use tokio::net::TcpListener;

use super::super::harness::{Server, asked, improving, json_of, says, within_seconds};
use super::{address, free_port, post};

/// Asks on a thread that no runtime can block; the answer and how long it took.
fn ask(address: SocketAddr, path: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    (answer, started.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_answered_within_a_second_while_every_worker_is_blocked() {
    let blocks = FakeEngine::new(|request, _| {
        if asked(request).contains("block") {
            std::thread::sleep(Duration::from_secs(4));
        }
        Ok("done".into())
    });
    let port = free_port();
    let server = Server::start(blocks, &["--health-port", &port]).await;
    server.ready().await;
    let main = address(&server.url);
    let health = SocketAddr::new(main.ip(), port.parse().unwrap());
    let asking = move || {
        let request = post("/v1/chat/completions", "", &says("block").to_string());
        let blocking: Vec<TcpStream> = (0..4)
            .map(|_| {
                let mut stream = TcpStream::connect(main).unwrap();
                stream.write_all(request.as_bytes()).unwrap();
                stream
            })
            .collect();
        std::thread::sleep(Duration::from_millis(600));
        let mut plain = TcpStream::connect(main).unwrap();
        plain.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        plain.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
        assert!(plain.read(&mut [0; 1]).is_err(), "the workers are blocked");
        for (address, path) in [(main, "/healthz"), (health, "/healthz"), (main, "/readyz"), (health, "/metrics")] {
            let (answer, took) = ask(address, path);
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            assert!(took < Duration::from_secs(1), "{path}: {took:?}");
        }
        drop(blocking);
    };
    tokio::task::spawn_blocking(asking).await.unwrap();
}

#[tokio::test]
async fn the_health_port_serves_nothing_else_and_ends_with_the_server() {
    let port = free_port();
    let mut server = Server::with_keys(improving(), &["--health-port", &port], Some("alpha")).await;
    server.ready().await;
    let at = |path: &str| server.client.get(format!("http://127.0.0.1:{port}{path}")).header("host", "pod-1.example");
    for path in ["/healthz", "/readyz", "/version"] {
        json_of(at(path), StatusCode::OK).await;
    }
    assert!(at("/metrics").send().await.unwrap().text().await.unwrap().contains("spar_connections "));
    for path in ["/v1/models", "/", "/docs/", "/openapi.json"] {
        json_of(at(path), StatusCode::NOT_FOUND).await;
    }
    server.begin_shutdown();
    server.ended().await;
    assert!(server.client.get(format!("http://127.0.0.1:{port}/healthz")).send().await.is_err());
}

/// What the upstream's list of models is at the moment.
const LISTS: usize = 0;
const FAILS: usize = 1;
const OTHERS: usize = 2;
const BUSY: usize = 3;
const HANGS: usize = 4;

async fn models(state: Arc<AtomicUsize>) -> axum::response::Response {
    let list = |id: &str| ([("content-type", "application/json")], format!("{{\"data\": [{{\"id\": \"{id}\"}}]}}"));
    match state.load(Ordering::SeqCst) {
        FAILS => Status::INTERNAL_SERVER_ERROR.into_response(),
        OTHERS => list("another").into_response(),
        BUSY => Status::TOO_MANY_REQUESTS.into_response(),
        HANGS => std::future::pending().await,
        _ => list("model").into_response(),
    }
}

#[tokio::test]
async fn readiness_follows_the_upstream() {
    let state = Arc::new(AtomicUsize::new(LISTS));
    let serve = |listener: TcpListener| {
        let state = Arc::clone(&state);
        let answer = "data: {\"choices\": [{\"delta\": {\"content\": \"hi\"}, \"finish_reason\": \"stop\"}]}\n\ndata: [DONE]\n\n";
        let router = Router::new()
            .route("/v1/models", get(move || models(Arc::clone(&state))))
            .fallback(move || async move { ([("content-type", "text/event-stream")], answer) });
        tokio::spawn(async move { axum::serve(listener, router).await })
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let running = serve(listener);
    let config =
        UpstreamConfig { url: format!("http://{at}"), model: Some("model".into()), ..UpstreamConfig::default() };
    let server = Server::start(UpstreamEngine::connect(config).await.unwrap(), &[]).await;
    server.ready().await;
    let becomes = async |status: StatusCode| {
        let waiting = async {
            loop {
                let started = Instant::now();
                let response = server.get("/readyz").send().await.unwrap();
                assert!(started.elapsed() < Duration::from_secs(1));
                if response.status() == status {
                    return response.text().await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within_seconds(8, waiting).await
    };
    for (now, expected) in [
        (FAILS, StatusCode::SERVICE_UNAVAILABLE),
        (LISTS, StatusCode::OK),
        (OTHERS, StatusCode::SERVICE_UNAVAILABLE),
        (BUSY, StatusCode::OK),
    ] {
        state.store(now, Ordering::SeqCst);
        becomes(expected).await;
    }
    // A busy server may be slow.
    state.store(HANGS, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    becomes(StatusCode::OK).await;
    state.store(LISTS, Ordering::SeqCst);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    let refused = becomes(StatusCode::SERVICE_UNAVAILABLE).await;
    assert!(refused.contains("model_not_available"), "{refused}");
    serve(TcpListener::bind(at).await.unwrap());
    becomes(StatusCode::OK).await;
}
