//! The admin routes: what they change, what they say, and who may call them.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::super::harness::{Server, improving, json_of, with};
use super::world::{World, fingerprint};

#[tokio::test]
async fn without_an_admin_key_nobody_may_and_with_one_only_its_holder() {
    let routes = [
        "/admin/generations",
        "/admin/generations/rollback",
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/update_weights_from_disk",
    ];
    let closed = Server::with_keys(improving(), &[], Some("alpha")).await;
    let world = World::start(&[]).await;
    for route in routes {
        let error = json_of(closed.post(route, &json!({})).bearer_auth("alpha"), StatusCode::FORBIDDEN).await;
        assert!(error["error"]["message"].as_str().unwrap().contains("SPAR_ADMIN_KEY"), "{error}");
        for key in ["", "admi", "admin2"] {
            let call = world.server.post(route, &json!({})).bearer_auth(key);
            json_of(call, StatusCode::UNAUTHORIZED).await;
        }
    }
    json_of(closed.get("/admin/generations"), StatusCode::FORBIDDEN).await;
    json_of(world.server.get("/admin/generations"), StatusCode::UNAUTHORIZED).await;
}

#[tokio::test]
async fn whole_weights_take_over_and_go_back() {
    let world = World::start(&[]).await;
    let (id, first) = world.fingerprint().await;
    assert_eq!(id, "g-1");
    world.variant("actor", "better", 1);
    let swapped = world.swap("actor", json!({ "model_path": "better", "expected_generation": "g-1" })).await;
    assert_eq!((&swapped["state"], &swapped["mode"]), (&json!("live"), &json!("blue_green")));
    assert_eq!(swapped["generation"], json!({ "actor": "g-3", "refiner": "g-2" }));
    assert_eq!(swapped["previous"], json!({ "actor": "g-1", "refiner": "g-2" }));
    let (id, second) = world.fingerprint().await;
    assert_eq!(id, "g-3");
    assert_ne!(first, second);
    let list = world.generations().await;
    let states: Vec<_> = list["data"].as_array().unwrap().iter().map(|g| (&g["id"], &g["role"], &g["state"])).collect();
    let row = |id: &str, role: &str, state: &str| (json!(id), json!(role), json!(state));
    let expected = [row("g-1", "actor", "retired"), row("g-2", "refiner", "live"), row("g-3", "actor", "live")];
    assert!(states.iter().zip(&expected).all(|(found, (a, b, c))| *found == (a, b, c)), "{states:?}");
    assert_eq!(list["data"][2]["source"]["model_path"], "better");
    assert_eq!(list["data"][2]["sha256"].as_str().unwrap().len(), 64);
    let version = json_of(world.server.get("/version"), StatusCode::OK).await;
    assert_eq!(version["generation"]["actor"], "g-3");
    let metrics = world.server.metrics().await;
    for line in [
        "spar_generation_info{model=\"fake\",role=\"actor\",generation=\"g-3\"} 1",
        "spar_swaps_total{role=\"actor\",result=\"live\"}",
        "spar_swap_duration_seconds_count{role=\"actor\",result=\"live\"}",
        "spar_http_requests_total{route=\"/admin/generations\",status=\"200\"}",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    assert!(!metrics.contains("g-1"), "every generation that there ever was stays a series:\n{metrics}");
    let back = json_of(
        world.server.client.post(format!("{}/admin/generations/rollback", world.server.url)).bearer_auth("admin"),
        StatusCode::OK,
    )
    .await;
    assert_eq!(back["generation"], json!({ "actor": "g-1", "refiner": "g-2" }));
    assert_eq!(world.fingerprint().await, ("g-1".into(), first));
    world.admin("/admin/generations/rollback", &json!({}), StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn an_adapter_replaces_another_and_leaves_the_model_as_it_was() {
    let world = World::start(&[]).await;
    let (_, bare) = world.fingerprint().await;
    world.adapter("actor", "one", 1);
    world.adapter("actor", "two", 2);
    let alone = world.swap("actor", json!({ "adapter_path": "two" })).await;
    let (_, two) = world.fingerprint().await;
    world.swap("actor", json!({ "adapter_path": "one" })).await;
    let (_, one) = world.fingerprint().await;
    assert!(bare != one && bare != two && one != two);
    let after_one = world.swap("actor", json!({ "adapter_path": "two" })).await;
    assert_eq!(alone["sha256"], after_one["sha256"]);
    assert_eq!(world.fingerprint().await.1, two, "adapters do not stack");
    let load = json!({ "lora_name": "mine", "lora_path": world.path("one"), "role": "actor" });
    let text = world.server.post("/v1/load_lora_adapter", &load).bearer_auth("admin").send().await.unwrap();
    assert_eq!(text.status(), StatusCode::OK);
    assert_eq!(text.text().await.unwrap(), "Success: LoRA adapter 'mine' added successfully.");
    assert_eq!(world.fingerprint().await.1, one);
    world.admin("/v1/unload_lora_adapter", &json!({ "lora_name": "other" }), StatusCode::NOT_FOUND).await;
    let unload = world.server.post("/v1/unload_lora_adapter", &json!({ "lora_name": "mine" })).bearer_auth("admin");
    assert_eq!(unload.send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(world.fingerprint().await.1, bare);
}

#[tokio::test]
async fn sglangs_body_loads_a_model() {
    let world = World::start(&[]).await;
    let (_, first) = world.fingerprint().await;
    world.variant("actor", "better", 1);
    let body = json!({ "model_path": world.path("better"), "load_format": null, "flush_cache": true });
    let updated = world.admin("/update_weights_from_disk", &body, StatusCode::OK).await;
    assert_eq!((&updated["success"], &updated["generation"]["actor"]), (&json!(true), &json!("g-3")));
    assert_ne!(world.fingerprint().await.1, first);
}

#[tokio::test]
async fn a_refiner_is_tried_out_as_a_judge_and_searches_say_who_judged() {
    let world = World::start(&[]).await;
    world.adapter("refiner", "judge", 3);
    let swapped = world.swap("refiner", json!({ "adapter_path": "judge" })).await;
    assert_eq!(swapped["generation"], json!({ "actor": "g-1", "refiner": "g-3" }));
    let answer = world.server.answer(&with(fingerprint(), json!({ "search_budget": 1 }))).await;
    assert_eq!(answer["search"]["generation"], json!({ "actor": "g-1", "refiner": "g-3" }));
    // The actor was never trained to judge in the refiner's words.
    world.copied("actor", "no-judge");
    let message = world.refused("refiner", json!({ "model_path": "no-judge" })).await;
    assert!(message.contains("verdict") || message.contains("perplexity"), "{message}");
}

#[tokio::test]
async fn an_adapter_brings_its_own_templates_and_the_next_one_does_not_keep_them() {
    let world = World::start(&[]).await;
    let asked = with(fingerprint(), json!({ "search_budget": 1, "search": { "trace": "full" } }));
    let version = async || world.server.answer(&asked).await["search"]["templates"].clone();
    let of_the_base = version().await;
    world.adapter("refiner", "judge", 3);
    world.adapter("refiner", "plain", 4);
    let texts = std::fs::read_to_string(world.path("refiner").join("spar.json")).unwrap();
    let mut texts: serde_json::Value = serde_json::from_str(&texts).unwrap();
    texts["version"] = json!("of-the-adapter");
    std::fs::write(world.path("judge").join("spar.json"), texts.to_string()).unwrap();
    world.swap("refiner", json!({ "adapter_path": "judge" })).await;
    assert_eq!(version().await, json!("of-the-adapter"));
    world.swap("refiner", json!({ "adapter_path": "plain" })).await;
    assert_eq!(version().await, of_the_base);
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let world = World::start(&[]).await;
    world.variant("actor", "better", 1);
    let before = world.fingerprint().await;
    let checked = world.swap("actor", json!({ "model_path": "better", "dry_run": true })).await;
    assert_eq!((&checked["state"], &checked["generation"]["actor"]), (&json!("checked"), &json!("g-1")));
    assert_eq!(world.fingerprint().await, before);
    assert_eq!(world.generations().await["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn of_two_at_once_one_wins() {
    let world = World::start(&[]).await;
    world.variant("actor", "a", 1);
    world.variant("actor", "b", 2);
    let ask = |model: &str| {
        let body = json!({ "role": "actor", "model_path": model, "expected_generation": "g-1" });
        let call = world.server.post("/admin/generations", &body).bearer_auth("admin");
        async move { call.send().await.unwrap().status() }
    };
    let statuses = futures::future::join_all(["a", "b", "a", "b"].map(ask)).await;
    let won = statuses.iter().filter(|status| **status == StatusCode::OK).count();
    assert_eq!(won, 1, "{statuses:?}");
    let others = [StatusCode::CONFLICT, StatusCode::TOO_MANY_REQUESTS];
    assert!(statuses.iter().filter(|s| **s != StatusCode::OK).all(|s| others.contains(s)), "{statuses:?}");
    let stale = json!({ "role": "actor", "model_path": "b", "expected_generation": "g-1" });
    let error = world.admin("/admin/generations", &stale, StatusCode::CONFLICT).await;
    assert!(error["error"]["message"].as_str().unwrap().contains("is live"), "{error}");
}

#[tokio::test]
async fn a_request_keeps_the_weights_that_it_began_with() {
    let world = World::start(&[]).await;
    world.variant("actor", "better", 1);
    let body = with(fingerprint(), json!({ "stream": true, "max_tokens": 400, "ignore_eos": true }));
    let mut response = world.server.chat(&body).send().await.unwrap();
    let first = response.chunk().await.unwrap().unwrap();
    world.swap("actor", json!({ "model_path": "better" })).await;
    let list = world.generations().await;
    let old = &list["data"][0];
    let ended_early = old["state"] == "retired";
    assert!(ended_early || (old["state"] == "draining" && old["pins"].as_u64() >= Some(1)), "{old}");
    let mut text = String::from_utf8(first.to_vec()).unwrap();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n") && !text.contains("g-3"), "{text}");
}

#[tokio::test]
async fn where_both_do_not_fit_requests_wait_and_none_fails() {
    let world = World::start(&["--swap-memory", "1", "--canary-perplexity", "100"]).await;
    world.server.ready().await;
    world.copied("actor", "better");
    let long = with(fingerprint(), json!({ "max_tokens": 300, "ignore_eos": true }));
    let running = world.server.chat(&long);
    let running = tokio::spawn(async move { running.send().await.unwrap() });
    tokio::time::sleep(Duration::from_millis(20)).await;
    let swap = world
        .server
        .post("/admin/generations", &json!({ "role": "actor", "model_path": "better" }))
        .bearer_auth("admin");
    let swap = tokio::spawn(async move { swap.send().await.unwrap().json::<Value>().await.unwrap() });
    let mut announced = false;
    let mut waiting = Vec::new();
    while !swap.is_finished() {
        let ready = world.server.get("/readyz").send().await.unwrap();
        announced |=
            ready.status() == StatusCode::SERVICE_UNAVAILABLE && ready.text().await.unwrap().contains("swapped");
        if waiting.len() < 8 {
            let call = world.server.chat(&fingerprint());
            waiting.push(tokio::spawn(async move { call.send().await.unwrap().status() }));
        }
    }
    let swapped = swap.await.unwrap();
    assert_eq!((&swapped["mode"], &swapped["generation"]["actor"]), (&json!("drain"), &json!("g-3")));
    assert!(announced, "the wait is announced");
    assert_eq!(running.await.unwrap().status(), StatusCode::OK);
    for call in waiting {
        assert_eq!(call.await.unwrap(), StatusCode::OK);
    }
    // Weights that are not accepted once they are loaded: the old ones come back, and nobody notices.
    let broken = world.copied("actor", "broken");
    flatten(&broken);
    let message = world.refused("actor", json!({ "model_path": "broken" })).await;
    assert!(message.contains("canary"), "{message}");
    assert_eq!(world.fingerprint().await.0, "g-3");
    assert_eq!(json_of(world.server.get("/readyz"), StatusCode::OK).await["status"], "ready");
}

/// Makes every next token as likely as another.
pub fn flatten(dir: &std::path::Path) {
    let file = dir.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let (header, metadata) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let mut bytes = bytes;
    let norm = metadata.tensors()["model.norm.weight"].data_offsets;
    bytes[header + 8 + norm.0..header + 8 + norm.1].fill(0);
    std::fs::write(&file, bytes).unwrap();
}

#[tokio::test]
async fn a_restart_serves_what_was_published_last_if_it_is_still_what_it_was() {
    let world = World::start(&[]).await;
    world.variant("actor", "better", 1);
    world.adapter("refiner", "judge", 3);
    world.swap("actor", json!({ "model_path": "better" })).await;
    world.swap("refiner", json!({ "adapter_path": "judge" })).await;
    let before = world.fingerprint().await;
    let world = world.restarted(&[]).await;
    assert_eq!(world.fingerprint().await, before);
    let list = world.generations().await;
    assert_eq!(list["live"], json!({ "actor": "g-3", "refiner": "g-4" }));
    assert_eq!(list["data"][1]["source"]["adapter_path"], "judge");
    let next = world.swap("actor", json!({ "model_path": "actor" })).await;
    assert_eq!(next["generation"]["actor"], "g-5", "ids are never given twice");
    world.swap("actor", json!({ "model_path": "better" })).await;
    // The kept copy is damaged: the configured model is served.
    let kept = world.root.path().join("swaps/weights");
    for entry in std::fs::read_dir(kept).unwrap() {
        std::fs::write(entry.unwrap().path().join("config.json"), "{}").unwrap();
    }
    let world = world.restarted(&[]).await;
    assert_eq!(world.generations().await["live"], json!({ "actor": "g-1", "refiner": "g-2" }));
    assert!(!world.fingerprint().await.1.is_empty());
}
