//! vLLM's fields, numbers as other languages write them, and what else clients send beside OpenAI's own fields.

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::WireSeed;
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};

use super::harness::{Server, improving, json_of, recording, says, with, writes};

fn text(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The embedded model's likeliest answer.
fn greedy() -> Value {
    with(writes(), json!({"temperature": 0}))
}

async fn ids(server: &Server, text: &str) -> Vec<u64> {
    let body = json!({"prompt": text, "add_special_tokens": false});
    let tokens = json_of(server.post("/tokenize", &body), StatusCode::OK).await;
    tokens["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

/// The texts of an answer's tokens.
fn tokens(answer: &Value) -> Vec<String> {
    let content = answer["choices"][0]["logprobs"]["content"].as_array().unwrap();
    content.iter().map(|token| token["token"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_stop_token_ends_the_reply_and_is_shown_if_asked_for() {
    let server = Server::native(&[], None).await;
    let said = tokens(&server.answer(&with(greedy(), json!({"logprobs": true}))).await);
    // A token in the midst that occurs there first.
    let at = (3..said.len()).find(|&at| said[at].len() > 2 && !said[..at].contains(&said[at])).unwrap();
    let id = ids(&server, &said[at]).await;
    assert_eq!(id.len(), 1, "{:?}", said[at]);
    for (shown, end) in [(false, at), (true, at + 1)] {
        let fields = json!({"stop_token_ids": [id[0], 3], "include_stop_str_in_output": shown});
        let answer = server.answer(&with(greedy(), fields)).await;
        assert_eq!(text(&answer), said[..end].concat());
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");
        assert_eq!(answer["usage"]["completion_tokens"], at as u64 + 1);
        assert_eq!(answer["choices"][0]["stop_reason"], id[0]);
    }
    for (shown, expected) in [(false, said[..at].concat()), (true, said[..=at].concat())] {
        let fields = json!({"stop": said[at], "include_stop_str_in_output": shown});
        let answer = server.answer(&with(greedy(), fields.clone())).await;
        assert_eq!((text(&answer), &answer["choices"][0]["stop_reason"]), (expected.as_str(), &json!(said[at])));
        let streamed = server.stream(&with(greedy(), with(fields, json!({"stream": true})))).await;
        assert_eq!(streamed.text(0), expected);
        let ends: Vec<_> = streamed.chunks.iter().filter_map(|chunk| chunk["choices"][0].get("stop_reason")).collect();
        assert_eq!(ends, [&json!(said[at])]);
    }
    let ended = server.answer(&with(greedy(), json!({"stop": ["never said"], "max_tokens": 2}))).await;
    assert_eq!(ended["choices"][0]["stop_reason"], Value::Null);
    let continued =
        json!({"prompt": "The river", "max_tokens": 40, "temperature": 0, "stop": [" "], "ignore_eos": true});
    let continued = json_of(server.post("/v1/completions", &continued), StatusCode::OK).await;
    assert_eq!(continued["choices"][0]["stop_reason"], " ");
}

#[tokio::test]
async fn a_reply_ends_only_after_its_least_tokens() {
    let server = Server::native(&[], None).await;
    let long = with(greedy(), json!({"max_tokens": 120}));
    let whole = server.answer(&long).await;
    let count = whole["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(whole["choices"][0]["finish_reason"], "stop", "it ends by itself after {count} tokens");
    let longer = server.answer(&with(long.clone(), json!({"min_tokens": count + 5}))).await;
    assert!(longer["usage"]["completion_tokens"].as_u64().unwrap() >= count + 5, "{longer}");
    assert!(text(&longer).starts_with(text(&whole)));

    let stop = |fields: Value| with(with(greedy(), json!({"stop": " "})), fields);
    let short = server.answer(&stop(json!({}))).await;
    let ended = server.answer(&stop(json!({"min_tokens": 8}))).await;
    assert!(short["usage"]["completion_tokens"].as_u64().unwrap() < 8);
    assert!(ended["usage"]["completion_tokens"].as_u64().unwrap() > 8, "{ended}");
    assert!(text(&whole).starts_with(text(&ended)) && text(&ended).contains(' '));

    for least in [json!(25), json!(-1)] {
        let error = json_of(server.chat(&with(greedy(), json!({"min_tokens": least}))), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], "min_tokens");
    }
}

#[tokio::test]
async fn bad_words_never_occur() {
    let server = Server::native(&[], None).await;
    let plain = server.answer(&greedy()).await;
    let words: Vec<&str> = text(&plain).split_whitespace().collect();
    let inner = &words[1][1..];
    let end = format!("{} {}", words[2], &words[3][..1]);
    for banned in [vec![words[0]], vec![inner], vec![&end], vec!["e", "a"], words.clone()] {
        for temperature in [0.0, 1.3] {
            let fields = json!({"bad_words": banned, "temperature": temperature, "seed": 4});
            let answer = server.answer(&with(greedy(), fields)).await;
            assert!(!text(&answer).is_empty());
            for word in &banned {
                assert!(!text(&answer).contains(word), "{word:?} in {:?}", text(&answer));
            }
        }
    }
    // A search honours them in drafts and in refinements.
    let search = json!({"bad_words": ["the"], "search_budget": 3, "search": {"judge": "rules", "checks": "auto"}});
    let answer = server.answer(&with(writes(), search)).await;
    assert!(!text(&answer).contains("the"), "{answer}");
}

#[tokio::test]
async fn only_allowed_tokens_are_drawn() {
    let server = Server::native(&[], None).await;
    let said = tokens(&server.answer(&with(greedy(), json!({"logprobs": true}))).await);
    let mut allowed = Vec::new();
    for token in &said[2..6] {
        allowed.extend(ids(&server, token).await);
    }
    let fields = json!({"allowed_token_ids": allowed, "temperature": 1.5, "seed": 2, "logprobs": true});
    let answer = server.answer(&with(greedy(), fields)).await;
    assert_eq!(answer["choices"][0]["finish_reason"], "length", "no token that ends a reply is allowed");
    assert!(tokens(&answer).iter().all(|token| said[2..6].contains(token)), "{answer}");
    // Rules that leave nothing are the request's fault.
    let nothing = with(greedy(), json!({"allowed_token_ids": [allowed[0]], "bad_words": [said[2].trim()]}));
    let error = json_of(server.chat(&nothing), StatusCode::BAD_REQUEST).await;
    assert!(error["error"]["message"].as_str().unwrap().contains("leave no token"), "{error}");
    for (fields, param) in [
        (json!({"allowed_token_ids": []}), "allowed_token_ids"),
        (json!({"allowed_token_ids": [1_000_000]}), "allowed_token_ids"),
        (json!({"stop_token_ids": [1_000_000]}), "stop_token_ids"),
        (json!({"stop_token_ids": vec![1; 257]}), "stop_token_ids"),
        (json!({"bad_words": [""]}), "bad_words"),
        (json!({"bad_words": ["a".repeat(129)]}), "bad_words"),
        (json!({"bad_words": vec!["a"; 257]}), "bad_words"),
        (json!({"truncate_prompt_tokens": 0}), "truncate_prompt_tokens"),
        (json!({"truncate_prompt_tokens": -2}), "truncate_prompt_tokens"),
        (json!({"truncate_prompt_tokens": 1024}), "truncate_prompt_tokens"),
    ] {
        let error = json_of(server.chat(&with(greedy(), fields.clone())), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{fields}: {error}");
    }
}

#[tokio::test]
async fn token_ids_are_a_prompt() {
    let server = Server::native(&[], None).await;
    let tokenize = json!({"prompt": "The river waits for the lantern"});
    let all = json_of(server.post("/tokenize", &tokenize), StatusCode::OK).await["tokens"].clone();
    let complete = async |prompt: Value, fields: Value| {
        let body = with(json!({"prompt": prompt, "temperature": 0, "max_tokens": 8}), fields);
        json_of(server.post("/v1/completions", &body), StatusCode::OK).await
    };
    let said = complete(json!("The river waits for the lantern"), json!({})).await;
    let by_ids = complete(all.clone(), json!({})).await;
    assert_eq!(
        (&by_ids["choices"], &by_ids["usage"]["prompt_tokens"]),
        (&said["choices"], &said["usage"]["prompt_tokens"])
    );
    let two = complete(json!([all, all]), json!({"echo": true})).await;
    assert_eq!(two["choices"].as_array().unwrap().len(), 2);
    for choice in two["choices"].as_array().unwrap() {
        let shown = choice["text"].as_str().unwrap();
        assert!(shown.ends_with(said["choices"][0]["text"].as_str().unwrap()), "{shown}");
        assert!(shown.contains("The river waits for the lantern"), "{shown}");
    }
    for (prompt, code) in [
        (json!([5, 1_000_000]), "invalid_value"),
        (json!([[5], [1_000_000]]), "invalid_value"),
        (json!([[]]), "invalid_value"),
        (json!(vec![5; 1024]), "context_length_exceeded"),
    ] {
        let error = json_of(server.post("/v1/completions", &json!({"prompt": prompt})), StatusCode::BAD_REQUEST).await;
        assert_eq!((&error["error"]["param"], &error["error"]["code"]), (&json!("prompt"), &json!(code)), "{error}");
    }
}

#[tokio::test]
async fn a_truncated_prompt_is_its_last_tokens() {
    let server = Server::native(&[], None).await;
    let tokenize = json!({"prompt": "The river waits for the lantern"});
    let all = json_of(server.post("/tokenize", &tokenize), StatusCode::OK).await["tokens"].clone();
    let all = all.as_array().unwrap();
    let body =
        |prompt: Value| json!({"prompt": prompt, "temperature": 0, "max_tokens": 8, "truncate_prompt_tokens": 3});
    let cut = json_of(server.post("/v1/completions", &body(tokenize["prompt"].clone())), StatusCode::OK).await;
    assert_eq!(cut["usage"]["prompt_tokens"], 3);
    let last = json!(all[all.len() - 3..]);
    let by_ids = json_of(server.post("/v1/completions", &body(last)), StatusCode::OK).await;
    assert_eq!(by_ids["choices"], cut["choices"]);
    // What does not fit is cut to what fits.
    let long = with(says(&"the river waits. ".repeat(4_000)), json!({"truncate_prompt_tokens": -1, "max_tokens": 10}));
    assert_eq!(server.answer(&long).await["usage"]["prompt_tokens"], 1024 - 10);
    let long = json!({"prompt": "the river waits. ".repeat(4_000), "truncate_prompt_tokens": -1, "max_tokens": 10});
    let answer = json_of(server.post("/v1/completions", &long), StatusCode::OK).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 1024 - 10);
}

#[tokio::test]
async fn a_prompts_tokens_have_log_probabilities_and_ranks() {
    let server = Server::native(&[], None).await;
    let plain = json!({"prompt": ["The river", "A lantern"], "max_tokens": 2, "temperature": 0, "n": 2});
    let asked = with(plain.clone(), json!({"prompt_logprobs": 2}));
    let answer = json_of(server.post("/v1/completions", &asked), StatusCode::OK).await;
    let echoed = with(plain, json!({"echo": true, "logprobs": 2}));
    let echoed = json_of(server.post("/v1/completions", &echoed), StatusCode::OK).await;
    for (index, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
        let prompt = ["The river", "The river", "A lantern", "A lantern"][index];
        let tokens = json_of(server.post("/tokenize", &json!({"prompt": prompt})), StatusCode::OK).await;
        let tokens = tokens["tokens"].as_array().unwrap();
        let places = choice["prompt_logprobs"].as_array().unwrap();
        assert_eq!(places.len(), tokens.len());
        assert_eq!((&places[0], &choice["logprobs"]), (&Value::Null, &Value::Null));
        assert!(!choice["text"].as_str().unwrap().contains(prompt), "it is not echoed");
        for (at, place) in places.iter().enumerate().skip(1) {
            let own = &place[tokens[at].to_string()];
            assert_eq!(own["logprob"], echoed["choices"][index]["logprobs"]["token_logprobs"][at]);
            let rank = own["rank"].as_u64().unwrap();
            assert_eq!(place.as_object().unwrap().len(), if rank <= 2 { 2 } else { 3 }, "{place}");
            let mut ranks: Vec<u64> =
                place.as_object().unwrap().values().map(|token| token["rank"].as_u64().unwrap()).collect();
            ranks.sort_unstable();
            assert_eq!(ranks[..2], [1, 2]);
        }
    }
    let chat = server.answer(&with(greedy(), json!({"prompt_logprobs": 0}))).await;
    let places = chat["prompt_logprobs"].as_array().unwrap();
    assert_eq!(places.len() as u64, chat["usage"]["prompt_tokens"].as_u64().unwrap());
    assert!(places[0].is_null() && places[1].as_object().unwrap().len() == 1);
    assert!(server.answer(&greedy()).await.get("prompt_logprobs").is_none());
    for fields in [json!({"stream": true}), json!({"truncate_prompt_tokens": 5}), json!({"search_budget": 1})] {
        let body = with(with(greedy(), fields), json!({"prompt_logprobs": 1}));
        let error = json_of(server.chat(&body), StatusCode::BAD_REQUEST).await;
        assert!(error["error"]["message"].as_str().unwrap().contains("`prompt_logprobs`"), "{error}");
    }
}

#[tokio::test]
async fn a_final_message_is_continued_as_if_it_had_been_said() {
    let server = Server::native(&[], None).await;
    let whole = text(&server.answer(&greedy()).await).to_owned();
    let cut = whole.match_indices(' ').nth(3).unwrap().0;
    let mut body = greedy();
    body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": &whole[..cut]}));
    let fields = json!({"continue_final_message": true, "add_generation_prompt": false});
    let rest = server.answer(&with(body.clone(), fields.clone())).await;
    assert!(whole[cut..].starts_with(text(&rest)) || text(&rest).starts_with(&whole[cut..]), "{whole:?}: {rest}");
    assert!(text(&rest).starts_with(' '), "the first space is a part of it");

    let count = async |fields: Value| {
        let tokenize = with(json!({"messages": body["messages"]}), fields);
        let tokens = json_of(server.post("/tokenize", &tokenize), StatusCode::OK).await;
        tokens["tokens"].as_array().unwrap().clone()
    };
    let (within, after, before) =
        (count(fields).await, count(json!({"add_generation_prompt": false})).await, count(json!({})).await);
    assert!(within.len() < after.len() && after.len() < before.len(), "{within:?} {after:?} {before:?}");
    assert_eq!(after[..within.len()], within[..]);
    assert_eq!(before[..after.len()], after[..]);
    let answer = server.answer(&with(body.clone(), json!({"add_generation_prompt": false, "max_tokens": 1}))).await;
    assert_eq!(answer["usage"]["prompt_tokens"], after.len());
}

#[tokio::test]
async fn a_request_names_the_id_of_its_answer() {
    for server in Server::each(&[]).await {
        let fields = json!({"request_id": "run-7:a.b_c"});
        assert_eq!(server.answer(&with(writes(), fields.clone())).await["id"], "chatcmpl-run-7:a.b_c");
        let streamed = server.stream(&with(writes(), with(fields.clone(), json!({"stream": true})))).await;
        assert!(streamed.chunks.iter().all(|chunk| chunk["id"] == "chatcmpl-run-7:a.b_c"));
        let plain = with(json!({"prompt": "A", "max_tokens": 1}), fields);
        let answer = json_of(server.post("/v1/completions", &plain), StatusCode::OK).await;
        assert_eq!(answer["id"], "cmpl-run-7:a.b_c");
    }
}

#[tokio::test]
async fn a_search_refuses_by_name_what_its_refinements_cannot_keep() {
    let server = Server::native(&[], None).await;
    for (field, value) in [
        ("stop_token_ids", json!([5])),
        ("min_tokens", json!(2)),
        ("allowed_token_ids", json!([5])),
        ("include_stop_str_in_output", json!(true)),
        ("truncate_prompt_tokens", json!(5)),
        ("prompt_logprobs", json!(1)),
        ("add_generation_prompt", json!(false)),
    ] {
        let body = with(writes(), json!({"search_budget": 2, (field): value}));
        let error = json_of(server.chat(&body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], field, "{error}");
    }
}

#[tokio::test]
async fn whole_numbers_may_have_a_fraction_of_zero() {
    for server in Server::each(&[]).await {
        let fields =
            json!({"max_tokens": 3.0, "n": 2.0, "seed": 5.0, "top_k": 40.0, "search_budget": 0.0, "min_tokens": 0.0});
        let answer = server.answer(&with(writes(), fields)).await;
        assert_eq!(answer["choices"].as_array().unwrap().len(), 2);
        assert_eq!(answer["usage"]["completion_tokens"], 6);
        let search = json!({"search_budget": 1.0, "search": {"branch": 1.0, "max_calls": 9.0, "deadline_ms": 9e3}});
        server.answer(&with(writes(), search)).await;
    }
}

#[tokio::test]
async fn the_likeliest_token_is_all_that_a_top_p_of_0_leaves() {
    let server = Server::native(&[], None).await;
    let likeliest = server.answer(&greedy()).await;
    for seed in 0..3 {
        let answer = server.answer(&with(writes(), json!({"top_p": 0, "temperature": 1.5, "seed": seed}))).await;
        assert_eq!(text(&answer), text(&likeliest));
    }
    let many: Vec<String> = (0..64).map(|n| format!("stop number {n}")).collect();
    server.answer(&with(greedy(), json!({"stop": many}))).await;
}

#[tokio::test]
async fn an_upstream_is_given_the_seed_that_the_client_sent_and_no_other() {
    let (engine, seen) = recording();
    let back = Server::start(engine, &[]).await;
    let config = UpstreamConfig { url: back.url.clone(), ..UpstreamConfig::default() };
    let server = Server::start(UpstreamEngine::connect(config).await.unwrap(), &[]).await;
    for (fields, expected) in [
        (json!({"seed": 0}), WireSeed::Given(0)),
        (json!({"seed": 1}), WireSeed::Given(1)),
        (json!({"seed": 2}), WireSeed::Given(2)),
        (json!({"seed": 3}), WireSeed::Given(3)),
        (json!({"seed": -1}), WireSeed::Given(-1)),
        (json!({"seed": i64::MAX}), WireSeed::Given(i64::MAX)),
        (json!({"seed": null}), WireSeed::Absent),
        (json!({}), WireSeed::Absent),
    ] {
        server.answer(&with(says("hello"), fields.clone())).await;
        assert_eq!(seen.lock().unwrap().last().unwrap().sampling.wire_seed, expected, "{fields}");
    }
}

#[tokio::test]
async fn rules_on_tokens_are_passed_on_to_a_server_that_keeps_them_and_else_refused() {
    let back = Server::native(&[], None).await;
    let config = UpstreamConfig { url: back.url.clone(), ..UpstreamConfig::default() };
    let server = Server::start(UpstreamEngine::connect(config).await.unwrap(), &[]).await;
    let plain = server.answer(&greedy()).await;
    let word = text(&plain).split_whitespace().next().unwrap();
    let answer = server.answer(&with(greedy(), json!({"bad_words": [word]}))).await;
    assert!(!text(&answer).contains(word), "{answer}");
    let answer = server.answer(&with(greedy(), json!({"truncate_prompt_tokens": 3}))).await;
    assert_eq!(answer["usage"]["prompt_tokens"], 3);
    let mut body = greedy();
    body["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "The river"}));
    let continued = with(body, json!({"continue_final_message": true}));
    assert_eq!(text(&server.answer(&continued).await), text(&back.answer(&continued).await));
    let ids = json!({"prompt": [5, 6, 7], "temperature": 0, "max_tokens": 4});
    let [there, here] = [&back, &server].map(|server| json_of(server.post("/v1/completions", &ids), StatusCode::OK));
    assert_eq!(there.await["choices"], here.await["choices"]);
    let error = json_of(server.chat(&with(greedy(), json!({"prompt_logprobs": 1}))), StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "prompt_logprobs");
}

#[tokio::test]
async fn a_body_with_a_mark_is_read_and_a_compressed_one_is_refused_as_such() {
    let server = Server::start(improving(), &[]).await;
    let send = |path: &str, body: Vec<u8>| {
        let request = server.client.post(format!("{}{path}", server.url));
        request.header("content-type", "application/json").body(body)
    };
    let chat = "/v1/chat/completions";
    let marked = |body: &Value| [b"\xef\xbb\xbf".as_slice(), body.to_string().as_bytes()].concat();
    json_of(send(chat, marked(&says("hello"))), StatusCode::OK).await;
    json_of(send("/v1/completions", marked(&json!({"prompt": "A"}))), StatusCode::OK).await;
    let twice = [b"\xef\xbb\xbf".as_slice(), &marked(&says("hello"))].concat();
    json_of(send(chat, twice), StatusCode::BAD_REQUEST).await;
    for coding in ["gzip", "br", "deflate, gzip", "zstd"] {
        for path in [chat, "/v1/completions", "/tokenize", "/v1/checks"] {
            let response = send(path, vec![0x1f, 0x8b, 8, 0]).header("content-encoding", coding).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{coding} {path}");
            assert_eq!(response.headers()["accept-encoding"], "identity");
            let error: Value = response.json().await.unwrap();
            assert_eq!(error["error"]["code"], "unsupported_content_encoding");
            assert!(error["error"]["message"].as_str().unwrap().contains(coding), "{error}");
        }
    }
    let body = says("hello").to_string().into_bytes();
    json_of(send(chat, body).header("content-encoding", "identity"), StatusCode::OK).await;
}

#[tokio::test]
async fn a_conversation_with_calls_is_taken_with_and_without_functions() {
    for server in Server::each(&[]).await {
        let call = json!({"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Rome\"}"}});
        let messages = json!([
            {"role": "user", "content": "How is the weather in Rome?"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        ]);
        let tools = json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]);
        for fields in
            [json!({}), json!({"tools": tools, "tool_choice": "none"}), json!({"tools": [], "tool_choice": "none"})]
        {
            let body = with(json!({"messages": messages, "max_tokens": 4}), fields);
            assert_eq!(server.answer(&body).await["choices"][0]["message"]["role"], "assistant");
        }
    }
}
