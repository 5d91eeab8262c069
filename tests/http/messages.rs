//! Anthropic's Messages API: answers, streams in its order, tools, thinking, stops, searches, errors in its envelope.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::reasoning::Form;
use spar::engine::{EngineError, Input};

use super::harness::{Server, breaking, eventually, hanging, improving, json_of, named_events, with, writes};

const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
const ROUTE: &str = "/v1/messages";

fn asks() -> Value {
    json!({"model": "fake", "max_tokens": 99, "messages": [{"role": "user", "content": "How is the weather in Rome?"}]})
}

fn weather() -> Value {
    json!({"name": "weather", "description": "Tells the weather.", "input_schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}})
}

async fn answered(server: &Server, fields: Value) -> Value {
    json_of(server.post(ROUTE, &with(asks(), fields)), StatusCode::OK).await
}

async fn streamed(server: &Server, fields: Value) -> Vec<Value> {
    named_events(server.post(ROUTE, &with(with(asks(), json!({"stream": true})), fields))).await
}

/// The types of the events, each run of equal ones once.
fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

const BLOCK: [&str; 3] = ["content_block_start", "content_block_delta", "content_block_stop"];
const END: [&str; 2] = ["message_delta", "message_stop"];

#[tokio::test]
async fn an_answer_has_blocks_a_reason_and_its_tokens() {
    let server = Server::start(improving(), &[]).await;
    let answer =
        answered(&server, json!({"system": [{"type": "text", "text": "Be brief."}], "metadata": {"user_id": "u"}}))
            .await;
    assert!(answer["id"].as_str().unwrap().starts_with("msg_"));
    for (field, expected) in [
        ("type", json!("message")),
        ("role", json!("assistant")),
        ("model", json!("fake")),
        ("content", json!([{"type": "text", "text": "a first draft"}])),
        ("stop_reason", json!("end_turn")),
        ("stop_sequence", json!(null)),
        (
            "usage",
            json!({"input_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 3,
            "output_tokens_details": {"thinking_tokens": 0}}),
        ),
    ] {
        assert_eq!(answer[field], expected, "{field}");
    }
    assert_eq!(answer.get("search"), None);
    let cut = answered(&server, json!({"max_tokens": 2})).await;
    assert_eq!((&cut["stop_reason"], &cut["content"][0]["text"]), (&json!("max_tokens"), &json!("a first ")));
}

#[tokio::test]
async fn a_stream_has_the_events_in_their_order() {
    let server = Server::start(improving(), &[]).await;
    let events = streamed(&server, json!({})).await;
    assert_eq!(kinds(&events), [&["message_start"], &BLOCK[..], &END[..]].concat());
    let start = &events[0]["message"];
    assert_eq!((&start["content"], &start["stop_reason"]), (&json!([]), &json!(null)));
    assert_eq!(events[1]["content_block"], json!({"type": "text", "text": ""}));
    let text: String = events.iter().filter_map(|event| event["delta"]["text"].as_str()).collect();
    assert_eq!(text, "a first draft");
    let last = &events[events.len() - 2];
    assert_eq!(last["delta"], json!({"stop_reason": "end_turn", "stop_sequence": null}));
    assert_eq!((&last["usage"]["input_tokens"], &last["usage"]["output_tokens"]), (&json!(1), &json!(3)));
}

#[tokio::test]
async fn tools_are_called_and_their_results_are_read() {
    let engine = FakeEngine::new(|request, _| {
        let Input::Chat(chat) = &request.input else { panic!() };
        if chat.len() < 3 {
            return Ok(format!("Let me look.\n{CALL}\n{CALL}"));
        }
        assert_eq!(chat[1].tool_calls[0].id, chat[2].tool_call_id.clone().unwrap());
        Ok(format!("It is {}.", chat[2].content))
    });
    let server = Server::start(engine, &[]).await;
    let answer = answered(&server, json!({"tools": [weather()]})).await;
    let content = answer["content"].as_array().unwrap();
    let shown: Vec<&str> = content.iter().map(|block| block["type"].as_str().unwrap()).collect();
    assert_eq!((shown, &answer["stop_reason"]), (vec!["text", "tool_use", "tool_use"], &json!("tool_use")));
    assert_eq!((&content[1]["name"], &content[1]["input"]), (&json!("weather"), &json!({"city": "Rome"})));
    assert_ne!(content[1]["id"], content[2]["id"]);

    let result = json!({"type": "tool_result", "tool_use_id": content[1]["id"], "content": "sunny"});
    let turns = json!([asks()["messages"][0], {"role": "assistant", "content": content[..2]}, {"role": "user", "content": [result]}]);
    let next = answered(&server, json!({"messages": turns, "tools": [weather()]})).await;
    assert_eq!(next["content"], json!([{"type": "text", "text": "It is sunny."}]));

    let events = streamed(&server, json!({"tools": [weather()]})).await;
    assert_eq!(kinds(&events), [&["message_start"], &BLOCK[..], &BLOCK[..], &BLOCK[..], &END[..]].concat());
    let json: Vec<&str> = events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(json, ["{\"city\":\"Rome\"}"; 2]);
    let started: Vec<_> =
        events.iter().filter(|event| event["type"] == BLOCK[0]).map(|event| &event["index"]).collect();
    assert_eq!(started, [0, 1, 2]);
}

#[tokio::test]
async fn thinking_is_a_block_before_the_text() {
    let engine = FakeEngine::new(|_, _| Ok("<think>two and two</think>four".into())).thinking(Form::Think.after(""));
    let server = Server::start(engine, &[]).await;
    let enabled = json!({"thinking": {"type": "enabled", "budget_tokens": 1024}});
    let answer = answered(&server, enabled.clone()).await;
    let thought = json!({"type": "thinking", "thinking": "two and two", "signature": ""});
    assert_eq!(answer["content"], json!([thought, {"type": "text", "text": "four"}]));
    let events = streamed(&server, enabled).await;
    assert_eq!(kinds(&events), [&["message_start"], &BLOCK[..], &BLOCK[..], &END[..]].concat());
    let thinking: String = events.iter().filter_map(|event| event["delta"]["thinking"].as_str()).collect();
    assert_eq!(thinking, "two and two");
    // A block of thinking is taken back as it was given.
    let turns = json!([asks()["messages"][0], {"role": "assistant", "content": answer["content"]}, {"role": "user", "content": "Why?"}]);
    answered(&server, json!({"messages": turns})).await;
    let omitted = json!({"thinking": {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}});
    assert_eq!(
        answered(&server, omitted).await["content"][0],
        json!({"type": "thinking", "thinking": "", "signature": ""})
    );
}

#[tokio::test]
async fn an_answer_says_which_sequence_stopped_it() {
    let server = Server::native(&[], None).await;
    let body = with(json!({"messages": writes()["messages"], "max_tokens": 40}), json!({"temperature": 0}));
    let ask = |stop: Value| with(body.clone(), json!({"stop_sequences": stop}));
    let free = json_of(server.post(ROUTE, &body), StatusCode::OK).await;
    let text = free["content"][0]["text"].as_str().unwrap().to_owned();
    let stop = text.chars().rev().find(|c| c.is_ascii_alphabetic()).unwrap().to_string();
    let stopped = json_of(server.post(ROUTE, &ask(json!(["\u{1F9ED}", stop]))), StatusCode::OK).await;
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)), "{text}");
    assert_eq!(stopped["content"][0]["text"].as_str().unwrap_or_default(), text.split(&stop).next().unwrap());
    let events = named_events(server.post(ROUTE, &with(ask(json!([stop])), json!({"stream": true})))).await;
    let end = &events[events.len() - 2]["delta"];
    assert_eq!(*end, json!({"stop_reason": "stop_sequence", "stop_sequence": stop}));
}

#[tokio::test]
async fn tokens_are_counted_as_the_answer_counts_them() {
    let server = Server::native(&[], None).await;
    let prompt = json!({"model": "fake", "messages": [{"role": "user", "content": [{"type": "text", "text": "Write about the river."}]}]});
    for fields in
        [json!({}), json!({"system": "Be brief."}), json!({"tools": [weather()], "tool_choice": {"type": "any"}})]
    {
        let prompt = with(prompt.clone(), fields);
        let counted = json_of(server.post("/v1/messages/count_tokens", &prompt), StatusCode::OK).await;
        let answer = json_of(server.post(ROUTE, &with(prompt, json!({"max_tokens": 60}))), StatusCode::OK).await;
        let usage = &answer["usage"];
        let input = usage["input_tokens"].as_u64().unwrap() + usage["cache_read_input_tokens"].as_u64().unwrap();
        assert_eq!(counted, json!({"input_tokens": input}));
    }
    let alias = json_of(
        server.post("/v1/messages/count_tokens", &with(prompt.clone(), json!({"model": "fake:search"}))),
        StatusCode::OK,
    );
    assert!(alias.await["input_tokens"].as_u64().unwrap() > 5);
    let scripted = Server::start(improving(), &[]).await;
    let error = json_of(scripted.post("/v1/messages/count_tokens", &prompt), StatusCode::BAD_REQUEST).await;
    assert!(error["error"]["message"].as_str().unwrap().contains("no tokenizer"), "{error}");
}

#[tokio::test]
async fn a_search_is_asked_for_in_three_ways_and_shows_its_report() {
    let server = Server::start(improving(), &["--search-budget", "2", "--heartbeat", "1ms"]).await;
    for fields in [
        json!({"search_budget": 2}),
        json!({"search": {"strategy": "bfs"}}),
        json!({"metadata": {"search_budget": "2"}}),
        json!({"metadata": {"search": "{\"strategy\": \"bfs\"}"}}),
        json!({"model": "fake:search"}),
    ] {
        let answer = answered(&server, fields.clone()).await;
        assert_eq!(answer["content"][0]["text"], "the refined text", "{fields}");
        assert_eq!(
            (&answer["search"]["accepted"], &answer["stop_reason"]),
            (&json!(true), &json!("end_turn")),
            "{fields}"
        );
        let events = streamed(&server, fields.clone()).await;
        let last = &events[events.len() - 2];
        assert_eq!(last["search"]["nodes"], 1, "{fields}");
        assert!(last["usage"]["output_tokens_details"]["thinking_tokens"].as_u64().unwrap() > 0);
    }
    let events = streamed(&server, json!({"search_budget": 2, "search": {"events": true}})).await;
    let steps: Vec<&str> = events.iter().filter_map(|event| event["search_event"].as_str()).collect();
    assert!(steps.contains(&"drafted") && steps.contains(&"stopped"), "{steps:?}");
    assert!(events.iter().all(|event| event.get("search_event").is_none() || event["type"] == "ping"));
}

#[tokio::test]
async fn errors_are_in_anthropics_envelope_whichever_layer_they_come_from() {
    let server = Server::with_keys(improving(), &["--max-body", "3000"], Some("secret")).await;
    let ask =
        |body: &Value| server.post(ROUTE, body).header("x-api-key", "secret").header("anthropic-version", "2023-06-01");
    let good = json_of(ask(&asks()), StatusCode::OK).await;
    assert_eq!(good["type"], "message", "the key may be shown as Anthropic's clients do");
    json_of(server.post(ROUTE, &asks()).bearer_auth("secret"), StatusCode::OK).await;
    let long = json!({"messages": [{"role": "user", "content": "a".repeat(4_000)}]});
    for (request, status, kind) in [
        (server.post(ROUTE, &asks()), StatusCode::UNAUTHORIZED, "authentication_error"),
        (server.get(ROUTE).bearer_auth("secret"), StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error"),
        (server.post("/v1/messages/none", &asks()), StatusCode::NOT_FOUND, "not_found_error"),
        (ask(&with(asks(), json!({"model": "claude"}))), StatusCode::NOT_FOUND, "not_found_error"),
        (ask(&with(asks(), long)), StatusCode::PAYLOAD_TOO_LARGE, "request_too_large"),
        (ask(&asks()).header("host", "elsewhere.example"), StatusCode::MISDIRECTED_REQUEST, "invalid_request_error"),
        (ask(&json!({})), StatusCode::BAD_REQUEST, "invalid_request_error"),
    ] {
        let what = format!("{request:?}");
        let error = json_of(request, status).await;
        assert_eq!((&error["type"], &error["error"]["type"]), (&json!("error"), &json!(kind)), "{what}: {error}");
        assert!(!error["error"]["message"].as_str().unwrap().is_empty(), "{what}");
    }
    let other = json_of(server.chat(&asks()), StatusCode::UNAUTHORIZED).await;
    assert_eq!(other.get("type"), None, "other routes keep OpenAI's envelope: {other}");
}

#[tokio::test]
async fn refusals_name_the_field_that_was_sent() {
    let server = Server::start(improving(), &[]).await;
    let image = json!([{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]);
    for (fields, param) in [
        (json!({"messages": image}), "messages[0].content[0]"),
        (json!({"messages": []}), "messages"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_tokens": null}), "max_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"stop_sequences": [""]}), "stop_sequences"),
        (json!({"output_config": {"effort": "max"}}), "output_config.effort"),
        (
            json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
            "output_config.format",
        ),
        (json!({"tools": [{"name": "a b", "input_schema": {}}]}), "tools[0].name"),
        (json!({"tools": [{"name": "a", "input_schema": {"type": "array"}}]}), "tools[0].input_schema"),
        (json!({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}), "tools[0].type"),
        (json!({"tool_choice": {"type": "tool", "name": "a"}}), "tool_choice"),
        (json!({"parallel_tool_calls": false}), "parallel_tool_calls"),
        (json!({"metadata": {"search": "bfs"}}), "metadata.search"),
    ] {
        let error = json_of(server.post(ROUTE, &with(asks(), fields.clone())), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{fields}: {error}");
    }
}

#[tokio::test]
async fn an_error_in_the_midst_is_the_last_event() {
    let events = streamed(&Server::start(breaking(), &[]).await, json!({})).await;
    let last = events.last().unwrap();
    assert_eq!((&last["type"], &last["error"]["type"]), (&json!("error"), &json!("api_error")), "{events:?}");
    let engine = FakeEngine::new(|_, _| Err(EngineError::Crashed("on purpose".into())));
    let server = Server::start(engine, &[]).await;
    let error =
        json_of(server.post(ROUTE, &with(asks(), json!({"stream": true}))), StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(error["error"]["type"], "api_error", "before the first part it is an ordinary error");
}

#[tokio::test]
async fn a_disconnect_stops_the_model() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::start(engine, &[]).await;
    server.ready().await;
    for fields in [json!({}), json!({"stream": true}), json!({"search_budget": 2})] {
        let body = with(with(asks(), fields), json!({"messages": [{"role": "user", "content": "hang"}]}));
        let mut asking = Box::pin(server.post(ROUTE, &body).send());
        tokio::select! {
            ended = &mut asking => panic!("{ended:?}"),
            () = eventually("the model answers", || replies.running() > 0) => {}
        }
        drop(asking);
        eventually("the model has stopped", || replies.running() == 0).await;
    }
    let metrics = server.metrics().await;
    assert!(metrics.contains("spar_http_requests_total{route=\"/v1/messages\",status=\"499\"}"), "{metrics}");
}
