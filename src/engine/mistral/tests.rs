//! The whole engine on small random models: every promise of the seam, and every failure that a directory can cause.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::Instant;

use futures::StreamExt;
use futures::future::join_all;
use serde_json::json;

use super::*;
use crate::chat::Message;
use crate::engine::native::{NativeConfig, NativeEngine};
use crate::engine::{
    Completion, Constraint, EngineExt, Input, Label, Origin, Purpose, Question, Sampling, derive_seed,
};
use crate::testing::{TinyModel, write_json, write_model, write_weights};

fn directory(model: &TinyModel) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_model(directory.path(), model);
    directory
}

fn load_cpu(directory: &Path) -> Result<MistralEngine, ModelError> {
    MistralEngine::load(ModelDir::open(directory)?, MistralConfig { place: Place::Cpu, on_restart: None })
}

fn engine_of(model: &TinyModel) -> (tempfile::TempDir, MistralEngine) {
    let directory = directory(model);
    let engine = load_cpu(directory.path()).unwrap();
    (directory, engine)
}

fn tiny() -> (tempfile::TempDir, MistralEngine) {
    engine_of(&TinyModel::default())
}

/// A greedy reply of at most 24 tokens.
fn ask(prompt: &str) -> Request {
    let mut request = Request::chat(Purpose::Answer, vec![Message::user(prompt)]);
    request.sampling.temperature = 0.0;
    request.max_tokens = Some(24);
    request
}

fn sampled(prompt: &str, seed: u64) -> Request {
    let mut request = ask(prompt);
    request.sampling = Sampling { seed, ..Sampling::default() };
    request
}

fn prompts() -> Vec<String> {
    (0..16).map(|i| format!("{} the {i} world {}", "hello".repeat(i % 5), "and ".repeat(i % 3))).collect()
}

async fn equals_alone(engine: &MistralEngine, request: impl Fn(&str) -> Request) {
    let prompts = prompts();
    let mut alone = Vec::new();
    for prompt in &prompts {
        alone.push(engine.generate(request(prompt)).await.unwrap());
    }
    let together = join_all(prompts.iter().map(|prompt| engine.generate(request(prompt)))).await;
    for ((prompt, alone), together) in prompts.iter().zip(alone).zip(together) {
        assert_eq!(alone, together.unwrap(), "{prompt}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixteen_prompts_at_once_answer_as_each_alone() {
    let (_directory, engine) = tiny();
    equals_alone(&engine, ask).await;
    equals_alone(&engine, |prompt| sampled(prompt, 5)).await;
}

#[tokio::test]
async fn a_seed_fixes_the_text_of_every_sibling() {
    let (_directory, engine) = tiny();
    let mut first: Option<Vec<Completion>> = None;
    for _ in 0..10 {
        let replies = engine.start(Request { samples: 3, ..sampled("hello", 7) }).await.unwrap();
        let siblings: Vec<_> =
            join_all(replies.into_iter().map(Reply::complete)).await.into_iter().map(Result::unwrap).collect();
        assert_ne!(siblings[0].text, siblings[1].text);
        assert_eq!(*first.get_or_insert_with(|| siblings.clone()), siblings);
    }
    let other = engine.generate(sampled("hello", 8)).await.unwrap();
    assert_ne!(first.unwrap()[0].text, other.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropped_replies_stop_within_a_step_and_the_engine_goes_on() {
    let (_directory, engine) = engine_of(&TinyModel { context: 4096, ..TinyModel::default() });
    let engine = Arc::new(engine);
    let long = |prompt: &str| {
        let mut request = Request { max_tokens: None, ..sampled(prompt, 3) };
        request.sampling.ignore_eos = true;
        request
    };
    let expected = engine.generate(ask("the world")).await.unwrap();
    for case in 0..200 {
        let moment = derive_seed(11, case) as usize % 60;
        if case % 2 == 0 {
            let mut reply = engine.start(long("streamed")).await.unwrap().pop().unwrap();
            for _ in 0..moment {
                assert_eq!(reply.chunks.next().await.unwrap().unwrap().finish, None);
            }
            drop(reply);
        } else {
            let whole = Arc::clone(&engine);
            let request = long("whole");
            let task = tokio::spawn(async move { whole.generate(request).await });
            for _ in 0..moment * 20 {
                tokio::task::yield_now().await;
            }
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        let at_drop = engine.sampled_tokens();
        if case % 10 < 2 {
            // It runs only after the dropped reply has left the engine.
            let after = engine.generate(ask("the world")).await.unwrap();
            assert_eq!(after, expected);
            let late = engine.sampled_tokens() - at_drop - after.tokens as u64;
            assert!(late <= 1, "{late} tokens were sampled after the drop");
        }
    }
}

#[tokio::test]
async fn a_waiting_reply_that_is_dropped_never_runs() {
    let (_directory, engine) = tiny();
    let mut first = engine.start(sampled("first", 1)).await.unwrap();
    let waiting = engine.start(Request { samples: 4, ..sampled("waiting", 1) }).await.unwrap();
    drop(waiting);
    let first = first.pop().unwrap().complete().await.unwrap();
    let last = engine.generate(ask("last")).await.unwrap();
    assert_eq!(engine.sampled_tokens(), (first.tokens + last.tokens) as u64);
}

#[tokio::test]
async fn limits_hold_before_the_engine_sees_a_request() {
    let (_directory, engine) = tiny();
    let raw = |tokens: usize| {
        let mut request = Request { input: Input::Text("x".repeat(tokens - 1)), max_tokens: None, ..ask("") };
        request.sampling.ignore_eos = true;
        request
    };
    assert_eq!(engine.info().context, 512);
    assert_eq!(engine.generate(raw(512)).await.unwrap_err(), EngineError::PromptTooLong { tokens: 512, limit: 512 });
    for tokens in [511, 500, 2] {
        let reply = engine.generate(raw(tokens)).await.unwrap();
        assert_eq!((reply.prompt_tokens, reply.tokens, reply.finish), (tokens, 512 - tokens, FinishReason::Length));
    }
    let reply = engine.generate(Request { max_tokens: Some(3), ..raw(9) }).await.unwrap();
    assert_eq!((reply.tokens, reply.finish), (3, FinishReason::Length));
    let reply = engine.generate(Request { max_tokens: Some(0), ..raw(9) }).await.unwrap();
    assert_eq!((reply.tokens, reply.finish), (0, FinishReason::Length));
}

#[tokio::test]
async fn replies_end_before_a_stop_string_and_carry_logprobs() {
    let (_directory, engine) = tiny();
    let free = engine.generate(Request { logprobs: Some(3), ..ask("stop here") }).await.unwrap();
    assert_eq!(free.logprobs.len(), free.tokens);
    for step in &free.logprobs {
        assert_eq!(step.top.len(), 3);
        assert_eq!(step.token, step.top[0]);
        let mass: f32 = step.top.iter().map(|token| token.logprob.exp()).sum();
        assert!(mass > 0.0 && mass <= 1.0001, "{mass}");
    }
    let middle = free.text.char_indices().nth(free.text.chars().count() / 2).unwrap().0;
    let stop: String = free.text[middle..].chars().take(2).collect();
    let stopped = engine.generate(Request { stop: vec![stop.clone()], ..ask("stop here") }).await.unwrap();
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);
    assert_eq!(stopped.finish, FinishReason::StopString(0));
}

#[tokio::test]
async fn constrained_text_matches_and_ends_when_complete() {
    let (_directory, engine) = tiny();
    let with = |constraint, seed| Request { constraint: Some(constraint), ..sampled("number", seed) };
    let pattern = regex::Regex::new("^[a-c]{3}-[0-9]{4}$").unwrap();
    for seed in 0..5 {
        let reply = engine.generate(with(Constraint::Regex("[a-c]{3}-[0-9]{4}".into()), seed)).await.unwrap();
        assert!(pattern.is_match(&reply.text), "{}", reply.text);
        assert_eq!(reply.finish, FinishReason::Stop);
        let schema = json!({ "type": "object", "properties": { "ok": { "type": "boolean" } }, "required": ["ok"],
            "additionalProperties": false });
        let mut request = with(Constraint::JsonSchema(schema), seed);
        request.max_tokens = Some(200);
        let reply = engine.generate(request).await.unwrap();
        if reply.finish == FinishReason::Stop {
            let value: serde_json::Value = serde_json::from_str(&reply.text).unwrap();
            assert!(value["ok"].is_boolean());
        }
    }
    let error = engine.generate(with(Constraint::Regex("(".into()), 0)).await.unwrap_err();
    assert!(matches!(error, EngineError::Constraint(_)), "{error}");
}

#[tokio::test]
async fn tokens_and_logprobs_are_those_of_the_native_engine() {
    for model in [
        TinyModel::default(),
        TinyModel { tied: true, layers: 3, heads: 6, kv_heads: 3, hidden: 48, seed: 5, ..TinyModel::default() },
    ] {
        let (directory, engine) = engine_of(&model);
        let native = NativeEngine::load(ModelDir::open(directory.path()).unwrap(), NativeConfig::default()).unwrap();
        for (index, prompt) in (0..4).flat_map(|round| prompts().into_iter().map(move |p| (round, p))).take(50) {
            let request = Request {
                logprobs: Some(4),
                max_tokens: Some(40),
                ..ask(&format!("{prompt}{}", "x".repeat(index * 9)))
            };
            let ours = native.generate(request.clone()).await.unwrap();
            let theirs = engine.generate(request).await.unwrap();
            assert_eq!(
                (&ours.text, ours.tokens, ours.finish),
                (&theirs.text, theirs.tokens, theirs.finish),
                "{prompt}"
            );
            for (ours, theirs) in ours.logprobs.iter().zip(&theirs.logprobs) {
                assert_eq!(ours.token.id, theirs.token.id);
                for (ours, theirs) in ours.top.iter().zip(&theirs.top) {
                    assert!((ours.logprob - theirs.logprob).abs() < 1e-3, "{ours:?} {theirs:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn an_engine_that_panics_comes_back() {
    let directory = directory(&TinyModel::default());
    let restarts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&restarts);
    let on_restart: OnRestart = Arc::new(move |restart| seen.lock().unwrap().push(restart));
    let config = MistralConfig { place: Place::Cpu, on_restart: Some(on_restart) };
    let engine = MistralEngine::load(ModelDir::open(directory.path()).unwrap(), config).unwrap();
    let expected = engine.generate(ask("hello")).await.unwrap();
    let plan = |offsets: &[u64]| {
        let from = engine.sampled_tokens();
        *engine.shared.faults.lock().unwrap() = offsets.iter().map(|offset| from + offset).collect();
    };
    // At the first token: nothing was produced, so it is tried again.
    plan(&[1]);
    assert_eq!(engine.generate(ask("hello")).await.unwrap(), expected);
    assert_eq!(*restarts.lock().unwrap(), [Restart::Engine]);
    // In the middle: this reply is lost, those that wait are not.
    plan(&[3]);
    let (lost, waiting) = tokio::join!(engine.generate(ask("hello")), engine.generate(ask("hello")));
    assert!(matches!(lost, Err(EngineError::Crashed(_))), "{lost:?}");
    assert_eq!(waiting.unwrap(), expected);
    // Twice in a row: the model is loaded again, and there is no third try.
    plan(&[1, 2]);
    let lost = engine.generate(ask("hello")).await;
    assert!(matches!(lost, Err(EngineError::Crashed(_))), "{lost:?}");
    assert_eq!(engine.generate(ask("hello")).await.unwrap(), expected);
    assert_eq!(*restarts.lock().unwrap(), [Restart::Engine, Restart::Engine, Restart::Engine, Restart::Model]);
    // Nothing to load any more.
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    plan(&[1, 2]);
    let lost = engine.generate(ask("hello")).await;
    assert!(matches!(lost, Err(EngineError::Unavailable(_))), "{lost:?}");
    assert!(matches!(engine.generate(ask("hello")).await, Err(EngineError::Unavailable(_))));
}

#[test]
fn a_dropped_engine_lets_go_of_its_weights() {
    let directory = directory(&TinyModel::default());
    let source = Source {
        directory: directory.path().into(),
        place: Place::Cpu,
        eos: vec![crate::testing::EOS],
        end_name: "<|end|>".into(),
    };
    let mut runner = Runner::load(&source).unwrap();
    front::probe(&mut runner).unwrap();
    let pipeline = Arc::downgrade(&runner.loaded().pipeline);
    runner.restart().unwrap();
    front::probe(&mut runner).unwrap();
    drop(runner);
    assert!(pipeline.upgrade().is_none());
}

#[tokio::test]
async fn a_closed_engine_fails_what_is_left() {
    let (_directory, engine) = tiny();
    let mut request = Request { samples: 3, max_tokens: None, ..sampled("left", 1) };
    request.sampling.ignore_eos = true;
    let replies = engine.start(request).await.unwrap();
    engine.close();
    for reply in replies {
        assert!(matches!(reply.complete().await, Err(EngineError::Unavailable(_))));
    }
}

/// Spellings of one token and of several, one that begins another, and one that occurs twice.
const SPELLINGS: [&[&str]; 3] = [&["hello", " hello"], &["the", "hello"], &["!", "world", "!?", "!"]];

fn asking(questions: &[(&str, &str)]) -> LabelRequest {
    let question =
        |&(chat, reply): &(&str, &str)| Question { input: Input::chat(vec![Message::user(chat)]), reply: reply.into() };
    LabelRequest {
        purpose: Purpose::Judge,
        questions: questions.iter().map(question).collect(),
        labels: SPELLINGS.map(|label| Label { spellings: label.iter().map(|&text| text.into()).collect() }).into(),
        origin: Origin::default(),
    }
}

#[tokio::test]
async fn labels_have_the_native_engine_s_probabilities_and_generate_nothing() {
    let (directory, engine) = tiny();
    let native = NativeEngine::load(ModelDir::open(directory.path()).unwrap(), NativeConfig::default()).unwrap();
    assert_eq!(engine.capabilities().labels, LabelSupport::Replies);
    let request = asking(&[("hello", ""), ("hello", "the"), ("a longer question of the world", ""), ("hello", "")]);
    let (found, expected) =
        (engine.read_labels(request.clone()).await.unwrap(), native.read_labels(request).await.unwrap());
    assert_eq!(found.prompt_tokens, expected.prompt_tokens);
    assert_eq!(found.logprobs[0], found.logprobs[3]);
    for (found, expected) in found.logprobs.iter().flatten().zip(expected.logprobs.iter().flatten()) {
        assert!((found - expected).abs() < 1e-3, "{found} {expected}");
    }
    assert_eq!(engine.sampled_tokens(), 0);
}

#[tokio::test]
async fn labels_that_nobody_awaits_leave_and_others_are_read() {
    let (_directory, engine) = tiny();
    let expected = engine.read_labels(asking(&[("hello", "")])).await.unwrap();
    for _ in 0..20 {
        let many: Vec<(&str, &str)> = vec![("the world", "and"), ("a b c", ""), ("x", "y")];
        let reading = engine.read_labels(asking(&many));
        drop(tokio::time::timeout(std::time::Duration::from_millis(2), reading).await);
    }
    assert_eq!(engine.read_labels(asking(&[("hello", "")])).await.unwrap(), expected);
    let long = "x".repeat(5000);
    let refused = engine.read_labels(asking(&[(&long, "")])).await;
    assert!(matches!(refused, Err(EngineError::PromptTooLong { .. })), "{refused:?}");
    engine.events.send(Event::Close).unwrap();
    let closed = engine.read_labels(asking(&[("hello", "")])).await;
    assert!(matches!(closed, Err(EngineError::Unavailable(_) | EngineError::Crashed(_))), "{closed:?}");
}

/// What [`bad_directories_give_one_line_and_no_connection`] runs in a process of its own.
#[test]
#[ignore = "needs a directory"]
fn load_one() {
    let directory = std::env::var("SPAR_TEST_DIRECTORY").unwrap();
    match load_cpu(Path::new(&directory)) {
        Ok(_) => println!("outcome: loaded"),
        Err(error) => println!("outcome: {error}"),
    }
}

#[test]
fn bad_directories_give_one_line_and_no_connection() {
    type Defect = fn(&Path);
    let defects: [(Defect, &str); 10] = [
        (|_| {}, "loaded"),
        (|dir| std::fs::remove_file(dir.join("config.json")).unwrap(), "config.json"),
        (|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap(), "tokenizer.json"),
        (|dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(), "model.safetensors"),
        (|dir| write_json(dir, "tokenizer_config.json", &json!({ "eos_token": "<|end|>" })), "loaded"),
        (
            |dir| {
                let model = TinyModel::default();
                write_weights(&dir.join("model.safetensors"), &model, &model.tensors()[1..]);
            },
            "tensor",
        ),
        (
            |dir| {
                let model = TinyModel::default();
                let mut tensors = model.tensors();
                tensors[2].1[0] += 1;
                write_weights(&dir.join("model.safetensors"), &model, &tensors);
            },
            "tensor",
        ),
        (
            |dir| {
                let bytes = std::fs::read(dir.join("model.safetensors")).unwrap();
                std::fs::write(dir.join("model.safetensors"), &bytes[..bytes.len() / 2]).unwrap();
            },
            "model.safetensors",
        ),
        (
            |dir| {
                let mut config = TinyModel::default().config();
                config["architectures"] = json!(["SparrowForCausalLM"]);
                write_json(dir, "config.json", &config);
            },
            "SparrowForCausalLM",
        ),
        (|dir| std::fs::remove_dir_all(dir).unwrap(), "not a directory"),
    ];
    // Any request to a hub, even through a proxy, arrives at this listener.
    let hub = TcpListener::bind("127.0.0.1:0").unwrap();
    hub.set_nonblocking(true).unwrap();
    let address = format!("http://{}", hub.local_addr().unwrap());
    for (index, (defect, expected)) in defects.into_iter().enumerate() {
        let directory = directory(&TinyModel::default());
        defect(directory.path());
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "engine::mistral::tests::load_one", "--ignored", "--nocapture"]);
        child.env("SPAR_TEST_DIRECTORY", directory.path()).env("HF_HOME", directory.path().join("home"));
        for name in ["HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy"] {
            child.env(name, &address);
        }
        let output = child.output().unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let outcome = stdout.lines().find_map(|line| line.split_once("outcome: ")).map(|(_, outcome)| outcome);
        assert!(outcome.is_some_and(|outcome| outcome.contains(expected)), "{index}: {stdout}{stderr}");
        assert_eq!(stderr.trim(), "", "{index}");
        assert!(hub.accept().is_err(), "{index} reached for the network");
    }
}

#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let model = TinyModel {
        hidden: 192,
        intermediate: 512,
        layers: 5,
        heads: 6,
        kv_heads: 2,
        head_dim: 32,
        ..TinyModel::default()
    };
    let parameters: usize = model.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
    let (_directory, engine) = engine_of(&model);
    for (kind, temperature) in [("greedy", 0.0), ("sampled", 1.0)] {
        for tokens in [32, 128, 400] {
            let mut request = Request { max_tokens: Some(tokens), ..ask("hello world") };
            request.sampling.temperature = temperature;
            request.sampling.ignore_eos = true;
            let since = Instant::now();
            for _ in 0..8 {
                engine.generate(request.clone()).await.unwrap();
            }
            let rate = (8 * tokens) as f64 / since.elapsed().as_secs_f64();
            println!("{parameters} parameters, {kind}, replies of {tokens} tokens: {rate:.0} tokens/s");
        }
    }
    for length in [64, 256, 500] {
        let request = Request { input: Input::Text("x".repeat(length)), max_tokens: Some(1), ..ask("") };
        let since = Instant::now();
        for _ in 0..8 {
            engine.generate(request.clone()).await.unwrap();
        }
        println!("prefill of {length}: {:.0} tokens/s", (8 * length) as f64 / since.elapsed().as_secs_f64());
    }
}
