//! Clients that send too little, take too little, or come in numbers; and how the server is reached and ends.

mod browsers;
mod disconnects;
mod health;
mod limits;
mod readers;
mod signals;
mod timeouts;
mod tls;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::harness::Server;

/// Where a server is.
fn address(url: &str) -> SocketAddr {
    url.split_once("://").unwrap().1.parse().unwrap()
}

async fn dial(server: &Server) -> TcpStream {
    TcpStream::connect(address(&server.url)).await.unwrap()
}

/// A client with next to no room for what it does not read.
async fn dial_narrow(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(address(&server.url)).await.unwrap()
}

/// Everything until the server closes the connection, which it must do soon.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let reading = tokio::time::timeout(Duration::from_secs(8), stream.read_to_end(&mut text)).await;
    // A connection that is closed with unread bytes is reset.
    drop(reading.expect("the connection must be closed"));
    String::from_utf8_lossy(&text).into_owned()
}

/// Sends `text` on a new connection and reads until it is closed.
async fn exchange(server: &Server, text: &str) -> String {
    let mut stream = dial(server).await;
    stream.write_all(text.as_bytes()).await.unwrap();
    until_closed(&mut stream).await
}

/// A request with more headers, as text.
fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// The first response on a connection that stays open.
async fn response(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let reading = async {
        loop {
            let mut part = [0; 4096];
            let count = stream.read(&mut part).await.unwrap();
            assert_ne!(count, 0, "closed after {}", String::from_utf8_lossy(&text));
            text.extend_from_slice(&part[..count]);
            let so_far = String::from_utf8_lossy(&text);
            let Some((head, body)) = so_far.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if length.is_some_and(|length| body.len() >= length.parse().unwrap()) {
                return so_far.into_owned();
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(8), reading).await.expect("a response must come")
}

/// A pipe without a writer: reading it never ends.
fn endless_file(path: &Path) -> &str {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    path.to_str().unwrap()
}

/// A port that was free a moment ago.
fn free_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}
