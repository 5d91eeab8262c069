//! Functions that a model may call: offered, called, answered, streamed, searched.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::{Input, Purpose};

use super::harness::{Server, json_of, with};

const CALL: &str = "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>";

fn weather() -> Value {
    json!({"type": "function", "function": {"name": "weather", "description": "Tells the weather.", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": false}}})
}

fn asks() -> Value {
    json!({"messages": [{"role": "user", "content": "How is the weather in Rome?"}], "tools": [weather()]})
}

#[tokio::test]
async fn a_call_is_an_answer_of_its_own() {
    let server = Server::start(FakeEngine::new(|_, _| Ok(format!("Let me look.\n{CALL}\n{CALL}"))), &[]).await;
    let answer = server.answer(&asks()).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &json!("Let me look."))
    );
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["type"]), (2, &json!("function")));
    assert_eq!(calls[0]["function"], json!({"name": "weather", "arguments": "{\"city\":\"Rome\"}"}));
    assert_ne!(calls[0]["id"], calls[1]["id"]);

    // Without functions the same reply is text, and the answer has no field for calls.
    let plain = server.answer(&json!({"messages": asks()["messages"]})).await;
    assert!(plain["choices"][0]["message"]["content"].as_str().unwrap().contains(CALL));
    assert_eq!(plain["choices"][0]["message"].get("tool_calls"), None);
    let none = server.answer(&with(asks(), json!({"tool_choice": "none"}))).await;
    assert_eq!(none["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_gives_text_and_then_calls_by_their_index() {
    let server = Server::start(FakeEngine::new(|_, _| Ok(format!("So:\n{CALL}\n{CALL}"))), &[]).await;
    let events = server.stream(&with(asks(), json!({"stream": true}))).await;
    assert_eq!(events.text(0), "So:");
    let deltas = events.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap().clone());
    let calls: Vec<Value> =
        deltas.flat_map(|choice| choice["delta"]["tool_calls"].as_array().cloned().unwrap_or_default()).collect();
    let shown: Vec<_> = calls.iter().map(|call| (call["index"].clone(), call["function"]["name"].clone())).collect();
    assert_eq!(shown, [(json!(0), json!("weather")), (json!(1), json!("weather"))]);
    let last = events.chunks.iter().rev().find(|chunk| !chunk["choices"].as_array().unwrap().is_empty()).unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], "tool_calls");
}

#[tokio::test]
async fn a_choice_may_allow_some_of_the_functions() {
    let engine = FakeEngine::new(|request, _| {
        let Input::Chat(chat) = &request.input else { panic!() };
        Ok(chat
            .options
            .tools
            .iter()
            .map(|tool| tool["function"]["name"].as_str().unwrap())
            .collect::<Vec<_>>()
            .join(" "))
    });
    let server = Server::start(engine, &[]).await;
    let tools = json!(["a", "b", "c"].map(|name| json!({"type": "function", "function": {"name": name}})));
    let asked = |mode: &str, names: &[&str]| {
        let named: Vec<_> = names.iter().map(|name| json!({"type": "function", "function": {"name": name}})).collect();
        let choice = json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}});
        json!({"messages": asks()["messages"], "tools": tools, "tool_choice": choice})
    };
    let answer = server.answer(&asked("auto", &["c", "a"])).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "a c");
    for (body, param) in [
        (asked("none", &["a"]), "tool_choice.allowed_tools.mode"),
        (asked("auto", &["d"]), "tool_choice.allowed_tools.tools"),
        (asked("auto", &[]), "tool_choice.allowed_tools.tools"),
    ] {
        let error = json_of(server.chat(&body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_off_in_a_call_shows_the_text_before_it_alone() {
    let server = Server::start(FakeEngine::new(|_, _| Ok(format!("Let me look.\n{CALL}"))), &[]).await;
    // The script's tokens are words: its call begins within the third and is complete with the seventh.
    for max_tokens in 4..7 {
        let body = with(asks(), json!({"max_tokens": max_tokens}));
        let answer = server.answer(&body).await;
        let choice = &answer["choices"][0];
        let shown = (&choice["finish_reason"], &choice["message"]["content"]);
        assert_eq!(shown, (&json!("length"), &json!("Let me look.")), "{max_tokens}");
        assert_eq!(choice["message"].get("tool_calls"), None);
        let events = server.stream(&with(body.clone(), json!({"stream": true}))).await;
        assert_eq!(events.text(0), "Let me look.", "{max_tokens}");

        let tool = json!({"name": "weather", "input_schema": weather()["function"]["parameters"]});
        let messages = json!({"messages": asks()["messages"], "max_tokens": max_tokens, "tools": [tool]});
        let answer = json_of(server.post("/v1/messages", &messages), StatusCode::OK).await;
        assert_eq!(answer["content"], json!([{"type": "text", "text": "Let me look."}]));
        assert_eq!(answer["stop_reason"], "max_tokens");

        let tool = with(json!({"type": "function"}), weather()["function"].clone());
        let input = json!({"input": "How is the weather in Rome?", "max_output_tokens": max_tokens, "tools": [tool]});
        let answer = json_of(server.post("/v1/responses", &input), StatusCode::OK).await;
        assert_eq!((&answer["status"], answer["output"].as_array().unwrap().len()), (&json!("incomplete"), 1));
        assert_eq!(answer["output"][0]["content"][0]["text"], "Let me look.");
    }
}

#[tokio::test]
async fn calls_and_results_are_turns_that_the_model_sees() {
    let engine = FakeEngine::new(|request, _| {
        let Input::Chat(chat) = &request.input else { panic!() };
        match (request.purpose, chat.len()) {
            (Purpose::Answer, 3) => {}
            (Purpose::Answer, _) => return Ok("Hello".into()),
            _ => return Ok("Final Judgement: Yes".into()),
        }
        assert_eq!(chat.options.tools, [weather()]);
        let call = &chat[1].tool_calls[0];
        assert_eq!((call.id.as_str(), call.function.name.as_str()), ("a1", "weather"));
        assert_eq!((chat[2].content.as_str(), chat[2].tool_call_id.as_deref()), ("Sunny.", Some("a1")));
        Ok("It is sunny.".into())
    });
    let server = Server::start(engine, &[]).await;
    let called = json!({"role": "assistant", "content": null, "tool_calls": [
        {"id": "a1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}}]});
    let result = json!({"role": "tool", "tool_call_id": "a1", "content": "Sunny."});
    let turns = json!([asks()["messages"][0], called, result]);
    for extra in [json!({}), json!({"search_budget": 1, "search": {"judging": "votes"}})] {
        let answer = server.answer(&with(with(asks(), json!({"messages": turns})), extra)).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "It is sunny.");
    }
}

#[tokio::test]
async fn a_search_refines_a_call_that_cannot_be_made() {
    let engine = FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Answer => CALL.replace("city", "town"),
            Purpose::Refine => CALL.into(),
            Purpose::Judge => "Final Judgement: Yes".into(),
        })
    });
    let server = Server::start(engine, &[]).await;
    let answer = server.answer(&with(asks(), json!({"search_budget": 4}))).await;
    assert_eq!((&answer["search"]["accepted"], &answer["search"]["nodes"]), (&json!(true), &json!(1)), "{answer}");
    let call = &answer["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(call["arguments"], "{\"city\":\"Rome\"}");
    let failed = answer["search"]["tree"][0]["failed"][0].as_str().unwrap();
    assert!(failed.contains("`weather`"), "{failed}");
}

#[tokio::test]
async fn the_native_engine_calls_what_it_must() {
    let server = Server::native(&[], None).await;
    let mut tool = weather();
    tool["function"]["parameters"]["properties"]["city"] = json!({"enum": ["Rome", "Oslo"]});
    for choice in [json!("required"), json!({"type": "function", "function": {"name": "weather"}})] {
        let fields = json!({"tools": [tool], "tool_choice": choice, "temperature": 0, "max_tokens": 200,
            "parallel_tool_calls": false});
        let body = with(asks(), fields);
        let answer = server.answer(&body).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls", "{answer}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
        assert!(call["name"] == "weather" && arguments["city"].is_string(), "{answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_offered_is_refused_by_name() {
    let server = Server::start(FakeEngine::new(|_, _| Ok("Hi.".into())), &[]).await;
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    for (fields, param) in [
        (json!({"tools": [{"type": "retrieval", "function": {"name": "a"}}]}), "tools[0].type"),
        (json!({"tools": [named("")]}), "tools[0].function.name"),
        (json!({"tools": [named("a b")]}), "tools[0].function.name"),
        (json!({"tools": [named("a"), named("a")]}), "tools[1].function.name"),
        (
            json!({"tools": [with(named("a"), json!({"function": {"name": "a", "parameters": {"type": "array"}}}))]}),
            "tools[0].function.parameters",
        ),
        (json!({"tools": [{"type": "function"}]}), "tools[0]"),
        (json!({"tool_choice": "required", "tools": []}), "tool_choice"),
        (json!({"tool_choice": "sometimes"}), "tool_choice"),
        (json!({"tool_choice": named("b")}), "tool_choice"),
        (json!({"tools": vec![named("a"); 129]}), "tools"),
    ] {
        let error = json_of(server.chat(&with(asks(), fields.clone())), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{fields}: {error}");
    }
}
