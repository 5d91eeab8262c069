//! What an answer must match, in the spellings of OpenAI's packages and of other servers.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};
use spar::engine::{Constraint, Purpose};

use super::harness::{Server, improving, json_of, recording, says, with};

const GRAMMAR: &str = "root ::= \"{\\\"a\\\": \" digit \"}\"\ndigit ::= [0-9]";

fn schema() -> Value {
    json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9, "format": "int32"}},
        "required": ["a"], "additionalProperties": false})
}

/// Every spelling of `{"a": DIGIT}`, with the field that it is in.
fn spellings() -> Vec<(Value, &'static str)> {
    let regex = "\\{\"a\": [0-9]\\}";
    let text = schema().to_string();
    let choice: Vec<String> = (0..10).map(|digit| format!("{{\"a\": {digit}}}")).collect();
    vec![
        (json!({"response_format": {"type": "json_object", "schema": schema()}}), "response_format"),
        (json!({"response_format": {"type": "json_schema", "schema": schema()}}), "response_format"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema()}}}),
            "response_format",
        ),
        (json!({"json_schema": schema()}), "json_schema"),
        (json!({"json_schema": text}), "json_schema"),
        (json!({"grammar": GRAMMAR}), "grammar"),
        (json!({"ebnf": GRAMMAR}), "ebnf"),
        (json!({"regex": regex}), "regex"),
        (json!({"guided_json": schema()}), "guided_json"),
        (json!({"guided_json": text}), "guided_json"),
        (json!({"guided_regex": regex}), "guided_regex"),
        (json!({"guided_choice": choice}), "guided_choice"),
        (json!({"guided_grammar": GRAMMAR}), "guided_grammar"),
        (json!({"structured_outputs": {"json": schema()}}), "structured_outputs"),
        (json!({"structured_outputs": {"json": text, "disable_any_whitespace": true}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": regex}}), "structured_outputs"),
        (json!({"structured_outputs": {"choice": choice}}), "structured_outputs"),
        (json!({"structured_outputs": {"grammar": GRAMMAR}}), "structured_outputs"),
    ]
}

fn is_right(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    value.as_object().is_some_and(|fields| fields.len() == 1)
        && value["a"].as_i64().is_some_and(|a| (0..10).contains(&a))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_spelling_of_a_constraint_is_honoured() {
    for server in Server::of_each_engine(&[]).await {
        for (fields, field) in spellings() {
            let chat = with(says("hello"), with(fields.clone(), json!({"max_tokens": 200, "seed": 3})));
            let answer = server.answer(&chat).await;
            let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
            assert!(is_right(text), "{field}: {text}");
            let plain = with(json!({"prompt": "The river", "max_tokens": 200, "seed": 3}), fields.clone());
            let answer = json_of(server.post("/v1/completions", &plain), StatusCode::OK).await;
            let text = answer["choices"][0]["text"].as_str().unwrap();
            assert!(is_right(text), "{field}: {text}");
        }
        let compact =
            json!({"structured_outputs": {"json_object": true, "disable_any_whitespace": true}, "max_tokens": 4});
        let answer = server.answer(&with(says("hello"), compact)).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.starts_with("{\"") || text == "{}", "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_keeps_to_a_grammar_in_every_spelling() {
    let server = Server::native(&[], None).await;
    for (fields, field) in
        spellings().into_iter().filter(|(_, field)| ["grammar", "guided_choice", "regex"].contains(field))
    {
        let search = json!({"search_budget": 2, "max_tokens": 24, "seed": 1,
            "search": {"judge": "model", "branch": 1, "depth": 1, "refine_tokens": 64, "judge_tokens": 16}});
        let answer = server.answer(&with(with(says("Write about the river."), search), fields)).await;
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(is_right(text), "{field}: {text}");
        assert!(answer["search"]["calls"]["judge"].as_u64().unwrap() >= 1, "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_fields_that_say_what_an_answer_must_match_are_both_named() {
    let server = Server::native(&[], None).await;
    let all = spellings();
    for (one, first) in &all {
        for (other, second) in all.iter().filter(|(_, second)| second != first) {
            let body = with(with(says("hello"), one.clone()), other.clone());
            let error = json_of(server.chat(&body), StatusCode::BAD_REQUEST).await;
            let (message, param) =
                (error["error"]["message"].as_str().unwrap(), error["error"]["param"].as_str().unwrap());
            assert!(param == *first || param == *second, "{first} and {second}: {param}");
            for field in [first, second] {
                assert!(message.contains(&format!("`{field}`")), "{first} and {second}: {message}");
            }
        }
    }
    for (fields, param) in [
        (json!({"structured_outputs": {"regex": "a", "grammar": GRAMMAR}}), "structured_outputs"),
        (json!({"structured_outputs": {"regex": "a", "json_object": true}}), "structured_outputs"),
        (json!({"structured_outputs": {"disable_any_whitespace": true}}), "structured_outputs.disable_any_whitespace"),
        (
            json!({"structured_outputs": {"regex": "a", "disable_any_whitespace": true}}),
            "structured_outputs.disable_any_whitespace",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}, "schema": {}}}),
            "response_format.schema",
        ),
        (
            json!({"response_format": {"type": "json_object", "json_schema": {"schema": {}}}}),
            "response_format.json_schema",
        ),
        (json!({"response_format": {"type": "text", "schema": {}}}), "response_format.schema"),
        (json!({"guided_whitespace_pattern": " *"}), "guided_whitespace_pattern"),
        (json!({"guided_json_object": true}), "guided_json_object"),
        (json!({"guided_decoding": {"regex": "a"}}), "guided_decoding"),
        (json!({"structured_output": {"regex": "a"}}), "structured_output"),
        (json!({"response_schema": {"type": "object"}}), "response_schema"),
        (json!({"output_format": {"type": "json_schema", "schema": {}}}), "output_format"),
        (json!({"output_config": {"format": {"type": "json_schema", "schema": {}}}}), "output_config"),
        (json!({"extra_body": {"regex": "a"}}), "extra_body"),
    ] {
        let error = json_of(server.chat(&with(says("hello"), fields.clone())), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{fields}: {error}");
    }
}

#[tokio::test]
async fn an_engine_that_cannot_constrain_refuses_every_spelling_by_name() {
    let server = Server::start(improving(), &[]).await;
    for (fields, field) in spellings() {
        let error = json_of(server.chat(&with(says("hello"), fields.clone())), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], field, "{fields}");
        assert!(error["error"]["message"].as_str().unwrap().contains("cannot constrain"), "{error}");
        let plain = with(json!({"prompt": "A"}), fields.clone());
        let error = json_of(server.post("/v1/completions", &plain), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], field, "{fields}");
    }
}

#[tokio::test]
async fn an_upstream_is_given_schemas_in_openais_spelling_and_nothing_else() {
    let (engine, seen) = recording();
    let back = Server::start(engine.constraining(), &[]).await;
    let config = UpstreamConfig { url: back.url.clone(), ..UpstreamConfig::default() };
    let server = Server::start(UpstreamEngine::connect(config).await.unwrap(), &[]).await;
    for (fields, field) in spellings() {
        let is_schema = ["json", "schema"].iter().any(|part| fields.to_string().contains(&format!("{part}\":")));
        let request = server.chat(&with(says("hello"), fields.clone()));
        if is_schema && field != "grammar" {
            json_of(request, StatusCode::OK).await;
            let asked = seen.lock().unwrap().last().unwrap().constraint.clone();
            let Some(Constraint::JsonSchema(schema)) = asked else { panic!("{field}: {asked:?}") };
            assert_eq!(schema["required"], json!(["a"]), "{field}");
        } else {
            let error = json_of(request, StatusCode::BAD_REQUEST).await;
            assert_eq!(error["error"]["param"], field, "{fields}");
        }
    }
}

/// A reflection is not held to a whole grammar, so what it leads to is compared with the grammar afterwards.
#[tokio::test]
async fn a_refinement_that_breaks_a_grammar_is_not_an_answer() {
    let engine = FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Answer => "yes".into(),
            Purpose::Judge => "Bad.\nFinal Judgement: No".into(),
            Purpose::Refine => "Better. [[start]]\nperhaps\n[[end]]".into(),
        })
    });
    let server = Server::start(engine.constraining(), &[]).await;
    let body = with(says("hello"), json!({"search_budget": 2, "grammar": "root ::= \"yes\" | \"no\""}));
    let answer = server.answer(&body).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "yes", "{answer}");
}
