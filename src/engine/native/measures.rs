//! Measurements: `cargo test --release --lib native::measures -- --ignored --nocapture --test-threads 1`.

mod large;
mod speculation;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use futures::StreamExt;
use futures::future::join_all;

use super::tests::{engine_with, greedy, run};
use super::*;
use crate::chat::Message;
use crate::engine::{Completion, Sampling, derive_seed};
use crate::testing::TinyModel;
use crate::weights::{LowRank, LowRanks};

fn shipped(role: &str) -> NativeEngine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny").join(role);
    NativeEngine::load(ModelDir::open(dir).unwrap(), NativeConfig::default()).unwrap()
}

/// The texts of some held-out prompts.
fn prompts(count: usize) -> Vec<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/held-out.jsonl");
    let lines = std::fs::read_to_string(file).unwrap();
    let prompt = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        value["prompt"].as_str().unwrap().to_owned()
    };
    lines.lines().take(count).map(prompt).collect()
}

/// Seconds of this process on processors, where the system reports them: fair on a busy machine.
fn busy() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap_or(0.0)).sum::<f64>() / 100.0
}

/// Tokens per second on a random model of about 2 M parameters.
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
    for (requests, samples) in [(1, 1), (8, 1), (64, 1), (13, 5), (128, 1)] {
        for round in 0..3u64 {
            let (begun, busy_before) = (Instant::now(), busy());
            let prompt = |n: usize| format!("{round} {n} ") + &"the prompt of a request ".repeat(4 + n % 5);
            let work = (0..requests).map(|n| {
                let sampling = Sampling { seed: n as u64, ignore_eos: true, ..Sampling::default() };
                run(&engine, Request { samples, sampling, logprobs: None, ..greedy(&prompt(n), 200) })
            });
            let done: Vec<Completion> = join_all(work).await.into_iter().flatten().collect();
            let tokens: usize = done.iter().map(|c| c.tokens).sum();
            println!(
                "{requests} requests × {samples}, {} prompt and {tokens} reply tokens: {:.0} reply tokens/s, {:.0} per second of a processor",
                done.iter().step_by(samples).map(|c| c.prompt_tokens).sum::<usize>(),
                tokens as f64 / begun.elapsed().as_secs_f64(),
                tokens as f64 / (busy() - busy_before),
            );
        }
    }
}

/// Plain requests of mixed lengths on the shipped actor: eight at once, and the same one after another, interleaved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn eight_streams() {
    let engine = shipped("actor");
    let prompts = prompts(8);
    let ask = async |n: usize| {
        let sampling = Sampling { ignore_eos: true, seed: n as u64, ..Sampling::default() };
        let request = Request::chat(Purpose::Answer, vec![Message::user(prompts[n].clone())]);
        run(&engine, Request { sampling, max_tokens: Some(60 + 20 * n), ..request }).await.remove(0).tokens
    };
    let mut ratios = Vec::new();
    for round in 0..15 {
        let (begun, busy_before) = (Instant::now(), busy());
        let mut tokens = 0;
        for n in 0..8 {
            tokens += ask(n).await;
        }
        let (one, one_busy) = (tokens as f64 / begun.elapsed().as_secs_f64(), tokens as f64 / (busy() - busy_before));
        let (begun, busy_before) = (Instant::now(), busy());
        let tokens: usize = join_all((0..8).map(ask)).await.into_iter().sum();
        let (all, all_busy) = (tokens as f64 / begun.elapsed().as_secs_f64(), tokens as f64 / (busy() - busy_before));
        println!(
            "round {round}: one {one:.0} tokens/s ({one_busy:.0} per second of a processor), eight {all:.0} ({all_busy:.0}), × {:.2}",
            all / one
        );
        ratios.push(all / one);
    }
    ratios.sort_by(f64::total_cmp);
    println!("eight at once: × {:.2} [{:.2}, {:.2}]", ratios[7], ratios[0], ratios[14]);
}

/// Measures the time from an adapter's numbers to the first token of its first reply, on the shipped actor.
#[tokio::test]
#[ignore = "a measurement"]
async fn adapter_to_first_token() {
    let base = shipped("actor");
    let config = &base.runtime.model.config;
    let mut times = Vec::new();
    for round in 0..201u64 {
        let pair = |outer: usize, inner: usize, key: u64| {
            let numbers = |count: usize, key: u64| -> Vec<f32> {
                (0..count as u64).map(|i| (derive_seed(key, i) >> 40) as f32 * 1e-10).collect()
            };
            LowRank { a: numbers(16 * inner, key), b: numbers(16 * outer, key + 1), rank: 16, scale: 1.0 }
        };
        let (h, q, kv) = (config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let modules: LowRanks = (0..config.layers)
            .flat_map(|layer| {
                let shapes = [
                    ("self_attn.q_proj", q, h),
                    ("self_attn.v_proj", kv, h),
                    ("mlp.down_proj", h, config.intermediate),
                ];
                shapes.map(|(name, outer, inner)| (format!("model.layers.{layer}.{name}"), pair(outer, inner, round)))
            })
            .collect();
        let begun = Instant::now();
        let adapted = base.with_adapter(&modules).unwrap();
        let request = Request {
            max_tokens: Some(1),
            ..Request::chat(Purpose::Answer, vec![Message::user(prompts(1)[0].clone())])
        };
        run(&adapted, request).await;
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let first = times[0];
    times.sort_by(f64::total_cmp);
    println!(
        "adapter of rank 16 to first token, {} times: median {:.1} ms, 95 % {:.1} ms, worst {:.1} ms; the first {first:.1} ms",
        times.len(),
        times[times.len() / 2],
        times[times.len() * 95 / 100],
        times[times.len() - 1],
    );
}

/// Votes of the shipped refiner, free and under the verdict's grammar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn constrained_votes() {
    let engine = shipped("refiner");
    let templates = engine.dir.templates.clone();
    let prompts = prompts(100);
    let votes = |constraint: Option<crate::engine::Constraint>| {
        let (engine, templates, prompts) = (&engine, &templates, &prompts);
        async move {
            let (begun, busy_before) = (Instant::now(), busy());
            let vote = |(n, prompt): (usize, &String)| {
                let messages =
                    templates.judge(&[Message::user(prompt.clone())], "The quiet river carries a small lantern.");
                let sampling = Sampling { temperature: 0.7, seed: n as u64, ..Sampling::default() };
                let request = Request {
                    samples: 3,
                    sampling,
                    max_tokens: Some(400),
                    constraint: constraint.clone(),
                    ..Request::chat(Purpose::Judge, messages)
                };
                run(engine, request)
            };
            let done = join_all(prompts.iter().enumerate().map(vote)).await.concat();
            let tokens: usize = done.iter().map(|reply| reply.tokens).sum();
            let valid = done.iter().filter(|reply| templates.parse_verdict(&reply.text).is_some()).count();
            println!(
                "{}: {} votes, {valid} valid, {tokens} tokens, {:.2} s, {:.0} tokens/s, {:.0} per second of a processor",
                if constraint.is_some() { "grammar" } else { "free" },
                done.len(),
                begun.elapsed().as_secs_f64(),
                tokens as f64 / begun.elapsed().as_secs_f64(),
                tokens as f64 / (busy() - busy_before),
            );
        }
    };
    for _ in 0..3 {
        votes(None).await;
        votes(Some(templates.verdict_constraint())).await;
    }
}

/// Time between a plain reply's tokens, alone and during eight searches that vote without pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn plain_beside_searches() {
    for shared in [false, true] {
        let refiner = Arc::new(shipped("refiner"));
        let actor = if shared { refiner.clone() } else { Arc::new(shipped("actor")) };
        let prompts = prompts(40);
        let gaps = async || {
            let mut gaps = Vec::new();
            for prompt in &prompts {
                let sampling = Sampling { ignore_eos: true, ..Sampling::default() };
                let request = Request {
                    sampling,
                    max_tokens: Some(60),
                    ..Request::chat(Purpose::Answer, vec![Message::user(prompt.clone())])
                };
                let mut reply = actor.start(request).await.unwrap().remove(0);
                let mut last = None;
                while reply.chunks.next().await.is_some() {
                    let now = Instant::now();
                    gaps.extend(last.replace(now).map(|last| (now - last).as_secs_f64() * 1e6));
                }
            }
            gaps.sort_by(f64::total_cmp);
            (gaps[gaps.len() / 2], gaps[gaps.len() * 95 / 100], gaps[gaps.len() * 99 / 100])
        };
        let alone = gaps().await;
        let over = Arc::new(AtomicBool::new(false));
        let search = |n: u64| {
            let (refiner, over, prompts) = (refiner.clone(), over.clone(), prompts.clone());
            tokio::spawn(async move {
                let mut tokens = 0;
                for round in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let prompt = &prompts[(n * 7 + round) as usize % prompts.len()];
                    let messages = refiner
                        .dir
                        .templates
                        .judge(&[Message::user(prompt.clone())], "The quiet river carries a small lantern.");
                    let sampling = Sampling { seed: round, ..Sampling::default() };
                    let request = Request {
                        samples: 3,
                        sampling,
                        max_tokens: Some(200),
                        ..Request::chat(Purpose::Judge, messages)
                    };
                    tokens += run(&refiner, request).await.iter().map(|reply| reply.tokens).sum::<usize>();
                }
                tokens
            })
        };
        let searches: Vec<_> = (0..8).map(search).collect();
        let begun = Instant::now();
        let beside = gaps().await;
        over.store(true, Ordering::Relaxed);
        let tokens: usize = join_all(searches).await.into_iter().map(Result::unwrap).sum();
        println!(
            "{}: µs between tokens, median / 95 % / 99 %: alone {:.0} / {:.0} / {:.0}, beside 8 searches {:.0} / {:.0} / {:.0} (95 %: × {:.2}); searches {:.0} tokens/s",
            if shared { "one engine" } else { "actor and refiner" },
            alone.0,
            alone.1,
            alone.2,
            beside.0,
            beside.1,
            beside.2,
            beside.1 / alone.1,
            tokens as f64 / begun.elapsed().as_secs_f64(),
        );
    }
}

/// An engine that counts the tokens of its prompts, with or without grammars.
struct Counting {
    engine: NativeEngine,
    constrains: bool,
    /// Prompt tokens by purpose.
    prompts: [PromptCounts; 3],
}

/// Tokens of prompts.
#[derive(Default)]
struct PromptCounts {
    /// Once per call.
    sent: AtomicUsize,
    /// Once per reply.
    per_reply: AtomicUsize,
    /// Once per call, found when it began.
    cached: AtomicUsize,
}

#[async_trait]
impl Engine for Counting {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let counts = &self.prompts[request.purpose as usize];
        let replies = self.engine.start(request).await?;
        let tokens = replies[0].prompt_tokens;
        counts.sent.fetch_add(tokens, Ordering::Relaxed);
        counts.per_reply.fetch_add(tokens * replies.len(), Ordering::Relaxed);
        counts.cached.fetch_add(replies[0].cached_tokens, Ordering::Relaxed);
        Ok(replies)
    }

    fn info(&self) -> &ModelInfo {
        self.engine.info()
    }

    fn capabilities(&self) -> Capabilities {
        let constraints = if self.constrains { ConstraintSupport::Everything } else { ConstraintSupport::Nothing };
        Capabilities { constraints, ..self.engine.capabilities() }
    }
}

/// Searches at budget 16 on held-out prompts with the shipped models, with grammars and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn search_at_16() {
    use crate::eval::{Method, trials};
    use crate::search::{Models, SearchConfig};
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/held-out.jsonl");
    let mut cases = crate::verify::data::read_prompts(&file).unwrap().items;
    cases.truncate(std::env::var("SPAR_BENCH_PROMPTS").map_or(500, |count| count.parse().unwrap()));
    for constrains in [true, false] {
        let counting = |role| Counting { engine: shipped(role), constrains, prompts: Default::default() };
        let (actor, refiner) = (counting("actor"), counting("refiner"));
        let templates = refiner.engine.dir.templates.clone();
        let models = Models { actor: &actor, refiner: &refiner, templates: &templates };
        let (begun, busy_before) = (Instant::now(), busy());
        let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
        let method = Method { max_tokens: Some(200), ..Method::search(SearchConfig::by_votes(), sampling) };
        let trials = trials(models, &method, &cases, 32, &|| ()).await.unwrap();
        let (seconds, processor) = (begun.elapsed().as_secs_f64(), busy() - busy_before);
        let tokens: usize = trials.iter().map(|trial| trial.tokens).sum();
        let right = trials.iter().map(|trial| trial.score()).sum::<f64>() / trials.len() as f64;
        let sum = |of: &dyn Fn(&Counting) -> u64| of(&actor) + of(&refiner);
        let all = |of: fn(&PromptCounts) -> &AtomicUsize| {
            sum(&|engine| engine.prompts.iter().map(|counts| of(counts).load(Ordering::Relaxed) as u64).sum())
        };
        let sent = [all(|counts| &counts.sent), all(|counts| &counts.per_reply)];
        let computed = sum(&|engine| engine.engine.counters().prompt_tokens_computed.load(Ordering::Relaxed));
        println!(
            "{}: {} prompts in {seconds:.1} s ({processor:.1} s of processors), {tokens} tokens, {:.0} tokens/s, {:.0} per second of a processor; \
             prompt tokens computed {computed}, sent {} ({:.2}) counting each call's once, {} ({:.2}) counting each reply's; right {right:.3}",
            if constrains { "grammars" } else { "free" },
            trials.len(),
            tokens as f64 / seconds,
            tokens as f64 / processor,
            sent[0],
            computed as f64 / sent[0] as f64,
            sent[1],
            computed as f64 / sent[1] as f64,
        );
        for (engine, purpose) in [(&actor, Purpose::Answer), (&refiner, Purpose::Judge), (&refiner, Purpose::Refine)] {
            let PromptCounts { sent, per_reply, cached } = &engine.prompts[purpose as usize];
            println!("  {purpose:?}: sent {sent:?} ({per_reply:?}), found in blocks when calls began {cached:?}");
        }
    }
}
