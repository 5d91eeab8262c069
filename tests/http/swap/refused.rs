//! Weights that must not go live: each is refused by name, and the old ones serve on.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use safetensors::tensor::{SafeTensors, TensorView};
use serde_json::{Value, json};
use spar::testing::random_adapter;
use spar::weights::store::Store;

use super::world::World;

/// Rewrites the tensors of a model; `None` leaves one out.
pub fn rewrite(dir: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>) -> bool) {
    let file = dir.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut kept = Vec::new();
    for (name, view) in tensors.tensors() {
        let (mut shape, mut data) = (view.shape().to_vec(), view.data().to_vec());
        if change(&name, &mut shape, &mut data) {
            kept.push((name, view.dtype(), shape, data));
        }
    }
    let views =
        kept.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &file).unwrap();
}

pub fn edit_json(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

const QUERIES: &str = "model.layers.0.self_attn.q_proj.weight";

type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a [&'a str]);

#[tokio::test]
async fn every_spoiled_directory_is_refused_by_name_and_the_old_weights_serve_on() {
    let world = World::start(&["--canary-perplexity", "100"]).await;
    let before = world.fingerprint().await;
    let truncate = |dir: &Path| {
        let file = dir.join("model.safetensors");
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    };
    let shape = |dir: &Path| {
        rewrite(dir, |name, shape, _| {
            if name == QUERIES {
                *shape = vec![shape.iter().product()];
            }
            true
        });
    };
    let nan = |dir: &Path| {
        rewrite(dir, |name, _, data| {
            if name == QUERIES {
                data[..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
            }
            true
        });
    };
    let infinite = |dir: &Path| {
        rewrite(dir, |name, _, data| {
            if name == QUERIES {
                data[..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
            }
            true
        });
    };
    let wrong_manifest = |dir: &Path| {
        std::fs::write(dir.join("manifest.json"), json!({ "sha256": { "config.json": "00" } }).to_string()).unwrap();
    };
    let other_tokenizer = |dir: &Path| {
        edit_json(&dir.join("tokenizer.json"), |tokenizer| {
            let vocab = tokenizer["model"]["vocab"].as_object_mut().unwrap();
            let (a, b) = (vocab["a"].clone(), vocab["b"].clone());
            (vocab["a"], vocab["b"]) = (b, a);
        });
    };
    let other_chat = |dir: &Path| {
        edit_json(&dir.join("tokenizer_config.json"), |config| {
            let template = config["chat_template"].as_str().unwrap().to_owned();
            config["chat_template"] = json!(format!("!{template}"));
        });
    };
    let table: [Case<'_>; 12] = [
        ("truncated", &truncate, &["truncated/model.safetensors", "again"]),
        ("shape", &shape, &[QUERIES, "its shape is"]),
        ("missing", &|dir| rewrite(dir, |name, _, _| name != QUERIES), &[QUERIES, "it is missing"]),
        ("nan", &nan, &[QUERIES, "NaN"]),
        ("infinite", &infinite, &[QUERIES, "inf"]),
        (
            "vocabulary",
            &|dir| edit_json(&dir.join("config.json"), |c| c["vocab_size"] = json!(900)),
            &["model.embed_tokens.weight", "config.json asks for [900, 192]"],
        ),
        (
            "no-config",
            &|dir| std::fs::remove_file(dir.join("config.json")).unwrap(),
            &["config.json", "does not exist"],
        ),
        ("manifest", &wrong_manifest, &["config.json", "promises 00"]),
        ("tokenizer", &other_tokenizer, &["tokenizer", "changes: [\"tokenizer\"]"]),
        ("chat", &other_chat, &["chat template", "changes: [\"chat_template\"]"]),
        (
            "templates",
            &|dir| edit_json(&dir.join("spar.json"), |s| s["version"] = json!("x")),
            &["changes: [\"templates\"]"],
        ),
        ("flat", &super::api::flatten, &["canary"]),
    ];
    for (name, spoil, expected) in table {
        spoil(&world.copied("actor", name));
        let message = world.refused("actor", json!({ "model_path": name })).await;
        assert!(expected.iter().all(|part| message.contains(part)), "{name}: {message} lacks one of {expected:?}");
        assert_eq!(world.fingerprint().await, before, "{name}");
    }
    let failed = world.generations().await;
    let last = failed["data"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last["state"], "failed");
    assert!(last["reason"].as_str().unwrap().contains("canary"), "{last}");
    // What is declared is accepted.
    world.swap("actor", json!({ "model_path": "templates", "changes": ["templates"] })).await;
}

#[tokio::test]
async fn adapters_are_checked_against_their_base() {
    let world = World::start(&[]).await;
    let before = world.fingerprint().await;
    world.adapter("refiner", "of-another", 1);
    world.variant("actor", "other-base", 7);
    random_adapter(&world.path("other-base"), 0.1, 1).save(&world.path("of-other-base")).unwrap();
    let dora = world.adapter("actor", "dora", 1);
    edit_json(&dora.join("adapter_config.json"), |config| config["use_dora"] = json!(true));
    let stacked = world.adapter("actor", "stacked", 1);
    std::fs::copy(world.path("actor/config.json"), stacked.join("config.json")).unwrap();
    let table = [
        (json!({ "adapter_path": "of-another" }), "its shape is"),
        (json!({ "adapter_path": "of-other-base" }), "it was trained on weights with the SHA-256"),
        (json!({ "adapter_path": "dora" }), "use_dora"),
        (json!({ "adapter_path": "actor" }), "adapter_config.json does not exist"),
        (json!({ "model_path": "stacked" }), "is an adapter, not a model"),
        (json!({ "model_path": "stacked", "adapter_path": "dora" }), "is an adapter, not a model"),
    ];
    for (fields, expected) in table {
        let message = world.refused("actor", fields.clone()).await;
        assert!(message.contains(expected), "{fields}: {message}");
    }
    let message = world.refused("both", json!({ "adapter_path": "dora" })).await;
    assert!(message.contains("different models"), "{message}");
    assert_eq!(world.fingerprint().await, before);
    // On the base that it was trained on it is accepted.
    world.swap("actor", json!({ "model_path": "other-base", "adapter_path": "of-other-base" })).await;
}

#[tokio::test]
async fn paths_outside_of_the_roots_are_refused_however_they_are_written() {
    let world = World::start(&[]).await;
    let outside = tempfile::tempdir().unwrap();
    super::world::copy(&world.path("actor"), outside.path());
    symlink(outside.path(), world.path("escape")).unwrap();
    let linked = world.copied("actor", "linked");
    std::fs::remove_file(linked.join("model.safetensors")).unwrap();
    symlink(outside.path().join("model.safetensors"), linked.join("model.safetensors")).unwrap();
    let absolute = outside.path().display().to_string();
    for (path, expected) in [
        (absolute.as_str(), "leads outside"),
        ("escape", "leads outside"),
        ("linked", "leads outside"),
        ("../swaps", "leads outside"),
        ("/etc", "leads outside"),
        ("nowhere", "below a --weights-root"),
        ("", "adapter_path"),
    ] {
        let body =
            if path.is_empty() { json!({ "role": "actor" }) } else { json!({ "role": "actor", "model_path": path }) };
        let status = if path.is_empty() { StatusCode::BAD_REQUEST } else { StatusCode::UNPROCESSABLE_ENTITY };
        let error = world.admin("/admin/generations", &body, status).await;
        assert!(error["error"]["message"].as_str().unwrap().contains(expected), "{path}: {error}");
    }
    for body in [json!({}), json!({ "role": "critic", "model_path": "x" }), json!({ "role": "actor", "model": "x" })] {
        world.admin("/admin/generations", &body, StatusCode::BAD_REQUEST).await;
    }
}

/// Ends the thread that rewrites a file, whatever becomes of the test.
struct Rewriting(Arc<AtomicBool>);

impl Rewriting {
    /// In place, as nobody should: shorter first, so that readers see a truncated file too.
    fn begin(target: PathBuf, contents: [Vec<u8>; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || {
            for contents in contents.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                std::fs::write(&target, &contents[..contents.len() / 3]).unwrap();
                std::fs::write(&target, contents).unwrap();
                std::thread::sleep(Duration::from_millis(15));
            }
        });
        Self(stop)
    }
}

impl Drop for Rewriting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_rewritten_while_it_loads_never_serves_a_mixture() {
    let world = World::start(&[]).await;
    world.variant("actor", "a", 1);
    world.variant("actor", "b", 2);
    let mut whole = Vec::new();
    for name in ["a", "b"] {
        world.swap("actor", json!({ "model_path": name })).await;
        whole.push(world.fingerprint().await.1);
    }
    let target = world.copied("a", "moving").join("model.safetensors");
    let contents = ["a", "b"].map(|name| std::fs::read(world.path(name).join("model.safetensors")).unwrap());
    let rewriting = Rewriting::begin(target, contents);
    let mut statuses = Vec::new();
    for _ in 0..25 {
        let body = json!({ "role": "actor", "model_path": "moving" });
        let response = world.server.post("/admin/generations", &body).bearer_auth("admin").send().await.unwrap();
        statuses.push(response.status());
        let (_, text) = world.fingerprint().await;
        assert!(whole.contains(&text), "neither of the two: {text}");
    }
    drop(rewriting);
    let known = [StatusCode::OK, StatusCode::UNPROCESSABLE_ENTITY];
    assert!(statuses.iter().all(|status| known.contains(status)), "{statuses:?}");
    assert!(statuses.contains(&StatusCode::UNPROCESSABLE_ENTITY), "the rewriting was never noticed: {statuses:?}");
}

/// What [`killed_in_the_middle_of_a_merge`] kills: merges again and again.
#[test]
#[ignore = "run by another test in a process of its own"]
fn merges_until_it_is_killed() {
    let Some(root) = std::env::var_os("SPAR_TEST_MERGES").map(std::path::PathBuf::from) else { return };
    let store = Store::open(root.join("store"), 0).unwrap();
    let base = store.import(&root.join("base")).unwrap();
    for seed in 0.. {
        let adapter = random_adapter(&root.join("base"), 0.1, seed);
        store.merged(&base, &adapter, &format!("{seed:064}")).unwrap();
        store.evict(std::slice::from_ref(&base.path));
    }
}

#[test]
fn killed_in_the_middle_of_a_merge_nothing_half_made_is_left() {
    let root = tempfile::tempdir().unwrap();
    super::world::copy(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/actor"),
        &root.path().join("base"),
    );
    let mut left_something = false;
    for round in 0..6 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["http::swap::refused::merges_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env("SPAR_TEST_MERGES", root.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(150 + 37 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let names = || -> Vec<String> {
            let entries = std::fs::read_dir(root.path().join("store")).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        left_something |= names().iter().any(|name| name.starts_with(".making-"));
        let store = Store::open(root.path().join("store"), u64::MAX).unwrap();
        assert!(names().iter().all(|name| !name.starts_with('.')), "{:?}", names());
        let base = store.import(&root.path().join("base")).unwrap();
        let adapter = random_adapter(&root.path().join("base"), 0.1, round);
        let merged = store.merged(&base, &adapter, &format!("{round:064}")).unwrap();
        spar::engine::model_dir::ModelDir::open(&merged.path).unwrap().weights.check_finite().unwrap();
    }
    assert!(left_something, "no process was killed in the middle of anything");
}
