//! What is refused, and how.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::config::EngineKind;
use spar::engine::EngineError;
use spar::engine::fake::FakeEngine;

use super::harness::{Server, Under, improving, json_of, says, with, writes};

/// Fields, the parameter that is named, and what the message says; without a parameter the request is right.
fn refused() -> Vec<(Value, &'static str, &'static str)> {
    let check = |id: &str, kwargs: Value| json!({"search": {"checks": [{"id": id, "kwargs": kwargs}]}});
    let words = |kwargs: Value| check("length_constraints:number_words", kwargs);
    vec![
        (json!({"model": 5}), "model", "expected a string"),
        (json!({"messages": []}), "messages", "at least one message"),
        (json!({"messages": "hi"}), "messages", "expected a sequence"),
        (
            json!({"messages": [{"role": "robot", "content": "x"}]}),
            "messages[0].role",
            "assistant or tool, got \"robot\"",
        ),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "a string or a list of text parts"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", "expected a string or a list"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
            "messages[0].content[0]",
            "\"image_url\"; only text is served",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            "messages[0].content[0]",
            "\"input_audio\"; only text is served",
        ),
        (json!({"temperature": 2.5}), "temperature", "between 0 and 2, got 2.5"),
        (json!({"temperature": -0.5}), "temperature", "between 0 and 2, got -0.5"),
        (json!({"temperature": "hot"}), "temperature", "invalid type: string \"hot\""),
        (json!({"top_p": -0.1}), "top_p", "between 0 and 1, got -0.1"),
        (json!({"top_p": 1.5}), "top_p", "between 0 and 1, got 1.5"),
        (json!({"top_k": -2}), "top_k", "got -2"),
        (json!({"min_p": 1.5}), "min_p", "between 0 and 1, got 1.5"),
        (json!({"min_p": -1}), "min_p", "between 0 and 1, got -1"),
        (json!({"frequency_penalty": 3}), "frequency_penalty", "between -2 and 2, got 3"),
        (json!({"presence_penalty": -3}), "presence_penalty", "between -2 and 2, got -3"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "between 0.01 and 10, got 0"),
        (json!({"repetition_penalty": 1e-38}), "repetition_penalty", "between 0.01 and 10, got 0.0000"),
        (json!({"repetition_penalty": 10.5}), "repetition_penalty", "between 0.01 and 10, got 10.5"),
        (json!({"n": 0}), "n", "between 1 and 16, got 0"),
        (json!({"n": 17}), "n", "between 1 and 16, got 17"),
        (json!({"seed": 1.5}), "seed", "expected a whole number"),
        (json!({"seed": "one"}), "seed", "expected a whole number"),
        (json!({"ignore_eos": 1}), "ignore_eos", "expected a boolean"),
        (json!({"user": 7}), "user", "expected a string"),
        (json!({"cache_salt": ""}), "cache_salt", "between 1 and 256 bytes, got 0"),
        (json!({"cache_salt": "s".repeat(257)}), "cache_salt", "between 1 and 256 bytes, got 257"),
        (json!({"stream": "yes"}), "stream", "expected a boolean"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "needs `stream: true`"),
        (json!({"stream": true, "stream_options": {"include_usage": 1}}), "stream_options.include_usage", "boolean"),
        (json!({"max_tokens": 0}), "max_tokens", "at least 1, got 0"),
        (json!({"max_completion_tokens": -1}), "max_completion_tokens", "at least 1, got -1"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens", "send one of them"),
        (json!({"stop": []}), "", ""),
        (json!({"stop": vec!["a"; 65]}), "stop", "at most 64 strings"),
        (json!({"stop": ""}), "stop", "none of them empty"),
        (json!({"stop": 5}), "stop", "a string or a list of strings"),
        (json!({"stop": ["a", "b".repeat(1025)]}), "stop", "at most 1024 bytes, got 1025"),
        (json!({"logit_bias": many_tokens(4097)}), "logit_bias", "at most 4096 tokens, got 4097"),
        (json!({"logit_bias": {"one": 1}}), "logit_bias", "token ids"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias", "between -100 and 100, got 101"),
        (json!({"logit_bias": [1]}), "logit_bias", "expected a map"),
        (json!({"logprobs": 3}), "logprobs", "expected a boolean"),
        (json!({"top_logprobs": 3}), "top_logprobs", "needs `logprobs: true`"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "between 0 and 20, got 21"),
        (json!({"response_format": {"type": "yaml"}}), "response_format.type", "json_schema, got \"yaml\""),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema", "is missing"),
        (json!({"response_format": {"type": "json_object"}}), "response_format", "cannot constrain"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}}),
            "response_format.json_schema.schema",
            "must be a JSON schema",
        ),
        (json!({"structured_outputs": {"json": 5}}), "structured_outputs.json", "must be a JSON schema"),
        (json!({"structured_outputs": {"regex": "(a"}}), "structured_outputs.regex", "no regular expression"),
        (json!({"structured_outputs": {"regex": "a"}}), "structured_outputs", "cannot constrain"),
        (json!({"structured_outputs": {"choice": []}}), "structured_outputs.choice", "at least one text"),
        (json!({"structured_outputs": {"regex": "a", "choice": ["a"]}}), "structured_outputs", "exactly one of"),
        (json!({"structured_outputs": {"grammar": "x"}}), "structured_outputs.grammar", "written in GBNF"),
        (json!({"structured_outputs": {"patterns": "x"}}), "structured_outputs", "unknown field `patterns`"),
        (
            json!({"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}}),
            "structured_outputs",
            "send one of them",
        ),
        (json!({"chat_template_kwargs": "fast"}), "chat_template_kwargs", "expected a map"),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs.messages", "set by the server"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort", "none, minimal, low, medium, high, got \"huge\""),
        (json!({"reasoning_effort": 3}), "reasoning_effort", "expected a string"),
        (
            json!({"messages": [{"role": "assistant", "content": "x", "reasoning_content": 5}]}),
            "messages[0].reasoning_content",
            "expected a string",
        ),
        (json!({"tools": "all"}), "tools", "expected a sequence"),
        (json!({"tool_choice": "required"}), "tool_choice", "offers no function"),
        (json!({"parallel_tool_calls": 5}), "parallel_tool_calls", "expected a boolean"),
        (json!({"functions": [{}]}), "functions", "not supported"),
        (json!({"modalities": ["text", "audio"]}), "modalities", "not supported"),
        (json!({"audio": {"voice": "x"}}), "audio", "not supported"),
        (json!({"structural_tag": {"type": "x"}}), "structural_tag", "not supported"),
        (json!({"json_schema": 5}), "json_schema", "must be a JSON schema"),
        (json!({"grammar": "root"}), "grammar", "written in GBNF"),
        (json!({"ebnf": "root ::= x"}), "ebnf", "line 1: no rule `x` is defined"),
        (json!({"regex": "("}), "regex", "no regular expression"),
        (json!({"guided_json": "{"}), "guided_json", "must be a JSON schema, an object or its text"),
        (json!({"guided_regex": "a+"}), "guided_regex", "cannot constrain"),
        (json!({"guided_choice": []}), "guided_choice", "at least one text"),
        (json!({"guided_grammar": "root ::= ("}), "guided_grammar", "a `)` is missing"),
        (json!({"stop_token_ids": "x"}), "stop_token_ids", "invalid type"),
        (json!({"stop_token_ids": [5]}), "stop_token_ids", "does not honour"),
        (json!({"min_tokens": 1}), "min_tokens", "does not honour"),
        (json!({"bad_words": ["a"]}), "bad_words", "does not honour"),
        (json!({"bad_words": "a"}), "bad_words", "expected a sequence"),
        (json!({"allowed_token_ids": [5]}), "allowed_token_ids", "does not honour"),
        (json!({"allowed_token_ids": 5}), "allowed_token_ids", "expected a sequence"),
        (json!({"include_stop_str_in_output": true}), "include_stop_str_in_output", "does not honour"),
        (json!({"include_stop_str_in_output": 1}), "include_stop_str_in_output", "expected a boolean"),
        (json!({"truncate_prompt_tokens": 5}), "truncate_prompt_tokens", "does not honour"),
        (json!({"truncate_prompt_tokens": "x"}), "truncate_prompt_tokens", "expected a whole number"),
        (json!({"prompt_logprobs": 21}), "prompt_logprobs", "between 0 and 20, got 21"),
        (json!({"priority": 0.5}), "priority", "whole number"),
        (json!({"request_id": "a b"}), "request_id", "1 to 128 letters"),
        (json!({"add_generation_prompt": 5}), "add_generation_prompt", "expected a boolean"),
        (json!({"add_generation_prompt": false}), "add_generation_prompt", "does not honour"),
        (json!({"continue_final_message": 5}), "continue_final_message", "expected a boolean"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "set one of them",
        ),
        (json!({"search_budget": -1}), "search_budget", "between 0 and 64, got -1"),
        (json!({"search_budget": 65}), "search_budget", "between 0 and 64, got 65"),
        (json!({"search_budget": 1.5}), "search_budget", "expected a whole number"),
        (json!({"search": 5}), "search", "expected"),
        (
            json!({"search": {"strategy": "mcts"}}),
            "search.strategy",
            "`auto`, `bfs`, `dfs`, `best_of_n`, `refine_chain`",
        ),
        (json!({"search": {"mode": "fast"}}), "search.mode", "`eager` or `paper`"),
        (json!({"search": {"mode": "paper", "strategy": "best_of_n"}}), "search.mode", "bfs and dfs only"),
        (json!({"search": {"mode": "paper", "strategy": "refine_chain"}}), "search.mode", "bfs and dfs only"),
        (json!({"search": {"branch": 9}}), "search.branch", "between 1 and 8, got 9"),
        (json!({"search": {"branch": 0}}), "search.branch", "between 1 and 8, got 0"),
        (json!({"search": {"branch": "three"}}), "search.branch", "expected a whole number"),
        (json!({"search": {"keep": 0}}), "search.keep", "between 1 and 8, got 0"),
        (json!({"search": {"keep": 9}}), "search.keep", "between 1 and 8, got 9"),
        (json!({"search": {"depth": 0}}), "search.depth", "between 1 and 16, got 0"),
        (json!({"search": {"depth": 17}}), "search.depth", "between 1 and 16, got 17"),
        (json!({"search": {"votes": 0}}), "search.votes", "between 1 and 15, got 0"),
        (json!({"search": {"votes": 16}}), "search.votes", "between 1 and 15, got 16"),
        (json!({"search": {"threshold": 1}}), "search.threshold", "at least 0 and below 1, got 1"),
        (json!({"search": {"threshold": -0.1}}), "search.threshold", "at least 0 and below 1, got -0.1"),
        (json!({"search": {"max_tokens": 0}}), "search.max_tokens", "between 1 and 200000, got 0"),
        (json!({"search": {"max_tokens": 200_001}}), "search.max_tokens", "between 1 and 200000, got 200001"),
        (json!({"search": {"max_calls": 0}}), "search.max_calls", "between 1 and 2000, got 0"),
        (json!({"search": {"max_calls": 3000}}), "search.max_calls", "between 1 and 2000, got 3000"),
        (json!({"search": {"deadline_ms": 0}}), "search.deadline_ms", "between 1 and 300000, got 0"),
        (json!({"search": {"deadline_ms": 300_001}}), "search.deadline_ms", "between 1 and 300000, got 300001"),
        (json!({"search": {"judge": "human"}}), "search.judge", "`model`, `rules`, `both`"),
        (json!({"search": {"judge": "rules"}}), "search.judge", "needs rules"),
        (json!({"search": {"judge": "both"}}), "search.judge", "needs rules"),
        (
            json!({"search": {"judge": "model", "checks": [{"id": "punctuation:no_comma"}]}}),
            "search.judge",
            "leaves `search.checks` unused",
        ),
        (json!({"search": {"checks": 5}}), "search.checks", "`auto`, `off` or a list of checks"),
        (json!({"search": {"checks": "some"}}), "search.checks", "`auto` or `off`"),
        (json!({"search": {"judging": "guess"}}), "search.judging", "`votes`, `score`, `cascade`"),
        (json!({"search": {"mode": "paper", "judging": "score"}}), "search.judging", "by votes"),
        (json!({"search": {"checklist": "yes"}}), "search.checklist", "expected a boolean"),
        (json!({"search": {"mode": "paper", "checklist": true}}), "search.checklist", "no checklist"),
        (json!({"search": {"judge_tokens": 8}}), "search.judge_tokens", "between 16 and 512, got 8"),
        (json!({"search": {"refine_tokens": 4096}}), "search.refine_tokens", "between 16 and 2048, got 4096"),
        (json!({"search": {"judge_temperature": 3}}), "search.judge_temperature", "between 0 and 2, got 3"),
        (json!({"search": {"refine_temperature": -1}}), "search.refine_temperature", "between 0 and 2, got -1"),
        (json!({"search": {"checks": [{"id": "no:such"}]}}), "search.checks[0]", "no:such"),
        (json!({"search": {"checks": [{"kwargs": {}}]}}), "search.checks[0]", "missing field `id`"),
        (words(json!({"relation": "at least"})), "search.checks[0]", "num_words"),
        (words(json!({"num_words": "ten", "relation": "at least"})), "search.checks[0]", "num_words"),
        (words(json!({"num_words": 10, "relation": "about"})), "search.checks[0]", "relation"),
        (words(json!({"num_words": 10, "relation": "at least", "colour": "red"})), "search.checks[0]", "colour"),
        (check("keywords:existence", json!({"keywords": []})), "search.checks[0]", "keywords"),
        (
            check("keywords:existence", json!({"keywords": ["a", "b", "c", r"\w{80}x1".repeat(50)]})),
            "search.checks[0].kwargs.keywords[3]",
            "takes more than 262144 bytes",
        ),
        (
            check("keywords:forbidden_words", json!({"forbidden_words": ["a", "b".repeat(1001)]})),
            "search.checks[0].kwargs.forbidden_words[1]",
            "at most 1000 characters",
        ),
        (
            check("keywords:existence", json!({"keywords": vec!["word"; 65]})),
            "search.checks[0].kwargs.keywords",
            "at most 64 strings, got 65",
        ),
        (
            check("keywords:frequency", json!({"keyword": "a".repeat(1001), "frequency": 1, "relation": "at least"})),
            "search.checks[0].kwargs.keyword",
            "at most 1000 characters",
        ),
        (
            check("detectable_content:postscript", json!({"postscript_marker": r"\w{80}".repeat(40)})),
            "search.checks[0].kwargs.postscript_marker",
            "takes more than 262144 bytes",
        ),
        (
            check("detectable_format:multiple_sections", json!({"section_spliter": "(a{999}){99}", "num_sections": 2})),
            "search.checks[0].kwargs.section_spliter",
            "takes more than 262144 bytes",
        ),
        (
            check("combination:repeat_prompt", json!({"prompt_to_repeat": "b".repeat(20_001)})),
            "search.checks[0].kwargs.prompt_to_repeat",
            "at most 20000 characters",
        ),
        (
            json!({"search": {"checks": vec![json!({"id": "keywords:existence", "kwargs": {"keywords": vec!["a?b"; 33]}}); 2]}}),
            "search.checks[1].kwargs.keywords[31]",
            "may have 64 patterns with special characters",
        ),
        (
            json!({"search": {"checks": vec![json!({"id": "keywords:existence", "kwargs": {"keywords": vec!["a"; 60]}}); 18]}}),
            "search.checks[17].kwargs.keywords[4]",
            "may have 1024 patterns",
        ),
        (
            json!({"search_budget": 0, "search": {"checks": [
                {"id": "keywords:existence", "kwargs": {"keywords": vec![r"\w{80}xN"; 400]}}
            ]}}),
            "search.checks[0].kwargs.keywords",
            "at most 64 strings, got 400",
        ),
        (
            json!({"search": {"checks": vec![json!({"id": "punctuation:no_comma"}); 65]}}),
            "search.checks",
            "at most 64 checks, got 65",
        ),
        (json!({"search": {"trace": "all"}}), "search.trace", "`none`, `summary`, `full`"),
        (json!({"search": {"events": true}}), "search.events", "needs `stream: true`"),
        (json!({"search": {"events": "all"}}), "search.events", "expected a boolean"),
        (json!({"search": {"branches": 2}}), "search", "unknown field `branches`"),
        (json!({"search_budget": 0, "search": {"branch": 9}}), "search.branch", "between 1 and 8"),
        (
            json!({"search_budget": 1, "messages": [{"role": "assistant", "content": "x"}]}),
            "messages",
            "ends in a `user` or `tool` message",
        ),
    ]
}

/// A bias for so many tokens, though not all of them exist.
fn many_tokens(count: usize) -> Value {
    (0..count).map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
}

#[tokio::test]
async fn every_refused_field_is_named_with_its_range() {
    let servers = Server::each(&[]).await;
    for (server, (fields, param, fragment)) in
        servers.iter().flat_map(|server| refused().into_iter().map(move |case| (server, case)))
    {
        // The engines constrain what the script cannot.
        if ["cannot constrain", "does not honour"].contains(&fragment) && server.under != Under::Script {
            continue;
        }
        let response = server.chat(&with(says("hello"), fields.clone())).send().await.unwrap();
        let status = response.status();
        let body: Value = response.json().await.unwrap();
        if param.is_empty() {
            assert_eq!(status, StatusCode::OK, "{fields}: {body}");
            continue;
        }
        let error = &body["error"];
        assert_eq!(status, StatusCode::BAD_REQUEST, "{fields}: {body}");
        assert_eq!(error["type"], "invalid_request_error", "{fields}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(fragment), "{fields}: {message}");
        let named = error["param"].as_str().unwrap_or_default();
        assert!(named == param || named.starts_with(&format!("{param}.")), "{fields}: {named}: {message}");
    }
}

/// The table above forgets no field that the API document lists.
#[tokio::test]
async fn every_field_of_the_document_can_be_refused() {
    let server = Server::start(improving(), &[]).await;
    let document = json_of(server.get("/openapi.json"), StatusCode::OK).await;
    let properties = |schema: &Value| -> Vec<String> {
        let parts = schema["allOf"].as_array().cloned().unwrap_or_else(|| vec![schema.clone()]);
        parts.iter().filter_map(|part| part["properties"].as_object()).flat_map(|all| all.keys().cloned()).collect()
    };
    let schemas = &document["components"]["schemas"];
    let mut fields = properties(&schemas["ChatRequest"]);
    for schema in ["DrawingFields", "FineFields", "GuidedFields"] {
        fields.extend(properties(&schemas[schema]));
    }
    fields.extend(properties(&schemas["SearchOptions"]).iter().map(|name| format!("search.{name}")));
    assert!(fields.len() > 35, "{fields:?}");
    let refused = refused();
    for field in fields {
        let named = |param: &str| {
            param == field || param.starts_with(&format!("{field}.")) || param.starts_with(&format!("{field}["))
        };
        assert!(refused.iter().any(|(_, param, _)| named(param)), "no case refuses {field}");
    }
}

#[tokio::test]
async fn values_that_ask_for_nothing_are_accepted() {
    let fields = json!({
        "tools": [], "tool_choice": "none", "functions": null, "modalities": ["text"], "response_format": {"type": "text"},
        "guided_json": null, "min_tokens": 0, "skip_special_tokens": true, "metadata": {"a": "b"}, "store": false,
        "allowed_token_ids": null, "bad_words": [], "stop_token_ids": [], "priority": 0.0, "add_generation_prompt": true,
        "include_stop_str_in_output": false, "continue_final_message": false, "grammar": "", "ebnf": null, "guided_choice": null,
        "top_logprobs": 0, "logprobs": false, "search_budget": 0, "stream": false, "temperature": null,
    });
    for server in Server::each(&[]).await {
        server.answer(&with(writes(), fields.clone())).await;
    }
}

#[tokio::test]
async fn a_prompt_beyond_the_context_is_refused_by_every_engine() {
    for server in Server::of_each_engine(&[]).await {
        let long = says(&"the river waits. ".repeat(1_000));
        for fields in [json!({}), json!({"stream": true}), json!({"search_budget": 1})] {
            let error = json_of(server.chat(&with(long.clone(), fields)), StatusCode::BAD_REQUEST).await;
            assert_eq!(error["error"]["code"], "context_length_exceeded");
            assert!(error["error"]["message"].as_str().unwrap().contains("holds 1024"), "{error}");
            assert_eq!(error["error"]["param"], "messages");
        }
        let text = json!({"prompt": "the river waits. ".repeat(1_000)});
        for fields in [json!({}), json!({"stream": true}), json!({"echo": true, "max_tokens": 0})] {
            let asked = with(text.clone(), fields.clone());
            let error = json_of(server.post("/v1/completions", &asked), StatusCode::BAD_REQUEST).await;
            // mistral.rs scores no given text, whatever its length.
            if fields.get("echo").is_some() && server.under != Under::Engine(EngineKind::Native) {
                assert_eq!(error["error"]["param"], "echo");
                continue;
            }
            assert_eq!(error["error"]["code"], "context_length_exceeded", "{error}");
            assert_eq!(error["error"]["param"], "prompt");
        }
    }
}

#[tokio::test]
async fn everything_else_is_in_the_envelope_too() {
    for server in Server::each(&["--max-body", "2000"]).await {
        let chat = format!("{}/v1/chat/completions", server.url);
        let json_body = |body: String| server.client.post(&chat).header("content-type", "application/json").body(body);
        let large = with(says(&"long ".repeat(1000)), json!({}));
        let cases = [
            (json_body("{\"messages\": [".into()), 400, "invalid_value"),
            (json_body("[1, 2]".into()), 400, "invalid_value"),
            (json_body("{}".into()), 400, "invalid_value"),
            (server.client.post(&chat).body("{}"), 415, "unsupported_media_type"),
            (server.chat(&large), 413, "body_too_large"),
            (server.chat(&with(says("hello"), json!({"model": "gpt-4"}))), 404, "model_not_found"),
            (server.get("/v1/models/gpt-4"), 404, "model_not_found"),
            (server.get("/v1/searches/srch_none"), 404, "search_not_found"),
            (server.get("/v1/models/%ff"), 400, "invalid_value"),
            (server.get("/v1/searches/%c3%28"), 400, "invalid_value"),
            (server.get("/v2/anything"), 404, "route_not_found"),
            (server.get("/docs/none.js"), 404, "route_not_found"),
            (server.get("/v1/chat/completions"), 405, "method_not_allowed"),
            (server.client.put(format!("{}/docs/", server.url)), 405, "method_not_allowed"),
        ];
        for (request, status, code) in cases {
            let body = json_of(request, StatusCode::from_u16(status).unwrap()).await;
            assert_eq!(body["error"]["code"], code, "{body}");
            assert!(!body["error"]["message"].as_str().unwrap().is_empty());
        }
        let missing = json_of(json_body("{}".into()), StatusCode::BAD_REQUEST).await;
        assert_eq!(missing["error"]["param"], "messages");
        let unreadable = json_of(server.get("/v1/models/%ff"), StatusCode::BAD_REQUEST).await;
        assert_eq!(unreadable["error"]["param"], "id");
        let wrong = server.get("/v1/chat/completions").send().await.unwrap();
        assert_eq!(wrong.headers()["allow"], "POST");
    }
}

#[tokio::test]
async fn engine_errors_have_statuses_and_hide_their_causes() {
    let cases = [
        (EngineError::PromptTooLong { tokens: 9, limit: 8 }, 400, "context_length_exceeded"),
        (EngineError::Unsupported("no grammars here".into()), 400, "invalid_value"),
        (EngineError::Invalid("bad grammar".into()), 400, "invalid_value"),
        (EngineError::Prompt("nothing to continue".into()), 400, "invalid_value"),
        (EngineError::Unavailable("secret cause".into()), 503, "model_not_available"),
        (EngineError::Crashed("secret cause".into()), 500, "model_failed"),
        (EngineError::Upstream("the upstream failed".into()), 502, "upstream_failed"),
    ];
    for (error, status, code) in cases {
        let server = Server::start(FakeEngine::new(move |_, _| Err(error.clone())), &[]).await;
        for body in
            [says("hello"), with(says("hello"), json!({"stream": true})), with(says("x"), json!({"search_budget": 1}))]
        {
            let response = server.chat(&body).send().await.unwrap();
            assert_eq!(response.status(), status, "{body}");
            assert_eq!(response.headers().contains_key("retry-after"), status == 503);
            let body: Value = response.json().await.unwrap();
            assert_eq!(body["error"]["code"], code, "{body}");
            assert!(!body.to_string().contains("secret"), "{body}");
            if code == "context_length_exceeded"
                || body["error"]["message"].as_str().unwrap().contains("nothing to continue")
            {
                assert_eq!(body["error"]["param"], "messages", "{body}");
            }
        }
        let text = server.post("/v1/completions", &json!({"prompt": ""})).send().await.unwrap();
        assert_eq!(text.status(), status);
        let body: Value = text.json().await.unwrap();
        assert_ne!(body["error"]["param"], "messages", "{body}");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_stream_is_an_event() {
    let engine = FakeEngine::new(|_, sibling| match sibling {
        0 => Ok("fine so far".into()),
        _ => Err(EngineError::Crashed("the second sibling".into())),
    });
    let server = Server::start(engine, &[]).await;
    let events = server.stream(&with(says("hello"), json!({"stream": true, "n": 2}))).await;
    let last = events.chunks.last().unwrap();
    assert_eq!(last["error"]["code"], "model_failed", "{last}");
    assert!(events.done);
}
