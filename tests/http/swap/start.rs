//! Adapters that are named at the start: the same as swaps to them, on one base in memory; and which are refused.

use std::process::Command;

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::chat::Message;
use spar::config::EngineKind;
use spar::engine::Purpose;
use spar::testing::random_adapter;
use spar::weights::ModelConfig;
use spar::weights::adapter::Adapter;

use super::super::harness::{ENGINES, Server, json_of, with};
use super::world::{FINGERPRINT, TOKENS, World, fingerprint, greedy, one_base};

const BOTH: [&str; 4] = ["--adapter", "@draft", "--refiner-adapter", "@judge"];
const GREEDY: [&str; 4] = ["--judge-temperature", "0", "--refine-temperature", "0"];

/// What a server answers alone and with a search, all of it greedy; the ids are left out.
async fn answers(world: &World) -> Value {
    let searched = with(fingerprint(), json!({ "search_budget": 2, "search": { "trace": "full", "votes": 1 } }));
    let answer = world.server.answer(&searched).await;
    let mut search = answer["search"].clone();
    assert_eq!(search["generation"], world.generations().await["live"]);
    for field in ["generation", "elapsed_ms"] {
        search.as_object_mut().unwrap().shift_remove(field);
    }
    json!({ "plain": world.fingerprint().await.1, "tree": search["tree"] })
}

/// Role, adapter, digest and state of every generation.
async fn listed(world: &World) -> Vec<[Value; 4]> {
    let list = world.generations().await;
    let row = |g: &Value| [&g["role"], &g["source"]["adapter_path"], &g["sha256"], &g["state"]].map(Value::clone);
    list["data"].as_array().unwrap().iter().map(row).collect()
}

#[tokio::test]
async fn two_adapters_at_the_start_answer_as_two_swaps_to_them() {
    for engine in ENGINES {
        let engine = if *engine == EngineKind::Mistral { "mistral" } else { "native" };
        let flags = [&GREEDY[..], &["--engine", engine]].concat();
        let swapped = World::of_one_base(&flags).await;
        let bare = answers(&swapped).await;
        swapped.swap("actor", json!({ "adapter_path": "draft" })).await;
        swapped.swap("refiner", json!({ "adapter_path": "judge" })).await;
        let started = World::of_one_base(&[&flags[..], &BOTH].concat()).await;
        let (expected, found) = (answers(&swapped).await, answers(&started).await);
        assert_eq!(found, expected, "{engine}");
        assert_ne!(found["plain"], bare["plain"], "{engine}");
        assert_ne!(found["tree"], bare["tree"], "{engine}");
        let rows = listed(&started).await;
        assert_eq!(rows.len(), 2);
        for ([role, path, sha256, state], name) in rows.iter().zip(["draft", "judge"]) {
            assert_eq!((path.as_str(), state), (started.path(name).to_str(), &json!("live")), "{engine}");
            let role = role.as_str().unwrap();
            let same = started.swap(role, json!({ "adapter_path": name, "dry_run": true })).await;
            assert_eq!(*sha256, same["sha256"], "{engine}, {role}");
        }
        assert_eq!(started.generations().await["live"], json!({ "actor": "g-1", "refiner": "g-2" }));
    }
}

#[tokio::test]
async fn one_role_with_an_adapter_leaves_the_other_bare() {
    let flags = [&GREEDY[..], &["--adapter", "@draft"]].concat();
    let started = World::of_one_base(&flags).await;
    let dir = started.path("refiner");
    let config = ModelConfig::open(&dir).unwrap();
    let linears = config.dense.as_ref().unwrap().linears();
    let (draft, _) = Adapter::open(&started.path("draft"), &linears).unwrap();
    let expected = greedy((&dir, Some(&draft)), Purpose::Answer, vec![Message::user(FINGERPRINT)], TOKENS).await;
    assert_eq!(started.fingerprint().await, ("g-1".into(), expected));
    let swapped = World::of_one_base(&GREEDY).await;
    swapped.swap("actor", json!({ "adapter_path": "draft" })).await;
    assert_eq!(answers(&started).await, answers(&swapped).await);
    let rows = listed(&started).await;
    assert_eq!((&rows[1][0], &rows[1][1]), (&json!("refiner"), &Value::Null));
}

#[tokio::test]
async fn one_base_is_in_memory_whatever_is_swapped() {
    let world = World::of_one_base(&BOTH).await;
    let shared = |world: &World| {
        let live = world.server.pinned();
        live.actor.shares_weights(&live.refiner)
    };
    assert!(shared(&world), "at the start");
    let (_, first) = world.fingerprint().await;
    let other = json!({ "adapter_path": "judge", "expected_generation": "g-1" });
    world.swap("actor", other).await;
    assert!(shared(&world), "after a swap");
    assert_ne!(world.fingerprint().await.1, first);
    // Rolled back to the adapter of the start, whose generation has left memory.
    let back = world.admin("/admin/generations/rollback", &json!({ "role": "actor" }), StatusCode::OK).await;
    assert_eq!(back["generation"], json!({ "actor": "g-1", "refiner": "g-2" }));
    assert_eq!(world.fingerprint().await, ("g-1".into(), first));
    assert!(shared(&world), "after a rollback");
    let unload = json!({ "lora_name": "draft" });
    world.admin("/v1/unload_lora_adapter", &unload, StatusCode::NOT_FOUND).await;
    world.swap("actor", json!({ "adapter_path": "draft" })).await;
    let load = json!({ "lora_name": "mine", "lora_path": world.path("draft"), "role": "actor" });
    let loaded = world.server.post("/v1/load_lora_adapter", &load).bearer_auth("admin").send().await.unwrap();
    assert_eq!(loaded.status(), StatusCode::OK);
    let unload = world.server.post("/v1/unload_lora_adapter", &json!({ "lora_name": "mine" })).bearer_auth("admin");
    assert_eq!(unload.send().await.unwrap().status(), StatusCode::OK);
    assert!(shared(&world), "without an adapter");
    let (dir, turns) = (world.path("refiner"), vec![Message::user(FINGERPRINT)]);
    let expected = greedy((&dir, None), Purpose::Answer, turns, TOKENS).await;
    assert_eq!(world.fingerprint().await.1, expected);
    // Weights that both roles use cannot leave with one of them.
    world.copied("refiner", "whole");
    let body = json!({ "model_path": "whole", "mode": "drain" });
    let message = world.refused("actor", body.clone()).await;
    assert!(message.contains("share the live weights"), "{message}");
    let both = world.swap("both", body).await;
    assert_eq!(both["mode"], "drain");
}

#[tokio::test]
async fn adapters_do_not_stack_on_a_model_that_came_with_one() {
    let world = World::of_one_base(&[]).await;
    world.swap("actor", json!({ "adapter_path": "judge" })).await;
    let (_, alone) = world.fingerprint().await;
    world.swap("actor", json!({ "model_path": "refiner", "adapter_path": "draft" })).await;
    let (_, draft) = world.fingerprint().await;
    world.swap("actor", json!({ "adapter_path": "judge" })).await;
    assert_eq!(world.fingerprint().await.1, alone);
    world.swap("actor", json!({ "adapter_path": "draft" })).await;
    assert_eq!(world.fingerprint().await.1, draft);
}

#[tokio::test]
async fn a_restart_serves_what_was_published_unless_an_adapter_flag_changed() {
    let world = World::of_one_base(&BOTH).await;
    let first = world.fingerprint().await;
    world.swap("actor", json!({ "adapter_path": "judge" })).await;
    let published = world.fingerprint().await;
    let world = world.restarted(&BOTH).await;
    assert_eq!(world.fingerprint().await, published, "what was published wins");
    let list = world.generations().await;
    assert_eq!(list["live"], json!({ "actor": "g-3", "refiner": "g-2" }));
    let adapters: Vec<_> = listed(&world).await.into_iter().map(|[_, path, ..]| path).collect();
    assert_eq!(adapters[0], "judge");
    assert!(adapters[1].as_str().unwrap().ends_with("/judge"), "{adapters:?}");
    let live = world.server.pinned();
    assert!(live.actor.shares_weights(&live.refiner), "published adapters share their base");
    drop(live);
    let world = world.restarted(&["--adapter", "@draft"]).await;
    assert_eq!(world.fingerprint().await, first, "another flag is another wish");
    assert_eq!(world.generations().await["live"], json!({ "actor": "g-1", "refiner": "g-2" }));
}

#[tokio::test]
async fn a_state_that_was_written_before_there_were_adapter_flags_is_served() {
    let world = World::of_one_base(&[]).await;
    world.swap("actor", json!({ "adapter_path": "draft" })).await;
    let published = world.fingerprint().await;
    let file = world.root.path().join("swaps/published.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(state.as_object_mut().unwrap().shift_remove("configured_adapters"), Some(json!([null, null])));
    std::fs::write(&file, state.to_string()).unwrap();
    assert_eq!(world.restarted(&[]).await.fingerprint().await, published);
}

#[tokio::test]
async fn the_embedded_model_keeps_its_name_whatever_is_published() {
    let root = tempfile::tempdir().unwrap();
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/actor");
    let weights = root.path().join("weights");
    random_adapter(&shipped, 0.25, 1).save(&weights.join("mine")).unwrap();
    let [weights, swaps] = [weights, root.path().join("swaps")].map(|path| path.display().to_string());
    let flags = ["--engine", "native", "--weights-root", &weights, "--swap-dir", &swaps, "--canary-perplexity", "0"];
    for start in ["first", "again"] {
        let mut server = Server::swapping(&flags).await;
        let models = json_of(server.get("/v1/models"), StatusCode::OK).await;
        assert_eq!(models["data"][0]["id"], "spar-tiny", "{start}");
        let body = json!({ "role": "actor", "adapter_path": "mine" });
        json_of(server.post("/admin/generations", &body).bearer_auth("admin"), StatusCode::OK).await;
        server.begin_shutdown();
        server.ended().await;
    }
}

#[tokio::test]
async fn adapters_are_put_on_the_embedded_model_without_an_admin_key() {
    let root = one_base();
    let adapters = root.path().join("weights");
    let shipped = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny");
    random_adapter(&shipped.join("actor"), 0.25, 1).save(&adapters.join("embedded")).unwrap();
    let [embedded, judge] = ["embedded", "judge"].map(|name| adapters.join(name).display().to_string());
    let named = ["--served-name", "fake", "--engine", "native", "--host", "127.0.0.1"];
    let bare = Server::started(&named, None).await;
    let adapted = [&named[..], &["--adapter", &embedded, "--refiner-adapter", &judge]].concat();
    let adapted = Server::started(&adapted, None).await;
    let says = async |server: &Server| server.answer(&fingerprint()).await["choices"][0]["message"]["content"].clone();
    let config = ModelConfig::open(&shipped.join("actor")).unwrap();
    let linears = config.dense.as_ref().unwrap().linears();
    let (adapter, _) = Adapter::open(&adapters.join("embedded"), &linears).unwrap();
    let turns = vec![Message::user(FINGERPRINT)];
    let expected = greedy((&shipped.join("actor"), Some(&adapter)), Purpose::Answer, turns, TOKENS).await;
    assert_eq!(says(&adapted).await, expected);
    assert_ne!(says(&bare).await, expected);
    json_of(adapted.get("/admin/generations"), StatusCode::FORBIDDEN).await;
}

#[test]
fn what_cannot_be_put_on_ends_the_start_with_one_line() {
    let root = one_base();
    let weights = root.path().join("weights");
    let path = |name: &str| weights.join(name);
    random_adapter(&path("actor"), 0.1, 1).save(&path("of-another")).unwrap();
    let mut other_base = random_adapter(&path("refiner"), 0.1, 1);
    other_base.base_sha256 = Some("00".into());
    other_base.save(&path("of-other-weights")).unwrap();
    random_adapter(&path("refiner"), 0.1, 1).save(&path("dora")).unwrap();
    let config = path("dora/adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replacen('{', "{\"use_dora\": true,", 1)).unwrap();
    let defects = [
        ("nowhere", "nowhere/adapter_config.json does not exist"),
        ("actor", "actor/adapter_config.json does not exist"),
        ("of-another", "its shape is"),
        ("of-other-weights", "it was trained on weights with the SHA-256 00"),
        ("dora", "use_dora"),
    ];
    let named =
        defects.iter().flat_map(|&(name, cause)| ["--adapter", "--refiner-adapter"].map(|flag| (flag, name, cause)));
    for (index, (flag, name, cause)) in named.enumerate() {
        let mut command = Command::new(env!("CARGO_BIN_EXE_spar"));
        command.args(["--port", "0", "--log", "error", "--engine", "native", "--model"]).arg(path("refiner"));
        command.arg(flag).arg(path(name));
        if index % 2 == 0 {
            command.env("SPAR_ADMIN_KEY", "admin");
        }
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{flag} {name}: {said}");
        assert!(said.starts_with(&format!("error: {flag}: ")) && said.contains(cause), "{flag} {name}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}
