//! Swaps at a fleet: the servers load adapters by their own routes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::http::StatusCode as Status;
use axum::response::{IntoResponse, Response};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::super::harness::{Server, eventually, json_of, says as chat, with, within_seconds};
use super::scripted::{Asked, Scripted, says, says_late};

/// A server that says which weights it was asked for. It fails to load adapters while `fails`, and is slow where it is asked to be.
async fn adapting(owner: &str, fails: Arc<AtomicBool>) -> Scripted {
    let script = move |asked: &Asked| -> Response {
        if asked.path.ends_with("/load_lora_adapter") && fails.load(Ordering::SeqCst) {
            return (Status::BAD_REQUEST, "{\"error\": {\"message\": \"rank 99 is above the limit\"}}").into_response();
        }
        if asked.path.ends_with("lora_adapter") {
            return axum::Json(json!({"success": true})).into_response();
        }
        if !asked.path.ends_with("completions") {
            return (Status::NOT_FOUND, "{}").into_response();
        }
        let weights = asked.body["lora_path"].as_str().or(asked.body["model"].as_str()).unwrap_or_default();
        match asked.text().contains("slow") {
            true => says_late(asked, weights, Duration::from_millis(2500)),
            false => says(asked, weights),
        }
    };
    Scripted::owned_by(Some(owner), script).await
}

/// The adapters that a server was asked to load or to unload.
fn orders(server: &Scripted, route: &str) -> Vec<String> {
    let seen = server.seen.lock().unwrap();
    let ours = seen.iter().filter(|(path, _)| path.ends_with(&format!("/{route}_lora_adapter")));
    ours.map(|(_, body)| body["lora_name"].as_str().unwrap().to_owned()).collect()
}

struct Front {
    server: Server,
    adapter: tempfile::TempDir,
}

impl Front {
    async fn of(back: &[&Scripted]) -> Self {
        let adapter = tempfile::tempdir().unwrap();
        std::fs::write(adapter.path().join("adapter_config.json"), "{}").unwrap();
        let root = adapter.path().to_str().unwrap().to_owned();
        let mut flags =
            vec!["--port", "0", "--engine", "upstream", "--weights-root", root.as_str(), "--served-name", "m"];
        back.iter().for_each(|server| flags.extend(["--upstream-url", server.url.as_str()]));
        if back.len() == 1 {
            flags.extend(["--upstream-url", "http://127.0.0.1:1"]);
        }
        let server = Server::started(&flags, Some("admin")).await;
        server.ready().await;
        Self { server, adapter }
    }

    async fn swap(&self, status: StatusCode) -> Value {
        let body = json!({"role": "actor", "adapter_path": self.adapter.path()});
        json_of(self.server.post("/admin/generations", &body).bearer_auth("admin"), status).await
    }

    async fn asks(&self, text: &str) -> String {
        let answer = self.server.answer(&with(chat(text), json!({"model": "m"}))).await;
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    }
}

fn never() -> Arc<AtomicBool> {
    Arc::default()
}

#[tokio::test]
async fn an_adapter_is_loaded_on_every_server_and_the_old_one_leaves_after_its_last_use() {
    for (owner, route) in [("vllm", "/v1/load_lora_adapter"), ("sglang", "/load_lora_adapter")] {
        let back = [adapting(owner, never()).await, adapting(owner, never()).await];
        let front = Front::of(&[&back[0], &back[1]]).await;
        assert_eq!(front.asks("hello").await, "m");
        let answer = front.swap(StatusCode::OK).await;
        assert_eq!((answer["state"].as_str(), answer.get("upstreams_out")), (Some("live"), None), "{answer}");
        assert_eq!(answer["sha256"].as_str().unwrap().len(), 64);
        let first = front.asks("hello").await;
        assert!(first.starts_with("spar-g-2-"), "{owner}: {first}");
        for server in &back {
            assert_eq!(orders(server, "load"), std::slice::from_ref(&first), "{owner}");
            assert!(server.seen.lock().unwrap().iter().any(|(path, _)| path == route), "{owner}");
        }
        let swapping = async {
            while back.iter().all(|server| server.seen.lock().unwrap().iter().all(|(_, body)| !slow(body))) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            front.swap(StatusCode::OK).await;
            let second = front.asks("hello").await;
            assert_ne!(second, first, "{owner}: what begins now is answered by the new one");
            assert!(back.iter().all(|server| orders(server, "unload").is_empty()), "{owner}: the old one is in use");
            second
        };
        let (slow, second) = within_seconds(20, async { tokio::join!(front.asks("slow"), swapping) }).await;
        assert_eq!(slow, first, "{owner}: a request stays with what it began with");
        eventually("the old one is unloaded", || back.iter().all(|server| orders(server, "unload") == [first.clone()]))
            .await;
        // Back to the one before, which is loaded again.
        let back_again = front.server.post("/admin/generations/rollback", &json!({})).bearer_auth("admin");
        json_of(back_again, StatusCode::OK).await;
        let third = front.asks("hello").await;
        assert!(third.starts_with("spar-g-2-") && third != first, "{owner}: {third}");
        eventually("the refused one is unloaded", || back.iter().all(|s| orders(s, "unload").contains(&second))).await;
    }
}

fn slow(body: &Value) -> bool {
    body["messages"].to_string().contains("slow")
}

#[tokio::test]
async fn a_server_that_fails_to_load_is_taken_out_and_named() {
    let fails = never();
    let back = [adapting("vllm", never()).await, adapting("vllm", Arc::clone(&fails)).await];
    let front = Front::of(&[&back[0], &back[1]]).await;
    fails.store(true, Ordering::SeqCst);
    let answer = front.swap(StatusCode::OK).await;
    let out = &answer["upstreams_out"][0];
    let name = back[1].url.trim_start_matches("http://");
    assert!(out["name"] == name && out["reason"].as_str().unwrap().contains("rank 99"), "{answer}");
    let before = back[1].chats();
    for number in 0..12 {
        assert!(front.asks(&format!("conversation {number}")).await.starts_with("spar-g-2-"));
    }
    assert_eq!(back[1].chats(), before, "it gets no calls");
    let text = front.server.metrics().await;
    assert!(text.contains(&format!("spar_upstream_state{{upstream=\"{name}\",state=\"out\"}} 1")), "{text}");
    let listed = json_of(front.server.get("/admin/upstreams").bearer_auth("admin"), StatusCode::OK).await;
    assert_eq!((&listed["data"][1]["state"], &listed["data"][0]["state"]), (&json!("out"), &json!("ready")));
    assert!(listed["data"][1]["reason"].as_str().unwrap().contains("failed to load"), "{listed}");
}

#[tokio::test]
async fn an_adapter_that_no_server_loads_changes_nothing() {
    let fails = Arc::new(AtomicBool::new(true));
    let back = [adapting("vllm", Arc::clone(&fails)).await, adapting("vllm", fails).await];
    let front = Front::of(&[&back[0], &back[1]]).await;
    let answer = front.swap(StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("rank 99"), "{answer}");
    assert_eq!(front.asks("hello").await, "m");
    // Servers that know no adapters are named, and models are not loaded by upstreams.
    let plain = adapting("llamacpp", never()).await;
    let front = Front::of(&[&plain]).await;
    let answer = front.swap(StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("llamacpp loads no adapter"), "{answer}");
    let model = json!({"role": "actor", "model_path": front.adapter.path()});
    let answer = front.server.post("/admin/generations", &model).bearer_auth("admin");
    let answer = json_of(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(answer["error"]["message"].as_str().unwrap().contains("no models"), "{answer}");
}
