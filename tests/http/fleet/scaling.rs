//! How throughput grows with the replicas, on servers that take a fixed time for each call and a fixed number of calls at a time. Ignored,
//! since it measures: `cargo test --release --test main fleet::scaling -- --ignored --nocapture` prints the tables of docs/fleet.md.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::response::Response;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};
use spar::engine::upstream::fleet::{Fleet, ReplicaConfig};
use spar::prompts::Templates;
use tokio::sync::Semaphore;

use super::super::harness::{Server, says as chat, with};
use super::scripted::{Asked, Scripted, fleet_with, patience, says_when};

/// Calls that a replica works on at a time.
const AT_ONCE: usize = 8;
/// What one call takes.
const SERVICE: Duration = Duration::from_millis(200);

/// A server of that speed. Its drafts are judged wrong, and what it refines is judged right.
async fn replica() -> Scripted {
    let text = Templates::general().text;
    let room = Arc::new(Semaphore::new(AT_ONCE));
    Scripted::start(move |asked: &Asked| -> Response {
        let turns = asked.body["messages"].as_array().map_or(0, Vec::len);
        let reply = match (turns, asked.text()) {
            (3, _) => format!("I change it. {}the refined text{}", text.start, text.end),
            (_, asked) if !asked.contains(&text.verdict) => "a draft".to_owned(),
            (_, asked) if asked.contains("the refined text") => format!("Good.\n{} Yes", text.verdict),
            _ => format!("Bad.\n{} No", text.verdict),
        };
        let room = Arc::clone(&room);
        says_when(asked, &reply, async move {
            let _working = room.acquire_owned().await.unwrap();
            tokio::time::sleep(SERVICE).await;
        })
    })
    .await
}

struct Setting {
    replicas: Vec<Scripted>,
    fleet: Arc<Fleet>,
    front: Server,
}

impl Setting {
    async fn of(count: usize) -> Self {
        let replicas = futures::future::join_all((0..count).map(|_| replica())).await;
        let config =
            |server: &Scripted| ReplicaConfig { max_in_flight: Some(AT_ONCE), ..ReplicaConfig::at(&server.url) };
        let patience = spar::engine::upstream::fleet::Patience { silence: Duration::from_secs(60), ..patience() };
        let fleet = fleet_with(replicas.iter().map(config).collect(), patience).await;
        let flags = ["--max-running", "256", "--max-waiting", "4096"];
        let front = Server::at_fleet(&fleet, &flags).await;
        front.ready().await;
        Self { replicas, fleet, front }
    }

    /// Answers per second of `clients` clients, each of which asks again when it is answered.
    async fn throughput(&self, clients: usize, answers: usize, budget: usize) -> f64 {
        let ask = |number: usize| async move {
            let fields = match budget {
                0 => json!({"seed": number}),
                _ => json!({"seed": number, "search_budget": budget, "search": {"votes": 1}}),
            };
            let body = with(chat(&format!("conversation {number}")), fields);
            let answer: Value = self.front.chat(&body).send().await.unwrap().json().await.unwrap();
            assert!(answer["choices"][0]["message"]["content"].is_string(), "{answer}");
            assert_ne!(answer["search"]["stop_reason"], "error", "{answer}");
        };
        let begun = Instant::now();
        stream::iter((0..answers).map(ask)).buffer_unordered(clients).for_each(|()| async {}).await;
        answers as f64 / begun.elapsed().as_secs_f64()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn throughput_grows_with_the_replicas() {
    println!(
        "| replicas | sampling, answers/s | of linear | search, answers/s | of linear |\n| --- | --- | --- | --- | --- |"
    );
    let mut one = [0.0; 2];
    for count in [1, 2, 4, 8] {
        let setting = Setting::of(count).await;
        let clients = 3 * AT_ONCE * count;
        let sampling = setting.throughput(clients, 120 * count, 0).await;
        let search = setting.throughput(clients, 48 * count, 2).await;
        if count == 1 {
            one = [sampling, search];
        }
        let share = |found: f64, one: f64| found / (one * count as f64);
        let shares = [share(sampling, one[0]), share(search, one[1])];
        println!("| {count} | {sampling:.0} | {:.2} | {search:.1} | {:.2} |", shares[0], shares[1]);
        assert!(shares.iter().all(|share| *share >= 0.9), "{shares:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn a_lost_replica_costs_its_share_and_no_answer() {
    println!("| replicas | lost | answers/s before | after | expected |\n| --- | --- | --- | --- | --- |");
    for count in [2, 4] {
        let mut setting = Setting::of(count).await;
        let clients = 3 * AT_ONCE * count;
        let before = setting.throughput(clients, 120 * count, 0).await;
        let lost = setting.replicas.pop().unwrap();
        let dying = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(lost);
        };
        // Every answer is checked while the replica goes.
        tokio::join!(setting.throughput(clients, 72 * count, 0), dying);
        let after = setting.throughput(clients, 120 * count, 0).await;
        let expected = before * (count - 1) as f64 / count as f64;
        println!("| {count} | 1 | {before:.0} | {after:.0} | {expected:.0} |");
        assert!(after >= 0.9 * expected, "{after} of {expected}");
        assert!(setting.fleet.views().last().unwrap().counted.answered > 0);
    }
}
