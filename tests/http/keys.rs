//! A file of keys: names, limits and roles, read again when it changes.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::harness::{Server, improving, json_of, says, with, within_seconds};

/// A server whose keys are these.
async fn keyed(keys: &str) -> (tempfile::TempDir, PathBuf, Server) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.toml");
    std::fs::write(&path, keys).unwrap();
    let server = Server::start(improving(), &["--api-keys-file", path.to_str().unwrap()]).await;
    server.ready().await;
    (dir, path, server)
}

async fn status(server: &Server, key: &str, fields: Value) -> StatusCode {
    server.chat(&with(says("hello"), fields)).bearer_auth(key).send().await.unwrap().status()
}

#[tokio::test]
async fn a_key_has_the_limits_of_its_entry() {
    let keys = "[[keys]]\nname = \"few\"\nkey = \"f\"\nmax_search_budget = 2\n\
                [[keys]]\nname = \"plain\"\nkey = \"p\"\nmax_search_budget = 0\n\
                [[keys]]\nname = \"any\"\nkey = \"a\"\n";
    let (_dir, _, server) = keyed(keys).await;
    let budget = |budget: i64| json!({"search_budget": budget});
    assert_eq!(status(&server, "f", budget(2)).await, StatusCode::OK);
    assert_eq!(status(&server, "a", budget(3)).await, StatusCode::OK);
    assert_eq!(status(&server, "p", budget(0)).await, StatusCode::OK);
    let over = server.chat(&with(says("hello"), budget(3))).bearer_auth("f");
    let error = json_of(over, StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "search_budget");
    assert!(error["error"]["message"].as_str().unwrap().contains("between 0 and 2 for this key"), "{error}");
    let none = server.chat(&with(says("hello"), json!({"search": {}}))).bearer_auth("p");
    assert_eq!(json_of(none, StatusCode::BAD_REQUEST).await["error"]["param"], "search_budget");
    let without = server.chat(&with(says("hello"), json!({"model": "fake:search"}))).bearer_auth("f");
    let answer = json_of(without, StatusCode::OK).await;
    assert!(answer["search"]["nodes"].as_u64().unwrap() <= 2, "{answer}");
}

#[tokio::test]
async fn a_key_uses_the_models_of_its_entry_and_is_told_which() {
    let keys = "[[keys]]\nname = \"some\"\nkey = \"s\"\nmodels = [\"fake\"]\n\
                [[keys]]\nname = \"other\"\nkey = \"o\"\nmodels = [\"mine\", \"yours\"]\n";
    let (_dir, _, server) = keyed(keys).await;
    assert_eq!(status(&server, "s", json!({"model": "fake"})).await, StatusCode::OK);
    assert_eq!(status(&server, "s", json!({"model": "fake:search"})).await, StatusCode::OK);
    assert_eq!(status(&server, "s", json!({"model": "mine"})).await, StatusCode::NOT_FOUND);
    let messages = says("hello")["messages"].clone();
    for (path, body) in [
        ("/v1/chat/completions", json!({"messages": messages})),
        ("/v1/chat/completions", json!({"messages": messages, "model": "fake:search"})),
        ("/v1/completions", json!({"prompt": "a", "model": "fake"})),
        ("/v1/responses", json!({"input": "a"})),
        ("/v1/messages", json!({"messages": messages, "max_tokens": 3})),
        ("/v1/messages/count_tokens", json!({"messages": messages})),
        ("/v1/embeddings", json!({"input": "a"})),
        ("/v1/score", json!({"query": "a", "items": ["b"], "labels": ["c"]})),
        ("/v1/decisions", json!({"input": "a", "questions": [{"type": "predicate", "instructions": "b"}]})),
        ("/tokenize", json!({"prompt": "a"})),
        ("/detokenize", json!({"tokens": [1]})),
    ] {
        let error = json_of(server.post(path, &body).bearer_auth("o"), StatusCode::FORBIDDEN).await;
        assert_eq!(error["error"]["code"], "model_not_allowed", "{path}: {error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("`fake`") && message.contains("mine, yours"), "{path}: {message}");
    }
    // No model is needed to find rules.
    json_of(server.post("/v1/checks", &json!({"messages": messages})).bearer_auth("o"), StatusCode::OK).await;
    let listed = async |key: &str| {
        let list = json_of(server.get("/v1/models").bearer_auth(key), StatusCode::OK).await;
        list["data"].as_array().unwrap().iter().map(|card| card["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("s").await, ["fake", "fake:search"]);
    assert!(listed("o").await.is_empty());
    json_of(server.get("/v1/models/fake").bearer_auth("o"), StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn tokens_per_minute_are_counted_over_all_calls_and_said_in_metrics() {
    let keys = "[[keys]]\nname = \"metered-a\"\nkey = \"a\"\ntokens_per_minute = 12\n\
                [[keys]]\nname = \"free-b\"\nkey = \"b\"\n";
    let (_dir, _, server) = keyed(keys).await;
    // A prompt of one token and a draft of three, judged and refined: far more than twelve.
    assert_eq!(status(&server, "a", json!({"search_budget": 2})).await, StatusCode::OK);
    let refused = server.chat(&says("hello")).bearer_auth("a").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((2..=61).contains(&seconds), "{seconds}");
    let error: Value = refused.json().await.unwrap();
    assert_eq!(error["error"]["code"], "tokens_per_minute");
    assert!(error["error"]["message"].as_str().unwrap().contains("12 tokens per minute"), "{error}");
    assert_eq!(status(&server, "b", json!({})).await, StatusCode::OK);
    let metrics = server.metrics().await;
    let of = |kind: &str, name: &str| {
        let start = format!("spar_key_tokens_total{{key=\"{name}\",kind=\"{kind}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse::<u64>().unwrap()
    };
    assert_eq!((of("prompt", "free-b"), of("generated", "free-b")), (1, 3));
    assert!(of("prompt", "metered-a") + of("generated", "metered-a") >= 12);
    assert!(metrics.contains("spar_key_requests_running{key=\"free-b\"} 0"), "{metrics}");
    assert!(metrics.contains("spar_requests_rejected_total{reason=\"tokens_per_minute\"}"));
}

#[tokio::test]
async fn a_changed_file_is_taken_without_a_restart_and_a_broken_one_is_not() {
    let entry = |name: &str, key: &str| format!("[[keys]]\nname = \"{name}\"\nkey = \"{key}\"\n");
    let (_dir, path, server) = keyed(&entry("first", "alpha")).await;
    let until = async |key: &str, expected: StatusCode| {
        let waiting = async {
            while status(&server, key, json!({})).await != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within_seconds(10, waiting).await;
    };
    until("alpha", StatusCode::OK).await;
    std::fs::write(&path, entry("first", "alpha") + &entry("second", "beta")).unwrap();
    until("beta", StatusCode::OK).await;
    std::fs::write(&path, "[[keys]]\nname = ").unwrap();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(status(&server, "alpha", json!({})).await, StatusCode::OK);
    std::fs::write(&path, entry("second", "beta")).unwrap();
    until("alpha", StatusCode::UNAUTHORIZED).await;
    assert_eq!(status(&server, "beta", json!({})).await, StatusCode::OK);
}

#[tokio::test]
async fn only_keys_with_the_role_open_the_admin_routes() {
    let keys = "[[keys]]\nname = \"root\"\nkey = \"r\"\nadmin = true\n[[keys]]\nname = \"user\"\nkey = \"u\"\n";
    let (_dir, _, server) = keyed(keys).await;
    let call = |key: &str| server.get("/admin/generations").bearer_auth(key);
    // Nothing can be swapped here, which is said to who may ask.
    json_of(call("r"), StatusCode::UNPROCESSABLE_ENTITY).await;
    let error = json_of(call("u"), StatusCode::FORBIDDEN).await;
    assert_eq!(error["error"]["code"], "not_admin");
    assert!(error["error"]["message"].as_str().unwrap().contains("admin = true"), "{error}");
    let error = json_of(call("x"), StatusCode::UNAUTHORIZED).await;
    assert_eq!(error["error"]["code"], "invalid_admin_key");
    assert!(error["error"]["message"].as_str().unwrap().contains("admin key"), "{error}");
    assert_eq!(status(&server, "r", json!({})).await, StatusCode::OK);
}

#[tokio::test]
async fn the_schemes_name_has_no_case() {
    let server = Server::with_keys(improving(), &[], Some("alpha")).await;
    for scheme in ["Bearer", "bearer", "BEARER"] {
        let call = server.chat(&says("hello")).header("authorization", format!("{scheme} alpha"));
        json_of(call, StatusCode::OK).await;
    }
}

#[tokio::test]
async fn an_admin_sees_what_each_named_key_has_used_and_no_key() {
    let keys = "[[keys]]\nname = \"used-a\"\nkey = \"secret-a\"\ntokens_per_minute = 1000\nrunning = 2\n\
                [[keys]]\nname = \"boss-b\"\nkey = \"secret-b\"\nadmin = true\nmax_search_budget = 3\n";
    let (_dir, _, server) = keyed(keys).await;
    assert_eq!(status(&server, "secret-a", json!({})).await, StatusCode::OK);
    let shown = json_of(server.get("/admin/keys").bearer_auth("secret-b"), StatusCode::OK).await;
    assert!(!shown.to_string().contains("secret"), "{shown}");
    let [used, boss] = [0, 1].map(|index| &shown["data"][index]);
    assert_eq!(
        (&used["name"], &used["admin"], &used["tokens_per_minute"]),
        (&json!("used-a"), &json!(false), &json!(1000))
    );
    // A prompt of one token, and a draft of three.
    assert_eq!(
        (&used["prompt_tokens"], &used["generated_tokens"], &used["tokens_last_minute"]),
        (&json!(1), &json!(3), &json!(4))
    );
    assert_eq!(
        (&used["max_running"], &boss["max_search_budget"], &boss["prompt_tokens"]),
        (&json!(2), &json!(3), &json!(0))
    );
    json_of(server.get("/admin/keys").bearer_auth("secret-a"), StatusCode::FORBIDDEN).await;
    json_of(server.get("/admin/keys"), StatusCode::UNAUTHORIZED).await;
}
