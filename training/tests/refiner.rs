//! `bootstrap-refiner` in miniature on the embedded model: all stages run, a second run makes nothing again, and unusable input is named.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn train(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar-train"));
    command.current_dir(root()).env("RUST_LOG", "info").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Settings of a run that takes seconds.
const RECIPE: &str = r#"
seed = 3
held_out = 0.3
[sample]
temperatures = [0.0, 1.0]
per_temperature = 2
max_tokens = 60
[turns]
least = 8
per_kind = 8
[training]
epochs = 1.0
tokens_per_step = 4096
[training.train]
unit_tokens = 1024
[training.train.lora]
rank = 2
alpha = 4.0
targets = ["q_proj"]
[measure]
own = 2
edited = 1
refinements = 2
critiques = 2
"#;

#[test]
fn a_refiner_is_made_measured_and_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("recipe.toml"), RECIPE).unwrap();
    let prompts = ["prompts", "--split", "train", "--count", "16", "--seed", "5", "--out", &path("prompts.jsonl")];
    assert!(train(&prompts).status.success());
    let (recipe, prompts, out) = (path("recipe.toml"), path("prompts.jsonl"), path("run"));
    let model = "assets/spar-tiny/actor";
    let arguments = ["bootstrap-refiner", "--recipe", &recipe, "--model", model, "--prompts", &prompts, "--out", &out];
    let made = train(&arguments);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let said = text(&made.stdout);
    for part in ["near misses", "turns, critique", "held-out verdicts", "one refinement fixes", "--refiner-adapter"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let report: Value = serde_json::from_str(&std::fs::read_to_string(path("run/report.json")).unwrap()).unwrap();
    assert_eq!(report["prompts"], serde_json::json!([11, 5]));
    assert!(report["judging"][0]["base"]["n"].as_u64().unwrap() >= 5, "{report}");
    assert!(report["training"]["steps"].as_u64().unwrap() >= 1, "{report}");
    for file in ["adapter_config.json", "adapter_model.safetensors", "refiner.stage.json"] {
        assert!(Path::new(&path("run/adapter")).join(file).exists(), "{file}");
    }
    let adapter = |run: &str| std::fs::read(Path::new(&path(run)).join("adapter/adapter_model.safetensors")).unwrap();
    let first = adapter("run");

    // A finished run only prints its report again, without loading a model for sampling or training.
    let again = train(&arguments);
    assert!(again.status.success() && text(&again.stdout) == said, "{}", text(&again.stdout));
    assert!(adapter("run") == first);

    // A run that lost its later stages, as a killed one has, ends in the same bytes.
    let killed = path("killed");
    std::fs::create_dir(&killed).unwrap();
    for file in ["responses.jsonl", "responses.stage.json"] {
        std::fs::copy(Path::new(&out).join(file), Path::new(&killed).join(file)).unwrap();
    }
    let lines = std::fs::read_to_string(path("killed/responses.jsonl")).unwrap();
    let (kept, _) = lines.match_indices('\n').nth(6).unwrap();
    std::fs::write(path("killed/.responses.jsonl.partial"), &lines[..kept + 9]).unwrap();
    std::fs::remove_file(path("killed/responses.jsonl")).unwrap();
    let record = std::fs::read_to_string(path("killed/responses.stage.json")).unwrap();
    let mut record: Value = serde_json::from_str(&record).unwrap();
    record["finished"] = false.into();
    std::fs::write(path("killed/responses.stage.json"), record.to_string()).unwrap();
    let mut resumed = arguments;
    *resumed.last_mut().unwrap() = &killed;
    let resumed = train(&resumed);
    assert!(resumed.status.success(), "{}", text(&resumed.stderr));
    assert!(std::fs::read_to_string(path("killed/responses.jsonl")).unwrap() == lines);
    assert!(adapter("killed") == first, "the adapter is the same");

    // Too few turns end the run before any training.
    std::fs::write(&recipe, RECIPE.replace("least = 8", "least = 5000")).unwrap();
    let few = path("few");
    std::fs::create_dir(&few).unwrap();
    for file in ["responses.jsonl", "responses.stage.json"] {
        std::fs::copy(Path::new(&out).join(file), Path::new(&few).join(file)).unwrap();
    }
    let mut arguments = arguments;
    *arguments.last_mut().unwrap() = &few;
    let refused = train(&arguments);
    assert!(!refused.status.success() && !Path::new(&few).join("adapter").exists());
    let said = text(&refused.stderr);
    assert!(said.contains("too few to learn from") && said.contains("own responses, right"), "{said}");
}

#[test]
fn the_recipe_of_the_repository_is_read_and_wrong_input_is_named_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("plain.jsonl"), "{\"prompt\": \"Say hello.\"}\n").unwrap();
    let recipe = "training/recipes/refiner-smollm2.toml";
    for (model, prompts, expected) in [
        ("assets/spar-tiny/refiner", "nowhere.jsonl", "nowhere.jsonl"),
        ("assets/spar-tiny/refiner", "plain.jsonl", "0 of 1 prompts have an `instruction_id_list`"),
        ("nowhere", "", "--prompts is missing"),
    ] {
        let (prompts, out) = (path(prompts), path("run"));
        let mut arguments = vec!["bootstrap-refiner", "--recipe", recipe, "--model", model, "--out", &out];
        if expected != "--prompts is missing" {
            arguments.extend(["--prompts", &prompts]);
        }
        let refused = train(&arguments);
        let said = text(&refused.stderr);
        assert!(!refused.status.success() && said.contains(expected), "{said}");
        assert!(!Path::new(&out).exists(), "nothing is written for input that cannot be used");
    }
}
