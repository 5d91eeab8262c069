pub(super) mod configurations;
mod quantized;
mod speculation;

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;

use super::*;
use crate::chat::Message;
use crate::engine::{Completion, Constraint, FinishReason, Namespace, Sampling, Waits, derive_seed};
use crate::testing::{self, TinyModel, write_model};
use crate::weights::LowRank;

pub(super) fn engine_with(model: &TinyModel, config: NativeConfig) -> NativeEngine {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), model);
    NativeEngine::load(ModelDir::open(dir.path()).unwrap(), config).unwrap()
}

pub(super) fn engine(config: NativeConfig) -> NativeEngine {
    engine_with(&TinyModel::default(), config)
}

pub(super) fn two_threads() -> NativeConfig {
    NativeConfig { threads: 2, ..NativeConfig::default() }
}

/// Each form that computes on this machine.
pub(super) fn forms() -> Vec<NativeConfig> {
    vec![
        two_threads(),
        #[cfg(feature = "tensors")]
        NativeConfig { processor: Processor::Tensors, ..two_threads() },
    ]
}

pub(super) fn greedy(text: &str, max_tokens: usize) -> Request {
    let sampling = Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() };
    let input = Input::Text(text.into());
    Request {
        input,
        sampling,
        max_tokens: Some(max_tokens),
        logprobs: Some(2),
        ..Request::chat(Purpose::Answer, vec![])
    }
}

pub(super) async fn run(engine: &NativeEngine, request: Request) -> Vec<Completion> {
    let replies = engine.start(request).await.unwrap();
    join_all(replies.into_iter().map(Reply::complete)).await.into_iter().map(Result::unwrap).collect()
}

fn ids(completion: &Completion) -> Vec<u32> {
    completion.logprobs.iter().map(|l| l.token.id).collect()
}

/// The whole forward pass in `f64`, written from the model's definition: logits after the last token.
fn reference(model: &TinyModel, tokens: &[u32]) -> Vec<f64> {
    let get =
        |name: &str, shape: &[usize]| -> Vec<f64> { model.values(name, shape).into_iter().map(f64::from).collect() };
    let (h, f, d, t) = (model.hidden, model.intermediate, model.head_dim, tokens.len());
    let (q, kv) = (model.heads * d, model.kv_heads * d);
    let product = |x: &[f64], w: &[f64]| -> Vec<f64> {
        w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum()).collect()
    };
    let norm = |x: &[f64], w: &[f64]| -> Vec<f64> {
        let scale = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + 1e-5).sqrt();
        x.iter().zip(w).map(|(x, w)| x * scale * w).collect()
    };
    let rotated = |x: &[f64], position: usize| -> Vec<f64> {
        let angle = |i: usize| position as f64 * 10_000f64.powf(-((2 * (i % (d / 2))) as f64) / d as f64);
        let other = |i: usize| if i < d / 2 { -x[i + d / 2] } else { x[i - d / 2] };
        (0..d).map(|i| x[i] * angle(i).cos() + other(i) * angle(i).sin()).collect()
    };
    let embedding = get("model.embed_tokens.weight", &[model.vocabulary, h]);
    let mut x: Vec<Vec<f64>> = tokens.iter().map(|&id| embedding[id as usize * h..][..h].to_vec()).collect();
    for layer in 0..model.layers {
        let at = |name: &str, shape: &[usize]| get(&format!("model.layers.{layer}.{name}"), shape);
        let project = |name: &str, size: usize| -> Vec<Vec<f64>> {
            let weight = at(&format!("self_attn.{name}_proj.weight"), &[size, h]);
            let input_norm = at("input_layernorm.weight", &[h]);
            let bias = at(&format!("self_attn.{name}_proj.bias"), &[size]);
            let biased = |y: Vec<f64>| match model.model_type {
                "qwen2" => y.iter().zip(&bias).map(|(y, b)| y + b).collect(),
                _ => y,
            };
            x.iter().map(|x| biased(product(&norm(x, &input_norm), &weight))).collect()
        };
        let (queries, keys, values) = (project("q", q), project("k", kv), project("v", kv));
        let head = |rows: &[Vec<f64>], which: &str, position: usize, head: usize| -> Vec<f64> {
            let raw = &rows[position][head * d..][..d];
            match model.model_type {
                "qwen3" => rotated(&norm(raw, &at(&format!("self_attn.{which}_norm.weight"), &[d])), position),
                _ => rotated(raw, position),
            }
        };
        let output = at("self_attn.o_proj.weight", &[h, q]);
        let attended: Vec<Vec<f64>> = (0..t)
            .map(|i| {
                let mut all = Vec::new();
                for n in 0..model.heads {
                    let shared = n / (model.heads / model.kv_heads);
                    let query = head(&queries, "q", i, n);
                    let dot = |j| -> f64 { query.iter().zip(head(&keys, "k", j, shared)).map(|(a, b)| a * b).sum() };
                    let weights: Vec<f64> = (0..=i).map(|j| (dot(j) / (d as f64).sqrt()).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let value = |c: usize| -> f64 { (0..=i).map(|j| weights[j] * values[j][shared * d + c]).sum() };
                    all.extend((0..d).map(|c| value(c) / total));
                }
                product(&all, &output)
            })
            .collect();
        let mlp_norm = at("post_attention_layernorm.weight", &[h]);
        let (gate, up) = (at("mlp.gate_proj.weight", &[f, h]), at("mlp.up_proj.weight", &[f, h]));
        let down = at("mlp.down_proj.weight", &[h, f]);
        for (x, attended) in x.iter_mut().zip(attended) {
            x.iter_mut().zip(attended).for_each(|(x, a)| *x += a);
            let normed = norm(x, &mlp_norm);
            let hidden: Vec<f64> = product(&normed, &gate)
                .iter()
                .zip(product(&normed, &up))
                .map(|(g, u)| g / (1.0 + (-g).exp()) * u)
                .collect();
            x.iter_mut().zip(product(&hidden, &down)).for_each(|(x, y)| *x += y);
        }
    }
    let last = norm(&x[t - 1], &get("model.norm.weight", &[h]));
    product(&last, &if model.tied { embedding } else { get("lm_head.weight", &[model.vocabulary, h]) })
}

#[tokio::test]
async fn greedy_replies_and_logprobs_equal_a_plain_forward_pass() {
    for (model_type, tied) in [("llama", false), ("mistral", true), ("qwen2", false), ("qwen3", true)] {
        let model = TinyModel { model_type, tied, ..TinyModel::default() };
        let engines: Vec<_> = forms().into_iter().map(|form| engine_with(&model, form)).collect();
        let lengths = [(1u64, 3usize), (2, 31), (3, 32), (4, 50)];
        for (engine, (seed, length)) in engines.iter().flat_map(|engine| lengths.map(|length| (engine, length))) {
            let text: String =
                (0..length).map(|i| char::from(b'a' + (derive_seed(seed, i as u64) % 26) as u8)).collect();
            let done = run(engine, greedy(&text, 12)).await.remove(0);
            let mut tokens = engine.dir.encode(&Input::Text(text)).unwrap();
            assert_eq!(done.prompt_tokens, tokens.len());
            for step in &done.logprobs {
                let logits = reference(&model, &tokens);
                let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
                assert_eq!(step.token.id as usize, best, "{model_type} after {} tokens", tokens.len());
                let total: f64 = logits.iter().map(|x| x.exp()).sum();
                let expected = logits[best] - total.ln();
                assert!((f64::from(step.token.logprob) - expected).abs() < 1e-4, "{model_type}");
                tokens.push(step.token.id);
            }
            assert_eq!(done.logprobs.len(), 12);
        }
    }
}

/// A sequence of which nothing is computed.
pub(super) fn sequence(engine: &NativeEngine, tokens: &[u32]) -> sequence::Sequence {
    sequence::Sequence {
        variant: engine.variant.clone(),
        root: engine.variant.root,
        caller: Namespace::SHARED,
        plain: true,
        told: true,
        born: 0,
        served: 0,
        tokens: tokens.to_vec(),
        prompt: tokens.len(),
        computed: 0,
        blocks: vec![],
        kept: vec![],
        replies: vec![],
        scoring: None,
        pooled: None,
        reading: None,
        lookup: None,
        goes_on: false,
    }
}

/// Logits of every position, straight from the forward pass.
fn all_logits(engine: &NativeEngine, tokens: &[u32]) -> Vec<Vec<f32>> {
    let model = &engine.runtime.model;
    let pool = model.pool(0, Arc::default());
    let mut scratch = model.scratch(&pool).unwrap();
    let (mut sequence, count) = (sequence(engine, tokens), tokens.len());
    sequence.own(&pool, count);
    let rows = (0..count).map(|position| batch::Row { sequence: 0, position }).collect();
    let mut batch = batch::Batch { rows, groups: vec![], wanted: (0..count).collect() };
    model.forward(&mut scratch, &pool, &mut [sequence], &mut batch).unwrap();
    scratch.logits.chunks_exact(model.config.vocabulary).map(<[f32]>::to_vec).collect()
}

#[tokio::test]
async fn a_text_is_scored_as_its_forward_pass_says() {
    let config = NativeConfig { step_rows: 40, ..two_threads() };
    let engine = engine_with(&TinyModel { context: 200, ..TinyModel::default() }, config);
    let text =
        "a text that is longer than a step's rows and whose every token has a probability of its own. ".repeat(2);
    let input = Input::Text(text[..150].into());
    let tokens = engine.dir.encode(&input).unwrap();
    let logits = all_logits(&engine, &tokens);
    for _ in 0..2 {
        let scored = engine.score(input.clone(), 2, Origin::default()).await.unwrap();
        assert_eq!(scored.iter().map(|token| token.id).collect::<Vec<_>>(), tokens);
        assert_eq!(scored[0].logprobs, None);
        for (scored, logits) in scored[1..].iter().zip(&logits) {
            let logprobs = scored.logprobs.as_ref().unwrap();
            let expected = crate::engine::drawn::DrawnLogprobs::new(logits, scored.id, 2);
            assert_eq!((logprobs.token.logprob, logprobs.top[1].logprob), (expected.drawn, expected.top[1].1));
        }
    }
    assert_eq!(engine.score(Input::Text(String::new()), 0, Origin::default()).await.unwrap().len(), 1);
    let long = engine.score(Input::Text("x".repeat(200)), 0, Origin::default()).await;
    assert_eq!(long, Err(EngineError::PromptTooLong { tokens: 201, limit: 200 }));
}

/// Golden values of `tests/golden/make.py`.
#[test]
fn logits_are_those_of_transformers() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/logits.json")).unwrap();
    let cases = golden.as_object().unwrap().iter().filter(|(name, _)| *name != "transformers");
    let mut seen = 0;
    for (name, case) in cases {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel::default());
        testing::write_json(dir.path(), "config.json", &case["config"]);
        let tensors = crate::weights::ModelConfig::open(dir.path()).unwrap().tensors();
        testing::write_weights(&dir.path().join("model.safetensors"), &TinyModel::default(), &tensors);
        let load = |form| NativeEngine::load(ModelDir::open(dir.path()).unwrap(), form).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let positions: Vec<usize> = serde_json::from_value(case["positions"].clone()).unwrap();
        let expected: Vec<Vec<f32>> = serde_json::from_value(case["logits"].clone()).unwrap();
        for form in forms() {
            let logits = all_logits(&load(form), &tokens);
            for (&position, expected) in positions.iter().zip(&expected) {
                assert_eq!(logits[position].len(), expected.len());
                for (x, y) in logits[position].iter().zip(expected) {
                    assert!((x - y).abs() < 1e-4, "{name}, position {position}: {x} {y}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 9 * 4 * 320 * forms().len());
}

/// Request `n` of a random mix.
pub(super) fn mixed(n: u64) -> Request {
    let pick = |what: u64, below: u64| derive_seed(derive_seed(99, n), what) % below;
    let words = ["hello world ", "and the ", "in other words ", "x", "ö 🦀 "];
    let shared = "the first block of this prompt is one that others begin with too, ".repeat(pick(0, 2) as usize);
    let text: String = (0..1 + pick(1, 12)).map(|i| words[pick(10 + i, 5) as usize]).collect();
    Request {
        purpose: [Purpose::Answer, Purpose::Judge, Purpose::Refine][pick(2, 3) as usize],
        input: match pick(3, 2) {
            0 => Input::chat(vec![Message::user(shared + &text)]),
            _ => Input::Text(shared + &text),
        },
        sampling: Sampling {
            temperature: [0.0, 0.7, 1.5][pick(4, 3) as usize],
            top_p: [1.0, 0.9][pick(5, 2) as usize],
            top_k: [None, Some(20)][pick(6, 2) as usize],
            repetition_penalty: [1.0, 1.2][pick(7, 2) as usize],
            seed: n,
            ..Sampling::default()
        },
        samples: 1 + pick(8, 4) as usize,
        max_tokens: Some(1 + pick(9, 60) as usize),
        logprobs: Some(1),
        stop: if pick(20, 2) == 0 { vec!["e".into()] } else { vec![] },
        constraint: match pick(21, 6) {
            0 => Some(Constraint::Regex("[a-z ]{3,20}!".into())),
            1 => Some(Constraint::Lark(
                "start: head VERDICT\nhead[lazy]: /(.|\\n)*/ \":\"\nVERDICT: \"Yes\" | \"No\"".into(),
            )),
            2 => Some(Constraint::JsonSchema(serde_json::json!({"type": "array", "items": {"type": "integer"}}))),
            _ => None,
        },
        origin: Origin::default(),
    }
}

/// What must not depend on company.
pub(super) fn content(completions: Vec<Completion>) -> Vec<Completion> {
    completions.into_iter().map(|c| Completion { cached_tokens: 0, ..c }).collect()
}

#[tokio::test]
async fn siblings_differ_and_a_seed_repeats_them() {
    let engine = engine(two_threads());
    let sampling = Sampling { seed: 5, ..Sampling::default() };
    let request = Request { samples: 6, sampling, max_tokens: Some(20), ..greedy("hello", 20) };
    let first = run(&engine, request.clone()).await;
    let again = run(&engine, Request { samples: 4, ..request.clone() }).await;
    assert_eq!(content(first[..4].to_vec()), content(again));
    let mut texts: Vec<&str> = first.iter().map(|c| c.text.as_str()).collect();
    texts.sort_unstable();
    texts.dedup();
    assert_eq!(texts.len(), 6);
    let other = Request { sampling: Sampling { seed: 6, ..request.sampling.clone() }, ..request };
    assert_ne!(run(&engine, other).await[0].text, first[0].text);
}

#[tokio::test]
async fn prompts_reuse_what_was_computed_before() {
    // One thread, since another may admit a request before what the last one computed is kept.
    let engine = engine(NativeConfig { threads: 1, ..NativeConfig::default() });
    let prompt = "a judge is asked about a response that is longer than one block of keys and values".to_owned();
    let first = run(&engine, greedy(&prompt, 40)).await.remove(0);
    assert_eq!(first.cached_tokens, 0);
    let again = run(&engine, greedy(&prompt, 40)).await.remove(0);
    assert_eq!(again.cached_tokens, again.prompt_tokens - 1, "the last token's scores are asked for");
    assert_eq!((ids(&again), &again.logprobs), (ids(&first), &first.logprobs));
    // What a reply computed serves the turn that follows it.
    let mut tokens = engine.dir.encode(&Input::Text(prompt.clone())).unwrap();
    tokens.extend(ids(&first));
    let longer = prompt + &first.text + " again";
    if engine.dir.encode(&Input::Text(longer.clone())).unwrap().starts_with(&tokens) {
        assert_eq!(run(&engine, greedy(&longer, 1)).await[0].cached_tokens, tokens.len() - 1);
    }
}

#[tokio::test]
async fn prompts_reuse_a_common_beginning_to_the_token() {
    let prompt: String = "what two prompts have in common may end in the middle of a block of positions. ".repeat(2);
    let config = NativeConfig { threads: 1, ..NativeConfig::default() };
    let (engine, fresh) = (engine(config.clone()), engine(NativeConfig { cache_bytes: 0, ..config }));
    run(&engine, greedy(&prompt, 3)).await;
    for same in [1usize, 7, 31, 32, 33, 62, 63, 64, 100] {
        // Each ends in its own way, so that the first prompt is the nearest.
        let text = format!("{}{}", &prompt[..same], char::from(b'A' + (same % 26) as u8).to_string().repeat(40));
        let request = Request { samples: 2, ..greedy(&text, 12) };
        let expected = run(&fresh, request.clone()).await;
        let found = run(&engine, request).await;
        let [before, now] = [&prompt, &text].map(|text| engine.dir.encode(&Input::Text(text.clone())).unwrap());
        let common = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
        assert_eq!(found[0].cached_tokens, common, "{same} characters");
        assert_eq!(content(found), content(expected), "{same} characters");
    }
}

#[tokio::test]
async fn a_refine_turn_begins_with_all_that_its_judge_turn_computed() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/refiner");
    let config = NativeConfig { threads: 1, ..NativeConfig::default() };
    let (task, response) = ([Message::user("Write about the river.")], "The quiet river carries a small lantern.");
    for constrained in [false, true] {
        let engine = NativeEngine::load(ModelDir::open(&dir).unwrap(), config.clone()).unwrap();
        let templates = engine.dir.templates.clone();
        let constraint = constrained.then(|| templates.verdict_constraint());
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let turns = templates.judge(&task, response);
        let request = Request { sampling: sampling.clone(), constraint, ..Request::chat(Purpose::Judge, turns) };
        let critique = run(&engine, Request { max_tokens: Some(300), ..request }).await.remove(0);
        let turns = templates.refine(&task, response, &critique.text);
        let request = Request { sampling, max_tokens: Some(1), ..Request::chat(Purpose::Refine, turns) };
        // The critique's last token was drawn, not computed.
        let shared = critique.prompt_tokens + critique.tokens - 1;
        assert_eq!(run(&engine, request).await[0].cached_tokens, shared);
    }
}

#[tokio::test]
async fn dropped_replies_free_their_place() {
    let engine = engine_with(
        &TinyModel { context: 1 << 16, ..TinyModel::default() },
        NativeConfig { max_replies: 2, ..two_threads() },
    );
    for _ in 0..100 {
        let mut endless = engine.start(Request { samples: 2, ..greedy("hello", usize::MAX) }).await.unwrap();
        assert!(endless[0].chunks.next().await.unwrap().is_ok());
        let waiting = engine.start(greedy("x", 5));
        drop(endless);
        waiting.await.unwrap().remove(0).complete().await.unwrap();
    }
    // Neither does a request that is given up while it waits.
    let running = engine.start(Request { samples: 2, ..greedy("hello", usize::MAX) }).await.unwrap();
    let given_up = engine.start(greedy("y", 5));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(1), given_up).await.is_err());
    drop(running);
    assert_eq!(run(&engine, greedy("z", 5)).await[0].tokens, 5);
}

#[tokio::test]
async fn the_context_is_a_limit() {
    let engine = engine_with(&TinyModel { context: 40, ..TinyModel::default() }, two_threads());
    let done = run(&engine, greedy("a", usize::MAX)).await.remove(0);
    assert_eq!((done.prompt_tokens + done.tokens, done.finish), (40, FinishReason::Length));
    let full = run(&engine, greedy(&"a".repeat(38), 9)).await.remove(0);
    assert_eq!((full.prompt_tokens, full.tokens), (39, 1));
    let error = engine.start(greedy(&"a".repeat(39), 9)).await.err().unwrap();
    assert_eq!(error, EngineError::PromptTooLong { tokens: 40, limit: 40 });
}

#[tokio::test]
async fn replies_end_at_eos_and_stop_strings() {
    let engine = engine(two_threads());
    let free = run(&engine, greedy("hello", 30)).await.remove(0);
    let stop = free.text.chars().rev().find(|c| c.is_ascii()).unwrap().to_string();
    let stopped = run(&engine, Request { stop: vec![stop.clone()], ..greedy("hello", 30) }).await.remove(0);
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);
    assert_eq!(stopped.finish, FinishReason::StopString(0));
    let mut request = greedy("hello", 30);
    request.sampling = Sampling { logit_bias: vec![(testing::EOS, 100.0)], temperature: 0.0, ..Sampling::default() };
    let ended = run(&engine, request).await.remove(0);
    assert_eq!((ended.text.as_str(), ended.tokens, ended.finish), ("", 1, FinishReason::Stop));
}

#[tokio::test]
async fn a_constrained_reply_matches_from_its_first_to_its_last_character() {
    let engine = engine(two_threads());
    assert!(engine.capabilities().constrains_everything());
    let expected = regex::Regex::new("^[a-c]{3}-[0-9]{4}$").unwrap();
    for temperature in [0.0, 1.0, 1.5] {
        let sampling = Sampling { temperature, seed: 3, ..Sampling::default() };
        let constraint = Some(Constraint::Regex("[a-c]{3}-[0-9]{4}".into()));
        let request = Request { samples: 6, sampling, constraint, ..greedy("code: ", 60) };
        for _ in 0..2 {
            for reply in run(&engine, request.clone()).await {
                assert!(expected.is_match(&reply.text), "{:?}", reply.text);
                assert_eq!(reply.finish, FinishReason::Stop);
            }
        }
    }
}

#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let engine = engine(two_threads());
    let request = Request { constraint: Some(Constraint::Regex("(".into())), ..greedy("x", 3) };
    assert!(matches!(engine.start(request).await.err().unwrap(), EngineError::Constraint(_)));
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let mut config = TinyModel::default().config();
    config["architectures"] = serde_json::json!(["SomethingElse"]);
    testing::write_json(dir.path(), "config.json", &config);
    let error = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), two_threads()).err().unwrap();
    assert!(error.to_string().contains("SomethingElse"), "{error}");
}

/// Pairs of rank 3 on the named modules of the default tiny model.
fn adapter(seed: u64, names: &[&str]) -> LowRanks {
    let model = TinyModel::default();
    let numbers = |count: usize, key: u64, scale: f32| -> Vec<f32> {
        (0..count as u64).map(|i| scale * ((derive_seed(key, i) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)).collect()
    };
    let shapes: std::collections::HashMap<String, Vec<usize>> = model.tensors().into_iter().collect();
    let names = (0..model.layers).flat_map(|l| names.iter().map(move |name| format!("model.layers.{l}.{name}")));
    let pair = |(index, name): (usize, String)| {
        let shape = &shapes[&format!("{name}.weight")];
        let key = derive_seed(seed, index as u64);
        let (a, b) = (numbers(3 * shape[1], key, 0.5), numbers(shape[0] * 3, key + 1, 0.5));
        (name, LowRank { a, b, rank: 3, scale: 1.5 })
    };
    names.enumerate().map(pair).collect()
}

const ALL: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// A directory whose weights are the default model's with the pairs added.
fn merged(modules: &LowRanks) -> NativeEngine {
    let dir = tempfile::tempdir().unwrap();
    let model = TinyModel::default();
    write_model(dir.path(), &model);
    let values = |(name, shape): (String, Vec<usize>)| {
        let mut values = model.values(&name, &shape);
        if let Some(LowRank { a, b, rank, scale }) = modules.get(name.trim_end_matches(".weight")) {
            for (row, values) in values.chunks_exact_mut(shape[1]).enumerate() {
                for (column, value) in values.iter_mut().enumerate() {
                    *value += scale * (0..*rank).map(|r| b[row * rank + r] * a[r * shape[1] + column]).sum::<f32>();
                }
            }
        }
        (name, shape, values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>())
    };
    let tensors: Vec<_> = model.tensors().into_iter().map(values).collect();
    let views = tensors.iter().map(|(name, shape, data)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &dir.path().join("model.safetensors")).unwrap();
    NativeEngine::load(ModelDir::open(dir.path()).unwrap(), two_threads()).unwrap()
}

#[tokio::test]
async fn an_adapter_computes_what_its_merged_weights_do() {
    let base = engine(two_threads());
    let prompt = "an adapter changes every projection of every layer, and here it is merged, too";
    for names in [&ALL[..], &["self_attn.q_proj", "self_attn.v_proj"], &["mlp.up_proj"], &["self_attn.k_proj"]] {
        let modules = adapter(7, names);
        let (ours, expected) = (base.with_adapter(&modules).unwrap(), merged(&modules));
        let ours = run(&ours, greedy(prompt, 20)).await.remove(0);
        let expected = run(&expected, greedy(prompt, 20)).await.remove(0);
        assert_eq!(ids(&ours), ids(&expected), "{names:?}");
        for (a, b) in ours.logprobs.iter().zip(&expected.logprobs) {
            assert!((a.token.logprob - b.token.logprob).abs() < 1e-4, "{a:?} {b:?}");
        }
        assert_ne!(run(&base, greedy(prompt, 20)).await[0].logprobs, ours.logprobs);
    }
}

/// The base and three adapters on it, one of which changes everything.
pub(super) fn with_adapters(config: NativeConfig) -> Vec<NativeEngine> {
    let adapters = [adapter(1, &ALL), adapter(2, &ALL[..4]), adapter(3, &["mlp.down_proj"])];
    let base = engine(config);
    let adapted: Vec<_> = adapters.iter().map(|a| base.with_adapter(a).unwrap()).collect();
    std::iter::once(base).chain(adapted).collect()
}

/// Whether `seen` may be the beginning of `whole`.
fn is_beginning(seen: &[Chunk], whole: &Completion) -> bool {
    let text: String = seen.iter().map(|chunk| chunk.text.as_str()).collect();
    let logprobs: Vec<_> = seen.iter().flat_map(|chunk| chunk.logprobs.clone()).collect();
    whole.text.starts_with(&text) && whole.logprobs.starts_with(&logprobs)
}

/// Reads `chunks` chunks of every sibling and disconnects.
pub(super) async fn leave_after(engine: &NativeEngine, request: Request, chunks: usize) -> Vec<Vec<Chunk>> {
    let replies = engine.start(request).await.unwrap();
    let read = |reply: Reply| reply.chunks.take(chunks).map(Result::unwrap).collect::<Vec<_>>();
    join_all(replies.into_iter().map(read)).await
}

/// Prompts, lengths, adapters, temperatures, seeds, constraints, cancellations and evictions, all mixed.
#[tokio::test]
async fn every_reply_of_a_thousand_random_mixes_equals_the_reply_alone() {
    const REQUESTS: u64 = 160;
    let alone_engines = with_adapters(NativeConfig { threads: 1, cache_bytes: 0, ..NativeConfig::default() });
    let mut alone = Vec::new();
    for n in 0..REQUESTS {
        alone.push(content(run(&alone_engines[n as usize % 4], mixed(n / 2)).await));
    }
    let configs = [
        NativeConfig { threads: 1, max_replies: 40, ..NativeConfig::default() },
        NativeConfig { threads: 3, max_replies: 200, step_rows: 40, ..NativeConfig::default() },
        NativeConfig { threads: 2, max_replies: 13, cache_bytes: 60_000, ..NativeConfig::default() },
        NativeConfig { threads: 2, max_replies: 4, cache_bytes: 400_000, step_rows: 32, ..NativeConfig::default() },
    ];
    let mut compared = 0;
    for (index, config) in configs.into_iter().enumerate() {
        let engines = with_adapters(config);
        for mix in 0..250u64 {
            let pick = |what: u64, below: u64| derive_seed(derive_seed(index as u64 * 1_000 + mix, 5), what) % below;
            let requests: Vec<(usize, Option<usize>)> = (0..2 + pick(0, 8))
                .map(|i| {
                    let leaves = (pick(100 + i, 4) == 0).then(|| pick(200 + i, 20) as usize);
                    (pick(1 + i, REQUESTS) as usize, leaves)
                })
                .collect();
            join_all(requests.iter().map(async |&(n, leaves)| {
                let (engine, request) = (&engines[n % 4], mixed(n as u64 / 2));
                match leaves {
                    Some(chunks) => {
                        for (seen, whole) in leave_after(engine, request, chunks).await.iter().zip(&alone[n]) {
                            assert!(is_beginning(seen, whole), "mix {mix}, request {n}: {seen:?} {whole:?}");
                        }
                    }
                    None => assert_eq!(content(run(engine, request).await), alone[n], "mix {mix}, request {n}"),
                }
            }))
            .await;
            compared += requests.len();
        }
    }
    assert!(compared > 5_000);
}

/// Bytes of this process in memory, where the system reports them.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(status.split_whitespace().nth(1)?.parse::<usize>().ok()? * 4096)
}

/// Many requests, half of them dropped at a random moment, within a small budget of bytes.
/// Returns how much memory was added after the first quarter.
async fn flood(requests: u64) -> usize {
    let budget = 400_000;
    let engines = with_adapters(NativeConfig { cache_bytes: budget, ..two_threads() });
    let counters = engines[0].counters().clone();
    let block = engines[0].runtime.model.block_shape().bytes();
    let mut early = None;
    for n in 0..requests / 50 {
        join_all((0..50).map(async |i| {
            let n = 50 * n + i;
            let (engine, request) = (&engines[n as usize % 4], mixed(n));
            match derive_seed(n, 77) % 4 {
                0 => drop(leave_after(engine, request, derive_seed(n, 78) as usize % 8).await),
                // Also while it waits or its prompt is computed.
                1 => {
                    let moment = Duration::from_micros(derive_seed(n, 79) % 1_000);
                    drop(tokio::time::timeout(moment, run(engine, request)).await);
                }
                _ => drop(run(engine, request).await),
            }
        }))
        .await;
        assert!(counters.kept_blocks.load(Ordering::Relaxed) * block <= budget);
        if n == requests / 200 {
            early = resident();
        }
    }
    until("every running block is given back", || counters.running_blocks() == 0).await;
    let kept = counters.kept_blocks.load(Ordering::Relaxed);
    assert!(kept > 0 && kept == counters.blocks.load(Ordering::Relaxed));
    let grown = resident().zip(early).map_or(0, |(now, early)| now.saturating_sub(early));
    println!(
        "{requests} requests: {kept} blocks of {block} bytes kept, {grown} bytes more than after the first quarter"
    );
    drop(engines);
    until("the blocks go with the engine", || counters.blocks.load(Ordering::Relaxed) == 0).await;
    grown
}

#[tokio::test]
async fn random_cancels_leave_no_block_behind() {
    flood(1_000).await;
}

#[tokio::test]
#[ignore = "memory is flat only where no other test runs"]
async fn ten_thousand_random_cancels_leave_memory_flat() {
    let grown = flood(10_000).await;
    assert!(grown < 8 << 20, "memory grew by {grown} bytes");
}

/// Waits until the owner thread has done its work.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it never came to this: {what}");
}

#[tokio::test]
async fn searches_leave_room_for_plain_requests() {
    // Replies that do not reach the end of the context while the test runs.
    let model = TinyModel { context: 1 << 14, ..TinyModel::default() };
    let engine = engine_with(&model, NativeConfig { max_replies: 8, ..two_threads() });
    let searching = Origin { waits: Waits::Search, ..Origin::default() };
    let draft = |samples| Request { samples, origin: searching, ..greedy("hello", usize::MAX) };
    let running = engine.start(draft(7)).await.unwrap();
    let mut waiting = Box::pin(engine.start(draft(1)));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    let plain = engine.start(greedy("hello", 3)).await.unwrap();
    assert_eq!(join_all(plain.into_iter().map(Reply::complete)).await.len(), 1);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    drop(running);
    waiting.await.unwrap();
}

#[tokio::test]
async fn a_caller_leaves_room_for_others() {
    let config = NativeConfig { max_replies: 8, ..two_threads() };
    let engine = engine_with(&TinyModel { context: 1 << 16, ..TinyModel::default() }, config);
    let of = |caller: u8| Origin { caller: Namespace::of([caller; 32]), ..Origin::default() };
    let long = |caller, samples| Request { samples, origin: of(caller), ..greedy("hello", usize::MAX) };
    let (first, second) = (engine.start(long(1, 3)).await.unwrap(), engine.start(long(1, 3)).await.unwrap());
    let mut waiting = Box::pin(engine.start(long(1, 1)));
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    let other = engine.start(long(2, 2)).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());
    drop(second);
    waiting.await.unwrap();
    drop((first, other));
}

#[tokio::test]
async fn namespaces_do_not_find_each_others_prefixes() {
    let engine = engine(two_threads());
    let text = "a prompt that is long enough to fill more than one block of keys and values of this engine";
    let of = |byte: Option<u8>| {
        let namespace = byte.map_or(Namespace::SHARED, |byte| Namespace::of([byte; 32]));
        Request { origin: Origin { namespace, ..Origin::default() }, ..greedy(text, 3) }
    };
    let mut texts = Vec::new();
    for namespace in [Some(1), Some(2), None] {
        let mut first = run(&engine, of(namespace)).await.remove(0);
        assert_eq!(first.cached_tokens, 0, "{namespace:?}");
        let kept = || engine.counters().running_blocks() == 0;
        until("its blocks are kept", kept).await;
        let again = run(&engine, of(namespace)).await.remove(0);
        assert_eq!(again.cached_tokens, again.prompt_tokens - 1, "{namespace:?}");
        first.cached_tokens = again.cached_tokens;
        assert_eq!(first, again);
        until("its blocks are kept", kept).await;
        texts.push(again.text);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "a namespace changes nothing of a reply");
    // Neither do scores and labels of one namespace leave anything to another.
    let other = Origin { namespace: Namespace::of([3; 32]), ..Origin::default() };
    engine.score(Input::Text(text.into()), 0, other).await.unwrap();
    let last = run(&engine, of(Some(4))).await.remove(0);
    assert_eq!(last.cached_tokens, 0);
}

#[tokio::test]
async fn prefixes_belong_to_their_weights_and_go_with_them() {
    let base = engine(two_threads());
    let counters = base.counters().clone();
    let adapted = base.with_adapter(&adapter(1, &ALL)).unwrap();
    let prompt = "a prompt of more than one block of keys and values, which each set of weights computes for itself";
    for engine in [&base, &adapted] {
        assert_eq!(run(engine, greedy(prompt, 4)).await[0].cached_tokens, 0);
        assert!(run(engine, greedy(prompt, 4)).await[0].cached_tokens >= 64);
    }
    until("what replies computed is kept", || counters.running_blocks() == 0).await;
    let kept = || counters.kept_blocks.load(Ordering::Relaxed);
    let both = kept();
    drop(adapted);
    until("the adapter's blocks are dropped", || kept() == both / 2).await;
    let last = run(&base, greedy(prompt, 4)).await.remove(0);
    assert_eq!(last.cached_tokens, last.prompt_tokens - 1);
    let reused = counters.prompt_tokens_reused.load(Ordering::Relaxed) as usize;
    let computed = counters.prompt_tokens_computed.load(Ordering::Relaxed) as usize;
    assert!(reused >= 192 && reused + computed == 5 * last.prompt_tokens, "{reused} {computed}");
    until("no block is left over", || counters.running_blocks() == 0).await;
}

#[test]
fn an_adapter_of_another_model_is_refused_by_name() {
    let base = engine(two_threads());
    let mut wrong = adapter(1, &["mlp.up_proj"]);
    let pair = wrong.remove("model.layers.1.mlp.up_proj").unwrap();
    let table = [
        ("lm_head", pair.clone(), "`lm_head`"),
        ("model.layers.2.mlp.up_proj", pair.clone(), "`model.layers.2.mlp.up_proj`"),
        ("model.layers.1.mlp.down_proj", pair.clone(), "does not fit a matrix of 32 × 48"),
        ("model.layers.1.mlp.up_proj", LowRank { rank: 2, ..pair }, "`model.layers.1.mlp.up_proj`: rank 2"),
    ];
    for (name, pair, expected) in table {
        let error = base.with_adapter(&LowRanks::from([(name.into(), pair)])).err().unwrap().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
}

#[tokio::test]
async fn lost_threads_fail_their_replies_and_are_started_again() {
    let engine = engine_with(
        &TinyModel { context: 1 << 16, ..TinyModel::default() },
        NativeConfig { stall: Duration::from_millis(400), ..two_threads() },
    );
    let before = run(&engine, greedy("x", 3)).await;
    let faults: [fn(); 2] = [|| panic!("a fault on purpose"), || std::thread::sleep(Duration::from_secs(3))];
    for (index, fault) in faults.into_iter().enumerate() {
        let mut endless = engine.start(greedy("hello", usize::MAX)).await.unwrap().remove(0);
        assert!(endless.chunks.next().await.unwrap().is_ok());
        engine.runtime.fail(fault);
        if index == 1 {
            until("the silence is told", || engine.runtime.health().is_err()).await;
        }
        assert!(matches!(endless.complete().await, Err(EngineError::Crashed(_))));
        let restarts = || engine.counters().restarts.load(Ordering::Relaxed);
        until("the threads are started again", || restarts() == index as u64 + 1).await;
        assert_eq!(content(run(&engine, greedy("x", 3)).await), content(before.clone()));
        until("the engine is well", || engine.runtime.health().is_ok()).await;
    }
}

#[tokio::test]
async fn a_full_line_refuses() {
    let config = NativeConfig { max_replies: 1, max_waiting: 2, ..two_threads() };
    let engine = engine_with(&TinyModel { context: 1 << 16, ..TinyModel::default() }, config);
    let running = engine.start(greedy("hello", usize::MAX)).await.unwrap();
    let mut waiting = Box::pin(engine.start(Request { samples: 2, ..greedy("x", 3) }));
    assert!(tokio::time::timeout(Duration::from_millis(5), &mut waiting).await.is_err());
    let error = engine.start(greedy("y", 3)).await.err().unwrap();
    assert!(matches!(&error, EngineError::Unavailable(reason) if reason.contains("2 replies wait")), "{error}");
    drop(running);
    assert_eq!(waiting.await.unwrap().len(), 2);
    assert_eq!(run(&engine, greedy("y", 3)).await[0].tokens, 3);
}
