//! What pages of other sites cannot do.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::super::harness::{Server, improving, json_of};
use super::exchange;

#[tokio::test]
async fn requests_for_hosts_that_are_not_this_one_are_refused_on_loopback() {
    let flags: [&[&str]; 4] = [
        &[],
        &["--allowed-hosts", "spar.example.com,*.lan"],
        &["--host", "0.0.0.0"],
        &["--host", "0.0.0.0", "--allowed-hosts", "spar.example.com"],
    ];
    // Columns: loopback, loopback with names, other addresses, other addresses with names.
    let cases = [
        ("localhost", [true; 4]),
        ("LOCALHOST:8080", [true; 4]),
        ("127.0.0.1", [true; 4]),
        ("127.0.0.1:99", [true; 4]),
        ("[::1]:8080", [true; 4]),
        ("evil.example", [false, false, true, false]),
        ("evil.example:8080", [false, false, true, false]),
        ("localhost.evil.example", [false, false, true, false]),
        ("spar.example.com:8080", [false, true, true, true]),
        ("box.lan", [false, true, true, false]),
        ("192.168.1.5", [false, false, true, true]),
    ];
    for (place, flags) in flags.iter().enumerate() {
        let server = Server::start(improving(), flags).await;
        for (host, served) in cases {
            for path in ["/v1/models", "/healthz", "/", "/nowhere"] {
                let text = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
                let answer = exchange(&server, &text).await;
                assert_ne!(answer.starts_with("HTTP/1.1 421"), served[place], "{flags:?} {host} {path}: {answer}");
                if !served[place] {
                    assert!(answer.contains("host_not_allowed") && answer.contains("--allowed-hosts"), "{answer}");
                }
            }
        }
        // The target may name a host as well.
        let absolute = "GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let answer = exchange(&server, absolute).await;
        assert_eq!(answer.starts_with("HTTP/1.1 421"), place != 2, "{answer}");
        let none = exchange(&server, "GET /healthz HTTP/1.0\r\n\r\n").await;
        assert!(none.starts_with("HTTP/1.0 200"), "{none}");
    }
}

#[tokio::test]
async fn pages_may_not_be_framed() {
    let server = Server::start(improving(), &[]).await;
    for path in ["/", "/docs/"] {
        let page = server.get(path).send().await.unwrap();
        assert_eq!(page.headers()["x-frame-options"], "DENY", "{path}");
        assert_eq!(page.headers()["x-content-type-options"], "nosniff", "{path}");
        let policy = page.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.ends_with("frame-ancestors 'none'"), "{path}: {policy}");
        assert_eq!(policy.contains("connect-src 'self'"), path == "/", "{path}: {policy}");
    }
    let data = server.get("/healthz").send().await.unwrap();
    assert!(!data.headers().contains_key("x-frame-options"));
}

#[tokio::test]
async fn a_preflight_names_methods_and_headers() {
    for (origins, allowed) in [("http://a.test,https://b.test:8443", "http://a.test"), ("*", "*")] {
        let server = Server::with_keys(improving(), &["--cors-origins", origins], Some("alpha")).await;
        let preflight = server
            .client
            .request(Method::OPTIONS, format!("{}/v1/chat/completions", server.url))
            .header("origin", "http://a.test")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-os,x-of-my-own");
        let response = preflight.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_ascii_lowercase();
        assert_eq!(header("access-control-allow-origin"), allowed);
        assert_eq!(header("access-control-allow-methods"), "get,head,post");
        let headers = header("access-control-allow-headers");
        for name in ["authorization", "content-type", "x-stainless-os", "x-of-my-own"] {
            assert!(headers.split(',').any(|listed| listed == name), "{name}: {headers}");
        }
        let models =
            server.get("/v1/models").header("origin", "http://a.test").bearer_auth("alpha").send().await.unwrap();
        let exposed = models.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(exposed.contains("x-request-id") && exposed.contains("retry-after"), "{exposed}");
    }
    let closed = Server::start(improving(), &[]).await;
    let listed: Value = json_of(closed.get("/v1/models").header("origin", "http://a.test"), StatusCode::OK).await;
    assert_eq!(listed["object"], "list");
}
