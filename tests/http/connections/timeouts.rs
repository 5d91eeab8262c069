//! Headers, bodies and connections that are not used in time.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use super::super::harness::{Server, improving};
use super::{dial, exchange, post, response, until_closed};

const VERSION: &str = "GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";

#[tokio::test]
async fn headers_that_do_not_come_in_time_close_the_connection() {
    let server = Server::start(improving(), &["--header-timeout", "250ms", "--idle-timeout", "60s"]).await;
    for begun in ["", "G", "GET /version HTTP/1.1\r\n", "GET /version HTTP/1.1\r\nhost: localhost\r\nx: ", "PRI * HTTP"]
    {
        let started = Instant::now();
        assert_eq!(exchange(&server, begun).await, "", "{begun:?}");
        let took = started.elapsed();
        assert!(took >= Duration::from_millis(240) && took < Duration::from_secs(5), "{begun:?}: {took:?}");
    }
}

#[tokio::test]
async fn headers_byte_by_byte_have_no_more_time() {
    let server = Server::start(improving(), &["--header-timeout", "250ms", "--idle-timeout", "60s"]).await;
    for after_a_request in [false, true] {
        let mut stream = dial(&server).await;
        if after_a_request {
            stream.write_all(VERSION.as_bytes()).await.unwrap();
            response(&mut stream).await;
        }
        let started = Instant::now();
        // Until the server has closed the connection, which makes a write fail.
        while started.elapsed() < Duration::from_secs(5) && stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{after_a_request}");
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_later_than_one_with_half_a_request() {
    let server = Server::start(improving(), &["--header-timeout", "100ms", "--idle-timeout", "500ms"]).await;
    let mut stream = dial(&server).await;
    for _ in 0..3 {
        stream.write_all(VERSION.as_bytes()).await.unwrap();
        assert!(response(&mut stream).await.starts_with("HTTP/1.1 200"));
        // Longer than headers may take.
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    let started = Instant::now();
    assert_eq!(until_closed(&mut stream).await, "");
    assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
}

#[tokio::test]
async fn half_a_body_is_408_on_every_route() {
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--engine", "fake", "--body-timeout", "200ms", "--swap-dir", dir.path().to_str().unwrap()];
    let server = Server::swapping(&flags).await;
    let routes = [
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/checks",
        "/tokenize",
        "/detokenize",
        "/admin/generations",
        "/admin/generations/rollback",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/update_weights_from_disk",
    ];
    for route in routes {
        let whole =
            post(route, "authorization: Bearer admin\r\nconnection: close\r\n", "{\"model\": \"fake\", \"x\": 1}");
        let half = &whole[..whole.len() - 9];
        let answer = exchange(&server, half).await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{route}: {answer}");
        assert!(answer.contains("body_timeout") && answer.contains("--body-timeout"), "{route}: {answer}");
        assert!(answer.contains("x-request-id: req_"), "{route}: {answer}");
    }
    for (path, expected) in [("/nowhere", "404"), ("/healthz", "405"), ("/", "405")] {
        let whole = post(path, "", "{\"model\": \"fake\"}");
        let answer = exchange(&server, &whole[..whole.len() - 9]).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_body_byte_by_byte_has_no_more_time_and_a_whole_one_is_read() {
    let server = Server::start(improving(), &["--body-timeout", "300ms"]).await;
    let whole = post("/v1/checks", "", "{\"messages\": [{\"role\": \"user\", \"content\": \"Use no commas.\"}]}");
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    let mut stream = dial(&server).await;
    stream.write_all(format!("{head}\r\n\r\n").as_bytes()).await.unwrap();
    let drip = async {
        for byte in body.bytes() {
            if stream.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        until_closed(&mut stream).await
    };
    assert!(drip.await.starts_with("HTTP/1.1 408"));
    let mut stream = dial(&server).await;
    stream.write_all(whole.as_bytes()).await.unwrap();
    assert!(response(&mut stream).await.starts_with("HTTP/1.1 200"));
}
