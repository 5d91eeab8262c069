//! What a model's own files say of how it is served.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::harness::{Server, json_of, with};

/// The embedded actor in a directory of its own, with files as `change` leaves them.
fn directory(change: impl Fn(&Path)) -> (tempfile::TempDir, String) {
    let shipped = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/actor");
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(shipped).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    change(dir.path());
    let path = dir.path().display().to_string();
    (dir, path)
}

/// What `fields` make a model say by two seeds.
async fn said(server: &Server, fields: Value) -> [String; 2] {
    let mut said = [const { String::new() }; 2];
    for (seed, said) in said.iter_mut().enumerate() {
        let ask = json!({ "prompt": "The river", "max_tokens": 12, "seed": seed, "ignore_eos": true });
        let answer = json_of(server.post("/v1/completions", &with(ask, fields.clone())), StatusCode::OK).await;
        *said = answer["choices"][0]["text"].as_str().unwrap().to_owned();
    }
    said
}

#[tokio::test]
async fn a_model_says_how_it_is_sampled_where_a_request_does_not() {
    let (_dir, path) = directory(|dir| {
        let generation = json!({ "eos_token_id": 0, "bos_token_id": 0, "temperature": 0.0 });
        std::fs::write(dir.join("generation_config.json"), generation.to_string()).unwrap();
    });
    let server = Server::started(&["--model", &path], None).await;
    let [first, second] = said(&server, json!({})).await;
    assert_eq!(first, second, "the file says that the likeliest tokens are drawn");
    assert_eq!(said(&server, json!({ "temperature": 0 })).await[0], first);
    let [first, second] = said(&server, json!({ "temperature": 2 })).await;
    assert_ne!(first, second, "a request comes before the file");
    let server = Server::started(&["--model", &path, "--generation-config", "none"], None).await;
    let [first, second] = said(&server, json!({})).await;
    assert_ne!(first, second, "the file is not read");
}

#[tokio::test]
async fn a_base_model_without_a_template_continues_and_scores_texts_and_refuses_chats() {
    let (_dir, path) = directory(|dir| {
        std::fs::remove_file(dir.join("chat_template.jinja")).ok();
        std::fs::remove_file(dir.join("tokenizer_config.json")).ok();
    });
    let server = Server::started(&["--model", &path], None).await;
    assert!(!said(&server, json!({ "temperature": 0 })).await[0].is_empty());
    let score = json!({ "prompt": "The river", "max_tokens": 0, "echo": true, "logprobs": 1 });
    let scored = json_of(server.post("/v1/completions", &score), StatusCode::OK).await;
    assert!(scored["choices"][0]["logprobs"]["token_logprobs"].as_array().is_some_and(|all| all.len() > 1), "{scored}");
    let chat = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
    for fields in [json!({}), json!({ "search_budget": 2 })] {
        let error = json_of(server.chat(&with(chat.clone(), fields)), StatusCode::BAD_REQUEST).await;
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("no chat template") && message.contains("/v1/completions"), "{error}");
        assert_eq!(error["error"]["param"], "messages", "{error}");
    }
}
