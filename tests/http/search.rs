//! Chat completions with a search.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::{Chunk, Engine, EngineError, ModelInfo, Purpose, Reply, Request, TokenLogprobs, TokenProb};

use super::harness::{Server, Under, asked, improving, json_of, says, with, writes};

#[tokio::test]
async fn a_search_answers_with_its_best_response_and_a_report() {
    for server in Server::each(&[]).await {
        let answer = server.answer(&with(writes(), json!({"search_budget": 4, "seed": 1}))).await;
        let search = &answer["search"];
        assert!(search["id"].as_str().unwrap().starts_with("srch_"));
        assert_eq!((&search["strategy"], &search["mode"]), (&json!("bfs"), &json!("eager")));
        assert_eq!(search["accepted"] == true, search["stop_reason"] == "accepted", "{search}");
        assert_eq!(search["calls"]["answer"], 1);
        assert!(search["calls"]["judge"].as_u64().unwrap() >= 3);
        match server.under {
            Under::Script => {
                assert_eq!(answer["choices"][0]["message"]["content"], "the refined text");
                assert_eq!(answer["choices"][0]["finish_reason"], "stop");
                assert_eq!(search["accepted"], true);
                let (value, root, depth) = (&search["value"], &search["root_value"], &search["depth"]);
                assert_eq!((value, root, depth), (&json!(1.0), &json!(0.0), &json!(1)));
                assert_eq!(search["generation"], json!({"actor": "g-1", "refiner": "g-1"}));
            }
            Under::Engine(_) => {
                assert!(!answer["choices"][0]["message"]["content"].as_str().unwrap().is_empty());
                let [value, root] = ["value", "root_value"].map(|name| search[name].as_f64().unwrap());
                assert!((0.0..=1.0).contains(&root) && (root..=1.0).contains(&value), "{search}");
                assert_eq!(search["generation"], json!({"actor": "g-1", "refiner": "g-2"}));
            }
        }
        let (nodes, tree) = (search["nodes"].as_u64().unwrap(), search["tree"].as_array().unwrap());
        assert!(nodes <= 4);
        assert_eq!(nodes + 1, tree.len() as u64, "the draft is not counted");
        assert!(tree[0]["parent"].is_null() && tree[0].get("text").is_none(), "{}", tree[0]);
        let usage = &answer["usage"];
        let total: u64 =
            ["answer", "judge", "refine"].iter().map(|purpose| search["tokens"][purpose].as_u64().unwrap()).sum();
        assert_eq!(usage["completion_tokens"].as_u64(), Some(total));
        let reasoning = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        assert!(reasoning > 0 && reasoning < total, "{usage}");
    }
}

#[tokio::test]
async fn three_ways_turn_a_search_on() {
    for server in Server::each(&["--search-budget", "2"]).await {
        for fields in [json!({"search_budget": 1}), json!({"search": {}}), json!({"model": "fake:search"})] {
            let answer = server.answer(&with(writes(), fields.clone())).await;
            let most = if fields["search_budget"] == 1 { 1 } else { 2 };
            assert!(answer["search"]["nodes"].as_u64().unwrap() <= most, "{fields}");
            if server.under == Under::Script {
                assert_eq!(answer["choices"][0]["message"]["content"], "the refined text", "{fields}");
            }
        }
        let models = json_of(server.get("/v1/models"), StatusCode::OK).await;
        let names: Vec<_> = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone()).collect();
        assert_eq!(names, ["fake", "fake:search"]);
    }
}

#[tokio::test]
async fn a_trace_shows_as_much_as_asked_for_and_the_kept_search_all() {
    for server in Server::each(&["--kept-searches", "1"]).await {
        let ask = |trace: &str| with(writes(), json!({"search_budget": 1, "seed": 1, "search": {"trace": trace}}));
        let full = server.answer(&ask("full")).await;
        let none = server.answer(&ask("none")).await;
        assert!(none["search"].get("tree").is_none());
        let path = |answer: &Value| format!("/v1/searches/{}", answer["search"]["id"].as_str().unwrap());
        let kept = json_of(server.get(&path(&none)), StatusCode::OK).await;
        assert_eq!(kept["tree"], full["search"]["tree"], "one seed, one tree");
        let texts: Vec<&Value> = kept["tree"].as_array().unwrap().iter().map(|node| &node["text"]).collect();
        assert!(texts.contains(&&none["choices"][0]["message"]["content"]));
        if server.under == Under::Script {
            assert_eq!(texts[..2], ["a first draft", "the refined text"]);
            assert_eq!(kept["templates"], spar::prompts::Templates::general().text.version);
        }
        json_of(server.get(&path(&full)), StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_streamed_search_beats_shows_events_and_ends_with_its_report() {
    let engine = improving().paced(|_, _| Duration::from_millis(15));
    let server = Server::start(engine, &["--heartbeat", "10ms"]).await;
    let body = json!({"search_budget": 2, "search": {"events": true}, "stream": true,
                      "stream_options": {"include_usage": true}});
    let events = server.stream(&with(says("hello"), body)).await;
    assert!(events.done && events.comments > 1, "{events:?}");
    let steps: Vec<_> = events.chunks.iter().filter_map(|c| c["search_event"].as_str()).collect();
    assert_eq!(steps.first(), Some(&"drafted"));
    let drafted = events.chunks.iter().find(|c| c["search_event"] == "drafted").unwrap();
    assert_eq!(drafted["search_node"]["text"], "a first draft");
    let votes = events.chunks.iter().filter(|c| c["search_event"] == "judging").map(|c| &c["search_votes"]["no"]);
    assert_eq!(votes.take(3).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(steps.contains(&"root_judged"), "{steps:?}");
    assert!(steps.contains(&"node_added") && steps.contains(&"accepted"), "{steps:?}");
    assert_eq!(steps.last(), Some(&"stopped"));
    assert!(events.chunks.iter().filter(|c| c.get("search_event").is_some()).all(|c| c["choices"] == json!([])));
    assert_eq!(events.text(0), "the refined text");
    let deltas = events.chunks.iter().filter(|c| c["choices"][0]["delta"]["content"].is_string()).count();
    assert!(deltas > 2, "an answer streams as ordinary deltas");
    let last = events.chunks.last().unwrap();
    assert_eq!(last["search"]["stop_reason"], "accepted");
    assert!(last["usage"]["total_tokens"].as_u64().unwrap() > 3);
}

#[tokio::test]
async fn without_events_and_usage_every_chunk_has_a_choice() {
    for server in Server::each(&["--search-budget", "2"]).await {
        let body = with(writes(), json!({"model": "fake:search", "seed": 1}));
        let events = server.stream(&with(body.clone(), json!({"stream": true}))).await;
        assert!(events.chunks.iter().all(|chunk| chunk["choices"][0]["index"] == 0), "{events:?}");
        let whole = server.answer(&body).await;
        assert_eq!(json!(events.text(0)), whole["choices"][0]["message"]["content"]);
        assert_eq!(events.chunks.last().unwrap()["search"]["accepted"], whole["search"]["accepted"]);
        if server.under == Under::Script {
            assert_eq!(events.text(0), "the refined text");
        }
    }
}

/// The members of a response's `x-spar-search`, each as its token and its parameters.
fn search_header(response: &reqwest::Response) -> Vec<(String, Value)> {
    let Some(line) = response.headers().get("x-spar-search") else { return Vec::new() };
    let member = |member: &str| {
        let mut parts = member.split("; ").map(str::to_owned);
        let token = parts.next().unwrap();
        let parameters = parts.map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap();
            (name.to_owned(), Value::from(value))
        });
        (token, parameters.collect())
    };
    line.to_str().unwrap().split(", ").map(member).collect()
}

#[tokio::test]
async fn a_header_has_the_result_in_short_on_every_route_that_searches() {
    let server = Server::start(improving(), &[]).await;
    let turn = json!([{"role": "user", "content": "Say it."}]);
    let routes = [
        ("/v1/chat/completions", json!({"model": "fake", "messages": turn})),
        ("/v1/responses", json!({"model": "fake", "input": "Say it."})),
        ("/v1/messages", json!({"model": "fake", "max_tokens": 50, "messages": turn})),
    ];
    for (route, body) in routes {
        let response = server.post(route, &with(body.clone(), json!({"search_budget": 4}))).send().await.unwrap();
        let members = search_header(&response);
        let search = response.json::<Value>().await.unwrap()["search"].clone();
        let generated: u64 =
            ["answer", "judge", "refine"].map(|purpose| search["tokens"][purpose].as_u64().unwrap()).iter().sum();
        let expected = json!({"accepted": "?1", "value": "1.0", "nodes": search["nodes"].to_string(),
            "depth": search["depth"].to_string(), "tokens": generated.to_string(), "id": search["id"]});
        assert_eq!(members, [("accepted".to_owned(), expected)], "{route}");

        let plain = server.post(route, &body).send().await.unwrap();
        assert_eq!(search_header(&plain), [], "{route}");

        let streamed = with(body, json!({"search_budget": 4, "stream": true}));
        let streamed = server.post(route, &streamed).send().await.unwrap();
        let expected = json!({"strategy": "bfs", "budget": "4"});
        assert_eq!(search_header(&streamed), [("running".to_owned(), expected)], "{route}");
    }
    let several = server.chat(&with(says("Say it."), json!({"search_budget": 1, "n": 3}))).send().await.unwrap();
    let tokens: Vec<String> = search_header(&several).into_iter().map(|(token, _)| token).collect();
    assert_eq!(tokens, ["accepted"; 3]);
}

#[tokio::test]
async fn the_embedded_judge_does_not_approve_what_it_cannot_judge() {
    let server = Server::native(&["--search-strategy", "auto", "--checks", "auto", "--judging", "score"], None).await;
    let search = async |prompt: &str, fields: Value| {
        let body = with(with(says(prompt), json!({"search_budget": 4, "seed": 1, "max_tokens": 60})), fields);
        server.answer(&body).await["search"].clone()
    };
    for question in ["What is the capital of France?", "Explain photosynthesis.", "hello", "Write a haiku.", "写一首诗"]
    {
        let found = search(question, json!({})).await;
        assert_eq!(
            (&found["stop_reason"], &found["accepted"]),
            (&json!("outside_domain"), &json!(false)),
            "{question}"
        );
        assert!(found["value"].is_null() && found["calls"]["judge"] == 0 && found["calls"]["score"] == 0, "{found}");
    }
    // A rule that was found decides alone; a prompt of the model's own world is judged by the model.
    let ruled = search("Explain photosynthesis. Avoid commas.", json!({})).await;
    assert!(ruled["stop_reason"] != "outside_domain" && ruled["checks"][0]["holds"].is_boolean(), "{ruled}");
    assert_eq!(ruled["calls"]["score"], 0);
    let judged = search("Write about what the river does.", json!({})).await;
    assert!(judged["value"].is_number(), "{judged}");
    let paper = search(
        "Explain photosynthesis.",
        json!({"search": {"mode": "paper", "strategy": "bfs", "judging": "votes", "checks": "off"}}),
    )
    .await;
    assert_ne!(paper["stop_reason"], "outside_domain");
}

#[tokio::test]
async fn n_runs_independent_searches() {
    for server in Server::each(&[]).await {
        let body = with(writes(), json!({"search_budget": 1, "n": 2, "seed": 1, "temperature": 1.5}));
        let answer = server.answer(&body).await;
        let searches = answer["searches"].as_array().unwrap();
        assert_eq!(searches.len(), 2);
        assert_ne!(searches[0]["id"], searches[1]["id"]);
        let alone = server.answer(&with(body, json!({"n": 1}))).await;
        assert_eq!(alone["choices"][0]["message"], answer["choices"][0]["message"]);
        assert_eq!(alone["usage"]["prompt_tokens"], answer["usage"]["prompt_tokens"]);
        match server.under {
            Under::Script => assert_eq!(answer["choices"][1]["message"]["content"], "the refined text"),
            Under::Engine(_) => assert_ne!(answer["choices"][1]["message"], answer["choices"][0]["message"]),
        }
    }
}

#[tokio::test]
async fn a_deadline_before_the_draft_is_408_and_after_it_the_best_so_far() {
    let slow = |purpose: Purpose| {
        improving().paced(move |request, _| Duration::from_millis(if request.purpose == purpose { 60_000 } else { 0 }))
    };
    let body = with(says("hello"), json!({"search_budget": 1, "search": {"deadline_ms": 50}}));
    let server = Server::start(slow(Purpose::Answer), &[]).await;
    let error = json_of(server.chat(&body), StatusCode::REQUEST_TIMEOUT).await;
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    let server = Server::start(slow(Purpose::Judge), &[]).await;
    let answer = server.answer(&body).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "a first draft");
    assert_eq!(answer["search"]["stop_reason"], "unjudged");
}

#[tokio::test]
async fn rules_are_found_in_the_conversation_and_shown_with_their_words() {
    let engine = FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Answer => "plain words, and more",
            _ => "plain words and more",
        }
        .into())
    });
    let engine = engine.reading(|_, _| Ok(vec![-0.1, -3.0]));
    let server = Server::start(engine, &["--checks", "auto", "--judging", "score", "--search-strategy", "auto"]).await;
    let asked = says("Say something. Do not use any commas.");
    let answer = server.answer(&with(asked.clone(), json!({"search_budget": 2}))).await;
    assert_eq!(answer["choices"][0]["message"]["content"], "plain words and more");
    let search = &answer["search"];
    let check = &search["checks"][0];
    assert_eq!((&check["id"], &check["holds"]), (&json!("punctuation:no_comma"), &json!(true)));
    assert!(check["words"].as_str().unwrap().contains("not use any commas"), "{check}");
    assert_eq!((&search["judging"], &search["strategy"]), (&json!("score"), &json!("auto")));
    assert_eq!((&search["calls"]["score"], &search["calls"]["judge"]), (&json!(1), &json!(0)));
    assert_eq!(search["tree"][0]["failed"], json!(["use no commas"]));
    assert_eq!(search["tree"][0].get("probability"), None);
    assert!(search["tree"][1]["probability"].as_f64().unwrap() > 0.9);
    let metrics = server.metrics().await;
    for line in [
        "spar_checks_found_total{kind=\"punctuation:no_comma\"}",
        "spar_checks_held_total{kind=\"punctuation:no_comma\"}",
        "spar_judge_calls_total{judging=\"score\"}",
        "spar_scored_items_total",
    ] {
        assert!(metrics.contains(line), "{line}");
    }
    // The model alone judges where that is asked for, or where nothing is looked for.
    for search in [json!({"judge": "model"}), json!({"checks": "off"})] {
        let answer = server.answer(&with(asked.clone(), json!({"search_budget": 2, "search": search}))).await;
        assert_eq!(answer["choices"][0]["message"]["content"], "plain words, and more");
        assert_eq!(answer["search"].get("checks"), None);
    }
}

#[tokio::test]
async fn rules_may_judge() {
    let engine = FakeEngine::new(|request, _| Ok(format!("plain words, {:?}", request.purpose)));
    let server = Server::start(engine, &[]).await;
    let body = json!({"search_budget": 1, "search": {"judge": "rules", "checks": [{"id": "punctuation:no_comma"}]}});
    let answer = server.answer(&with(says("hello"), body)).await;
    assert_eq!(answer["search"]["root_value"], 0.0);
    assert_eq!(answer["search"]["calls"]["judge"], 0);
}

#[tokio::test]
async fn accepted_searches_are_kept_as_training_data_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(improving(), &["--traffic-dir", &dir.path().display().to_string()]).await;
    let asked = "hello, I am ann@mail.example";
    server.answer(&with(says(asked), json!({"search_budget": 4}))).await;
    // Not a search; and one that is not accepted.
    server.answer(&says("plain")).await;
    let rules = json!({"search_budget": 1, "search": {"checks": [{"id": "keywords:existence", "kwargs": {"keywords": ["zebra"]}}]}});
    server.answer(&with(says("rejected"), rules)).await;
    let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let text = std::fs::read_to_string(&files[0]).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [line] = lines.as_slice() else { panic!("{text}") };
    assert_eq!(line["prompt"], "hello, I am <email>");
    let best = line["best"].as_u64().unwrap() as usize;
    let node = |index: usize, field: &str| line["nodes"][index][field].clone();
    assert_eq!((node(0, "response"), node(best, "response")), (json!("a first draft"), json!("the refined text")));
    assert_eq!((node(best, "reflection"), node(best, "accepted")), (json!("I change it."), json!(true)));
    assert_eq!((node(best, "parent"), node(0, "parent")), (json!(0), json!(null)));
}

/// Gives every word the log-probability of minus its length, and says that 5 prompt tokens of 7 were there already.
struct Telling(FakeEngine);

#[async_trait]
impl Engine for Telling {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let wanted = request.logprobs.is_some();
        let tell = move |chunk: Result<Chunk, EngineError>| {
            let mut chunk = chunk?;
            if wanted && !chunk.text.is_empty() {
                let bytes = chunk.text.clone().into_bytes();
                let token = TokenProb { id: 0, logprob: -(bytes.len() as f32), bytes };
                chunk.logprobs = vec![TokenLogprobs { token, top: Vec::new() }];
            }
            Ok(chunk)
        };
        let replies = self.0.start(request).await?.into_iter();
        Ok(replies
            .map(|reply| Reply { prompt_tokens: 7, cached_tokens: 5, chunks: Box::pin(reply.chunks.map(tell)) })
            .collect())
    }

    fn info(&self) -> &ModelInfo {
        self.0.info()
    }
}

#[tokio::test]
async fn a_refined_answer_has_its_own_logprobs_and_the_draft_its_cached_tokens() {
    let server = Server::start(Telling(improving()), &[]).await;
    let body = with(says("hello"), json!({"search_budget": 1, "logprobs": true, "top_logprobs": 0}));
    let answer = server.answer(&body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["content"], "the refined text");
    let tokens: Vec<(String, f64)> = choice["logprobs"]["content"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (entry["token"].as_str().unwrap().to_owned(), entry["logprob"].as_f64().unwrap()))
        .collect();
    // The markers stand at the first and the last word: a token that holds part of the answer belongs to it.
    assert_eq!(tokens.len(), 3, "{tokens:?}");
    assert!(tokens[0].0.ends_with("the ") && tokens[2].0.starts_with("text"), "{tokens:?}");
    assert_eq!(tokens[1], ("refined ".into(), -8.0));
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 5);
    let events = server.stream(&with(body, json!({"stream": true}))).await;
    let streamed: usize =
        events.chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).map(Vec::len).sum();
    assert_eq!(streamed, 3);
}

/// Says what depends on the seed alone.
fn seeded() -> FakeEngine {
    let text = spar::prompts::Templates::general().text;
    FakeEngine::new(move |request, sibling| {
        let draw = spar::engine::derive_seed(request.sampling.seed, sibling as u64) % 1_000;
        Ok(match request.purpose {
            Purpose::Answer => format!("draft {draw}"),
            Purpose::Judge => format!("I say {draw}.\n{} {}", text.verdict, if draw < 250 { "Yes" } else { "No" }),
            Purpose::Refine => format!("Change {draw}. {}text {draw}{}", text.start, text.end),
        })
    })
}

#[tokio::test]
async fn one_seed_fixes_a_whole_search() {
    let mut cases = vec![(Server::start(seeded(), &[]).await, 6)];
    cases.extend(Server::of_each_engine(&[]).await.into_iter().map(|server| (server, 1)));
    let strategies = [(1, "bfs"), (1, "dfs"), (2, "best_of_n"), (2, "refine_chain")];
    for ((server, budget), (n, strategy)) in cases.iter().flat_map(|case| strategies.map(|strategy| (case, strategy))) {
        let body = json!({"search_budget": budget, "n": n, "temperature": 1.5, "search": {"strategy": strategy, "trace": "full"}});
        let ask = async |seed: u64| {
            let mut answer = server.answer(&with(writes(), with(body.clone(), json!({"seed": seed})))).await;
            for volatile in ["id", "created"] {
                answer.as_object_mut().unwrap().remove(volatile);
            }
            answer["usage"]["prompt_tokens_details"] = Value::Null;
            let mut reports = answer["searches"].as_array().cloned().unwrap_or_default();
            reports.push(answer["search"].clone());
            for report in &mut reports {
                report.as_object_mut().unwrap().retain(|name, _| name != "id" && name != "elapsed_ms");
            }
            answer["search"] = Value::Null;
            answer["searches"] = json!(reports);
            answer
        };
        let first = ask(5).await;
        assert_eq!(ask(5).await, first, "{strategy}");
        assert_ne!(ask(6).await["searches"], first["searches"], "{strategy}");
        if n == 2 {
            assert_ne!(first["searches"][0]["tree"], first["searches"][1]["tree"], "the searches are independent");
        }
    }
}

#[tokio::test]
async fn json_holds_inside_a_search_and_plainly() {
    let text = spar::prompts::Templates::general().text;
    let engine = FakeEngine::new(move |request, _| {
        Ok(match request.purpose {
            // The canary.
            Purpose::Answer if request.constraint.is_none() => "anything".into(),
            Purpose::Answer => "{\"a\": 1}".into(),
            Purpose::Judge if asked(request).contains("\"a\": 2") => format!("Good.\n{} Yes", text.verdict),
            Purpose::Judge => format!("Bad.\n{} No", text.verdict),
            Purpose::Refine => {
                let grammar = format!("{:?}", request.constraint);
                assert!(grammar.contains("integer"), "a refinement matches the schema: {grammar}");
                format!("Two.\n{}\n{{\"a\": 2}}\n{}", text.start, text.end)
            }
        })
    });
    let server = Server::start(engine.constraining(), &[]).await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "strict": true, "schema": schema}});
    let body = with(says("hello"), json!({"response_format": format}));
    let plain = server.answer(&body).await;
    assert_eq!(plain["choices"][0]["message"]["content"], "{\"a\": 1}");
    let searched = server.answer(&with(body.clone(), json!({"search_budget": 2}))).await;
    assert_eq!(searched["choices"][0]["message"]["content"], "{\"a\": 2}");
    // A schema alone is a rule: the draft is JSON, so rules accept it.
    let rules = server.answer(&with(body, json!({"search_budget": 2, "search": {"judge": "rules"}}))).await;
    assert_eq!((&rules["search"]["accepted"], &rules["search"]["depth"]), (&json!(true), &json!(0)));
}

#[tokio::test]
async fn every_engine_holds_json_inside_a_search_and_plainly() {
    // A schema without room for white space, of which a small model may find no end.
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": ["river", "lantern"]}}});
    for server in Server::of_each_engine(&[]).await {
        for fields in
            [json!({}), json!({"search_budget": 1}), json!({"search_budget": 1, "search": {"judge": "rules"}})]
        {
            let body = with(writes(), json!({"response_format": format, "seed": 1}));
            let answer = server.answer(&with(body, fields.clone())).await;
            let text = &answer["choices"][0]["message"]["content"];
            assert!(text == "\"river\"" || text == "\"lantern\"", "{fields}: {text}");
        }
    }
}

#[tokio::test]
async fn a_search_shows_signs_of_life_at_least_every_second() {
    let slow =
        |request: &Request, _: usize| Duration::from_millis(if request.purpose == Purpose::Answer { 700 } else { 0 });
    let engine = improving().paced(slow);
    let server = Server::start(engine, &[]).await;
    let body = with(says("hello"), json!({"search_budget": 1, "stream": true, "search": {"votes": 1}}));
    let events = server.stream(&body).await;
    // Three words and the end: 2.8 seconds.
    assert!(events.comments >= 3, "{events:?}");
}
