//! Rounds whose models are trained elsewhere: the run exports, stops with its own status, and resumes with what is imported.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use spar_training::adapter;
use spar_training::model::{LoraConfig, shape};
use spar_training::stages::external::Waiting;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar-train"));
    command.current_dir(root()).env("RUST_LOG", "warn");
    command
}

/// A recipe of one round without a gate, whose adapters are trained by TRL on a processor.
fn recipe(folder: &Path) -> PathBuf {
    let text = std::fs::read_to_string(root().join("training/recipes/smoke.toml")).unwrap();
    let text = text.replace("iterations = 2", "iterations = 1\ntrainer = \"external\"");
    let text = text.replace("per_iteration = 24", "per_iteration = 6");
    let text = text.replace("held_out = { world = \"held-out\" }\nheld_out_count = 12\n", "");
    let text =
        text.replace("[iterate.gate]\n", "[iterate.gate]\nenabled = false\n").replace("kept = 0.5", "kept = 0.0");
    let lora = "[iterate.dpo.train.lora]\nrank = 2\n[iterate.sft.train.lora]\nrank = 2\n";
    let external = "[iterate.external]\nfor = \"trl\"\ncluster = { cards = 0 }\n";
    let path = folder.join("recipe.toml");
    std::fs::write(&path, format!("{text}\n{lora}{external}")).unwrap();
    path
}

fn iterate(folder: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["iterate", "--recipe"]).arg(recipe(folder)).arg("--out").arg(folder.join("run")).args(more);
    command
}

/// Stands for the other program: an adapter of the exported shape, with the file that its run script copies.
fn train(export: &Path) -> PathBuf {
    let described: Value = serde_json::from_str(&std::fs::read_to_string(export.join("export.json")).unwrap()).unwrap();
    let lora: LoraConfig = serde_json::from_value(described["lora"].clone()).unwrap();
    let base = Path::new(described["base"].as_str().unwrap());
    let mut params = lora.fresh(&shape::load(base).unwrap(), 1);
    params.data.iter_mut().for_each(|x| *x += 1e-3);
    let output = export.join("output");
    adapter::save(&output, &lora, &params, described["base_name"].as_str()).unwrap();
    std::fs::copy(export.join("export.json"), output.join("spar-export.json")).unwrap();
    output
}

fn import(export: &Path) -> Output {
    program().args(["import", "--export"]).arg(export).arg("--from").arg(train(export)).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_run_exports_stops_and_resumes_with_what_is_imported() {
    let folder = tempfile::tempdir().unwrap();
    let [actor, refiner] = ["actor", "refiner"].map(|role| folder.path().join("run/iter-1").join(role));
    let exports = [actor.with_extension("export"), refiner.with_extension("export")];
    for _ in 0..2 {
        let stopped = iterate(folder.path(), &[]).output().unwrap();
        let message = text(&stopped.stdout);
        assert_eq!(stopped.status.code(), Some(i32::from(Waiting::STATUS)), "{message}{}", text(&stopped.stderr));
        for export in &exports {
            assert!(message.contains(&format!("{}/run.sh", export.display())), "{message}");
            assert!(message.contains(&format!("spar-train import --export {}", export.display())), "{message}");
            assert!(export.join("arguments.json").is_file() && export.join("README.md").is_file());
        }
    }
    // One result is not enough, and the other one alone is still asked for.
    let done = import(&exports[0]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let stopped = iterate(folder.path(), &[]).output().unwrap();
    assert_eq!(stopped.status.code(), Some(i32::from(Waiting::STATUS)));
    assert!(!text(&stopped.stdout).contains("actor.export") && text(&stopped.stdout).contains("refiner.export"));
    assert!(import(&exports[1]).status.success());
    let finished = iterate(folder.path(), &[]).output().unwrap();
    assert!(finished.status.success(), "{}", text(&finished.stderr));
    let run = folder.path().join("run");
    let manifest: Value = serde_json::from_str(&std::fs::read_to_string(run.join("manifest.json")).unwrap()).unwrap();
    let counts = &manifest["rounds"][0]["counts"];
    assert_eq!(counts["dpo"]["items"], counts["build"]["pairs"], "{counts}");
    assert_eq!(counts["sft"]["items"], counts["build"]["turns"], "{counts}");
    for (role, model) in [("actor", &actor), ("refiner", &refiner)] {
        let [last, imported] = [run.join("final").join(role), model.clone()]
            .map(|model| std::fs::read(model.join("model.safetensors")).unwrap());
        assert!(last == imported, "{role}");
    }
    // A model that was changed after its import is not used.
    std::fs::write(actor.join("spar.json"), "{}").unwrap();
    let refused = iterate(folder.path(), &[]).output().unwrap();
    assert!(text(&refused.stderr).contains("is not the model that was imported"), "{}", text(&refused.stderr));
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn a_run_that_waits_resumes_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = iterate(folder.path(), &["--wait"]);
    let mut run = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let exports = ["actor", "refiner"].map(|role| folder.path().join(format!("run/iter-1/{role}.export")));
    let deadline = Instant::now() + Duration::from_secs(300);
    for export in &exports {
        // The description is written last.
        while !export.join("export.json").is_file() {
            assert!(Instant::now() < deadline && run.0.try_wait().unwrap().is_none(), "no export was written");
            std::thread::sleep(Duration::from_millis(50));
        }
        let done = import(export);
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
    while run.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the run does not resume");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(run.0.wait().unwrap().success());
    assert!(folder.path().join("run/final/actor/model.safetensors").is_file());
}

#[test]
fn settings_of_external_training_are_checked_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = recipe(folder.path());
    let text_of = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("[iterate.external]\nfor = \"trl\"\ncluster = { cards = 0 }\n", "", "needs an [iterate.external] section"),
        ("trainer = \"external\"", "", "[iterate.external] has an effect with trainer = \"external\" only"),
        ("cards = 0", "cards = 99", "iterate.external.cluster.cards must be at most 16"),
        ("for = \"trl\"", "for = \"trl\"\ntemplate = \"llama3\"", "iterate.external.template has an effect"),
        ("for = \"trl\"", "for = \"other\"", "unknown variant `other`"),
    ] {
        std::fs::write(&path, text_of.replace(from, to)).unwrap();
        let ended =
            program().args(["iterate", "--recipe"]).arg(&path).arg("--out").arg(folder.path().join("none")).output();
        let message = text(&ended.unwrap().stderr);
        assert!(message.contains(expected), "{message}");
        assert!(!folder.path().join("none").exists(), "{expected}");
    }
}

#[test]
fn the_plan_of_70b_says_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8, "vocab_size": 128256,
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": false,
        "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 128000, "eos_token_id": 128009,
    });
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    for (name, one, several) in [
        ("llama3-70b-full", "the optimizer in the host", "a cluster of"),
        ("llama3-70b-lora", "one node of 8 × H100 80 GB", "a cluster of 2 nodes"),
    ] {
        let recipe = root().join(format!("training/recipes/{name}.toml"));
        let recipe = std::fs::read_to_string(recipe).unwrap();
        let recipe = recipe.replace("models/llama3-70b-actor", &folder.path().to_string_lossy());
        let recipe = recipe.replace("models/llama3-70b-refiner", &folder.path().to_string_lossy());
        let path = folder.path().join("recipe.toml");
        std::fs::write(&path, recipe).unwrap();
        let planned = program().arg("plan").arg(&path).output().unwrap();
        let plan = text(&planned.stdout);
        assert!(planned.status.success(), "{}", text(&planned.stderr));
        for expected in ["actor, DPO, with `export`", "refiner, RFT, with `export`", one, several, "hours for 10000"] {
            assert!(plan.contains(expected), "{expected} is not in {plan}");
        }
        assert!(!plan.contains("TOO SMALL"), "{plan}");
    }
}
