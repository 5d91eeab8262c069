//! The Responses API: answers, streams in OpenAI's order, functions, reasoning, searches, refusals.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::reasoning::Form;
use spar::engine::{EngineError, Input};

use super::harness::{Server, breaking, eventually, hanging, improving, json_of, named_events, with};

const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";
const ROUTE: &str = "/v1/responses";

fn asks() -> Value {
    json!({"model": "fake", "input": "How is the weather in Rome?"})
}

fn weather() -> Value {
    json!({"type": "function", "name": "weather", "description": "Tells the weather.", "strict": true, "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}})
}

async fn respond(server: &Server, fields: Value) -> Value {
    json_of(server.post(ROUTE, &with(asks(), fields)), StatusCode::OK).await
}

async fn refusal(server: &Server, fields: Value) -> Value {
    json_of(server.post(ROUTE, &with(asks(), fields)), StatusCode::BAD_REQUEST).await["error"].clone()
}

/// The events of a stream, whose numbers must count up from 0.
async fn streamed(server: &Server, fields: Value) -> Vec<Value> {
    let body = with(with(asks(), json!({"stream": true})), fields);
    let events = named_events(server.post(ROUTE, &body)).await;
    for (number, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], number, "{event}");
    }
    events
}

/// The types of the events, each run of equal ones once.
fn kinds(events: &[Value]) -> Vec<&str> {
    let mut kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    kinds.dedup();
    kinds
}

#[tokio::test]
async fn a_response_says_what_was_asked_and_what_was_used() {
    let server = Server::start(improving(), &[]).await;
    let fields = json!({"instructions": "Be brief.", "metadata": {"a": "b"}, "temperature": 0.5, "max_output_tokens": 9,
        "user": "me", "store": false, "include": ["reasoning.encrypted_content"]});
    let answer = respond(&server, fields).await;
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
    for (field, expected) in [
        ("object", json!("response")),
        ("status", json!("completed")),
        ("model", json!("fake")),
        ("instructions", json!("Be brief.")),
        ("metadata", json!({"a": "b"})),
        ("temperature", json!(0.5)),
        ("top_p", json!(1.0)),
        ("max_output_tokens", json!(9)),
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("store", json!(false)),
        ("text", json!({"format": {"type": "text"}, "verbosity": null})),
        ("user", json!("me")),
        ("error", json!(null)),
        ("incomplete_details", json!(null)),
    ] {
        assert_eq!(answer[field], expected, "{field}");
    }
    assert_eq!(answer.get("search"), None);
    let message = &answer["output"][0];
    assert_eq!(
        (&message["type"], &message["role"], &message["status"]),
        (&json!("message"), &json!("assistant"), &json!("completed"))
    );
    assert_eq!(
        message["content"],
        json!([{"type": "output_text", "text": "a first draft", "annotations": [], "logprobs": []}])
    );
    assert_eq!(
        answer["usage"],
        json!({"input_tokens": 1, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 4})
    );
}

#[tokio::test]
async fn a_stream_has_the_events_in_their_order_and_ends_with_the_whole_response() {
    let server = Server::start(improving(), &[]).await;
    let events = streamed(&server, json!({})).await;
    assert_eq!(
        kinds(&events),
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
    );
    assert_eq!(
        (&events[0]["response"]["status"], &events[0]["response"]["output"]),
        (&json!("in_progress"), &json!([]))
    );
    let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
    assert_eq!(text, "a first draft");
    let last = &events.last().unwrap()["response"];
    let done = events.iter().find(|event| event["type"] == "response.output_item.done").unwrap();
    assert_eq!((&last["output"], &last["status"]), (&json!([done["item"]]), &json!("completed")));
    assert_eq!(last["output"][0]["content"][0]["text"], "a first draft");
    for event in &events[3..events.len() - 2] {
        assert_eq!((&event["item_id"], &event["output_index"]), (&done["item"]["id"], &json!(0)), "{event}");
    }
    let cut = streamed(&server, json!({"max_output_tokens": 2})).await;
    let last = cut.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"], json!({"reason": "max_output_tokens"}));
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
}

#[tokio::test]
async fn functions_are_called_and_their_results_are_read() {
    let engine = FakeEngine::new(|request, _| {
        let Input::Chat(chat) = &request.input else { panic!() };
        if chat.len() < 3 {
            return Ok(format!("Let me look.\n{CALL}\n{CALL}"));
        }
        assert_eq!(chat[1].tool_calls[0].id, chat[2].tool_call_id.clone().unwrap());
        Ok(format!("It is {}.", chat[2].content))
    });
    let server = Server::start(engine, &[]).await;
    let answer = respond(&server, json!({"tools": [weather()]})).await;
    let output = answer["output"].as_array().unwrap();
    let shown: Vec<&str> = output.iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(shown, ["message", "function_call", "function_call"]);
    assert_eq!((&output[1]["name"], &output[1]["arguments"]), (&json!("weather"), &json!("{\"city\":\"Rome\"}")));
    assert_eq!((&answer["tools"], &answer["status"]), (&json!([weather()]), &json!("completed")));

    // The next request holds the whole conversation: what was asked, what was answered, and the result.
    let mut items = vec![json!({"role": "user", "content": asks()["input"]})];
    items.extend(output[1..2].iter().cloned());
    items.push(json!({"type": "function_call_output", "call_id": output[1]["call_id"], "output": "sunny"}));
    let next = respond(&server, json!({"input": items, "tools": [weather()]})).await;
    assert_eq!(next["output"][0]["content"][0]["text"], "It is sunny.");

    let events = streamed(&server, json!({"tools": [weather()]})).await;
    let call = [
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
    ];
    let kinds = kinds(&events);
    assert_eq!(kinds[kinds.len() - 9..kinds.len() - 1], [call, call].concat(), "{kinds:?}");
    let added: Vec<_> = events.iter().filter(|event| event["type"] == call[0]).collect();
    assert_eq!((&added[1]["item"]["arguments"], &added[2]["output_index"]), (&json!(""), &json!(2)));
    assert_eq!(events.last().unwrap()["response"]["output"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn reasoning_is_an_item_of_its_own_before_the_text() {
    let engine = FakeEngine::new(|_, _| Ok("<think>two and two</think>four".into())).thinking(Form::Think.after(""));
    let server = Server::start(engine, &[]).await;
    let answer = respond(&server, json!({"reasoning": {"effort": "low"}})).await;
    let reasoning = &answer["output"][0];
    assert_eq!((&reasoning["type"], &reasoning["summary"]), (&json!("reasoning"), &json!([])));
    assert_eq!(reasoning["content"], json!([{"type": "reasoning_text", "text": "two and two"}]));
    assert_eq!(answer["output"][1]["content"][0]["text"], "four");
    assert_eq!(answer["reasoning"]["effort"], "low");
    let events = streamed(&server, json!({})).await;
    assert_eq!(
        kinds(&events)[2..8],
        [
            "response.output_item.added",
            "response.content_part.added",
            "response.reasoning_text.delta",
            "response.reasoning_text.done",
            "response.content_part.done",
            "response.output_item.done",
        ]
    );
}

#[tokio::test]
async fn a_search_is_asked_for_in_three_ways_and_shows_its_report() {
    let server = Server::start(improving(), &["--search-budget", "2"]).await;
    for fields in [
        json!({"search_budget": 2}),
        json!({"search": {"strategy": "bfs"}}),
        json!({"metadata": {"search_budget": "2"}}),
        json!({"metadata": {"search": "{\"strategy\": \"bfs\"}"}}),
        json!({"model": "fake:search"}),
    ] {
        let answer = respond(&server, fields.clone()).await;
        assert_eq!(answer["output"][0]["content"][0]["text"], "the refined text", "{fields}");
        assert_eq!(answer["search"]["accepted"], true, "{fields}");
        let events = streamed(&server, fields.clone()).await;
        let last = &events.last().unwrap()["response"];
        assert_eq!((&last["search"]["nodes"], &last["status"]), (&json!(1), &json!("completed")), "{fields}");
        assert!(last["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);
    }
    let events = streamed(&server, json!({"search_budget": 2, "search": {"events": true}})).await;
    let steps: Vec<&str> = events.iter().filter_map(|event| event["search_event"].as_str()).collect();
    assert!(steps.contains(&"drafted") && steps.contains(&"stopped"), "{steps:?}");
}

#[tokio::test]
async fn structured_text_is_constrained_as_in_a_chat() {
    let server = Server::native(&[], None).await;
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "a", "schema": schema, "strict": true});
    let answer = respond(
        &server,
        json!({"text": {"format": format}, "max_output_tokens": 400, "temperature": 0, "top_logprobs": 2}),
    )
    .await;
    let part = &answer["output"][0]["content"][0];
    let value: Value = serde_json::from_str(part["text"].as_str().unwrap()).unwrap();
    assert!(value["a"] == 1 || value["a"] == 2, "{answer}");
    assert_eq!(answer["text"]["format"], format);
    assert_eq!(part["logprobs"][0]["top_logprobs"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn refusals_name_the_field_that_was_sent() {
    let server = Server::start(improving(), &[]).await;
    for (fields, param) in [
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]}),
            "input[0].content[0]",
        ),
        (json!({"input": []}), "input"),
        (json!({"input": 5}), "input"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"store": true}), "store"),
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"reasoning": {"effort": "huge"}}), "reasoning.effort"),
        (json!({"text": {"format": {"type": "xml"}}}), "text.format.type"),
        (json!({"text": {"format": {"type": "json_object"}}}), "text.format"),
        (json!({"text": {"format": {"type": "text", "schema": {"type": "object"}}}}), "text.format.schema"),
        (json!({"response_schema": {"type": "object"}}), "response_schema"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "name": "a b"}]}), "tools[0].name"),
        (json!({"tools": [{"type": "function", "name": "a", "parameters": {"type": "array"}}]}), "tools[0].parameters"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"top_logprobs": 99}), "top_logprobs"),
        (json!({"search_budget": -1}), "search_budget"),
        (json!({"input": "a ".repeat(9), "search": {"branch": 99}}), "search.branch"),
    ] {
        let error = refusal(&server, fields.clone()).await;
        assert_eq!(error["param"], param, "{fields}: {error}");
        assert!(!error["message"].as_str().unwrap().contains("messages"), "{fields}: {error}");
    }
    let unknown = json_of(server.post(ROUTE, &with(asks(), json!({"model": "gpt"}))), StatusCode::NOT_FOUND).await;
    assert_eq!(unknown["error"]["code"], "model_not_found");
}

#[tokio::test]
async fn an_error_in_the_midst_ends_the_stream_as_a_failed_response() {
    let engine = FakeEngine::new(|_, _| Err(EngineError::Crashed("on purpose".into())));
    let server = Server::start(engine, &[]).await;
    let failed = server.post(ROUTE, &with(asks(), json!({"stream": true})));
    let error = json_of(failed, StatusCode::INTERNAL_SERVER_ERROR).await;
    assert_eq!(error["error"]["code"], "model_failed", "before the first part it is an ordinary error");
    let broken = Server::start(breaking(), &[]).await;
    let events = streamed(&broken, json!({})).await;
    let kinds = kinds(&events);
    assert_eq!(kinds[kinds.len() - 3..], ["response.output_item.done", "error", "response.failed"], "{kinds:?}");
    let last = &events.last().unwrap()["response"];
    assert_eq!((&last["status"], &last["error"]["code"]), (&json!("failed"), &json!("server_error")));
    assert_eq!(last["output"][0]["content"][0]["text"], "half of ");
}

#[tokio::test]
async fn a_disconnect_stops_the_model() {
    let engine = hanging();
    let replies = engine.replies.clone();
    let server = Server::start(engine, &[]).await;
    server.ready().await;
    for fields in [json!({}), json!({"stream": true}), json!({"search_budget": 2})] {
        let body = with(with(asks(), fields), json!({"input": "hang"}));
        let mut asking = Box::pin(server.post(ROUTE, &body).send());
        tokio::select! {
            ended = &mut asking => panic!("{ended:?}"),
            () = eventually("the model answers", || replies.running() > 0) => {}
        }
        drop(asking);
        eventually("the model has stopped", || replies.running() == 0).await;
    }
}
