//! The committed API document.

use reqwest::StatusCode;

use super::harness::{Server, improving, json_of};

#[tokio::test]
async fn the_committed_document_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let current = spar::http::openapi::document();
    if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "openapi/openapi.json is stale: run the tests with UPDATE=1");
    let server = Server::start(improving(), &[]).await;
    let served = json_of(server.get("/openapi.json"), StatusCode::OK).await;
    assert_eq!(served, serde_json::from_str::<serde_json::Value>(&current).unwrap());
    assert_eq!(server.get("/docs/").send().await.unwrap().status(), StatusCode::OK);
}
