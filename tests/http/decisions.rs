//! Typed questions about an input, answered with probabilities.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::{Input, Purpose};

use super::harness::{Server, improving, json_of, with};

fn asks() -> Value {
    json!({"input": "I was charged twice for one order.", "questions": [
        {"type": "predicate", "name": "twice", "instructions": "The customer was charged more than once."},
        {"type": "choice", "instructions": "What is it about?", "choices": [
            {"value": "billing", "description": "money"}, {"value": "delivery"}, {"value": true}, {"value": "true"}]},
        {"type": "score", "name": "anger", "instructions": "How angry is the customer?", "levels": [
            {"label": "calm"}, {"label": "annoyed", "description": "complains"}, {"label": "furious"}]},
    ]})
}

/// Reads the n-th label of a question as n times as likely as the first one.
fn counting() -> FakeEngine {
    let engine = FakeEngine::new(|_, _| Ok("x".into()));
    engine.reading(|request, _| Ok((1..=request.labels.len()).map(|n| (n as f32 / 100.0).ln()).collect()))
}

#[tokio::test]
async fn each_type_of_question_has_its_answer() {
    let server = Server::start(counting(), &[]).await;
    let answer = json_of(server.post("/v1/decisions", &asks()), StatusCode::OK).await;
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-6;
    let [predicate, choice, score] = [0, 1, 2].map(|index| &answer["answers"][index]);
    assert_eq!((&predicate["type"], &predicate["name"]), (&json!("predicate"), &json!("twice")));
    assert!(close(&predicate["probability"], 1.0 / 3.0), "{predicate}");
    assert_eq!((&choice["type"], &choice["name"], &choice["choice"]), (&json!("choice"), &Value::Null, &json!("true")));
    assert!(close(&choice["confidence"], 0.4), "{choice}");
    let values: Vec<&Value> = choice["probabilities"].as_array().unwrap().iter().map(|one| &one["value"]).collect();
    assert_eq!(values, [&json!("billing"), &json!("delivery"), &json!(true), &json!("true")]);
    assert!(close(&choice["probabilities"][1]["probability"], 0.2), "{choice}");
    assert_eq!((&score["type"], &score["name"]), (&json!("score"), &json!("anger")));
    assert!(close(&score["score"], (2.0 + 2.0 * 3.0) / 6.0) && close(&score["confidence"], 0.5), "{score}");
    assert_eq!(score["probabilities"][2]["value"], 2);
    assert_eq!(score["probabilities"][2]["label"], "furious");
    assert_eq!(answer["model"], "fake");
    assert_eq!((&answer["usage"]["input_tokens"], &answer["usage"]["output_tokens"]), (&json!(3), &json!(0)));
    assert_eq!(answer["usage"]["total_tokens"], 3);
}

#[tokio::test]
async fn the_model_is_asked_about_the_whole_input() {
    let engine = FakeEngine::new(|_, _| Ok("x".into())).reading(|request, question| {
        let Input::Chat(chat) = &request.questions[question].input else { panic!("a chat") };
        assert_eq!(request.purpose, Purpose::Judge);
        let text = &chat.messages[0].content;
        let right = text.contains("one\n\ntwo\n\nthree") && text.contains("It counts.");
        Ok(vec![if right { 0.0 } else { -9.0 }, -9.0])
    });
    let server = Server::start(engine, &[]).await;
    let input = json!([
        {"role": "user", "content": "one"},
        {"role": "user", "content": [{"type": "input_text", "text": "two"}, {"type": "input_text", "text": "three"}]},
    ]);
    let body = json!({"input": input, "questions": [{"type": "predicate", "instructions": "It counts."}]});
    let answer = json_of(server.post("/v1/decisions", &body), StatusCode::OK).await;
    assert!(answer["answers"][0]["probability"].as_f64().unwrap() > 0.99, "{answer}");
}

#[tokio::test]
async fn the_native_engine_decides_and_the_same_way_each_time() {
    let server = Server::native(&[], None).await;
    let answer = json_of(server.post("/v1/decisions", &asks()), StatusCode::OK).await;
    for one in answer["answers"].as_array().unwrap() {
        let probabilities = one["probabilities"].as_array().cloned().unwrap_or_default();
        let sum: f64 = probabilities.iter().map(|one| one["probability"].as_f64().unwrap()).sum();
        assert!(probabilities.is_empty() || (sum - 1.0).abs() < 1e-9, "{one}");
    }
    assert!(answer["usage"]["input_tokens"].as_u64().unwrap() > 100, "{answer}");
    let again = json_of(server.post("/v1/decisions", &asks()), StatusCode::OK).await;
    assert_eq!(again["answers"], answer["answers"]);
    assert!(again["usage"]["input_tokens_details"]["cached_tokens"].as_u64().unwrap() > 100, "{again}");
}

#[tokio::test]
async fn what_cannot_be_decided_is_refused_by_name() {
    let server = Server::start(counting(), &[]).await;
    let one =
        |question: Value| json!({"questions": [with(json!({"type": "predicate", "instructions": "x"}), question)]});
    let choices = |count: usize| (0..count).map(|n| json!({"value": n.to_string()})).collect::<Vec<_>>();
    let levels = |count: usize| (0..count).map(|n| json!({"label": n.to_string()})).collect::<Vec<_>>();
    for (fields, param) in [
        (json!({"input": 5}), "input"),
        (json!({"input": [{"role": "assistant", "content": "x"}]}), "input[0].role"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
            "input[0].content[0]",
        ),
        (json!({"questions": []}), "questions"),
        (json!({"questions": vec![json!({"type": "predicate", "instructions": "x"}); 129]}), "questions"),
        (json!({"model": "fake:search"}), "model"),
        (one(json!({"type": "essay"})), "questions[0].type"),
        (one(json!({"choices": choices(2)})), "questions[0].choices"),
        (one(json!({"levels": levels(2)})), "questions[0].levels"),
        (one(json!({"type": "choice"})), "questions[0].choices"),
        (one(json!({"type": "choice", "choices": choices(1)})), "questions[0].choices"),
        (one(json!({"type": "choice", "choices": choices(27)})), "questions[0].choices"),
        (one(json!({"type": "choice", "choices": [{"value": "a"}, {"value": "a"}]})), "questions[0].choices"),
        (one(json!({"type": "choice", "choices": choices(2), "levels": levels(2)})), "questions[0].levels"),
        (one(json!({"type": "score"})), "questions[0].levels"),
        (one(json!({"type": "score", "levels": levels(11)})), "questions[0].levels"),
        (one(json!({"type": "score", "levels": levels(2), "choices": choices(2)})), "questions[0].choices"),
        (one(json!({"instructions": 5})), "questions[0].instructions"),
    ] {
        let error = json_of(server.post("/v1/decisions", &with(asks(), fields)), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
    json_of(server.post("/v1/decisions", &with(asks(), json!({"model": "none"}))), StatusCode::NOT_FOUND).await;
    let other = Server::start(improving(), &[]).await;
    let error = json_of(other.post("/v1/decisions", &asks()), StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "model");
}
