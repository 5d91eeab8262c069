//! Text completions and tokens.

use std::sync::Arc;

use async_trait::async_trait;
use reqwest::StatusCode;
use serde_json::json;
use spar::config::EngineKind;
use spar::engine::fake::FakeEngine;
use spar::engine::model_dir::ModelDir;
use spar::engine::{Engine, EngineError, ModelInfo, Reply, Request};
use spar::testing::{TinyModel, write_model};
use tokenizers::Tokenizer;

use super::harness::{Events, Server, Under, asked, json_of, with};

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
    for server in Server::each(&[]).await {
        for (body, param) in [
            (json!({"prompt": "A", "search_budget": 2}), "search_budget"),
            (json!({"prompt": "A", "model": "fake:search"}), "model"),
            (json!({"prompt": "A", "suffix": "B"}), "suffix"),
            (json!({"prompt": "A", "best_of": 3}), "best_of"),
            (json!({"prompt": [1, "a"]}), "prompt[1]"),
            (json!({"prompt": [-1]}), "prompt[0]"),
            (json!({"prompt": [[1], 2]}), "prompt[1]"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": "A", "max_tokens": 0}), "max_tokens"),
            (json!({"prompt": "A", "max_tokens": -1, "echo": true}), "max_tokens"),
            (json!({"prompt": "A", "echo": "yes"}), "echo"),
            (json!({"prompt": "A", "prompt_logprobs": 1, "stream": true}), "prompt_logprobs"),
            (json!({"prompt": "A", "response_format": {"type": "xml"}}), "response_format.type"),
        ] {
            let error = json_of(server.post("/v1/completions", &body), StatusCode::BAD_REQUEST).await;
            assert_eq!(error["error"]["param"], param, "{error}");
        }
    }
}

#[tokio::test]
async fn every_engine_continues_texts_whole_and_streamed() {
    for server in Server::of_each_engine(&[]).await {
        let body = json!({"prompt": ["The river", "A small lantern"], "n": 2, "seed": 5, "temperature": 1.5, "max_tokens": 6, "logprobs": 1});
        let whole = json_of(server.post("/v1/completions", &body), StatusCode::OK).await;
        let choices = whole["choices"].as_array().unwrap();
        assert_eq!(choices.len(), 4);
        let streamed = with(body, json!({"stream": true, "stream_options": {"include_usage": true}}));
        let text = server.post("/v1/completions", &streamed).send().await.unwrap().text().await.unwrap();
        let events = Events::read(&text);
        for (index, choice) in choices.iter().enumerate() {
            let parts = events.chunks.iter().filter_map(|c| c["choices"].get(0)).filter(|c| c["index"] == index);
            let said: String = parts.filter_map(|part| part["text"].as_str()).collect();
            assert_eq!(choice["text"], said);
            let logprobs = &choice["logprobs"];
            let tokens = logprobs["tokens"].as_array().unwrap();
            assert!(!tokens.is_empty() && tokens.len() <= 6);
            for field in ["token_logprobs", "top_logprobs", "text_offset"] {
                assert_eq!(logprobs[field].as_array().unwrap().len(), tokens.len(), "{field}");
            }
            assert!(logprobs["token_logprobs"].as_array().unwrap().iter().all(|p| p.as_f64().unwrap() <= 0.0));
        }
        assert_eq!(events.chunks.last().unwrap()["usage"]["total_tokens"], whole["usage"]["total_tokens"]);
    }
}

#[tokio::test]
async fn an_echoed_prompt_stands_in_front_of_every_continuation() {
    for server in Server::each(&[]).await {
        let body = json!({"prompt": ["The river", "öß 🦀"], "n": 2, "max_tokens": 3, "seed": 1});
        let ask =
            async |fields| json_of(server.post("/v1/completions", &with(body.clone(), fields)), StatusCode::OK).await;
        let (plain, echoed) = (ask(json!({"echo": false})).await, ask(json!({"echo": true})).await);
        for (index, prompt) in ["The river", "The river", "öß 🦀", "öß 🦀"].into_iter().enumerate() {
            let text = |answer: &serde_json::Value| answer["choices"][index]["text"].as_str().unwrap().to_owned();
            assert_eq!(text(&echoed), format!("{prompt}{}", text(&plain)));
        }
        let streamed = with(body.clone(), json!({"echo": true, "stream": true}));
        let text = server.post("/v1/completions", &streamed).send().await.unwrap().text().await.unwrap();
        let first: Vec<_> =
            Events::read(&text).chunks.iter().take(4).map(|c| c["choices"][0]["text"].clone()).collect();
        assert_eq!(first, ["The river", "The river", "öß 🦀", "öß 🦀"]);
    }
}

#[tokio::test]
async fn an_echoed_prompt_is_scored_where_the_engine_can() {
    let prompt = "The quiet river carries a small lantern.";
    for server in Server::each(&[]).await {
        let body = json!({"prompt": prompt, "echo": true, "logprobs": 2, "max_tokens": 0, "temperature": 0});
        if server.under != Under::Engine(EngineKind::Native) {
            for body in [
                body.clone(),
                with(body.clone(), json!({"max_tokens": 2})),
                json!({"prompt": "A", "echo": true, "max_tokens": 0}),
            ] {
                let error = json_of(server.post("/v1/completions", &body), StatusCode::BAD_REQUEST).await;
                assert_eq!(error["error"]["param"], "echo", "{error}");
                assert!(error["error"]["message"].as_str().unwrap().contains("--engine native"), "{error}");
            }
            continue;
        }
        let ask =
            async |fields| json_of(server.post("/v1/completions", &with(body.clone(), fields)), StatusCode::OK).await;
        let scored = ask(json!({})).await;
        let (choice, usage) = (&scored["choices"][0], &scored["usage"]);
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(prompt), &json!("length")));
        let logprobs = &choice["logprobs"];
        let tokens: Vec<&str> = logprobs["tokens"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        assert_eq!(usage["prompt_tokens"], tokens.len());
        assert_eq!((&usage["completion_tokens"], &usage["total_tokens"]), (&json!(0), &json!(tokens.len())));
        assert!(tokens.concat().ends_with(prompt), "{tokens:?}");
        assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
        for index in 1..tokens.len() {
            let (own, top) = (&logprobs["token_logprobs"][index], logprobs["top_logprobs"][index].as_object().unwrap());
            assert!(own.as_f64().unwrap() <= 0.0 && top.len() == 2, "{logprobs}");
            if let Some(listed) = top.get(tokens[index]) {
                assert_eq!(listed, own);
            }
            let offset = logprobs["text_offset"][index].as_u64().unwrap() as usize;
            assert!(prompt[offset..].starts_with(tokens[index]), "{offset} {}", tokens[index]);
        }
        // A continuation goes on where the prompt ends, and what it says of its tokens is what scoring says of them.
        let both = ask(json!({"max_tokens": 4, "ignore_eos": true})).await;
        let continued = &both["choices"][0];
        let rest = continued["text"].as_str().unwrap().strip_prefix(prompt).unwrap();
        let lists = |logprobs: &serde_json::Value, field: &str| logprobs[field].as_array().unwrap().clone();
        assert_eq!(lists(&continued["logprobs"], "token_logprobs").len(), tokens.len() + 4);
        assert_eq!(lists(&continued["logprobs"], "text_offset")[tokens.len()], prompt.len());
        assert_eq!(lists(&continued["logprobs"], "tokens")[..tokens.len()], tokens);
        let again = ask(json!({"prompt": format!("{prompt}{rest}")})).await;
        if lists(&again["choices"][0]["logprobs"], "tokens") == lists(&continued["logprobs"], "tokens") {
            for field in ["token_logprobs", "top_logprobs", "text_offset"] {
                let [both, again] = [continued, &again["choices"][0]].map(|choice| lists(&choice["logprobs"], field));
                assert_eq!(both, again, "{field}");
            }
        }
        // Streamed, the prompt comes first, with its logprobs.
        let streamed = with(body.clone(), json!({"max_tokens": 4, "ignore_eos": true, "stream": true}));
        let text = server.post("/v1/completions", &streamed).send().await.unwrap().text().await.unwrap();
        let events = Events::read(&text);
        assert_eq!(events.chunks[0]["choices"][0]["logprobs"], *logprobs);
        let said: String = events.chunks.iter().filter_map(|c| c["choices"][0]["text"].as_str()).collect();
        assert_eq!(said, continued["text"].as_str().unwrap());
        // Several prompts keep their order.
        let two = ask(json!({"prompt": [prompt, "A lantern"], "n": 2, "temperature": 1})).await;
        assert_eq!(two["choices"][1]["logprobs"], *logprobs);
        assert_eq!(two["choices"][3]["text"], "A lantern");
    }
}

/// An engine that only has a tokenizer.
struct Tokenizing(ModelInfo);

#[async_trait]
impl Engine for Tokenizing {
    async fn start(&self, _request: Request) -> Result<Vec<Reply>, EngineError> {
        Err(EngineError::Unavailable("it only tokenizes".into()))
    }

    fn info(&self) -> &ModelInfo {
        &self.0
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
    let files = tempfile::tempdir().unwrap();
    write_model(files.path(), &TinyModel::default());
    let template = "{% for turn in messages %}two {{ turn.content }} {% endfor %}";
    std::fs::write(files.path().join("chat_template.jinja"), template).unwrap();
    let mut dir = ModelDir::open(files.path()).unwrap();
    dir.tokenizer = Arc::new(tokenizer);
    let info = ModelInfo { dir: Some(Arc::new(dir)), ..ModelInfo::new("tokens", 99, 3) };
    let server = Server::start(Tokenizing(info), &[]).await;
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

#[tokio::test]
async fn every_engine_tokenizes_there_and_back() {
    for server in Server::of_each_engine(&[]).await {
        let text = "The quiet river carries a small lantern.";
        let body = json!({"prompt": text, "add_special_tokens": false});
        let tokens = json_of(server.post("/tokenize", &body), StatusCode::OK).await;
        assert_eq!(tokens["max_model_len"], 1024);
        let back = json!({"tokens": tokens["tokens"]});
        assert_eq!(json_of(server.post("/detokenize", &back), StatusCode::OK).await["prompt"], text);
    }
}
