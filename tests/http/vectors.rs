//! Texts as vectors, and probabilities of given labels: what a model says without generating anything.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;

use super::harness::{Server, improving, json_of, with};

async fn embed(server: &Server, body: Value) -> Value {
    json_of(server.post("/v1/embeddings", &body), StatusCode::OK).await
}

fn numbers(answer: &Value, index: usize) -> Vec<f64> {
    let vector = answer["data"][index]["embedding"].as_array().unwrap();
    vector.iter().map(|x| x.as_f64().unwrap()).collect()
}

#[tokio::test]
async fn texts_become_vectors_of_length_1_in_every_form_of_input() {
    let server = Server::native(&[], None).await;
    let texts = ["The river waits for the lantern.", "A teacher whispers near the market."];
    let mut ids = Vec::new();
    for text in texts {
        let tokens = json_of(server.post("/tokenize", &json!({"prompt": text})), StatusCode::OK).await;
        ids.push(tokens["tokens"].clone());
    }
    let count = |index: usize| ids[index].as_array().unwrap().len();
    let both = embed(&server, json!({"input": texts, "model": "fake"})).await;
    assert_eq!((&both["object"], &both["model"]), (&json!("list"), &json!("fake")));
    let tokens = count(0) + count(1);
    assert_eq!(both["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    for (index, text) in texts.into_iter().enumerate() {
        assert_eq!(
            (&both["data"][index]["index"], &both["data"][index]["object"]),
            (&json!(index), &json!("embedding"))
        );
        let vector = numbers(&both, index);
        let length: f64 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5 && vector.len() == 192, "{length}");
        assert_eq!(numbers(&embed(&server, json!({"input": text})).await, 0), vector);
        assert_eq!(numbers(&embed(&server, json!({"input": ids[index]})).await, 0), vector);
        let coded = embed(&server, json!({"input": [text], "encoding_format": "base64", "dimensions": 192.0})).await;
        let bytes = STANDARD.decode(coded["data"][0]["embedding"].as_str().unwrap()).unwrap();
        let decoded: Vec<f64> =
            bytes.chunks_exact(4).map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap()))).collect();
        assert!(decoded.iter().zip(&vector).all(|(a, b)| (a - b).abs() < 1e-7) && decoded.len() == 192);
    }
    let lists = embed(&server, json!({"input": ids})).await;
    assert_eq!(numbers(&lists, 1), numbers(&both, 1));
    let last = embed(&server, json!({"input": texts, "pooling": "last"})).await;
    assert_ne!(numbers(&last, 0), numbers(&both, 0));
    assert_ne!(numbers(&both, 0), numbers(&both, 1));
}

#[tokio::test]
async fn what_cannot_become_a_vector_is_refused_by_name() {
    let server = Server::native(&[], None).await;
    let long = "the river waits. ".repeat(1_000);
    for (body, param) in [
        (json!({}), "input"),
        (json!({"input": []}), "input"),
        (json!({"input": ""}), "input"),
        (json!({"input": [[]]}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"input": [1_000_000]}), "input"),
        (json!({"input": vec!["a"; 2_049]}), "input"),
        (json!({"input": long}), "input"),
        (json!({"input": vec![5; 1_025]}), "input"),
        (json!({"input": "a", "dimensions": 64}), "dimensions"),
        (json!({"input": "a", "encoding_format": "int8"}), "encoding_format"),
        (json!({"input": "a", "pooling": "max"}), "pooling"),
        (json!({"input": "a", "model": "fake:search"}), "model"),
    ] {
        let error = json_of(server.post("/v1/embeddings", &body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    let unknown = json!({"input": "a", "model": "none"});
    json_of(server.post("/v1/embeddings", &unknown), StatusCode::NOT_FOUND).await;
    let other = Server::start(improving(), &[]).await;
    let error = json_of(other.post("/v1/embeddings", &json!({"input": "a"})), StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "model");
    assert!(error["error"]["message"].as_str().unwrap().contains("no embeddings"), "{error}");
}

/// Two of the likeliest tokens after a text, by name and id, with their probabilities.
async fn likeliest(server: &Server, text: &str) -> Vec<(String, u64, f64)> {
    let body = json!({"prompt": text, "max_tokens": 1, "logprobs": 20, "temperature": 0});
    let answer = json_of(server.post("/v1/completions", &body), StatusCode::OK).await;
    let mut found = Vec::new();
    for (name, logprob) in answer["choices"][0]["logprobs"]["top_logprobs"][0].as_object().unwrap() {
        let tokenize = json!({"prompt": name, "add_special_tokens": false});
        let ids = json_of(server.post("/tokenize", &tokenize), StatusCode::OK).await["tokens"].clone();
        if ids.as_array().unwrap().len() == 1 && !name.starts_with('<') && name.len() > 1 {
            found.push((name.clone(), ids[0].as_u64().unwrap(), logprob.as_f64().unwrap().exp()));
        }
    }
    assert!(found.len() >= 2, "{found:?}");
    found.truncate(2);
    found
}

#[tokio::test]
async fn labels_have_the_probabilities_of_the_tokens_that_come_next() {
    let server = Server::native(&[], None).await;
    let score = async |body: Value| json_of(server.post("/v1/score", &body), StatusCode::OK).await;
    let (query, items) = ("The old", [" river", " teacher near the market"]);
    let found = likeliest(&server, "The old river").await;
    let (ids, names): (Vec<u64>, Vec<&str>) = found.iter().map(|(name, id, _)| (*id, name.as_str())).unzip();
    let body = json!({"query": query, "items": items, "label_token_ids": ids, "request_id": "r-1"});
    let plain = score(with(body.clone(), json!({"apply_softmax": false}))).await;
    assert_eq!((&plain["id"], &plain["object"]), (&json!("score-r-1"), &json!("list")));
    for (place, (_, _, expected)) in found.iter().enumerate() {
        let got = plain["data"][0]["probabilities"][place].as_f64().unwrap();
        assert!((got - expected).abs() < 1e-4, "{got} {expected}");
    }
    let shares = score(body.clone()).await;
    let (first, second) = (found[0].2, found[1].2);
    let got = shares["data"][0]["score"].as_f64().unwrap();
    assert!((got - first / (first + second)).abs() < 1e-4, "{got}");
    for (index, item) in shares["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&item["index"], &item["object"]), (&json!(index), &json!("score")));
        let sum: f64 = item["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9, "{item}");
        assert_eq!(item["score"], item["probabilities"][0]);
    }
    assert_ne!(shares["data"][0]["score"], shares["data"][1]["score"]);
    assert_eq!(shares["usage"]["prompt_tokens"], shares["usage"]["total_tokens"]);

    // The same by names, by ids, and with the parts in the other order.
    let named = score(json!({"query": query, "items": items, "labels": names})).await;
    assert!((named["data"][0]["score"].as_f64().unwrap() - got).abs() < 1e-5, "{named}");
    let turned = json!({"query": items[0], "items": [query], "label_token_ids": ids, "item_first": true});
    assert_eq!(score(turned).await["data"][0]["probabilities"], shares["data"][0]["probabilities"]);
    let tokenize = json!({"prompt": "The old river"});
    let whole = json_of(server.post("/tokenize", &tokenize), StatusCode::OK).await["tokens"].clone();
    let whole = whole.as_array().unwrap();
    let by_ids = json!({"query": whole[..1], "items": [whole[1..]], "label_token_ids": ids});
    assert_eq!(score(by_ids).await["data"][0]["probabilities"], shares["data"][0]["probabilities"]);
    let bare = score(with(body, json!({"add_special_tokens": false}))).await;
    let without = json!({"query": whole[1..2], "items": [whole[2..]], "label_token_ids": ids});
    if whole[0] == 0 {
        assert_eq!(score(without).await["data"][0]["probabilities"], bare["data"][0]["probabilities"]);
    }
}

#[tokio::test]
async fn what_cannot_be_scored_is_refused_by_name() {
    let server = Server::native(&[], None).await;
    let body = |fields: Value| with(json!({"query": "a", "items": ["b"], "label_token_ids": [5]}), fields);
    for (fields, param) in [
        (json!({"label_token_ids": null}), "label_token_ids"),
        (json!({"label_token_ids": []}), "label_token_ids"),
        (json!({"label_token_ids": [1_000_000]}), "label_token_ids"),
        (json!({"label_token_ids": vec![5; 65]}), "label_token_ids"),
        (json!({"labels": ["x"]}), "labels"),
        (json!({"label_token_ids": null, "labels": [""]}), "labels"),
        (json!({"label_token_ids": null, "labels": ["a".repeat(1_025)]}), "labels"),
        (json!({"query": ["a"]}), "query"),
        (json!({"query": [5]}), "items"),
        (json!({"items": "b"}), "items"),
        (json!({"items": []}), "items"),
        (json!({"items": [[5]]}), "items"),
        (json!({"items": vec!["b"; 1_025]}), "items"),
        (json!({"items": ["the river waits. ".repeat(1_000)]}), "items"),
        (json!({"apply_softmax": 5}), "apply_softmax"),
        (json!({"item_first": 5}), "item_first"),
        (json!({"add_special_tokens": 5}), "add_special_tokens"),
        (json!({"request_id": ""}), "request_id"),
        (json!({"model": "fake:search"}), "model"),
    ] {
        let error = json_of(server.post("/v1/score", &body(fields)), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    json_of(server.post("/v1/score", &body(json!({"model": "none"}))), StatusCode::NOT_FOUND).await;
    let other = Server::start(improving(), &[]).await;
    let error = json_of(other.post("/v1/score", &body(json!({}))), StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "model");
    // An engine that reads labels is enough.
    let reading = FakeEngine::new(|_, _| Ok("x".into())).reading(|_, question| {
        let first = [0.6_f32, 0.1][question];
        Ok(vec![first.ln(), 0.2_f32.ln()])
    });
    let server = Server::start(reading, &[]).await;
    let labels = json!({"query": "q", "items": ["a", "b"], "labels": ["x", "y"]});
    let answer = json_of(server.post("/v1/score", &labels), StatusCode::OK).await;
    let score = |index: usize| answer["data"][index]["score"].as_f64().unwrap();
    assert!((score(0) - 0.75).abs() < 1e-6 && (score(1) - 1.0 / 3.0).abs() < 1e-6, "{answer}");
}

#[tokio::test]
async fn vectors_and_scores_are_counted_for_the_key_and_need_one() {
    let server = Server::native(&[], Some("alpha")).await;
    for (path, body) in [
        ("/v1/embeddings", json!({"input": "The river"})),
        ("/v1/score", json!({"query": "The", "items": [" river"], "label_token_ids": [5]})),
    ] {
        json_of(server.post(path, &body), StatusCode::UNAUTHORIZED).await;
        json_of(server.post(path, &body).bearer_auth("alpha"), StatusCode::OK).await;
    }
}

#[tokio::test]
async fn a_model_says_what_it_can_do() {
    let cards = async |server: &Server| json_of(server.get("/v1/models"), StatusCode::OK).await["data"].clone();
    let native = cards(&Server::native(&[], None).await).await;
    assert_eq!((&native[0]["root"], &native[0]["parent"]), (&json!("fake"), &Value::Null));
    assert_eq!(
        (&native[1]["id"], &native[1]["root"], &native[1]["parent"]),
        (&json!("fake:search"), &json!("fake"), &json!("fake"))
    );
    assert_eq!(native[0]["max_model_len"], 1024);
    let has = |card: &Value, word: &str| card["capabilities"].as_array().unwrap().contains(&json!(word));
    for word in ["completion", "chat", "tools", "structured_outputs", "score", "embedding"] {
        assert!(has(&native[0], word), "{word}: {native}");
    }
    assert!(has(&native[1], "search") && !has(&native[1], "embedding") && !has(&native[0], "search"), "{native}");
    let fake = cards(&Server::start(improving(), &[]).await).await;
    assert!(has(&fake[0], "chat") && !has(&fake[0], "embedding") && !has(&fake[0], "structured_outputs"), "{fake}");
}
