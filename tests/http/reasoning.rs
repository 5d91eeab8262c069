//! Models that think before they answer.

use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures::stream;
use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::chat::{Chat, Message, Thinking};
use spar::engine::fake::FakeEngine;
use spar::engine::reasoning::{Form, split_chunks};
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};
use spar::engine::{
    Chunk, Engine, EngineError, EngineExt, FinishReason, Input, ModelInfo, Purpose, Reply, Request, TokenLogprobs,
    TokenProb,
};
use spar::prompts::Templates;
use spar::testing::{TinyModel, write_model};

use super::harness::{Server, asked, json_of, recording, says, with};

const THOUGHT: &str = "<think>\nTwo < three,\nso: é.\n</think>\n\nYes </think> é.";
const REASONING: &str = "Two < three,\nso: é.";
const ANSWER: &str = "Yes </think> é.";

/// Says one text per sibling, a character a token.
struct Spelling(ModelInfo, Option<Form>, &'static [&'static str]);

fn spelling(form: Option<Form>, texts: &'static [&'static str]) -> Spelling {
    Spelling(ModelInfo::new("spelling", 999, 0), form, texts)
}

#[async_trait]
impl Engine for Spelling {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let reply = |sibling: usize| {
            let most = request.max_tokens.unwrap_or(usize::MAX);
            let letters: Vec<String> = self.2[sibling % self.2.len()].chars().map(String::from).collect();
            let finish = if letters.len() > most { FinishReason::Length } else { FinishReason::Stop };
            let entry = |letter: &String| TokenLogprobs {
                token: TokenProb { id: 0, bytes: letter.clone().into_bytes(), logprob: -0.5 },
                top: Vec::new(),
            };
            let chunk = |letter: String| Chunk {
                logprobs: request.logprobs.iter().map(|_| entry(&letter)).collect(),
                text: letter,
                tokens: 1,
                ..Chunk::default()
            };
            let end = Chunk { finish: Some(finish), ..Chunk::default() };
            let chunks: Vec<_> = letters.into_iter().take(most).map(chunk).chain([end]).map(Ok).collect();
            let splitter = self.1.map(|form| form.after(""));
            Reply { prompt_tokens: 1, cached_tokens: 0, chunks: split_chunks(Box::pin(stream::iter(chunks)), splitter) }
        };
        Ok((0..request.samples).map(reply).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }
}

/// What the deltas of a choice say: its reasoning, its text, and whether all of the reasoning came first.
fn streamed(chunks: &[Value], index: usize) -> (String, String, bool) {
    let (mut reasoning, mut text, mut in_order) = (String::new(), String::new(), true);
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    for delta in choices.filter(|choice| choice["index"] == index).map(|choice| &choice["delta"]) {
        let thought = delta["reasoning_content"].as_str().unwrap_or_default();
        in_order &= thought.is_empty() || text.is_empty();
        reasoning.push_str(thought);
        text.push_str(delta["content"].as_str().unwrap_or_default());
    }
    (reasoning, text, in_order)
}

#[tokio::test]
async fn reasoning_is_apart_from_the_answer_whole_and_letter_by_letter() {
    let server = Server::start(spelling(Some(Form::Think), &[THOUGHT, "No thought."]), &[]).await;
    let answer = server.answer(&with(says("hello"), json!({"n": 2}))).await;
    let message = |index: usize| answer["choices"][index]["message"].clone();
    assert_eq!(
        message(0),
        json!({"role": "assistant", "content": ANSWER, "reasoning_content": REASONING, "refusal": null})
    );
    assert_eq!(message(1), json!({"role": "assistant", "content": "No thought.", "refusal": null}));
    let (all, answered) = (THOUGHT.chars().count() + 11, ANSWER.chars().count() + 11);
    assert_eq!(answer["usage"]["completion_tokens"], all);
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], all - answered);
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = json!({"n": 2, "stream": true, "stream_options": {"include_usage": true}});
    let events = server.stream(&with(says("hello"), usage)).await;
    assert_eq!(streamed(&events.chunks, 0), (REASONING.into(), ANSWER.into(), true));
    assert_eq!(streamed(&events.chunks, 1), (String::new(), "No thought.".into(), true));
    assert_eq!(events.chunks.last().unwrap()["usage"], answer["usage"]);
}

#[tokio::test]
async fn a_model_without_reasoning_may_say_the_marks() {
    let server = Server::start(spelling(None, &[THOUGHT]), &[]).await;
    let answer = server.answer(&says("hello")).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!((message["content"].as_str(), message.get("reasoning_content")), (Some(THOUGHT), None));
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 0);
}

#[tokio::test]
async fn logprobs_are_the_answers() {
    let server = Server::start(spelling(Some(Form::Think), &[THOUGHT]), &[]).await;
    let body = with(says("hello"), json!({"logprobs": true}));
    let tokens = |choice: &Value| -> String {
        let entries = choice["logprobs"]["content"].as_array().into_iter().flatten();
        entries.map(|entry| entry["token"].as_str().unwrap()).collect()
    };
    assert_eq!(tokens(&server.answer(&body).await["choices"][0]), ANSWER);
    let events = server.stream(&with(body, json!({"stream": true}))).await;
    let choices = || events.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
    assert_eq!(choices().map(tokens).collect::<String>(), ANSWER);
    for choice in choices().filter(|choice| choice["logprobs"].is_object()) {
        assert_eq!(choice["delta"]["content"], tokens(choice), "they come with their text");
    }
}

#[tokio::test]
async fn a_reply_that_is_cut_in_its_reasoning_has_no_answer() {
    let server = Server::start(spelling(Some(Form::Think), &[THOUGHT]), &[]).await;
    let answer = server.answer(&with(says("hello"), json!({"max_tokens": 12}))).await;
    let choice = &answer["choices"][0];
    let message = &choice["message"];
    assert_eq!((message["content"].as_str(), message["reasoning_content"].as_str()), (Some(""), Some("Two")));
    assert_eq!(choice["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], 12, "all of the 12 that were allowed");
    let events = server.stream(&with(says("hello"), json!({"max_tokens": 12, "stream": true}))).await;
    assert_eq!(streamed(&events.chunks, 0), ("Two".into(), String::new(), true));
}

#[tokio::test]
async fn what_a_request_asks_of_the_template_reaches_the_engine() {
    let (engine, seen) = recording();
    let server = Server::start(engine, &[]).await;
    let body = json!({
        "messages": [
            {"role": "user", "content": "one", "reasoning_content": "a user's is dropped"},
            {"role": "assistant", "content": "1", "reasoning_content": "counting"},
            {"role": "user", "content": "two"},
        ],
        "chat_template_kwargs": {"enable_thinking": true, "style": "short"}, "reasoning_effort": "low",
    });
    server.answer(&with(says(""), body)).await;
    let chat = chats(&seen).into_iter().find(|(_, chat)| chat.len() == 3).unwrap().1;
    let thought = Message { reasoning: Some("counting".into()), ..Message::assistant("1") };
    assert_eq!(chat.messages, [Message::user("one"), thought, Message::user("two")]);
    assert_eq!(Value::Object(chat.options.kwargs.clone()), json!({"enable_thinking": true, "style": "short"}));
    let variables = Value::Object(chat.options.variables(&spar::chat::TemplateKwargs::new()));
    assert_eq!(variables["reasoning_effort"], "low");
    assert_eq!(chat.options.thinking, Thinking::AsTemplate);
}

/// The chats of all requests, with what each was for.
fn chats(seen: &Mutex<Vec<Request>>) -> Vec<(Purpose, Chat)> {
    let chat = |request: &Request| match &request.input {
        Input::Chat(chat) => Some((request.purpose, chat.clone())),
        Input::Text(_) | Input::Tokens(_) => None,
    };
    seen.lock().unwrap().iter().filter_map(chat).collect()
}

/// Thinks before every reply. The draft is judged wrong, its refinement right. A judge that is shown a thought says so.
fn thinking() -> (FakeEngine, Arc<Mutex<Vec<Request>>>) {
    let text = Templates::general().text;
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let log = Arc::clone(&seen);
    let engine = FakeEngine::new(move |request, _| {
        log.lock().unwrap().push(request.clone());
        let reply = match request.purpose {
            _ if asked(request).contains("a thought") => "I see a thought.".into(),
            Purpose::Answer => "a first draft".into(),
            Purpose::Judge if asked(request).contains("the refined text") => format!("Good.\n{} Yes", text.verdict),
            Purpose::Judge => format!("Bad.\n{} No", text.verdict),
            Purpose::Refine => format!("I change it. {}the refined text{}", text.start, text.end),
        };
        Ok(format!("<think> a thought </think> {reply}"))
    });
    (engine.thinking(Form::Think.after("")), seen)
}

#[tokio::test]
async fn a_search_never_judges_reasoning_and_thinks_only_if_asked() {
    for (fields, drafts) in [
        (json!({}), Thinking::Off),
        (json!({"chat_template_kwargs": {"style": "short"}}), Thinking::Off),
        (json!({"reasoning_effort": "none"}), Thinking::Off),
        (json!({"reasoning_effort": "high"}), Thinking::AsTemplate),
        (json!({"chat_template_kwargs": {"enable_thinking": true}}), Thinking::AsTemplate),
    ] {
        let (engine, seen) = thinking();
        let server = Server::start(engine, &[]).await;
        server.ready().await;
        seen.lock().unwrap().clear();
        let body = with(with(says("hello"), fields.clone()), json!({"search_budget": 2, "search": {"trace": "full"}}));
        let answer = server.answer(&body).await;
        let message = &answer["choices"][0]["message"];
        assert_eq!(message["content"], "the refined text", "{fields}");
        assert_eq!(message["reasoning_content"], "a thought", "{fields}");
        assert_eq!(answer["search"]["accepted"], true, "{fields}: {}", answer["search"]);
        assert!(!answer["search"]["tree"].to_string().contains("thought"), "{}", answer["search"]);
        let all = chats(&seen);
        assert!([Purpose::Answer, Purpose::Judge, Purpose::Refine].iter().all(|p| all.iter().any(|(q, _)| p == q)));
        for (purpose, chat) in all {
            assert!(!format!("{:?}", chat.messages).contains("a thought"), "{fields}: {chat:?}");
            let expected = if purpose == Purpose::Answer { drafts } else { Thinking::Off };
            assert_eq!(chat.options.thinking, expected, "{fields}: {purpose:?}");
        }
        let tokens = |value: &Value| value.as_u64().unwrap();
        let (usage, spent) = (&answer["usage"], &answer["search"]["tokens"]);
        let total: u64 = ["answer", "judge", "refine"].iter().map(|purpose| tokens(&spent[purpose])).sum();
        assert_eq!(tokens(&usage["completion_tokens"]), total, "thoughts are paid for");
        assert_eq!(tokens(&usage["completion_tokens_details"]["reasoning_tokens"]), total - 3, "the answer is 3 words");
    }
}

#[tokio::test]
async fn a_draft_that_is_the_answer_counts_without_its_thought() {
    let verdict = Templates::general().text.verdict;
    let engine = FakeEngine::new(move |request, _| {
        Ok(match request.purpose {
            Purpose::Judge => format!("Good.\n{verdict} Yes"),
            _ => "<think> a thought </think> a draft".into(),
        })
    });
    let server = Server::start(engine.thinking(Form::Think.after("")), &[]).await;
    let answer = server.answer(&with(says("hello"), json!({"search_budget": 1, "stream": false}))).await;
    assert_eq!(answer["choices"][0]["message"]["reasoning_content"], "a thought");
    let total = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"], total - 2);
    let events = server.stream(&with(says("hello"), json!({"search_budget": 1, "stream": true}))).await;
    assert_eq!(streamed(&events.chunks, 0), ("a thought".into(), "a draft".into(), true));
}

/// A model whose template begins the reasoning unless its switch is off.
fn write_thinking_model(dir: &Path) {
    write_model(dir, &TinyModel::default());
    let template = "{{ bos_token }}{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|>\
         {% if enable_thinking is not defined or enable_thinking %}{{ '<think>\\n' }}{% endif %}";
    std::fs::write(dir.join("chat_template.jinja"), template).unwrap();
}

#[tokio::test]
async fn a_models_own_template_says_where_its_reasoning_begins() {
    let dir = tempfile::tempdir().unwrap();
    write_thinking_model(dir.path());
    let path = dir.path().to_str().unwrap();
    let body =
        json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 8, "temperature": 0, "ignore_eos": true});
    let off = json!({"chat_template_kwargs": {"enable_thinking": false}});
    let quiet = |answer: &Value| answer["choices"][0]["message"].get("reasoning_content").is_none();
    let content = |answer: &Value| answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();

    let server = Server::started(&["--model", path], None).await;
    server.ready().await;
    let thought = server.answer(&body).await;
    assert_eq!(content(&thought), "", "eight tokens of a reply that begins in its reasoning");
    assert!(!quiet(&thought));
    assert_eq!(thought["usage"]["completion_tokens_details"]["reasoning_tokens"], 8);
    let answered = server.answer(&with(body.clone(), off.clone())).await;
    assert!(quiet(&answered) && !content(&answered).is_empty(), "{answered}");
    let none = server.answer(&with(body.clone(), json!({"reasoning_effort": "none"}))).await;
    assert_eq!(none["choices"], answered["choices"]);
    let chosen = json!({"structured_outputs": {"choice": ["left", "right"]}});
    let chosen = server.answer(&with(body.clone(), chosen)).await;
    assert!(quiet(&chosen) && ["left", "right"].contains(&content(&chosen).as_str()), "{chosen}");
    let count = async |fields: Value| {
        let body = with(json!({"messages": [{"role": "user", "content": "hi"}]}), fields);
        json_of(server.post("/tokenize", &body), StatusCode::OK).await["count"].as_u64().unwrap()
    };
    assert!(count(json!({})).await > count(off).await, "tokens are counted as the template has them");

    let kwargs = ["--model", path, "--chat-template-kwargs", "{\"enable_thinking\": false}"];
    let server = Server::started(&kwargs, None).await;
    assert_eq!(server.answer(&body).await["choices"], answered["choices"]);
    let asked = json!({"chat_template_kwargs": {"enable_thinking": true}});
    assert_eq!(server.answer(&with(body.clone(), asked)).await["choices"], thought["choices"]);

    let server = Server::started(&["--model", path, "--reasoning", "off"], None).await;
    let plain = server.answer(&body).await;
    assert!(quiet(&plain));
    assert_eq!(content(&plain).trim(), thought["choices"][0]["message"]["reasoning_content"], "one text, two places");
}

#[tokio::test]
async fn an_upstreams_reasoning_is_read_and_turned_off_once_it_is_known() {
    let (engine, seen) = thinking();
    let back = Server::start(engine, &[]).await;
    back.ready().await;
    seen.lock().unwrap().clear();
    let config = UpstreamConfig { url: back.url.clone(), ..UpstreamConfig::default() };
    let upstream = UpstreamEngine::connect(config).await.unwrap();
    let chat = |purpose| Request::chat(purpose, vec![Message::user("hello")]);
    let kwargs = || chats(&seen).last().unwrap().1.options.clone();

    upstream.generate(chat(Purpose::Judge)).await.unwrap();
    assert!(!kwargs().kwargs.contains_key("enable_thinking"), "it has learned of the thinking only now");
    upstream.generate(chat(Purpose::Judge)).await.unwrap();
    assert_eq!(kwargs().kwargs["enable_thinking"], false);

    let front = Server::start(upstream, &[]).await;
    let body = with(says("hello"), json!({"chat_template_kwargs": {"style": "short"}, "reasoning_effort": "high"}));
    let answer = front.answer(&body).await;
    let message = &answer["choices"][0]["message"];
    assert_eq!((&message["content"], &message["reasoning_content"]), (&json!("a first draft"), &json!("a thought")));
    // The canary may be in between.
    let (_, Chat { options, .. }) = chats(&seen).into_iter().find(|(_, chat)| chat.options.effort.is_some()).unwrap();
    assert_eq!(Value::Object(options.kwargs), json!({"style": "short"}));
    assert_eq!(options.effort.map(|effort| effort.name()), Some("high"));
    assert_eq!(answer["usage"], back.answer(&body).await["usage"], "the wire tells how many tokens were reasoning");
}

#[tokio::test]
async fn marks_in_an_upstreams_text_are_split_where_the_settings_say_so() {
    let back = Server::start(spelling(None, &[THOUGHT]), &[]).await;
    let split = (REASONING, ANSWER);
    for (reasoning, surmises, expected) in
        [(None, false, ("", THOUGHT)), (Some(Form::Think), false, split), (None, true, split)]
    {
        let config = UpstreamConfig { url: back.url.clone(), reasoning, surmises, ..UpstreamConfig::default() };
        let upstream = UpstreamEngine::connect(config).await.unwrap();
        let request = Request::chat(Purpose::Answer, vec![Message::user("hello")]);
        let done = upstream.generate(request.clone()).await.unwrap();
        assert_eq!((done.reasoning.text.as_str(), done.text.as_str()), expected);
        let text = upstream.generate(Request { input: Input::Text("hello".into()), ..request }).await.unwrap();
        assert_eq!(text.text, THOUGHT, "a continued text has no reasoning");
    }
}
