//! Published weights are watched in a real server under traffic: what fails is taken back, what does not stays.

#![expect(clippy::unwrap_used, reason = "a failed test may panic")]

#[path = "../../tests/http/harness.rs"]
#[expect(dead_code, reason = "the server's own tests need more of it")]
mod harness;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use spar::engine::Input;
use spar::engine::model_dir::ModelDir;
use spar_training::publish::{Admin, Publish, Weights};

use self::harness::{Server, json_of};

/// What the traffic asks, and no canary does.
const PROMPT: &str = "Write about the river. Use at least 7 words.";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_that_fail_under_traffic_are_taken_back() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spar-tiny");
    copy(&shipped.join("actor"), &at("actor"));
    copy(&shipped.join("refiner"), &at("refiner"));
    copy(&at("actor"), &at("same"));
    copy(&at("actor"), &at("brittle"));
    break_on_seven(&at("brittle"));
    let text = |name: &str| at(name).display().to_string();
    let (model, refiner, roots, swaps) = (text("actor"), text("refiner"), text(""), text("swaps"));
    let own = ["--model", &model, "--refiner", &refiner, "--weights-root", &roots, "--swap-dir", &swaps];
    let server = Server::swapping(&[&own[..], &["--engine", "native", "--served-name", "fake"]].concat()).await;
    server.ready().await;
    let admin = Admin::with_key(&server.url, "admin".into()).unwrap();
    let weights = |name: &str| Weights { role: "actor".into(), model: Some(at(name)), ..Weights::default() };

    let stop = Arc::new(AtomicBool::new(false));
    let traffic: Vec<_> =
        (0..3).map(|_| tokio::spawn(ask(server.client.clone(), server.url.clone(), stop.clone()))).collect();
    let publish = |watch: f64| Publish { url: server.url.clone(), watch, max_error_rate: 0.05 };
    let kept = admin.publish(&publish(1.0), &weights("same")).await.unwrap();
    assert_eq!((kept.rolled_back, &kept.generation["actor"]), (None, &json!("g-3")));
    let taken_back = admin.publish(&publish(30.0), &weights("brittle")).await.unwrap();
    let reason = taken_back.rolled_back.expect("weights that fail are not kept");
    assert!(reason.contains("requests failed"), "{reason}");
    assert_eq!(taken_back.generation, json!({ "actor": "g-3", "refiner": "g-2" }));

    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for client in traffic {
        answers.extend(client.await.unwrap());
    }
    let failed = |id: &str| answers.iter().filter(|(by, status)| by == id && *status != StatusCode::OK).count();
    let all = |id: &str| answers.iter().filter(|(by, _)| by == id).count();
    // An error names no generation; the weights that fail have no other answers.
    assert!(all("g-1") + all("g-3") + all("") == answers.len() && all("g-3") > 0 && all("") > 0, "{answers:?}");
    assert_eq!((failed("g-1"), failed("g-3"), failed("")), (0, 0, all("")));
    let list = json_of(server.get("/admin/generations").bearer_auth("admin"), StatusCode::OK).await;
    let states =
        list["data"].as_array().unwrap().iter().map(|g| (g["id"].as_str().unwrap(), g["state"].as_str().unwrap()));
    assert!(states.clone().any(|state| state == ("g-3", "live")), "{list}");
    assert!(states.clone().any(|(id, state)| id == "g-4" && state != "live"), "{list}");
    assert_eq!(ask_once(&server.client, &server.url).await, ("g-3".into(), StatusCode::OK));
}

/// Asks until it is told to stop: who answered, and how.
async fn ask(client: reqwest::Client, url: String, stop: Arc<AtomicBool>) -> Vec<(String, StatusCode)> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        answers.push(ask_once(&client, &url).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    answers
}

async fn ask_once(client: &reqwest::Client, url: &str) -> (String, StatusCode) {
    let body = json!({ "model": "fake", "max_tokens": 4, "messages": [{ "role": "user", "content": PROMPT }] });
    let response = client.post(format!("{url}/v1/chat/completions")).json(&body).send().await.unwrap();
    let header = response.headers().get("x-spar-generation").map_or("", |value| value.to_str().unwrap());
    let actor = header.strip_prefix("actor=").unwrap_or_default().split(',').next().unwrap().to_owned();
    (actor, response.status())
}

/// Makes finite weights that overflow where a prompt holds the figure 7, and nowhere else: one dimension of the embedding is its
/// mark, which one neuron of the first layer multiplies beyond what a number holds, and nobody reads.
fn break_on_seven(dir: &Path) {
    let opened = ModelDir::open(dir).unwrap();
    let tokens = opened.encode(&Input::Text(PROMPT.into())).unwrap();
    let seven = tokens.into_iter().find(|&id| opened.pieces.bytes(id).contains(&b'7')).unwrap() as usize;
    let weights = &opened.weights;
    let changed = |name: &str| {
        let mut values = weights.read(name).unwrap();
        let columns = *weights.shape(name).unwrap().last().unwrap();
        let mut rows = values.chunks_exact_mut(columns);
        match name {
            "model.embed_tokens.weight" => {
                rows.enumerate().for_each(|(id, row)| row[0] = f32::from(u8::from(id == seven)))
            }
            "model.layers.0.self_attn.o_proj.weight" => rows.next().unwrap().fill(0.0),
            "model.layers.0.post_attention_layernorm.weight" => values[0] = 1.0,
            "model.layers.0.mlp.gate_proj.weight" | "model.layers.0.mlp.up_proj.weight" => {
                let row = rows.next().unwrap();
                row.fill(0.0);
                row[0] = 3e38;
            }
            "model.layers.0.mlp.down_proj.weight" => rows.for_each(|row| row[0] = 0.0),
            _ => {}
        }
        values.into_iter().flat_map(f32::to_le_bytes).collect::<Vec<u8>>()
    };
    let tensors: Vec<_> =
        weights.names().map(|name| (name, weights.shape(name).unwrap().to_vec(), changed(name))).collect();
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (*name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let broken = dir.join("broken");
    safetensors::serialize_to_file(views, None, &broken).unwrap();
    std::fs::rename(broken, dir.join("model.safetensors")).unwrap();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}
