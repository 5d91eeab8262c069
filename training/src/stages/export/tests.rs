use std::collections::BTreeMap;

use serde_json::json;

use super::super::{dpo, sft};
use super::*;
use crate::cluster::Cluster;
use crate::loss::Preference;
use crate::model::LoraConfig;
use crate::model::lora::Module;
use crate::optimizer::OptimizerConfig;
use crate::trainer::TrainConfig;

fn base() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spar-tiny/actor")
}

/// The embedded actor without its weights.
fn texts_of_base(to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(base()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "safetensors") {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn pairs(folder: &Path) -> PathBuf {
    let line = |noun: &str| {
        json!({ "prompt": format!("Write about the {noun}."), "chosen": format!("The {noun} waits."), "rejected": format!("The {noun} sings.") })
            .to_string()
    };
    let path = folder.join("dpo.jsonl");
    std::fs::write(&path, ["river", "garden", "teacher", "letter"].map(line).join("\n")).unwrap();
    path
}

fn stage(folder: &Path) -> dpo::Dpo {
    dpo::Dpo {
        base: base(),
        data: pairs(folder),
        kept: None,
        bad_lines: crate::records::BadLines::Stop,
        preference: Preference::default(),
        chosen_only: false,
        tokens_per_step: 40,
        epochs: Some(2.0),
        eval: crate::stages::training::Eval::default(),
        less_likely: None,
        base_name: None,
        train: TrainConfig {
            optimizer: OptimizerConfig { lr: 2e-7, beta2: 0.999, ..OptimizerConfig::default() },
            lora: Some(LoraConfig { rank: 4, targets: vec![Module::Query, Module::Down], ..LoraConfig::default() }),
            ..TrainConfig::default()
        },
    }
}

fn external(framework: Framework) -> External {
    let cluster = Cluster { nodes: 2, cards: 1, ..Cluster::default() };
    External { framework, cluster, template: None, initial_adapter: false }
}

fn exported(training: &Training, external: &External, out: &Path) -> Result<Record> {
    export(Request { training, external, base_name: Some("models/base"), out, result: "model" })
}

/// YAML as it is written here: JSON after each key, apart from fields of flow mappings.
fn settings(path: &Path) -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_once(": ").unwrap()).map(|(key, value)| (key.into(), value.into())).collect()
}

#[test]
fn llama_factory_gets_the_recipe_and_a_description_of_the_data() {
    let folder = tempfile::tempdir().unwrap();
    let (out, training) = (folder.path().join("out"), Training::Dpo(Box::new(stage(folder.path()))));
    let external = External { template: Some("llama3".into()), ..external(Framework::LlamaFactory) };
    let record = exported(&training, &external, &out).unwrap();
    assert_eq!((record.counts["items"], record.finished), (4, true));
    let yaml = settings(&out.join("llama-factory.yaml"));
    for (key, expected) in [
        ("model_name_or_path", r#""models/base""#),
        ("stage", r#""dpo""#),
        ("finetuning_type", r#""lora""#),
        ("lora_rank", "4"),
        ("lora_alpha", "32"),
        ("lora_target", r#""q_proj,down_proj""#),
        ("pref_beta", "0.1"),
        ("pref_ftx", "0.1"),
        ("template", r#""llama3""#),
        ("learning_rate", "2.0e-7"),
        ("adam_beta2", "0.999"),
        ("num_train_epochs", "1.0"),
        ("disable_shuffling", "true"),
        ("deepspeed", r#""deepspeed.json""#),
    ] {
        assert_eq!(yaml.get(key).map(String::as_str), Some(expected), "{key}");
    }
    let info: Value = read_json(&out.join("dataset_info.json")).unwrap();
    assert_eq!((&info["spar"]["ranking"], &info["spar"]["columns"]["chosen"]), (&json!(true), &json!("chosen")));
    let lines = std::fs::read_to_string(out.join("data.jsonl")).unwrap();
    assert_eq!(lines.lines().count(), 8, "two passes over four pairs");
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!((&first["messages"][0]["role"], &first["chosen"]["role"]), (&json!("user"), &json!("assistant")));
    let zero: Value = read_json(&out.join("deepspeed.json")).unwrap();
    assert_eq!((&zero["zero_optimization"]["stage"], &zero["bf16"]["enabled"]), (&json!(3), &json!("auto")));
    let script = std::fs::read_to_string(out.join("run.sh")).unwrap();
    assert!(script.contains("NNODES=2") && script.contains("BASE='models/base'") && script.contains(COPY), "{script}");
    let readme = std::fs::read_to_string(out.join("README.md")).unwrap();
    assert!(readme.contains("a cluster of 2 nodes") && readme.contains("What differs"), "{readme}");
    let described = Description::read(&out).unwrap();
    assert_eq!((described.id.len(), described.digest().unwrap()), (64, described.id.clone()));
    // A finished export is not written again.
    assert_eq!(exported(&training, &external, &out).unwrap(), record);
}

#[test]
fn trl_gets_the_tokens_the_order_and_the_start_of_this_program() {
    let folder = tempfile::tempdir().unwrap();
    let (out, stage) = (folder.path().join("out"), stage(folder.path()));
    let training = Training::Dpo(Box::new(stage.clone()));
    let cluster = Cluster { nodes: 1, cards: 0, ..Cluster::default() };
    let external = External { cluster, initial_adapter: true, ..external(Framework::Trl) };
    exported(&training, &external, &out).unwrap();
    let arguments: Value = read_json(&out.join("arguments.json")).unwrap();
    assert_eq!(arguments["arguments"]["loss_type"], json!(["sigmoid", "sft"]));
    assert_eq!(arguments["arguments"]["loss_weights"], json!([1.0, 0.1]));
    assert_eq!((&arguments["dtype"], &arguments["peft"]["r"]), (&json!("float32"), &json!(4)));
    assert!(!out.join("deepspeed.json").exists() && !out.join("accelerate.yaml").exists());
    // The first adapter is the one that this program starts from.
    let (dense, lora) = (crate::model::shape::load(&base()).unwrap(), stage.train.lora.unwrap());
    let start = adapter::load(&out.join("initial-adapter"), &lora, &dense).unwrap();
    assert_eq!(start.data, lora.fresh(&dense, stage.train.seed).data);
    // The tokens are those that this program learns.
    let chats = crate::chats::Chats::open(&base()).unwrap();
    let read = std::fs::read_to_string(out.join("data.jsonl")).unwrap();
    let mut seen: Vec<(String, String)> = read
        .lines()
        .map(|line| {
            let line: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| {
                let ids: Vec<u32> = serde_json::from_value(line[name].clone()).unwrap();
                chats.model.tokenizer.decode(&ids, false).unwrap()
            };
            (text("prompt_ids"), text("chosen_ids"))
        })
        .collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[0].0, "<|user|>Write about the garden.<|assistant|>");
    assert_eq!(seen[0].1, "The garden waits.<|end|>");
}

#[test]
fn axolotl_and_chats_learn_last_turns_only() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("sft.jsonl");
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let chat =
        json!({ "messages": [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")] });
    std::fs::write(&data, format!("{chat}\n")).unwrap();
    let of = |turns| {
        Training::Sft(Box::new(sft::Sft {
            base: base(),
            data: data.clone(),
            turns,
            bad_lines: crate::records::BadLines::Stop,
            tokens_per_step: 8,
            epochs: Some(1.0),
            eval: crate::stages::training::Eval::default(),
            base_name: None,
            train: TrainConfig { lora: None, ..stage(folder.path()).train },
        }))
    };
    for (turns, expected) in [(sft::Turns::Last, 1), (sft::Turns::All, 2)] {
        let out = folder.path().join(format!("{turns:?}"));
        exported(&of(turns), &external(Framework::Axolotl), &out).unwrap();
        let lines = std::fs::read_to_string(out.join("data.jsonl")).unwrap();
        assert_eq!(lines.lines().count(), expected);
        for line in lines.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let marks: Vec<bool> =
                line["messages"].as_array().unwrap().iter().map(|turn| turn["train"].as_bool().unwrap()).collect();
            assert_eq!(marks.iter().filter(|learned| **learned).count(), 1);
            assert!(marks.last().unwrap());
        }
        let yaml = settings(&out.join("axolotl.yaml"));
        assert_eq!(yaml["eot_tokens"], r#"["<|end|>"]"#);
        assert!(yaml["datasets"].contains(r#"type: "chat_template""#) && !yaml.contains_key("adapter"), "{yaml:?}");
    }
}

#[test]
fn an_export_needs_no_weights() {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("base");
    texts_of_base(&texts);
    let whole = Training::Dpo(Box::new(stage(folder.path())));
    let light = Training::Dpo(Box::new(dpo::Dpo { base: texts, ..stage(folder.path()) }));
    let external = external(Framework::Trl);
    let ids = [(&whole, "whole"), (&light, "light")].map(|(training, name)| {
        let out = folder.path().join(name);
        exported(training, &external, &out).unwrap();
        Description::read(&out).unwrap().id
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn what_cannot_be_expressed_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let of = |change: &dyn Fn(&mut dpo::Dpo)| {
        let mut stage = stage(folder.path());
        change(&mut stage);
        Training::Dpo(Box::new(stage))
    };
    let kept = of(&|stage| stage.preference.kept = 0.5);
    let smooth = of(&|stage| stage.preference.label_smoothing = 0.1);
    let muon = of(&|stage| stage.train.optimizer.rule = crate::optimizer::Rule::Muon);
    let eval = of(&|stage| stage.eval.share = 0.1);
    let from = of(&|stage| stage.train.lora.as_mut().unwrap().from = Some(base()));
    let odd = of(&|stage| stage.train.lora.as_mut().unwrap().alpha = 1.5);
    let (trl, factory, axolotl) = (Framework::Trl, Framework::LlamaFactory, Framework::Axolotl);
    for (training, framework, expected) in [
        (&kept, trl, "preference.kept is 0.5"),
        (&kept, factory, "preference.kept is 0.5"),
        (&smooth, trl, "preference.label_smoothing is 0.1"),
        (&smooth, axolotl, "preference.label_smoothing is 0.1"),
        (&muon, trl, "optimizer.rule = \"muon\""),
        (&eval, trl, "[eval] is not exported"),
        (&from, axolotl, "lora.from makes the first adapter the reference"),
        (&odd, factory, "lora.alpha is 1.5"),
    ] {
        let message = notes::refuse(framework, training).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    notes::refuse(factory, &smooth).unwrap();
    notes::refuse(trl, &odd).unwrap();
}
