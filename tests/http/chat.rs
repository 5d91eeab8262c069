//! Plain chat completions.

use std::pin::Pin;

use async_trait::async_trait;
use futures::{Stream, stream};
use serde_json::{Value, json};
use spar::engine::{Chunk, Engine, EngineError, FinishReason, ModelInfo, Reply, Request, TokenLogprobs, TokenProb};

use super::harness::{Server, Under, improving, recording, says, with, writes};

#[tokio::test]
async fn a_whole_answer_has_openais_shape() {
    for server in Server::each(&[]).await {
        let answer = server.answer(&writes()).await;
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
        assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
        assert_eq!(answer["model"], "fake");
        let (text, sent, said, cached, finish) = match server.under {
            Under::Script => (json!("a first draft"), 1, 3, 0, json!("stop")),
            Under::Engine(_) => {
                let (choice, usage) = (&answer["choices"][0], &answer["usage"]);
                let count = |field: &Value| field.as_u64().unwrap();
                let [sent, said] = ["prompt_tokens", "completion_tokens"].map(|name| count(&usage[name]));
                let cached = count(&usage["prompt_tokens_details"]["cached_tokens"]);
                assert!(sent > cached && (1..=24).contains(&said), "{usage}");
                assert!(!choice["message"]["content"].as_str().unwrap().is_empty());
                let finish = choice["finish_reason"].clone();
                assert!(finish == "length" || (finish == "stop" && said < 24), "{choice}");
                (choice["message"]["content"].clone(), sent, said, cached, finish)
            }
        };
        assert_eq!(
            answer["choices"],
            json!([{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null},
                    "logprobs": null, "finish_reason": finish, "stop_reason": null}])
        );
        assert_eq!(
            answer["usage"],
            json!({"prompt_tokens": sent, "completion_tokens": said, "total_tokens": sent + said,
                   "completion_tokens_details": {"reasoning_tokens": 0}, "prompt_tokens_details": {"cached_tokens": cached}})
        );
        assert!(answer.get("search").is_none());
    }
}

#[tokio::test]
async fn a_stream_is_role_deltas_finish_and_done() {
    for server in Server::each(&[]).await {
        let body = with(writes(), json!({"temperature": 0}));
        let events = server.stream(&with(body.clone(), json!({"stream": true}))).await;
        assert!(events.done);
        let first = &events.chunks[0];
        assert_eq!(first["object"], "chat.completion.chunk");
        assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
        let whole = &server.answer(&body).await["choices"][0];
        assert_eq!(json!(events.text(0)), whole["message"]["content"], "a stream says the same");
        assert_eq!(events.chunks.last().unwrap()["choices"][0]["finish_reason"], whole["finish_reason"]);
        assert!(events.chunks.iter().all(|chunk| chunk["id"] == first["id"] && chunk.get("usage").is_none()));
    }
}

#[tokio::test]
async fn usage_ends_a_stream_where_asked_for() {
    for server in Server::each(&[]).await {
        let body = with(writes(), json!({"temperature": 0}));
        let streamed = with(body.clone(), json!({"stream": true, "stream_options": {"include_usage": true}}));
        let last = server.stream(&streamed).await.chunks.pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last["usage"]["total_tokens"], server.answer(&body).await["usage"]["total_tokens"]);
    }
}

#[tokio::test]
async fn n_gives_as_many_choices_whole_and_streamed() {
    let server = Server::start(improving(), &[]).await;
    let answer = server.answer(&with(says("hello"), json!({"n": 3}))).await;
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].clone()).collect();
    assert_eq!(texts, ["a first draft", "draft number 1", "draft number 2"]);
    assert_eq!(answer["usage"]["prompt_tokens"], 1, "siblings share their prompt");
    assert_eq!(answer["usage"]["completion_tokens"], 9);
    let events = server.stream(&with(says("hello"), json!({"n": 3, "stream": true}))).await;
    assert_eq!([events.text(0), events.text(1), events.text(2)], ["a first draft", "draft number 1", "draft number 2"]);
    let finishes = events.chunks.iter().filter(|c| c["choices"][0]["finish_reason"] == "stop").count();
    assert_eq!(finishes, 3);
}

#[tokio::test]
async fn a_seed_fixes_every_choice_whole_and_streamed() {
    for server in Server::of_each_engine(&[]).await {
        let body = with(writes(), json!({"n": 3, "seed": 3, "temperature": 1.5}));
        let texts = |answer: &Value| -> Vec<String> {
            let text = |choice: &Value| choice["message"]["content"].as_str().unwrap().to_owned();
            answer["choices"].as_array().unwrap().iter().map(text).collect()
        };
        let first = server.answer(&body).await;
        let [a, b, c] = texts(&first).try_into().unwrap();
        assert!(a != b && b != c && a != c, "siblings draw for themselves");
        assert_eq!(texts(&server.answer(&body).await), [&*a, &*b, &*c]);
        let events = server.stream(&with(body.clone(), json!({"stream": true}))).await;
        assert_eq!([0, 1, 2].map(|index| events.text(index)), [&*a, &*b, &*c]);
        let one = server.answer(&with(body.clone(), json!({"n": 1}))).await;
        assert_eq!(texts(&one), [&*a]);
        assert_eq!(first["usage"]["prompt_tokens"], one["usage"]["prompt_tokens"], "siblings share their prompt");
        let plain = with(body.clone(), json!({"search_budget": 0, "search": {"branch": 2}}));
        assert_eq!(texts(&server.answer(&plain).await), [&*a, &*b, &*c], "a budget of zero changes nothing");
        let other = with(body, json!({"n": 1, "seed": 4}));
        assert_ne!(texts(&server.answer(&other).await), [a]);
    }
}

#[tokio::test]
async fn fields_reach_the_engine() {
    let (engine, seen) = recording();
    let server = Server::start(engine.constraining(), &[]).await;
    let body = json!({
        "model": "fake", "user": "somebody", "unknown_field": {"is": "ignored"},
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        ],
        "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "n": 2, "seed": 11,
        "stop": ["END", "\n"], "logit_bias": {"5": -100}, "frequency_penalty": 0.25, "presence_penalty": -0.5,
        "repetition_penalty": 1.5, "ignore_eos": true, "logprobs": true, "top_logprobs": 3,
        "response_format": {"type": "json_object"}, "search_budget": 0,
    });
    // The canary may be in between.
    server.answer(&body).await;
    let request = seen.lock().unwrap().iter().rfind(|request| request.samples == 2).cloned().unwrap();
    assert_eq!(format!("{:?}", request.input), {
        let turns =
            vec![spar::chat::Message::new(spar::chat::Role::System, "be brief"), spar::chat::Message::user("one\ntwo")];
        format!("{:?}", spar::engine::Input::chat(turns))
    });
    let sampling = request.sampling;
    assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p), (0.5, 0.9, Some(40), 0.05));
    assert_eq!((sampling.frequency_penalty, sampling.presence_penalty, sampling.repetition_penalty), (0.25, -0.5, 1.5));
    assert_eq!((sampling.seed, sampling.ignore_eos, sampling.logit_bias), (11, true, vec![(5, -100.0)]));
    assert_eq!((request.max_tokens, request.logprobs), (Some(7), Some(3)));
    assert_eq!(request.stop, ["END", "\n"]);
    let object = spar::engine::Constraint::JsonSchema(json!({"type": "object"}));
    assert_eq!(request.constraint, Some(object));
}

#[tokio::test]
async fn a_budget_of_zero_changes_nothing() {
    let (engine, seen) = recording();
    let server = Server::start(engine, &[]).await;
    let body = with(says("hello"), json!({"seed": 3}));
    let strip = |mut answer: Value| {
        let fields = answer.as_object_mut().unwrap();
        fields.remove("id");
        fields.remove("created");
        serde_json::to_string(&answer).unwrap()
    };
    let plain = strip(server.answer(&body).await);
    let asked = with(body.clone(), json!({"search_budget": 0, "search": {"branch": 2}}));
    assert_eq!(strip(server.answer(&asked).await), plain);
    let of_test: Vec<_> = seen.lock().unwrap().iter().filter(|r| r.sampling.seed == 3).cloned().collect();
    assert_eq!(of_test.len(), 2);
    assert_eq!(of_test[0], of_test[1]);
}

#[tokio::test]
async fn without_a_seed_draws_differ() {
    let (engine, seen) = recording();
    let server = Server::start(engine, &[]).await;
    server.answer(&says("hello")).await;
    server.answer(&says("hello")).await;
    let seeds: Vec<u64> = seen.lock().unwrap().iter().map(|r| r.sampling.seed).filter(|seed| *seed != 0).collect();
    assert_ne!(seeds[0], seeds[1]);
}

/// Says `é` as two tokens, with logprobs.
struct Bytewise(ModelInfo);

#[async_trait]
impl Engine for Bytewise {
    async fn start(&self, _request: Request) -> Result<Vec<Reply>, EngineError> {
        let token = |byte: u8, logprob: f32| TokenProb { id: byte.into(), bytes: vec![byte], logprob };
        let logprobs = vec![
            TokenLogprobs { token: token(0xC3, -0.5), top: vec![token(0xC3, -0.5), token(b'a', f32::NEG_INFINITY)] },
            TokenLogprobs { token: token(0xA9, -0.25), top: vec![] },
        ];
        let finish = Some(FinishReason::Length);
        let chunk = Chunk { text: "é".into(), tokens: 2, logprobs, finish, ..Chunk::default() };
        let chunks: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(stream::iter([Ok(chunk)]));
        Ok(vec![Reply { prompt_tokens: 5, cached_tokens: 4, chunks }])
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }
}

fn bytewise() -> Bytewise {
    Bytewise(ModelInfo::new("bytewise", 8, 256))
}

#[tokio::test]
async fn logprobs_have_openais_shape() {
    let server = Server::start(bytewise(), &[]).await;
    let body = with(says("hello"), json!({"logprobs": true, "top_logprobs": 2}));
    let answer = server.answer(&body).await;
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(
        choice["logprobs"],
        json!({"refusal": null, "content": [
            {"token": "\u{fffd}", "logprob": -0.5, "bytes": [0xC3], "top_logprobs": [
                {"token": "\u{fffd}", "logprob": -0.5, "bytes": [0xC3]},
                {"token": "a", "logprob": -9999.0, "bytes": [0x61]},
            ]},
            {"token": "\u{fffd}", "logprob": -0.25, "bytes": [0xA9], "top_logprobs": []},
        ]})
    );
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 4);
    let events = server.stream(&with(body, json!({"stream": true}))).await;
    let entries: Vec<_> =
        events.chunks.iter().filter_map(|c| c["choices"][0]["logprobs"]["content"].as_array()).flatten().collect();
    assert_eq!(entries.len(), 2);
}

#[tokio::test]
async fn token_ids_of_the_bias_are_checked() {
    let server = Server::start(bytewise(), &[]).await;
    let body = with(says("hello"), json!({"logit_bias": {"256": 1}}));
    let error = super::harness::json_of(server.chat(&body), reqwest::StatusCode::BAD_REQUEST).await;
    assert_eq!(error["error"]["param"], "logit_bias");
    assert_eq!(error["error"]["message"], "`logit_bias` takes token ids between 0 and 255, got \"256\"");
}
