//! HTTPS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use reqwest::StatusCode;
use serde_json::json;
use spar::engine::fake::FakeEngine;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::super::harness::{Events, Server, improving, json_of, says, with, within_seconds};
use super::{address, dial, until_closed};

/// An authority that signs certificates of servers.
pub(super) struct Authority {
    root: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().pem();
        Self { root, issuer: Issuer::new(params, key) }
    }

    /// Writes a new certificate for this machine and its key.
    pub fn files(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert_file, cert.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        (cert_file, key_file)
    }

    /// A client that trusts only this authority.
    pub fn client(&self) -> reqwest::Client {
        let root = reqwest::Certificate::from_pem(self.root.as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap()
    }

    /// A connection for the protocol that `alpn` names.
    async fn connect(&self, server: &Server, alpn: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.into()];
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, dial(server).await).await.unwrap()
    }
}

/// A server with a certificate of `authority` in `dir`.
async fn secured(authority: &Authority, dir: &Path, engine: FakeEngine, flags: &[&str]) -> Server {
    let (cert, key) = authority.files(dir);
    let files = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let mut server = Server::start(engine, &[&files[..], flags].concat()).await;
    server.url = server.url.replace("http:", "https:");
    server.client = authority.client();
    server
}

#[tokio::test]
async fn requests_and_streams_pass_through_tls() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = secured(&authority, dir.path(), improving(), &[]).await;
    server.ready().await;
    let answer = server.answer(&with(says("hello"), json!({"search_budget": 2}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "the refined text");
    assert_eq!(server.stream(&with(says("hello"), json!({"stream": true}))).await.text(0), "a first draft");
    assert!(Authority::new().client().get(format!("{}/healthz", server.url)).send().await.is_err(), "not trusted");
}

#[tokio::test]
async fn http_2_is_agreed_on_where_the_client_knows_it() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = secured(&authority, dir.path(), improving(), &[]).await;
    let stream = authority.connect(&server, "h2").await;
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let running = tokio::spawn(connection);
    for (authority, expected) in [("localhost:1", 200), ("evil.example", 421)] {
        let body = with(says("hello"), json!({"stream": true})).to_string();
        let request = hyper::Request::post(format!("https://{authority}/v1/chat/completions"));
        let request = request.header("content-type", "application/json").body(Body::from(body)).unwrap();
        let response = within_seconds(5, client.send_request(request)).await.unwrap();
        assert_eq!(response.status(), expected);
        let text = response.into_body().collect().await.unwrap().to_bytes();
        if expected == 200 {
            assert_eq!(Events::read(std::str::from_utf8(&text).unwrap()).text(0), "a first draft");
        }
    }
    assert!(!running.is_finished());
}

#[tokio::test]
async fn a_new_certificate_is_shown_without_dropping_connections() {
    let (dir, first, second) = (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
    let slow = FakeEngine::new(|_, _| Ok("word ".repeat(60))).paced(|_, _| Duration::from_millis(100));
    let server = secured(&first, dir.path(), slow, &[]).await;
    server.ready().await;
    let response = server.chat(&with(says("hello"), json!({"stream": true}))).send().await.unwrap();
    let mut stream = response.bytes_stream();
    stream.next().await.unwrap().unwrap();
    // As a program that writes one file after the other.
    std::fs::write(dir.path().join("cert.pem"), "half a certificate").unwrap();
    json_of(first.client().get(format!("{}/healthz", server.url)), StatusCode::OK).await;
    second.files(dir.path());
    let shown = async {
        while second.client().get(format!("{}/healthz", server.url)).send().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within_seconds(5, shown).await;
    assert!(first.client().get(format!("{}/healthz", server.url)).send().await.is_err());
    let mut text = String::new();
    while let Some(bytes) = within_seconds(10, stream.next()).await {
        text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn plain_http_is_told_to_use_tls_and_half_a_handshake_is_timed() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = secured(&authority, dir.path(), improving(), &["--header-timeout", "300ms"]).await;
    let mut plain = dial(&server).await;
    plain.write_all(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let answer = until_closed(&mut plain).await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("https://"), "{answer}");
    for begun in [&b""[..], &[22, 3, 1][..], &[22, 3, 1, 2, 0, 1][..]] {
        let mut stream = TcpStream::connect(address(&server.url)).await.unwrap();
        stream.write_all(begun).await.unwrap();
        assert_eq!(until_closed(&mut stream).await, "");
    }
}

#[tokio::test]
async fn the_limit_of_connections_holds_under_tls() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let server = secured(&authority, dir.path(), improving(), &["--max-connections", "1"]).await;
    let _taken = authority.connect(&server, "http/1.1").await;
    for (path, expected) in [("/healthz", 200), ("/v1/models", 503)] {
        let response = authority.client().get(format!("{}{path}", server.url)).send().await.unwrap();
        assert_eq!(response.status(), expected, "{path}");
    }
}
