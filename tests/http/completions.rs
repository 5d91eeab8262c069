//! Text completions and tokens.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::StatusCode;
use serde_json::json;
use spar::chat::Message;
use spar::engine::fake::FakeEngine;
use spar::engine::{Engine, EngineError, ModelInfo, Reply, Request};
use tokenizers::Tokenizer;

use super::harness::{Server, asked, json_of, with};

fn continuing() -> FakeEngine {
    FakeEngine::new(|request, sibling| Ok(format!("after {} {sibling}", asked(request))))
}

#[tokio::test]
async fn prompts_times_n_continuations_come_in_order() {
    let server = Server::start(continuing(), &[]).await;
    let body = json!({"model": "fake", "prompt": ["A", "B"], "n": 2});
    let answer = json_of(server.post("/v1/completions", &body), StatusCode::OK).await;
    assert_eq!(answer["object"], "text_completion");
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].clone()).collect();
    assert_eq!(texts, ["after A 0", "after A 1", "after B 0", "after B 1"]);
    assert_eq!(answer["choices"][3]["index"], 3);
    assert_eq!(answer["usage"]["prompt_tokens"], 2);
}

#[tokio::test]
async fn a_streamed_continuation_ends_with_usage_and_done() {
    let server = Server::start(continuing(), &[]).await;
    let body = json!({"prompt": "A", "stream": true, "stream_options": {"include_usage": true}});
    let text = server.post("/v1/completions", &body).send().await.unwrap().text().await.unwrap();
    let events = super::harness::Events::read(&text);
    let said: String = events.chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
    assert_eq!(said, "after A 0");
    assert_eq!(events.chunks.last().unwrap()["usage"]["completion_tokens"], 3);
    assert!(events.done);
}

#[tokio::test]
async fn text_completions_are_never_searched() {
    let server = Server::start(continuing(), &[]).await;
    for (body, param) in [
        (json!({"prompt": "A", "search_budget": 2}), "search_budget"),
        (json!({"prompt": "A", "model": "fake:search"}), "model"),
        (json!({"prompt": "A", "suffix": "B"}), "suffix"),
        (json!({"prompt": "A", "best_of": 3}), "best_of"),
        (json!({"prompt": [1, 2]}), "prompt"),
        (json!({"prompt": []}), "prompt"),
    ] {
        let error = json_of(server.post("/v1/completions", &body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
}

/// An engine that only has a tokenizer.
struct Tokenizing(ModelInfo, Arc<Tokenizer>);

#[async_trait]
impl Engine for Tokenizing {
    async fn start(&self, _request: Request) -> Result<Vec<Reply>, EngineError> {
        Err(EngineError::Unavailable("it only tokenizes".into()))
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn tokenizer(&self) -> Option<Arc<Tokenizer>> {
        Some(Arc::clone(&self.1))
    }

    fn render(&self, messages: &[Message]) -> Result<String, EngineError> {
        Ok(messages.iter().map(|turn| format!("two {} ", turn.content)).collect())
    }
}

#[tokio::test]
async fn texts_become_tokens_and_tokens_texts() {
    let tokenizer: Tokenizer = serde_json::from_value(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": {"one": 0, "two": 1, "?": 2}, "unk_token": "?"},
    }))
    .unwrap();
    let info = ModelInfo { name: "tokens".into(), context: 99, vocabulary: 3 };
    let server = Server::start(Tokenizing(info, Arc::new(tokenizer)), &[]).await;
    let body = json!({"model": "fake", "prompt": "two one", "return_token_strs": true});
    let tokens = json_of(server.post("/tokenize", &body), StatusCode::OK).await;
    assert_eq!(tokens, json!({"count": 2, "max_model_len": 99, "tokens": [1, 0], "token_strs": ["two", "one"]}));
    let chat = json!({"messages": [{"role": "user", "content": "one"}]});
    let tokens = json_of(server.post("/tokenize", &chat), StatusCode::OK).await;
    assert_eq!(tokens["tokens"], json!([1, 0]), "as the chat template renders it");
    for (body, param) in [
        (json!({}), "prompt"),
        (with(chat.clone(), json!({"prompt": "one"})), "messages"),
        (with(chat.clone(), json!({"add_generation_prompt": false})), "add_generation_prompt"),
        (json!({"messages": []}), "messages"),
    ] {
        let error = json_of(server.post("/tokenize", &body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    let text = json_of(server.post("/detokenize", &json!({"tokens": [1, 0]})), StatusCode::OK).await;
    assert_eq!(text, json!({"prompt": "two one"}));
    let error = json_of(server.post("/detokenize", &json!({"tokens": [7]})), StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "tokens");
    // It never answers a canary either.
    json_of(server.get("/readyz"), StatusCode::SERVICE_UNAVAILABLE).await;
}
