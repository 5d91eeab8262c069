//! Swaps under load: nothing fails, nothing mixes, nothing is left behind.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::chat::Message;
use spar::engine::Purpose;
use spar::engine::model_dir::ModelDir;
use spar::weights::ModelConfig;
use spar::weights::adapter::Adapter;
use tokio::task::JoinHandle;

use super::super::harness::with;
use super::world::{FINGERPRINT, TOKENS, World, fingerprint, greedy, usage};

/// What is swapped, the role, and the body of the `n`-th such request.
type Kind<'a> = (&'a str, &'a str, &'a dyn Fn(u64) -> Value);

const JUDGE_TOKENS: usize = 48;

/// How much load, and for how long.
struct Size {
    plain: usize,
    searching: usize,
    swaps: usize,
    /// Time without swaps, to compare with.
    calm: Duration,
}

/// What a client saw in one answer.
struct Seen {
    actor: String,
    refiner: Option<String>,
    text: String,
    critique: Option<String>,
    /// Between the events of a stream.
    gaps: Vec<Duration>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swaps_under_load_fail_nothing_and_mix_nothing() {
    let size = Size { plain: 3, searching: 2, swaps: 9, calm: Duration::from_millis(300) };
    under_load(&size).await;
}

/// `cargo test --release --test main two_hundred -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes"]
async fn two_hundred_swaps_under_load() {
    let size = Size { plain: 8, searching: 4, swaps: 200, calm: Duration::from_secs(10) };
    let report = under_load(&size).await;
    let [calm, swapping] = [report.calm, report.swapping].map(|mut gaps| {
        gaps.sort();
        gaps[gaps.len() * 99 / 100]
    });
    println!("p99 gap between tokens: {calm:?} without swaps, {swapping:?} with");
    println!(
        "resident kB: {} before, {} after; threads: {} before, at most {}",
        report.before["VmRSS"], report.after["VmRSS"], report.before["Threads"], report.most_threads
    );
    assert!(swapping <= calm * 3, "the gap between tokens is {swapping:?}, {calm:?} without swaps");
    assert!(report.after["VmRSS"] * 10 <= report.before["VmRSS"] * 11, "memory is left behind");
}

/// `cargo test --release --test main swap_times -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn swap_times_of_the_embedded_model() {
    let world = World::start(&[]).await;
    world.server.ready().await;
    let rounds = 20;
    for seed in 0..rounds {
        world.adapter("actor", &format!("a-{seed}"), 100 + seed);
        world.adapter("actor", &format!("m-{seed}"), 200 + seed);
        world.adapter("refiner", &format!("r-{seed}"), 300 + seed);
        world.variant("actor", &format!("full-{seed}"), 400 + seed);
    }
    let kinds: [Kind<'_>; 4] = [
        ("actor LoRA at run time", "actor", &|seed| json!({ "adapter_path": format!("a-{seed}") })),
        ("refiner LoRA at run time", "refiner", &|seed| json!({ "adapter_path": format!("r-{seed}") })),
        ("actor LoRA merged", "actor", &|seed| json!({ "model_path": "actor", "adapter_path": format!("m-{seed}") })),
        ("full actor", "actor", &|seed| json!({ "model_path": format!("full-{seed}") })),
    ];
    for (kind, role, fields) in kinds {
        if role == "actor" {
            // Adapters are for this base.
            world.swap("actor", json!({ "model_path": "actor" })).await;
        }
        let mut times = Vec::new();
        for seed in 0..rounds {
            let asked = Instant::now();
            world.swap(role, fields(seed)).await;
            times.push(asked.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let n = times.len();
        println!(
            "{kind}: request to live, median {:.1} ms, least {:.1}, most {:.1}, n {n}",
            times[n / 2],
            times[0],
            times[n - 1]
        );
    }
}

struct Outcome {
    calm: Vec<Duration>,
    swapping: Vec<Duration>,
    before: HashMap<&'static str, u64>,
    after: HashMap<&'static str, u64>,
    most_threads: u64,
}

async fn under_load(size: &Size) -> Outcome {
    let greedy_judging = ["--judge-temperature", "0", "--refine-temperature", "0"];
    let judge_tokens = JUDGE_TOKENS.to_string();
    let limits = ["--judge-tokens", &judge_tokens, "--refine-tokens", "32", "--max-running", "32"];
    let world = World::start(&[&greedy_judging[..], &limits].concat()).await;
    for seed in 0..2 {
        world.adapter("actor", &format!("actor-lora-{seed}"), 10 + seed);
        world.adapter("refiner", &format!("refiner-lora-{seed}"), 20 + seed);
        world.variant("actor", &format!("actor-{seed}"), 30 + seed);
    }
    world.server.ready().await;
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = Arc::new(AtomicBool::new(false));
    let clients: Vec<JoinHandle<Vec<(bool, Seen)>>> = (0..size.plain + size.searching)
        .map(|client| {
            let (stop, swapping) = (Arc::clone(&stop), Arc::clone(&swapping));
            let (http, url) = (world.server.client.clone(), format!("{}/v1/chat/completions", world.server.url));
            let searches = client >= size.plain;
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let during = swapping.load(Ordering::Relaxed);
                    let one = if searches { searched(&http, &url).await } else { streamed(&http, &url).await };
                    seen.push((during, one));
                }
                seen
            })
        })
        .collect();
    // Every size of buffer is grown once before memory is measured.
    tokio::time::sleep(size.calm).await;
    let before = usage();
    let mut most_threads = before["Threads"];
    swapping.store(true, Ordering::Relaxed);
    let mut took: HashMap<&str, Vec<f64>> = HashMap::new();
    // Old generations are forgotten after a while, so their sources are noted as they come.
    let mut sources = HashMap::new();
    note_sources(&world, &mut sources).await;
    for swap in 0..size.swaps {
        let variant = swap / 3 % 2;
        let (kind, role, fields) = match swap % 3 {
            0 => (
                "actor LoRA",
                "actor",
                json!({ "adapter_path": format!("actor-lora-{variant}"), "model_path": "actor" }),
            ),
            1 => ("refiner LoRA", "refiner", json!({ "adapter_path": format!("refiner-lora-{variant}") })),
            _ => ("full", "actor", json!({ "model_path": format!("actor-{variant}") })),
        };
        let swapped = world.swap(role, fields).await;
        took.entry(kind).or_default().push(swapped["elapsed_ms"].as_f64().unwrap());
        most_threads = most_threads.max(usage()["Threads"]);
        note_sources(&world, &mut sources).await;
    }
    world.admin("/admin/generations/rollback", &json!({}), StatusCode::OK).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.expect("no request fails"));
    }
    check_all(&world, &sources, &answers).await;
    for (kind, mut times) in took {
        times.sort_by(f64::total_cmp);
        println!(
            "{kind}: median {:.1} ms, most {:.1} ms, n {}",
            times[times.len() / 2],
            times[times.len() - 1],
            times.len()
        );
    }
    println!(
        "{} answers, {} of them searched",
        answers.len(),
        answers.iter().filter(|(_, seen)| seen.critique.is_some()).count()
    );
    settle(&world).await;
    let after = usage();
    // Up to six generations and the runtime's idle threads; a leak of one thread a swap would be above it.
    assert!(most_threads <= before["Threads"] + 80, "{most_threads} threads, {} before", before["Threads"]);
    let gaps =
        |during: bool| answers.iter().filter(|(d, _)| *d == during).flat_map(|(_, seen)| seen.gaps.clone()).collect();
    Outcome { calm: gaps(false), swapping: gaps(true), before, after, most_threads }
}

async fn note_sources(world: &World, sources: &mut HashMap<String, Value>) {
    let list = world.generations().await;
    let named = |g: &Value| (g["id"].as_str().unwrap().to_owned(), g["source"].clone());
    sources.extend(list["data"].as_array().unwrap().iter().map(named));
}

/// Waits until old generations have left memory.
async fn settle(world: &World) {
    let started = Instant::now();
    loop {
        let list = world.generations().await;
        let draining = list["data"].as_array().unwrap().iter().filter(|g| g["state"] == "draining").count();
        if draining == 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{list}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
}

/// Every answer is that of its generations, computed again without the server.
async fn check_all(world: &World, sources: &HashMap<String, Value>, answers: &[(bool, Seen)]) {
    let mut drafts: HashMap<&str, String> = HashMap::new();
    let mut critiques: HashMap<(&str, &str), String> = HashMap::new();
    for (_, seen) in answers {
        if !drafts.contains_key(seen.actor.as_str()) {
            let (dir, adapter) = weights(world, &sources[&seen.actor]);
            let text =
                greedy((&dir, adapter.as_ref()), Purpose::Answer, vec![Message::user(FINGERPRINT)], TOKENS).await;
            drafts.insert(&seen.actor, text);
        }
        let draft = &drafts[seen.actor.as_str()];
        assert_eq!(&seen.text, draft, "an answer of {} is not its own", seen.actor);
        let (Some(refiner), Some(critique)) = (&seen.refiner, &seen.critique) else { continue };
        let pair = (seen.actor.as_str(), refiner.as_str());
        let known = critiques.get(&pair).cloned();
        if known.is_none() {
            let (dir, adapter) = weights(world, &sources[refiner]);
            let templates = ModelDir::open(&dir).unwrap().templates;
            let turns = templates.judge(&[Message::user(FINGERPRINT)], draft);
            critiques.insert(pair, greedy((&dir, adapter.as_ref()), Purpose::Judge, turns, JUDGE_TOKENS).await);
        }
        let expected = &critiques[&pair];
        assert!(expected.trim() == critique.trim(), "a critique of {refiner} is not its own:\n{critique}\n{expected}");
    }
    let distinct: std::collections::HashSet<&String> = drafts.values().collect();
    assert!(distinct.len() > 2, "generations do not differ enough to see mixtures: {drafts:?}");
}

/// The weights of a generation.
fn weights(world: &World, source: &Value) -> (PathBuf, Option<Adapter>) {
    let named = |field: &str| source[field].as_str().map(|path| world.path(path));
    let model = named("model_path").unwrap();
    let config = ModelConfig::open(&model).unwrap();
    let linears = config.dense.as_ref().unwrap().linears(config.vocabulary);
    let adapter = named("adapter_path").map(|adapter| Adapter::open(&adapter, &linears).unwrap().0);
    (model, adapter)
}

async fn streamed(http: &reqwest::Client, url: &str) -> Seen {
    let body = with(fingerprint(), json!({ "stream": true }));
    let mut response = http.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let actor = super::world::actor_of(&response);
    let (mut bytes, mut gaps, mut last) = (Vec::new(), Vec::new(), None);
    while let Some(chunk) = response.chunk().await.unwrap() {
        let now = Instant::now();
        gaps.extend(last.replace(now).map(|last| now - last));
        bytes.extend_from_slice(&chunk);
    }
    let events = super::super::harness::Events::read(std::str::from_utf8(&bytes).unwrap());
    assert!(events.done);
    Seen { actor, refiner: None, text: events.text(0), critique: None, gaps }
}

async fn searched(http: &reqwest::Client, url: &str) -> Seen {
    let body = with(fingerprint(), json!({ "search_budget": 1, "search": { "trace": "full", "votes": 1 } }));
    let response = http.post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let actor = super::world::actor_of(&response);
    let answer: Value = response.json().await.unwrap();
    let search = &answer["search"];
    assert_eq!(search["generation"]["actor"], actor.as_str());
    let root = &search["tree"][0];
    let critique = root["critique"].as_str().filter(|critique| !critique.is_empty()).map(str::to_owned);
    let refiner = Some(search["generation"]["refiner"].as_str().unwrap().to_owned());
    Seen { actor, refiner, text: root["text"].as_str().unwrap().to_owned(), critique, gaps: Vec::new() }
}
