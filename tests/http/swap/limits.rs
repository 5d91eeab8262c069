//! Swaps that take too long, and what ends them: a deadline, a rollback, the end of the process.

use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use spar::testing::{TinyModel, write_json, write_model};

use super::super::harness::with;
use super::world::{World, fingerprint};

#[tokio::test]
async fn a_swap_that_takes_too_long_is_given_up() {
    let world = World::start(&["--swap-timeout", "1ms"]).await;
    let before = world.fingerprint().await;
    world.variant("actor", "better", 1);
    for _ in 0..3 {
        let message = world.refused("actor", json!({ "model_path": "better" })).await;
        assert!(message.contains("within the 1ms of --swap-timeout"), "{message}");
    }
    assert_eq!(world.fingerprint().await, before);
    let failed = world.generations().await["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(failed["state"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_ends_a_swap_that_waits_and_is_done() {
    let world = World::start(&["--canary-perplexity", "0"]).await;
    let first = world.fingerprint().await;
    world.variant("actor", "better", 1);
    world.variant("actor", "other", 2);
    world.swap("actor", json!({ "model_path": "better" })).await;
    // A drain waits for this, and would for a minute.
    let long = with(fingerprint(), json!({ "stream": true, "max_tokens": 900, "ignore_eos": true }));
    let mut running = world.server.chat(&long).send().await.unwrap();
    running.chunk().await.unwrap();
    let order = json!({ "role": "actor", "model_path": "other", "mode": "drain" });
    let swap = world.server.post("/admin/generations", &order).bearer_auth("admin");
    let swap = tokio::spawn(async move { swap.send().await.unwrap() });
    let mut waits = false;
    while !waits && !swap.is_finished() {
        let ready = world.server.get("/readyz").send().await.unwrap();
        waits = ready.status() == StatusCode::SERVICE_UNAVAILABLE && ready.text().await.unwrap().contains("swapped");
    }
    let back = world.admin("/admin/generations/rollback", &json!({}), StatusCode::OK).await;
    assert_eq!(back["generation"]["actor"], "g-1");
    let ended = swap.await.unwrap();
    if waits {
        assert_eq!(ended.status(), StatusCode::CONFLICT);
        assert!(ended.text().await.unwrap().contains("rollback"), "it says what has ended it");
        assert_eq!(world.fingerprint().await, first);
    }
    drop(running);
}

#[tokio::test]
async fn what_is_sent_with_a_rollback_is_read_whatever_its_headers_say() {
    let world = World::start(&[]).await;
    world.variant("actor", "better", 1);
    world.swap("actor", json!({ "model_path": "better" })).await;
    let url = format!("{}/admin/generations/rollback", world.server.url);
    let order = json!({ "expected_generation": "g-999" }).to_string();
    let cases: [(Option<&str>, String, StatusCode); 5] = [
        (None, order.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Some("text/plain"), order.clone(), StatusCode::UNSUPPORTED_MEDIA_TYPE),
        (Some("application/json"), order, StatusCode::CONFLICT),
        (Some("application/json"), "{".into(), StatusCode::BAD_REQUEST),
        (Some("application/json"), String::new(), StatusCode::OK),
    ];
    for (kind, body, status) in cases {
        let call = world.server.client.post(&url).bearer_auth("admin").body(body.clone());
        let call = match kind {
            Some(kind) => call.header(CONTENT_TYPE, kind),
            None => call,
        };
        assert_eq!(call.send().await.unwrap().status(), status, "{kind:?} {body}");
    }
    assert_eq!(world.generations().await["live"]["actor"], "g-1");
    for route in ["/admin/generations", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/update_weights_from_disk"]
    {
        let call = world.server.client.post(format!("{}{route}", world.server.url)).bearer_auth("admin");
        assert_eq!(call.body("{}").send().await.unwrap().status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{route}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_ends_in_its_grace_whatever_a_swap_does() {
    for wait in [0, 400] {
        let world = World::apart(&["--shutdown-grace", "1s", "--swap-dir-bytes", "1"]).await;
        // Gigabytes that take no room on the disk, and many seconds to read.
        let huge = world.path("huge");
        std::fs::create_dir_all(&huge).unwrap();
        let small = TinyModel { tied: true, ..TinyModel::default() };
        write_model(&huge, &small);
        let rows = 100_000_000u64;
        write_json(&huge, "config.json", &TinyModel { vocabulary: rows as usize, ..small.clone() }.config());
        let file = huge.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        let (length, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        assert!(length > 0);
        let mut header = serde_json::Map::new();
        let mut end = 0;
        let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        for (name, info) in tensors {
            let shape: Vec<u64> = match name.as_str() {
                "model.embed_tokens.weight" => vec![rows, small.hidden as u64],
                _ => info.shape.iter().map(|&size| size as u64).collect(),
            };
            let size = 4 * shape.iter().product::<u64>();
            header.insert(name, json!({ "dtype": "F32", "shape": shape, "data_offsets": [end, end + size] }));
            end += size;
        }
        let header = Value::from(header).to_string();
        let mut start = (header.len() as u64).to_le_bytes().to_vec();
        start.extend(header.as_bytes());
        let all = start.len() as u64 + end;
        std::fs::write(&file, start).unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_len(all).unwrap();

        let order =
            json!({ "role": "actor", "model_path": "huge", "changes": ["tokenizer", "chat_template", "templates"] });
        let swap = world.server.post("/admin/generations", &order).bearer_auth("admin");
        let swap = tokio::spawn(async move { swap.send().await.map(|response| response.status()) });
        tokio::time::sleep(Duration::from_millis(wait)).await;
        assert!(!swap.is_finished(), "the swap was over before the signal came");
        let began = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &world.server.pid.to_string()]).status().unwrap().success());
        // Its parent does not wait for it, so that a zombie is left.
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", world.server.pid)).unwrap_or_default();
        while !state().contains(") Z ") && began.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    }
}
