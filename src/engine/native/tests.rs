use futures::StreamExt;
use futures::future::join_all;

use super::*;
use crate::chat::Message;
use crate::engine::{Completion, FinishReason, Sampling, derive_seed};
use crate::testing::{self, TinyModel, write_model};

fn engine_with(model: &TinyModel, config: NativeConfig) -> NativeEngine {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), model);
    NativeEngine::load(ModelDir::open(dir.path()).unwrap(), config).unwrap()
}

fn engine(config: NativeConfig) -> NativeEngine {
    engine_with(&TinyModel::default(), config)
}

fn two_threads() -> NativeConfig {
    NativeConfig { threads: 2, ..NativeConfig::default() }
}

fn greedy(text: &str, max_tokens: usize) -> Request {
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

async fn run(engine: &NativeEngine, request: Request) -> Vec<Completion> {
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
        let engine = engine_with(&model, two_threads());
        for (seed, length) in [(1u64, 3usize), (2, 31), (3, 32), (4, 50)] {
            let text: String =
                (0..length).map(|i| char::from(b'a' + (derive_seed(seed, i as u64) % 26) as u8)).collect();
            let done = run(&engine, greedy(&text, 12)).await.remove(0);
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

/// Request `n` of a random mix.
fn mixed(n: u64) -> Request {
    let pick = |what: u64, below: u64| derive_seed(derive_seed(99, n), what) % below;
    let words = ["hello world ", "and the ", "in other words ", "x", "ö 🦀 "];
    let shared = "the first block of this prompt is one that others begin with too, ".repeat(pick(0, 2) as usize);
    let text: String = (0..1 + pick(1, 12)).map(|i| words[pick(10 + i, 5) as usize]).collect();
    Request {
        purpose: [Purpose::Answer, Purpose::Judge, Purpose::Refine][pick(2, 3) as usize],
        input: match pick(3, 2) {
            0 => Input::Chat(vec![Message::user(shared + &text)]),
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
        constraint: None,
    }
}

/// What must not depend on company.
fn content(completions: Vec<Completion>) -> Vec<Completion> {
    completions.into_iter().map(|c| Completion { cached_tokens: 0, ..c }).collect()
}

#[tokio::test]
async fn a_reply_is_bit_identical_alone_and_in_company() {
    let alone_engine = engine(NativeConfig { threads: 1, cache_bytes: 0, ..NativeConfig::default() });
    let mut alone = Vec::new();
    for n in 0..150 {
        alone.push(content(run(&alone_engine, mixed(n)).await));
    }
    let configs = [
        NativeConfig { threads: 1, max_replies: 40, ..NativeConfig::default() },
        NativeConfig { threads: 3, max_replies: 200, step_rows: 40, ..NativeConfig::default() },
        NativeConfig { threads: 2, max_replies: 13, cache_bytes: 60_000, ..NativeConfig::default() },
    ];
    for config in configs {
        let engine = engine(config);
        for round in 0..2u64 {
            let mut order: Vec<u64> = (0..150).collect();
            order.sort_by_key(|&n| derive_seed(round, n));
            let together = join_all(order.iter().map(|&n| run(&engine, mixed(n)))).await;
            for (n, completions) in order.into_iter().zip(together) {
                assert_eq!(content(completions), alone[n as usize], "request {n}");
            }
        }
    }
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
    let engine = engine(two_threads());
    let prompt = "a judge is asked about a response that is longer than one block of keys and values".to_owned();
    let first = run(&engine, greedy(&prompt, 40)).await.remove(0);
    assert_eq!(first.cached_tokens, 0);
    let again = run(&engine, greedy(&prompt, 40)).await.remove(0);
    assert!(again.cached_tokens >= 64 && again.cached_tokens < again.prompt_tokens, "{}", again.cached_tokens);
    assert_eq!((ids(&again), &again.logprobs), (ids(&first), &first.logprobs));
    // The blocks of a reply serve the turn that follows it.
    let mut tokens = engine.dir.encode(&Input::Text(prompt.clone())).unwrap();
    tokens.extend(ids(&first));
    let longer = prompt + &first.text + " again";
    if engine.dir.encode(&Input::Text(longer.clone())).unwrap().starts_with(&tokens) {
        assert!(run(&engine, greedy(&longer, 1)).await[0].cached_tokens > again.prompt_tokens);
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
    assert_eq!(stopped.finish, FinishReason::Stop);
    let mut request = greedy("hello", 30);
    request.sampling = Sampling { logit_bias: vec![(testing::EOS, 100.0)], temperature: 0.0, ..Sampling::default() };
    let ended = run(&engine, request).await.remove(0);
    assert_eq!((ended.text.as_str(), ended.tokens, ended.finish), ("", 1, FinishReason::Stop));
}

#[tokio::test]
async fn what_is_not_supported_is_refused() {
    let engine = engine(two_threads());
    assert!(!engine.constrains());
    let request = Request { constraint: Some(crate::engine::Constraint::Regex("a".into())), ..greedy("x", 3) };
    assert!(matches!(engine.start(request).await.err().unwrap(), EngineError::Unsupported(_)));
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let mut config = TinyModel::default().config();
    config["rope_scaling"] = serde_json::json!({ "type": "yarn", "factor": 2.0 });
    testing::write_json(dir.path(), "config.json", &config);
    let error = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), two_threads()).err().unwrap();
    assert!(error.to_string().contains("`yarn`"), "{error}");
}

#[tokio::test]
async fn a_lost_thread_ends_replies_and_refuses_the_next() {
    let (jobs, inbox) = std::sync::mpsc::channel::<Job>();
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let dir = ModelDir::open(dir.path()).unwrap();
    let engine = NativeEngine { info: dir.info(), dir, jobs };
    // A thread that admits one request, says one chunk and is gone.
    let thread = std::thread::spawn(move || {
        let job = inbox.recv().unwrap();
        let (chunks, listener) = mpsc::unbounded();
        assert!(job.started.send(scheduler::Started { cached_tokens: 0, replies: vec![listener] }).is_ok());
        chunks.unbounded_send(Ok(Chunk { tokens: 1, ..Chunk::default() })).unwrap();
    });
    let reply = engine.start(greedy("x", 3)).await.unwrap().remove(0);
    assert!(matches!(reply.complete().await, Err(EngineError::Crashed(_))));
    thread.join().unwrap();
    assert!(matches!(engine.start(greedy("x", 3)).await.err(), Some(EngineError::Unavailable(_))));
}

/// Prints tokens per second of 64 replies at once on a random model of about 2 M parameters.
#[tokio::test]
#[ignore = "a measurement"]
async fn speed() {
    let model = TinyModel {
        hidden: 192,
        intermediate: 512,
        layers: 5,
        heads: 3,
        kv_heads: 1,
        head_dim: 64,
        vocabulary: 1024,
        context: 1024,
        tied: true,
        ..TinyModel::default()
    };
    let engine = engine_with(&model, NativeConfig::default());
    // Ticks of 10 ms of this process on processors, where the system tells them: fair on a busy machine.
    let ticks = || -> Option<u64> {
        let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
    };
    for (requests, samples) in [(1, 1), (8, 1), (64, 1), (13, 5), (128, 1)] {
        for round in 0..3u64 {
            let (begun, ticks_before) = (std::time::Instant::now(), ticks());
            let prompt = |n: usize| format!("{round} {n} ") + &"the prompt of a request ".repeat(4 + n % 5);
            let work = (0..requests).map(|n| {
                let sampling = Sampling { seed: n as u64, ignore_eos: true, ..Sampling::default() };
                run(&engine, Request { samples, sampling, logprobs: None, ..greedy(&prompt(n), 200) })
            });
            let done: Vec<Completion> = join_all(work).await.into_iter().flatten().collect();
            let tokens: usize = done.iter().map(|c| c.tokens).sum();
            let seconds = begun.elapsed().as_secs_f64();
            let busy = ticks().zip(ticks_before).map_or(0.0, |(after, before)| (after - before) as f64 / 100.0);
            println!(
                "{requests} requests × {samples}, {} prompt and {tokens} reply tokens: {:.0} reply tokens/s, {:.0} per second of a processor",
                done.iter().step_by(samples).map(|c| c.prompt_tokens).sum::<usize>(),
                tokens as f64 / seconds,
                tokens as f64 / busy,
            );
        }
    }
}
