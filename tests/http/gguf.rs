//! Models in GGUF files, served and swapped as directories are.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::chat::Message;
use spar::engine::Purpose;
use spar::testing::gguf::GgufFile;
use spar::testing::random_adapter;
use spar::weights::adapter::Adapter;

use super::harness::{Server, json_of, with};
use super::swap::world::{FINGERPRINT, TOKENS, World, copy, greedy, size};

/// Types of numbers in files.
const F16: u32 = 1;
const Q8_0: u32 = 8;

fn shipped(role: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny").join(role)
}

fn written(directory: &Path, role: &str, kind: u32) -> String {
    let path = directory.join(format!("{role}.gguf"));
    GgufFile::from_directory(&shipped(role), kind).write(&path);
    path.display().to_string()
}

#[tokio::test]
async fn files_answer_judge_and_refine_as_their_directories_do() {
    let dir = tempfile::tempdir().unwrap();
    let (actor, refiner) = (written(dir.path(), "actor", F16), written(dir.path(), "refiner", F16));
    let templates = shipped("refiner").join("spar.json").display().to_string();
    let directories = [shipped("actor"), shipped("refiner")].map(|path| path.display().to_string());
    let mut said = Vec::new();
    for [actor, refiner] in [[&actor, &refiner], [&directories[0], &directories[1]]] {
        let flags = ["--model", actor, "--refiner", refiner, "--templates", &templates, "--engine", "auto"];
        let server = Server::started(&flags, None).await;
        let models = json_of(server.get("/v1/models"), StatusCode::OK).await;
        assert_eq!(models["data"][0]["id"], "actor");
        let ask = with(
            super::swap::world::fingerprint(),
            json!({ "model": "actor", "search_budget": 2, "search": { "trace": "full" } }),
        );
        let mut answer = server.answer(&ask).await;
        let critique = answer["search"]["tree"][0]["critique"].as_str();
        assert!(critique.is_some_and(|critique| !critique.is_empty()), "{answer}");
        // Votes are counted as they arrive until a majority is certain, so how many were counted depends on the moment.
        let nodes = answer["search"]["tree"].as_array().unwrap().iter();
        let nodes: Vec<_> = nodes.map(|node| (node["text"].clone(), node["accepted"].clone())).collect();
        said.push((answer["choices"].take(), nodes));
    }
    assert_eq!(said[0], said[1]);
}

/// As [`greedy`], of the actor on a fingerprint.
async fn fingerprint(model: &Path, adapter: Option<&Adapter>) -> String {
    greedy((model, adapter), Purpose::Answer, vec![Message::user(FINGERPRINT)], TOKENS).await
}

/// The file's tokenizer is written in other words than the directory's, and it has no templates of its own.
fn changes(path: &str) -> Value {
    json!({ "model_path": path, "changes": ["tokenizer", "templates"] })
}

#[tokio::test]
async fn files_take_over_with_adapters_and_come_back_after_a_restart() {
    let world = World::start(&[]).await;
    let (_, first) = world.fingerprint().await;
    let file = world.path("eight.gguf");
    GgufFile::from_directory(&world.path("actor"), Q8_0).write(&file);
    GgufFile::from_directory(&world.path("actor"), F16).write_parts(&world.path(""), "two");

    let message = world.refused("actor", json!({ "model_path": "eight.gguf" })).await;
    assert!(message.contains("changes"), "{message}");
    let swapped = world.swap("actor", changes("eight.gguf")).await;
    assert_eq!(swapped["state"], "live");
    let (_, eight) = world.fingerprint().await;
    assert_eq!(eight, fingerprint(&file, None).await);

    // The smallest of a few adapters that changes what is said: a larger one may leave nothing to say.
    let mut changing = None;
    for scale in [1.0, 1.25, 1.5, 2.0, 2.5] {
        let adapter = random_adapter(&file, scale * size("actor"), 1);
        if fingerprint(&file, Some(&adapter)).await != eight {
            changing = Some(adapter);
            break;
        }
    }
    let adapter = changing.expect("one of them changes what is said");
    adapter.save(&world.path("on-eight")).unwrap();
    world.swap("actor", json!({ "adapter_path": "on-eight" })).await;
    let (_, adapted) = world.fingerprint().await;
    assert_eq!(adapted, fingerprint(&file, Some(&adapter)).await);
    assert_ne!(adapted, eight);
    let other = random_adapter(&world.path("actor"), size("actor"), 4);
    other.save(&world.path("on-actor")).unwrap();
    let message = world.refused("actor", json!({ "adapter_path": "on-actor" })).await;
    assert!(message.contains("base"), "{message}");

    let world = world.restarted(&[]).await;
    assert_eq!(world.fingerprint().await.1, adapted);
    let list = world.generations().await;
    let sources: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|g| &g["source"]["model_path"]).collect();
    assert!(sources.contains(&&json!("eight.gguf")), "{list}");

    // Half precision is the checkpoint's own, so the parts say what the directory said.
    world.swap("actor", changes("two-00001-of-00002.gguf")).await;
    assert_eq!(world.fingerprint().await.1, first);
    world.admin("/admin/generations/rollback", &json!({ "role": "actor" }), StatusCode::OK).await;
    assert_eq!(world.fingerprint().await.1, adapted);
}

#[tokio::test]
async fn files_that_are_damaged_foreign_or_elsewhere_change_nothing() {
    let world = World::start(&[]).await;
    let before = world.fingerprint().await;
    let whole = GgufFile::from_directory(&world.path("actor"), Q8_0);
    let mut cut = whole.bytes();
    cut.truncate(cut.len() - 100);
    std::fs::write(world.path("cut.gguf"), cut).unwrap();
    let mut infinite = whole.clone();
    let matrix = infinite.tensors.iter_mut().find(|tensor| tensor.kind == Q8_0).unwrap();
    matrix.bytes[..2].copy_from_slice(&[0x00, 0x7c]);
    infinite.write(&world.path("infinite.gguf"));
    let mut foreign = whole.clone();
    foreign.set("general.architecture", spar::testing::gguf::Meta::Text("mamba".into()));
    foreign.write(&world.path("foreign.gguf"));
    let outside = tempfile::tempdir().unwrap();
    whole.write(&outside.path().join("outside.gguf"));
    std::os::unix::fs::symlink(outside.path().join("outside.gguf"), world.path("link.gguf")).unwrap();
    for (file, expected) in [
        ("cut.gguf", "copy or download it again"),
        ("infinite.gguf", "the checkpoint is damaged"),
        ("foreign.gguf", "its architecture is `mamba`"),
        ("link.gguf", "outside of every --weights-root"),
        ("nowhere.gguf", "below a --weights-root"),
    ] {
        let message = world.refused("actor", changes(file)).await;
        assert!(message.contains(file) && message.contains(expected), "{message}");
    }
    assert_eq!(world.fingerprint().await, before);
}

#[tokio::test]
async fn an_adapter_of_the_start_goes_on_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = written(dir.path(), "actor", Q8_0);
    copy(&shipped("refiner"), &dir.path().join("refiner"));
    let adapter = random_adapter(Path::new(&file), size("actor"), 9);
    let adapter_path = dir.path().join("adapter");
    adapter.save(&adapter_path).unwrap();
    let (adapter_path, refiner) =
        (adapter_path.display().to_string(), dir.path().join("refiner").display().to_string());
    let flags = ["--model", &file, "--adapter", &adapter_path, "--refiner", &refiner, "--served-name", "fake"];
    let server = Server::started(&flags, None).await;
    let answer = server.answer(&super::swap::world::fingerprint()).await;
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert_eq!(text, fingerprint(Path::new(&file), Some(&adapter)).await);
}
