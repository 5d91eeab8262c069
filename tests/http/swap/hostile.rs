//! Directories that strangers may have made: every one is answered in moments and in little memory, the live weights serve on,
//! and nothing of it stays.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::super::harness::{says, with};
use super::refused::{edit_json, rewrite};
use super::world::{World, fingerprint};

type Case<'a> = (&'a str, &'a dyn Fn(&Path), &'a str);

const WEIGHTS: &str = "model.safetensors";
const QUERIES: &str = "model.layers.0.self_attn.q_proj.weight";

/// A file of so many bytes, which take no room on the disk.
fn sparse(file: &Path, bytes: u64) {
    File::options().create(true).write(true).truncate(false).open(file).unwrap().set_len(bytes).unwrap();
}

fn pipe(file: &Path) {
    let _absent = std::fs::remove_file(file);
    assert!(Command::new("mkfifo").arg(file).status().unwrap().success());
}

fn config(change: impl Fn(&mut Value)) -> impl Fn(&Path) {
    move |dir| edit_json(&dir.join("config.json"), &change)
}

fn tokenizer(change: impl Fn(&mut Value)) -> impl Fn(&Path) {
    move |dir| edit_json(&dir.join("tokenizer.json"), &change)
}

fn text(name: &'static str, text: impl Into<String>) -> impl Fn(&Path) {
    let text = text.into();
    move |dir| std::fs::write(dir.join(name), &text).unwrap()
}

fn judge(template: &'static str) -> impl Fn(&Path) {
    move |dir| {
        edit_json(&dir.join("spar.json"), |texts| {
            texts["judge"] = json!(format!("{{{{ prompt }}}}{{{{ response }}}}{template}"))
        })
    }
}

/// Writes a file of tensors with this header, and `bytes` of them.
fn header(header: Value, bytes: usize) -> impl Fn(&Path) {
    move |dir| {
        let header = header.to_string();
        let mut file = (header.len() as u64).to_le_bytes().to_vec();
        file.extend(header.as_bytes());
        file.resize(file.len() + bytes, 0);
        std::fs::write(dir.join(WEIGHTS), file).unwrap();
    }
}

/// An index that places every tensor of the model in `file`.
fn indexed(dir: &Path, file: &str) {
    let bytes = std::fs::read(dir.join(WEIGHTS)).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let map: serde_json::Map<String, Value> =
        tensors.names().into_iter().map(|name| (name.to_owned(), json!(file))).collect();
    std::fs::write(dir.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    std::fs::rename(dir.join(WEIGHTS), dir.join("shard.safetensors")).unwrap();
}

fn stored(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.root.path().join("swaps/weights")).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The most memory that the server ever had, in KiB.
fn peak(world: &World) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.server.pid)).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_directories_are_refused_in_moments_and_nothing_of_them_stays() {
    let world = World::apart(&["--canary-perplexity", "100"]).await;
    let before = world.fingerprint().await;
    let (held, at_first) = (stored(&world), peak(&world));
    let doubling = "{% set x = 'xxxxxxxx' %}".to_owned() + &"{% set x = x ~ x %}".repeat(60);
    let endless = "{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}";
    let table: &[Case<'_>] = &[
        // Numbers of the configuration.
        ("context", &config(|c| c["max_position_embeddings"] = json!(1u64 << 40)), "max_position_embeddings"),
        ("layers", &config(|c| c["num_hidden_layers"] = json!(1_000_000_000)), "`num_hidden_layers` is 1000000000"),
        ("few-layers", &config(|c| c["num_hidden_layers"] = json!(5)), "model.layers.4"),
        ("heads", &config(|c| c["num_attention_heads"] = json!(u64::MAX)), "num_attention_heads"),
        ("kv-heads", &config(|c| c["num_key_value_heads"] = json!(2)), "num_key_value_heads"),
        ("no-width", &config(|c| c["hidden_size"] = json!(0)), "hidden_size"),
        ("negative", &config(|c| c["intermediate_size"] = json!(-1)), "intermediate_size"),
        ("fraction", &config(|c| c["vocab_size"] = json!(1.5)), "vocab_size"),
        ("odd-heads", &config(|c| c["head_dim"] = json!(63)), "head_dim"),
        ("wide-heads", &config(|c| c["head_dim"] = json!(1 << 29)), "config.json asks for"),
        ("wide", &config(|c| c["intermediate_size"] = json!(1 << 29)), "config.json asks for"),
        ("large-vocabulary", &config(|c| c["vocab_size"] = json!(1 << 29)), "config.json asks for"),
        ("activation", &config(|c| c["hidden_act"] = json!("gelu")), "hidden_act"),
        ("many-ends", &config(|c| c["eos_token_id"] = json!((0..1_000_000).collect::<Vec<u32>>())), "eos_token_id"),
        ("named-ends", &config(|c| c["eos_token_id"] = json!(["x"])), "eos_token_id"),
        ("no-json", &text("config.json", "{\"architectures\": ["), "config.json"),
        ("a-list", &text("config.json", "[]"), "config.json"),
        ("deep-json", &text("config.json", "[".repeat(1_000_000)), "config.json"),
        ("long-config", &|dir| sparse(&dir.join("config.json"), 1 << 40), "longer than"),
        ("long-generation", &|dir| sparse(&dir.join("generation_config.json"), 1 << 40), "longer than"),
        (
            "config-directory",
            &|dir| {
                std::fs::remove_file(dir.join("config.json")).unwrap();
                std::fs::create_dir(dir.join("config.json")).unwrap();
            },
            "config.json",
        ),
        // Files of tensors.
        ("nothing", &text(WEIGHTS, ""), "not a whole safetensors file"),
        ("no-header", &text(WEIGHTS, "12345678"), "not a whole safetensors file"),
        (
            "huge-header",
            &|dir| {
                std::fs::write(dir.join(WEIGHTS), u64::MAX.to_le_bytes()).unwrap();
            },
            "its header has",
        ),
        (
            "long-header",
            &|dir| {
                std::fs::write(dir.join(WEIGHTS), (1u64 << 30).to_le_bytes()).unwrap();
                sparse(&dir.join(WEIGHTS), 1 << 31);
            },
            "its header has 1073741824 bytes",
        ),
        ("empty-header", &header(json!({}), 0), "num_hidden_layers"),
        (
            "overlap",
            &header(
                json!({
                    "a": { "dtype": "F32", "shape": [2], "data_offsets": [0, 8] },
                    "b": { "dtype": "F32", "shape": [2], "data_offsets": [4, 12] },
                }),
                12,
            ),
            "bytes 4 to 12",
        ),
        (
            "overflow",
            &header(
                json!({
                    "a": { "dtype": "F32", "shape": [u64::MAX, u64::MAX], "data_offsets": [0, 8] },
                }),
                8,
            ),
            "not where and how many",
        ),
        (
            "backwards",
            &header(json!({ "a": { "dtype": "F32", "shape": [2], "data_offsets": [8, 0] } }), 8),
            "safetensors",
        ),
        (
            "past-the-end",
            &header(
                json!({
                    "a": { "dtype": "F32", "shape": [1u64 << 40], "data_offsets": [0, 1u64 << 42] },
                }),
                8,
            ),
            "its header promises",
        ),
        ("longer", &|dir| sparse(&dir.join(WEIGHTS), 100 << 30), "its header promises"),
        ("stray", &|dir| sparse(&dir.join("stray.safetensors"), 100 << 30), "stray.safetensors"),
        ("missing", &|dir| rewrite(dir, |name, _, _| name != QUERIES), QUERIES),
        (
            "reshaped",
            &|dir| {
                rewrite(dir, |name, shape, _| {
                    if name == QUERIES {
                        shape.insert(0, 1);
                    }
                    true
                })
            },
            "its shape is",
        ),
        ("weights-pipe", &|dir| pipe(&dir.join(WEIGHTS)), "does not exist"),
        ("index-outside", &|dir| indexed(dir, "../actor/model.safetensors"), "is not the name of a file"),
        ("index-nowhere", &|dir| indexed(dir, "nowhere.safetensors"), "nowhere.safetensors does not exist"),
        (
            "index-pipe",
            &|dir| {
                indexed(dir, "pipe.safetensors");
                pipe(&dir.join("pipe.safetensors"));
            },
            "it is not a regular file",
        ),
        (
            "index-wrong",
            &|dir| {
                indexed(dir, "other.safetensors");
                std::fs::copy(dir.join("shard.safetensors"), dir.join("other.safetensors")).unwrap();
                edit_json(&dir.join("model.safetensors.index.json"), |index| {
                    index["weight_map"]["x"] = json!("shard.safetensors")
                });
            },
            "holds it too",
        ),
        // Tokenizers.
        ("high-id", &tokenizer(|t| t["model"]["vocab"]["high"] = json!(u32::MAX)), "the id 4294967295"),
        (
            "grows",
            &tokenizer(|t| {
                t["normalizer"] =
                    json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "e".repeat(1_000_000) });
            }),
            "`normalizer` may make a text",
        ),
        (
            "grows-by-steps",
            &tokenizer(|t| {
                let step = json!({ "type": "Replace", "pattern": { "String": "e" }, "content": "eeeeeeee" });
                t["normalizer"] = json!({ "type": "Sequence", "normalizers": vec![step; 12] });
            }),
            "`normalizer` may make a text",
        ),
        (
            "replaces-nothing",
            &tokenizer(|t| {
                t["normalizer"] = json!({ "type": "Replace", "pattern": { "String": "" }, "content": "x" });
            }),
            "replaces the empty text",
        ),
        (
            "decoder-grows",
            &tokenizer(|t| {
                let long = json!({ "type": "Replace", "pattern": { "Regex": "." }, "content": "x".repeat(10_000) });
                t["decoder"] = json!({ "type": "Sequence", "decoders": [long, t["decoder"].clone()] });
            }),
            "`decoder` may make a text",
        ),
        ("no-tokenizer", &|dir| std::fs::remove_file(dir.join("tokenizer.json")).unwrap(), "tokenizer.json"),
        ("tokenizer-text", &text("tokenizer.json", "x"), "tokenizer.json"),
        ("long-tokenizer", &|dir| sparse(&dir.join("tokenizer.json"), 1 << 40), "tokenizer.json: it has"),
        // Templates.
        ("endless", &text("chat_template.jinja", endless), "steps"),
        ("doubling", &text("chat_template.jinja", doubling.clone()), "reads and copies too much"),
        (
            "much-output",
            &text("chat_template.jinja", "{% for a in range(99999) %}{{ 'x' * 999 }}{% endfor %}"),
            "writes more than",
        ),
        (
            "itself",
            &text("chat_template.jinja", "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}"),
            "chat template",
        ),
        (
            "nested",
            &text("chat_template.jinja", format!("{{{{ {}1{} }}}}", "[".repeat(100_000), "]".repeat(100_000))),
            "recursion",
        ),
        ("no-template", &text("chat_template.jinja", "{% for %}"), "chat_template.jinja"),
        ("long-template", &|dir| sparse(&dir.join("chat_template.jinja"), 1 << 40), "chat_template.jinja: it has"),
        ("large-template", &text("chat_template.jinja", "x".repeat(1 << 20)), "more than the 524288"),
        (
            "judges-for-ever",
            &judge("{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}"),
            "judge: it takes more than",
        ),
        (
            "judges-at-length",
            &judge("{% set ns = namespace(x='x') %}{% for a in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"),
            "judge: it reads",
        ),
        (
            "judges-nothing",
            &|dir| edit_json(&dir.join("spar.json"), |texts| texts["judge"] = json!("?")),
            "does not hold the prompt",
        ),
        (
            "no-marker",
            &|dir| edit_json(&dir.join("spar.json"), |texts| texts["verdict"] = json!(" ")),
            "marker `verdict` is empty",
        ),
        ("unknown-text", &|dir| edit_json(&dir.join("spar.json"), |texts| texts["extra"] = json!("x")), "extra"),
        ("long-texts", &|dir| sparse(&dir.join("spar.json"), 1 << 40), "spar.json: it has"),
        // The directory.
        ("long-manifest", &|dir| sparse(&dir.join("manifest.json"), 1 << 40), "manifest.json: it has"),
        ("wrong-manifest", &text("manifest.json", "{\"sha256\": {\"config.json\": \"00\"}}"), "promises 00"),
        (
            "link-outside",
            &|dir| {
                std::fs::remove_file(dir.join("spar.json")).unwrap();
                symlink("/etc/passwd", dir.join("spar.json")).unwrap();
            },
            "leads outside",
        ),
        (
            "link-to-itself",
            &|dir| {
                std::fs::remove_file(dir.join("config.json")).unwrap();
                symlink("config.json", dir.join("config.json")).unwrap();
            },
            "config.json",
        ),
    ];
    assert!(table.len() >= 60);
    let changes = json!(["tokenizer", "chat_template", "templates"]);
    for (name, spoil, expected) in table {
        spoil(&world.copied("actor", name));
        let began = Instant::now();
        let message = world.refused("actor", json!({ "model_path": name, "changes": changes })).await;
        assert!(message.contains(expected), "{name}: {message} lacks {expected:?}");
        assert!(!message.contains("swaps/weights") && message.len() < 1000, "{name}: {message}");
        assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
        assert_eq!(stored(&world), held, "{name}");
    }
    assert_eq!(world.fingerprint().await, before);
    // Weights that are refused only when they are copied, loaded and asked.
    super::api::flatten(&world.copied("actor", "flat"));
    for _ in table.len()..100 {
        let message = world.refused("actor", json!({ "model_path": "flat" })).await;
        assert!(message.contains("canary"), "{message}");
    }
    assert_eq!(stored(&world), held);
    assert_eq!(world.fingerprint().await, before);
    let grown = peak(&world) - at_first;
    assert!(grown < 768 << 10, "{grown} KiB");
}

#[tokio::test]
async fn hostile_adapters_are_refused_before_they_are_read() {
    let world = World::start(&[]).await;
    let before = world.fingerprint().await;
    let config = |change: fn(&mut Value)| move |dir: &Path| edit_json(&dir.join("adapter_config.json"), change);
    let table: &[Case<'_>] = &[
        ("rank", &config(|c| c["r"] = json!(100_000)), "the rank of"),
        ("no-rank", &config(|c| c["r"] = json!(0)), "`r` must be at least 1"),
        ("long-weights", &|dir| sparse(&dir.join("adapter_model.safetensors"), 100 << 30), "longer than"),
        ("long-config", &|dir| sparse(&dir.join("adapter_config.json"), 1 << 40), "longer than"),
        ("pipe", &|dir| pipe(&dir.join("adapter_model.safetensors")), "does not exist"),
        ("pattern", &config(|c| c["target_modules"] = json!("(a{1000}){1000}")), "cannot be used"),
        ("infinite", &config(|c| c["lora_alpha"] = json!(1e308)), "infinite"),
    ];
    for (name, spoil, expected) in table {
        spoil(&world.adapter("actor", name, 1));
        let began = Instant::now();
        let body = json!({ "role": "actor", "adapter_path": name });
        let response = world.server.post("/admin/generations", &body).bearer_auth("admin").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::UNPROCESSABLE_ENTITY, "{name}");
        let error: Value = response.json().await.unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected) || *name == "infinite", "{name}: {message}");
        assert!(began.elapsed() < Duration::from_secs(30), "{name}: {:?}", began.elapsed());
        assert_eq!(world.fingerprint().await, before, "{name}");
    }
    assert_eq!(stored(&world), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_template_that_is_hostile_to_one_word_needs_a_declaration_and_refuses_that_word_alone() {
    let world = World::start(&["--canary-perplexity", "0"]).await;
    let own = "{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}<|end|>{% else %}<|user|>\
               {{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    let trap = "{% if 'lantern' in messages[0].content %}{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}\
                {% endfor %}{% endif %}";
    text("chat_template.jinja", format!("{own}{trap}"))(&world.copied("actor", "trap"));
    let message = world.refused("actor", json!({ "model_path": "trap" })).await;
    assert!(message.contains("changes: [\"chat_template\"]"), "{message}");
    world.swap("actor", json!({ "model_path": "trap", "changes": ["chat_template"] })).await;
    let began = Instant::now();
    let refused = world.server.chat(&fingerprint()).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    let error: Value = refused.json().await.unwrap();
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("chat template") && message.contains("takes more than"), "{message}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    let other = with(says("Write about the river."), json!({ "max_tokens": 4 }));
    assert_eq!(world.server.chat(&other).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_context_of_millions_costs_no_memory_of_its_own() {
    let world = World::apart(&[]).await;
    config(|c| c["max_position_embeddings"] = json!(10_000_000))(&world.copied("actor", "long"));
    let before = peak(&world);
    world.swap("actor", json!({ "model_path": "long" })).await;
    assert_eq!(world.fingerprint().await.0, "g-3");
    let grown = peak(&world) - before;
    assert!(grown < 200 << 10, "{grown} KiB");
}
