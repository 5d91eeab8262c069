//! Swaps under load: nothing fails, nothing mixes, nothing is left behind.

use std::collections::{HashMap, HashSet};
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

use super::super::harness::{json_of, with};
use super::world::{FINGERPRINT, TOKENS, Usage, World, fingerprint, greedy};

/// What is swapped, the role, and the body of the `n`-th such request.
type Kind<'a> = (&'a str, &'a str, &'a dyn Fn(u64) -> Value);

const JUDGE_TOKENS: &str = "48";

/// How much load.
#[derive(Clone, Copy)]
struct Clients {
    plain: usize,
    searching: usize,
}

/// What a client saw in one answer.
#[derive(Clone)]
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
    let world = World::start(&flags()).await;
    weights_to_swap(&world).await;
    let mut swaps = Swaps::of(&world).await;
    let clients = Clients { plain: 3, searching: 2 };
    let (answers, ()) = asked_while(&world, clients, swaps.many(9)).await;
    check_all(&world, &swaps.sources, &answers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rollbacks_under_load_fail_nothing_and_mix_nothing() {
    let world = World::start(&flags()).await;
    weights_to_swap(&world).await;
    let mut swaps = Swaps::of(&world).await;
    let there_and_back = async {
        for round in 0..10 {
            let first = swaps.live().await;
            let second = swaps.next().await["generation"].clone();
            swaps.next().await;
            for (count, expected) in [(1, second), (2, first)] {
                let back = world.admin("/admin/generations/rollback", &json!({}), StatusCode::OK).await;
                assert_eq!(back["generation"], expected, "round {round}, rollback {count}");
            }
        }
    };
    let (answers, ()) = asked_while(&world, Clients { plain: 4, searching: 2 }, there_and_back).await;
    check_all(&world, &swaps.sources, &answers).await;
    settle(&world).await;
}

/// `cargo test --release --test main two_hundred -- --ignored --nocapture`
///
/// The server is a process of its own. It is measured at rest with the same model per role each time: after load without
/// swaps, after the swaps under load, and after the load without swaps again, which has filled the caches as they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes minutes"]
async fn two_hundred_swaps_under_load() {
    let world = World::apart(&flags()).await;
    weights_to_swap(&world).await;
    let clients = Clients { plain: 8, searching: 4 };
    let mut swaps = Swaps::of(&world).await;
    let calm = || tokio::time::sleep(Duration::from_secs(10));
    let (mut without, ()) = asked_while(&world, clients, calm()).await;
    settle(&world).await;
    let before = Usage::of(&world.server);
    let (with, ()) = asked_while(&world, clients, swaps.many(200)).await;
    for role in ["actor", "refiner"] {
        world.swap(role, json!({ "model_path": role })).await;
    }
    swaps.note().await;
    settle(&world).await;
    let swapped = Usage::of(&world.server);
    let (again, ()) = asked_while(&world, clients, calm()).await;
    settle(&world).await;
    let after = Usage::of(&world.server);
    without.extend(again);

    let searched = |answers: &[Seen]| answers.iter().filter(|seen| seen.critique.is_some()).count();
    println!("{} answers without swaps, {} of them searched", without.len(), searched(&without));
    println!("{} answers with swaps, {} of them searched", with.len(), searched(&with));
    for (kind, mut times) in swaps.took.clone() {
        times.sort_by(f64::total_cmp);
        let n = times.len();
        println!("{kind}: median {:.1} ms, most {:.1} ms, n {n}", times[n / 2], times[n - 1]);
    }
    let [calm, swapping] = [&without, &with].map(|answers| {
        let mut gaps: Vec<Duration> = answers.iter().flat_map(|seen| seen.gaps.clone()).collect();
        gaps.sort();
        gaps[gaps.len() * 99 / 100]
    });
    println!("p99 gap between tokens: {calm:?} without swaps, {swapping:?} with");
    println!("at most {} threads", swaps.most_threads);
    for (when, usage) in [("before", before), ("after the swaps", swapped), ("loaded again", after)] {
        let Usage { threads, resident, anonymous } = usage;
        println!("at rest {when}: {resident} kB resident, {anonymous} of them no file's, {threads} threads");
    }
    check_all(&world, &swaps.sources, &[without, with].concat()).await;
    assert!(swapping <= calm * 3, "the gap between tokens is {swapping:?}, {calm:?} without swaps");
    // Up to six generations of two threads and their watch, and the runtime's idle ones; one more a swap would be above it.
    assert!(swaps.most_threads <= before.threads + 30, "{} threads", swaps.most_threads);
    for usage in [swapped, after] {
        assert!(usage.resident * 10 <= before.resident * 11, "memory is left behind");
        assert!(usage.threads <= before.threads + 2, "threads are left behind");
    }
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
        (
            "actor LoRA and its base",
            "actor",
            &|seed| json!({ "model_path": "actor", "adapter_path": format!("m-{seed}") }),
        ),
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

fn flags() -> Vec<&'static str> {
    let searches = ["--judge-temperature", "0", "--refine-temperature", "0", "--refine-tokens", "32"];
    [&searches[..], &["--judge-tokens", JUDGE_TOKENS, "--max-running", "32"]].concat()
}

async fn weights_to_swap(world: &World) {
    for seed in 0..2 {
        world.adapter("actor", &format!("actor-lora-{seed}"), 10 + seed);
        world.adapter("refiner", &format!("refiner-lora-{seed}"), 20 + seed);
        world.variant("actor", &format!("actor-{seed}"), 30 + seed);
    }
    world.server.ready().await;
}

/// Swaps of every kind in turn, and what they left.
struct Swaps<'a> {
    world: &'a World,
    done: usize,
    took: HashMap<&'static str, Vec<f64>>,
    /// Of every generation that was live: old ones are forgotten after a while, so they are noted as they come.
    sources: HashMap<String, Value>,
    most_threads: u64,
}

impl<'a> Swaps<'a> {
    async fn of(world: &'a World) -> Self {
        let mut swaps = Self { world, done: 0, took: HashMap::new(), sources: HashMap::new(), most_threads: 0 };
        swaps.note().await;
        swaps
    }

    async fn many(&mut self, count: usize) {
        for _ in 0..count {
            self.next().await;
        }
    }

    /// Swaps to what has its turn; the server's report.
    async fn next(&mut self) -> Value {
        let variant = self.done / 3 % 2;
        let (kind, role, fields) = match self.done % 3 {
            0 => (
                "actor LoRA",
                "actor",
                json!({ "adapter_path": format!("actor-lora-{variant}"), "model_path": "actor" }),
            ),
            1 => ("refiner LoRA", "refiner", json!({ "adapter_path": format!("refiner-lora-{variant}") })),
            _ => ("full", "actor", json!({ "model_path": format!("actor-{variant}") })),
        };
        self.done += 1;
        let swapped = self.world.swap(role, fields).await;
        self.took.entry(kind).or_default().push(swapped["elapsed_ms"].as_f64().unwrap());
        self.note().await;
        swapped
    }

    async fn live(&self) -> Value {
        json_of(self.world.server.get("/version"), StatusCode::OK).await["generation"].clone()
    }

    async fn note(&mut self) {
        self.most_threads = self.most_threads.max(Usage::of(&self.world.server).threads);
        let list = self.world.generations().await;
        let named = |g: &Value| (g["id"].as_str().unwrap().to_owned(), g["source"].clone());
        self.sources.extend(list["data"].as_array().unwrap().iter().map(named));
    }
}

/// What clients were answered while `work` was done.
async fn asked_while<T>(world: &World, clients: Clients, work: impl Future<Output = T>) -> (Vec<Seen>, T) {
    let stop = Arc::new(AtomicBool::new(false));
    let running: Vec<JoinHandle<Vec<Seen>>> = (0..clients.plain + clients.searching)
        .map(|client| {
            let stop = Arc::clone(&stop);
            let (http, url) = (world.server.client.clone(), format!("{}/v1/chat/completions", world.server.url));
            let searches = client >= clients.plain;
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    seen.push(if searches { searched(&http, &url).await } else { streamed(&http, &url).await });
                }
                seen
            })
        })
        .collect();
    let done = work.await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for client in running {
        answers.extend(client.await.expect("no request fails"));
    }
    (answers, done)
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
    // Idle threads end after ten seconds.
    tokio::time::sleep(if world.server.pid == std::process::id() { Duration::ZERO } else { Duration::from_secs(12) })
        .await;
}

/// Every answer is that of its generations, computed again without the server.
async fn check_all(world: &World, sources: &HashMap<String, Value>, answers: &[Seen]) {
    // By sources: the same weights come and go under several names.
    let mut drafts: HashMap<String, String> = HashMap::new();
    let mut critiques: HashMap<[String; 2], String> = HashMap::new();
    for seen in answers {
        let actor = sources[&seen.actor].to_string();
        if !drafts.contains_key(&actor) {
            let (dir, adapter) = weights(world, &sources[&seen.actor]);
            let text =
                greedy((&dir, adapter.as_ref()), Purpose::Answer, vec![Message::user(FINGERPRINT)], TOKENS).await;
            drafts.insert(actor.clone(), text);
        }
        let draft = &drafts[&actor];
        assert_eq!(&seen.text, draft, "an answer of {} is not its own", seen.actor);
        let (Some(refiner), Some(critique)) = (&seen.refiner, &seen.critique) else { continue };
        let pair = [actor, sources[refiner].to_string()];
        if !critiques.contains_key(&pair) {
            let (dir, adapter) = weights(world, &sources[refiner]);
            let templates = ModelDir::open(&dir).unwrap().templates;
            let turns = templates.judge(&[Message::user(FINGERPRINT)], draft);
            let critique = greedy((&dir, adapter.as_ref()), Purpose::Judge, turns, JUDGE_TOKENS.parse().unwrap()).await;
            critiques.insert(pair.clone(), critique);
        }
        let expected = &critiques[&pair];
        assert!(expected.trim() == critique.trim(), "a critique of {refiner} is not its own:\n{critique}\n{expected}");
    }
    let distinct: HashSet<&String> = drafts.values().collect();
    assert!(distinct.len() > 2, "generations do not differ enough to see mixtures: {drafts:?}");
}

/// The weights of a generation.
fn weights(world: &World, source: &Value) -> (PathBuf, Option<Adapter>) {
    let named = |field: &str| source[field].as_str().map(|path| world.path(path));
    let model = named("model_path").unwrap();
    let config = ModelConfig::open(&model).unwrap();
    let linears = config.dense.as_ref().unwrap().linears();
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
