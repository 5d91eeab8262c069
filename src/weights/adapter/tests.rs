//! Adapters: round trips, defects by name, and the same merge as PEFT's.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::testing::{TinyModel, random_adapter, write_json, write_model};
use crate::weights::{ModelConfig, Weights};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/peft");
const Q0: &str = "model.layers.0.self_attn.q_proj";

fn linears(dir: &Path) -> Linears {
    ModelConfig::open(dir).unwrap().dense.unwrap().linears()
}

fn model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    dir
}

#[test]
fn what_is_saved_is_read_and_named_by_its_contents() {
    let model = model();
    let base = linears(model.path());
    let dir = tempfile::tempdir().unwrap();
    let saved = random_adapter(model.path(), 0.5, 1);
    saved.save(dir.path()).unwrap();
    let (read, digests) = Adapter::open(dir.path(), &base).unwrap();
    assert_eq!(read, saved);
    assert_eq!(digests, Digests::of(dir.path()).unwrap());
    assert!(Adapter::is_in(dir.path()));
    let of_a_base = Adapter { base_sha256: Some("abc".into()), ..saved.clone() };
    let written = || {
        of_a_base.save(dir.path()).unwrap();
        std::fs::read(dir.path().join(WEIGHTS)).unwrap()
    };
    let first = written();
    assert!((0..20).all(|_| written() == first), "one adapter has one digest");
    assert_eq!(Adapter::open(dir.path(), &base).unwrap().0, of_a_base);
    random_adapter(model.path(), 0.5, 2).save(dir.path()).unwrap();
    assert_ne!(Adapter::open(dir.path(), &base).unwrap().1.all(), digests.all());
    saved.check_base(dir.path(), &Digests::of(model.path()).unwrap().weights()).unwrap();
    let message = saved.check_base(dir.path(), "abd").unwrap_err().to_string();
    assert!(message.contains("has abd"), "{message}");
}

#[test]
fn merging_adds_the_product_and_keeps_types_and_other_files() {
    let base = model();
    let adapter = random_adapter(base.path(), 0.5, 3);
    let out = tempfile::tempdir().unwrap();
    merge(base.path(), &adapter, out.path()).unwrap();
    let (before, after) = (Weights::open(base.path()).unwrap(), Weights::open(out.path()).unwrap());
    after.check(&ModelConfig::open(out.path()).unwrap()).unwrap();
    for name in before.names() {
        let (old, new) = (before.read(name).unwrap(), after.read(name).unwrap());
        let Some(pair) = adapter.pairs.get(name.trim_end_matches(".weight")) else {
            assert_eq!(old, new, "{name}");
            continue;
        };
        let inner = pair.a.len() / pair.rank;
        for (i, (old, new)) in old.iter().zip(&new).enumerate() {
            let product: f64 = (0..pair.rank)
                .map(|k| f64::from(pair.b[i / inner * pair.rank + k]) * f64::from(pair.a[k * inner + i % inner]))
                .sum();
            assert!((f64::from(*old) + f64::from(pair.scale) * product - f64::from(*new)).abs() < 1e-6, "{name} {i}");
        }
    }
    assert_eq!(digest::files(base.path()).unwrap(), digest::files(out.path()).unwrap());
    adapter.save(out.path()).unwrap();
    let again = tempfile::tempdir().unwrap();
    let message = merge(out.path(), &adapter, again.path()).unwrap_err().to_string();
    assert!(message.contains("adapters do not stack"), "{message}");
}

#[test]
fn merging_is_pefts() {
    let golden = Path::new(GOLDEN);
    let base = golden.join("base");
    for name in ["plain", "patterns"] {
        let (adapter, _) = Adapter::open(&golden.join(name), &linears(&base)).unwrap();
        let out = tempfile::tempdir().unwrap();
        merge(&base, &adapter, out.path()).unwrap();
        let ours = Weights::open(out.path()).unwrap();
        let bytes = std::fs::read(golden.join(name).join("merged.safetensors")).unwrap();
        let theirs = SafeTensors::deserialize(&bytes).unwrap();
        let original = Weights::open(&base).unwrap();
        let mut changed = 0;
        for (tensor, view) in theirs.tensors() {
            let expected: Vec<f32> = view.data().as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
            let found = ours.read(&tensor).unwrap();
            changed += usize::from(original.read(&tensor).unwrap() != found);
            let error = found.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0f32, f32::max);
            assert!(error < 1e-6, "{name} {tensor}: {error}");
        }
        assert_eq!(changed, adapter.pairs.len(), "{name}");
    }
}

/// PEFT writes a copy of the head next to an adapter on it, which is no part of the adapter.
#[test]
fn an_adapter_on_the_head_is_merged_and_the_heads_copy_is_left_out() {
    let base = model();
    let linears = linears(base.path());
    let [outer, inner] = linears["lm_head"];
    let dir = tempfile::tempdir().unwrap();
    let config = json!({ "peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["lm_head"] });
    write_json(dir.path(), config::FILE, &config);
    let write = |rows: usize| {
        let numbers = |count: usize| (0..count).flat_map(|i| (i as f32 * 0.01).to_le_bytes()).collect::<Vec<u8>>();
        let tensors = [("lora_A", [2, inner]), ("lora_B", [outer, 2]), ("base_layer", [rows, inner])];
        let data = tensors.map(|(name, [a, b])| (format!("{PREFIX}lm_head.{name}.weight"), vec![a, b], numbers(a * b)));
        let views = data
            .iter()
            .map(|(name, shape, data)| (name.as_str(), TensorView::new(Dtype::F32, shape.clone(), data).unwrap()));
        safetensors::serialize_to_file(views, None, &dir.path().join(WEIGHTS)).unwrap();
    };
    write(outer);
    let (adapter, _) = Adapter::open(dir.path(), &linears).unwrap();
    assert_eq!(adapter.pairs.keys().collect::<Vec<_>>(), ["lm_head"]);
    let out = tempfile::tempdir().unwrap();
    merge(base.path(), &adapter, out.path()).unwrap();
    let [before, after] = [&base, &out].map(|dir| Weights::open(dir.path()).unwrap().read("lm_head.weight").unwrap());
    let pair = &adapter.pairs["lm_head"];
    let expected = before[inner + 1] + pair.b[2] * pair.a[1] + pair.b[3] * pair.a[inner + 1];
    assert!((after[inner + 1] - expected).abs() < 1e-5 && before != after);
    write(outer + 1);
    let message = Adapter::open(dir.path(), &linears).unwrap_err().to_string();
    assert!(message.contains("lm_head.base_layer") && message.contains("another base"), "{message}");
}

fn rewrite(dir: &Path, change: impl Fn(&str, &mut Vec<usize>, &mut Vec<u8>, &mut Dtype) -> Option<String>) {
    let file = dir.join(WEIGHTS);
    let bytes = std::fs::read(&file).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut kept = Vec::new();
    for (name, view) in tensors.tensors() {
        let (mut shape, mut data, mut dtype) = (view.shape().to_vec(), view.data().to_vec(), view.dtype());
        if let Some(name) = change(&name, &mut shape, &mut data, &mut dtype) {
            kept.push((name, shape, data, dtype));
        }
    }
    let views = kept.iter().map(|(n, shape, data, dtype)| (n, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize_to_file(views, None, &file).unwrap();
}

type Case<'a> = (&'a dyn Fn(&Path), &'a [&'a str]);

#[test]
fn every_defect_has_its_line() {
    let model = model();
    let base = linears(model.path());
    let tensor = |side: &str| tensor_name(Q0, side);
    let renamed = |to: &'static str| {
        move |dir: &Path| {
            rewrite(dir, |name, _, _, _| {
                Some(if name == tensor_name(Q0, "A") { to.to_owned() } else { name.to_owned() })
            })
        }
    };
    let set = |field: &'static str, value: Value| {
        move |dir: &Path| {
            let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join(config::FILE)).unwrap()).unwrap();
            config[field] = value.clone();
            write_json(dir, config::FILE, &config);
        }
    };
    let truncate = |dir: &Path| {
        let bytes = std::fs::read(dir.join(WEIGHTS)).unwrap();
        std::fs::write(dir.join(WEIGHTS), &bytes[..bytes.len() - 7]).unwrap();
    };
    let missing = |dir: &Path| rewrite(dir, |name, _, _, _| (name != tensor("B")).then(|| name.to_owned()));
    let shaped = |dir: &Path| {
        rewrite(dir, |name, shape, _, _| {
            if name == tensor("A") {
                shape.reverse();
            }
            Some(name.to_owned())
        });
    };
    let nan = |dir: &Path| {
        rewrite(dir, |name, _, data, _| {
            if name == tensor("A") {
                data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
            }
            Some(name.to_owned())
        });
    };
    let typed = |dir: &Path| {
        rewrite(dir, |name, _, _, dtype| {
            if name == tensor("A") {
                *dtype = Dtype::I32;
            }
            Some(name.to_owned())
        });
    };
    let table: [Case<'_>; 16] = [
        (&|dir| std::fs::remove_file(dir.join(config::FILE)).unwrap(), &["adapter_config.json", "does not exist"]),
        (&|dir| std::fs::remove_file(dir.join(WEIGHTS)).unwrap(), &[WEIGHTS, "does not exist"]),
        (&|dir| std::fs::write(dir.join(config::FILE), "{").unwrap(), &["adapter_config.json", "JSON"]),
        (&truncate, &[WEIGHTS, "not a whole safetensors file"]),
        (&missing, &["q_proj.lora_B", "it is missing"]),
        (&shaped, &["q_proj.lora_A", "[32, 2]", "[2, 32]"]),
        (&nan, &["q_proj.lora_A", "element 0 is NaN"]),
        (&typed, &["q_proj.lora_A", "I32"]),
        (&renamed("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight"), &["layers.9", "no linear module"]),
        (&renamed("base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight"), &["o_proj", "target_modules"]),
        (&renamed("base_model.model.model.layers.0.self_attn.q_proj.lora_A.second.weight"), &["do not stack"]),
        (&renamed("base_model.model.model.embed_tokens.lora_embedding_A"), &["embeddings are not supported"]),
        (&renamed("base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector"), &["DoRA"]),
        (&set("target_modules", json!(["q_proj", "up_proj", "o_proj"])), &["o_proj.lora_A", "it is missing"]),
        (&set("target_modules", json!(["nothing"])), &["_proj", "target_modules"]),
        (&set("r", json!(3)), &["q_proj.lora_A", "[2, 32]", "[3, 32]"]),
    ];
    for (change, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        random_adapter(model.path(), 0.5, 1).save(dir.path()).unwrap();
        change(dir.path());
        let message = Adapter::open(dir.path(), &base).expect_err("the change breaks it").to_string();
        assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks one of {expected:?}");
        assert!(!message.contains('\n'), "{message}");
    }
}
