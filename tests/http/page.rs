//! The page at `/` and its files.

use std::collections::BTreeSet;

use reqwest::StatusCode;

use super::harness::{Server, improving, json_of};

/// The files that a text of the page names.
fn named(text: &str) -> BTreeSet<String> {
    let name = regex::Regex::new(r#"["'](?:page/|\./)([a-z]+\.[a-z]+)["']"#).unwrap();
    name.captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[tokio::test]
async fn the_page_and_all_that_it_loads_need_no_key_and_run_under_a_policy() {
    let server = Server::with_keys(improving(), &[], Some("alpha")).await;
    let page = server.get("/").send().await.unwrap();
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["x-frame-options"], "DENY");
    let mut open: Vec<String> = named(&page.text().await.unwrap()).into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(file) = open.pop() {
        if !seen.insert(file.clone()) {
            continue;
        }
        let answer = server.get(&format!("/page/{file}")).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{file}");
        let expected = match file.rsplit_once('.').unwrap().1 {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "json" => "application/json",
            "svg" => "image/svg+xml",
            other => panic!("{other}"),
        };
        assert_eq!(answer.headers()["content-type"], expected, "{file}");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff", "{file}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{file}: {policy}");
        open.extend(named(&answer.text().await.unwrap()));
    }
    assert!(seen.contains("main.js") && seen.contains("style.css") && seen.contains("examples.json"), "{seen:?}");
}

#[tokio::test]
async fn a_browser_that_has_a_file_is_not_sent_it_again() {
    let server = Server::start(improving(), &[]).await;
    for path in ["/", "/page/main.js"] {
        let first = server.get(path).send().await.unwrap();
        let etag = first.headers()["etag"].to_str().unwrap().to_owned();
        assert_eq!(first.headers()["cache-control"], "no-cache", "{path}");
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}")] {
            let again = server.get(path).header("if-none-match", &known).send().await.unwrap();
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}: {known}");
            assert_eq!(again.headers()["etag"], etag.as_str());
            assert_eq!(again.text().await.unwrap(), "");
        }
        let other = server.get(path).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(other.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn files_that_are_not_the_pages_are_not_found() {
    let server = Server::start(improving(), &[]).await;
    for path in ["/page/none.js", "/page/", "/page/..%2fCargo.toml", "/page/%ff"] {
        let status = server.get(path).send().await.unwrap().status();
        assert!([StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].contains(&status), "{path}: {status}");
    }
    let error = json_of(server.get("/page/none.js"), StatusCode::NOT_FOUND).await;
    assert_eq!(error["error"]["code"], "route_not_found");
}
