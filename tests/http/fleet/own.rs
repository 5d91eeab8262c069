//! Our own servers as a fleet.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::upstream::fleet::State;
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};

use super::super::harness::{Server, eventually, says, with, within_seconds, writes};
use super::super::upstream::improving_by_content;
use super::scripted::{fleet_of, patience};

/// A server at a fleet of these.
pub async fn in_front_of(servers: &[&Server]) -> (Server, Arc<spar::engine::upstream::fleet::Fleet>) {
    let urls: Vec<&str> = servers.iter().map(|server| server.url.as_str()).collect();
    let patience = spar::engine::upstream::fleet::Patience { silence: Duration::from_secs(60), ..patience() };
    let fleet = fleet_of(&urls, patience).await;
    (Server::at_fleet(&fleet, &[]).await, fleet)
}

/// What of an answer depends on the model's draws alone.
fn drawn(mut answer: Value) -> Value {
    for field in ["id", "elapsed_ms"] {
        answer["search"].as_object_mut().unwrap().shift_remove(field);
    }
    json!([answer["choices"], answer["usage"]["completion_tokens"], answer["search"]])
}

#[tokio::test]
async fn a_search_with_a_seed_is_the_same_through_a_fleet_of_two_as_through_one_server() {
    let back = [Server::native(&[], None).await, Server::native(&[], None).await];
    let alone = UpstreamEngine::connect(UpstreamConfig { url: back[0].url.clone(), ..UpstreamConfig::default() });
    let single = Server::start(alone.await.unwrap(), &[]).await;
    let (front, fleet) = in_front_of(&[&back[0], &back[1]]).await;
    for (seed, strategy) in [(1, "bfs"), (2, "best_of_n"), (3, "dfs")] {
        let search = json!({"strategy": strategy, "votes": 2, "max_calls": 40, "trace": "full"});
        let body = with(writes(), json!({"seed": seed, "search_budget": 2, "search": search}));
        let (one, two) = (single.answer(&body).await, front.answer(&body).await);
        assert_eq!(drawn(one), drawn(two), "seed {seed}, {strategy}");
    }
    assert!(fleet.views().iter().map(|view| view.counted.answered).sum::<u64>() > 0);
}

#[tokio::test]
async fn a_replica_that_dies_in_the_middle_costs_no_answer() {
    let paced = || improving_by_content().paced(|_, _| Duration::from_millis(2));
    let mut back = vec![Server::start(paced(), &[]).await, Server::start(paced(), &[]).await];
    let (front, fleet) = in_front_of(&[&back[0], &back[1]]).await;
    front.ready().await;
    let ask = |number: usize| {
        let body = with(says(&format!("conversation {number}")), json!({"search_budget": 3, "seed": number}));
        let request = front.chat(&body);
        async move {
            let response = request.send().await.unwrap();
            let (status, answer) = (response.status(), response.json::<Value>().await.unwrap());
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer
        }
    };
    let dying = async {
        while fleet.views()[0].counted.answered < 4 || fleet.views()[0].in_flight == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(back.remove(0));
    };
    let all = async { tokio::join!(futures::future::join_all((0..24).map(ask)), dying) };
    let (answers, ()) = within_seconds(60, all).await;
    for answer in answers {
        assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
        assert_ne!(answer["search"]["stop_reason"], "error", "{answer}");
    }
    eventually("the dead one is known", || fleet.views()[0].state != State::Ready).await;
    let health = front.get("/readyz").send().await.unwrap().status();
    assert_eq!(health, StatusCode::OK, "one is enough");
}

#[tokio::test]
async fn metrics_and_readiness_follow_the_fleet() {
    let mut back = vec![
        Server::start(FakeEngine::new(|_, _| Ok("one two".into())), &[]).await,
        Server::start(FakeEngine::new(|_, _| Ok("one two".into())), &[]).await,
    ];
    let (front, _fleet) = in_front_of(&[&back[0], &back[1]]).await;
    front.ready().await;
    front.answer(&says("hello")).await;
    let name = back[0].url.trim_start_matches("http://").to_owned();
    let text = front.metrics().await;
    for expected in [
        format!("spar_upstream_state{{upstream=\"{name}\",state=\"ready\"}} 1"),
        format!("spar_upstream_circuit{{upstream=\"{name}\",state=\"closed\"}} 1"),
        format!("spar_upstream_errors_total{{upstream=\"{name}\",kind=\"cut\"}} 0"),
        format!("spar_upstream_in_flight{{upstream=\"{name}\"}} 0"),
        format!("spar_upstream_first_token_seconds_count{{upstream=\"{name}\"}}"),
        "spar_upstream_calls_total".into(),
        "spar_upstream_retries_total".into(),
    ] {
        assert!(text.contains(&expected), "{expected} is not in {text}");
    }
    back.clear();
    let unready = async {
        while front.get("/readyz").send().await.unwrap().status() == StatusCode::OK {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within_seconds(10, unready).await;
    let answer: Value = front.get("/readyz").send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["error"]["code"], "model_not_available", "{answer}");
}
