//! Whole rounds on the smoke recipe: they run, they resume after a kill to the same bytes, bad data is named.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use spar::engine::derive_seed;
use spar_training::recipe::Bootstrap;
use spar_training::recipe::iterate::Iterate;
use spar_training::stages::dpo::Dpo;
use spar_training::stages::iterate::Manifest;
use spar_training::stages::sft::Sft;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn command(out: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar-train"));
    command.current_dir(root()).args(["iterate", "--recipe", "training/recipes/smoke.toml", "--out"]).arg(out);
    command.env("RUST_LOG", "warn").stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Everything that seeds decide; times, and what is drawn from them, are left out.
fn artefacts(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !["times.json", "report.json", "index.html", "metrics.jsonl", "events.out.tfevents.0.spar"]
                .contains(&name.as_str())
            {
                found.insert(path.strip_prefix(folder).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Files in `folder` and below; 0 if it does not exist.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { 1 }).sum()
}

/// `SPAR_KILLS` sets how often the second run is killed, `SPAR_KILL_SEED` when.
#[test]
fn rounds_killed_at_random_moments_end_in_the_same_bytes() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |value| value.parse().unwrap());
    let (kills, seed) = (number("SPAR_KILLS", 4), number("SPAR_KILL_SEED", 1));
    let directory = tempfile::tempdir().unwrap();
    let (whole, killed) = (directory.path().join("whole"), directory.path().join("killed"));
    let started = Instant::now();
    assert!(command(&whole).status().unwrap().success());
    let time = started.elapsed();
    println!("undisturbed: {time:?}");

    let manifest: Manifest =
        serde_json::from_str(&std::fs::read_to_string(whole.join("manifest.json")).unwrap()).unwrap();
    assert_eq!((manifest.rounds.len(), manifest.held_out.len()), (2, 3));
    for round in &manifest.rounds {
        assert_eq!(round.counts["sample"]["drafts"], 72);
        assert!(round.counts["search"]["trees"] > 0 && round.counts["build"]["pairs"] > 0, "{:?}", round.counts);
        assert!(round.gate.is_some());
    }
    let of =
        |stage: &str, count: &str| manifest.rounds.iter().map(|round| round.counts[stage][count]).collect::<Vec<_>>();
    let (pairs, learned) = (of("build", "pairs"), of("dpo", "items"));
    assert_eq!(learned, [pairs[0], pairs[0] + pairs[1]], "the second round replays the first");
    let page = std::fs::read_to_string(whole.join("index.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("rewards/margins") && page.contains("<ins>"));

    // Each life ends at a random moment after the folder has grown to a random size, so that kills fall all over the run
    // however fast the machine is.
    let all = files(&whole);
    let mut moments = Vec::new();
    for kill in 0..kills {
        let [share, pause] = [2 * kill, 2 * kill + 1].map(|draw| derive_seed(seed, draw) as f64 / u64::MAX as f64);
        let before = files(&killed);
        let enough = before + (all.saturating_sub(before) as f64 * share / 2.0) as usize;
        let mut child = command(&killed).spawn().unwrap();
        while child.try_wait().unwrap().is_none() && files(&killed) < enough.max(1) {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::thread::sleep(time.mul_f64(0.05 * pause));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        moments.push(files(&killed));
    }
    println!("killed at {moments:?} of {all} files");
    assert!(!moments.is_empty());
    assert!(command(&killed).status().unwrap().success());
    let (expected, found) = (artefacts(&whole), artefacts(&killed));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
    for (path, bytes) in &expected {
        assert!(*bytes == found[path], "{} differs", path.display());
    }
    println!("{} files are the same", expected.len());
}

#[test]
fn every_recipe_is_read_and_names_what_is_wrong() {
    let recipes = root().join("training/recipes");
    for name in ["smoke.toml", "spar-tiny.toml", "llama3-8b-lora.toml", "llama3-8b-full.toml"]
        .into_iter()
        .chain(["llama3-70b-lora.toml", "llama3-70b-full.toml"])
    {
        Iterate::read(&recipes.join(name)).unwrap();
    }
    Bootstrap::read(&recipes.join("spar-tiny.toml")).unwrap();
    let _: Sft = spar_training::recipe::read(&recipes.join("sft.toml")).unwrap();
    let _: Dpo = spar_training::recipe::read(&recipes.join("dpo.toml")).unwrap();
    let text = std::fs::read_to_string(recipes.join("smoke.toml")).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    for (from, to, expected) in [
        ("per_prompt = 3", "per_prompt = 0", "iterate.sample.per_prompt must be at least 1"),
        ("per_prompt = 3", "per_promt = 3", "unknown field `per_promt`"),
        ("budget = 4\nvotes = 3", "budget = 4\nvotes = 99", "iterate.search.votes must be between 1 and 15"),
        ("seed = 5", "seed = -5", "seed"),
        ("later_lr = 0.5", "later_lr = 0.0", "later_lr must be above 0"),
        ("per_prompt = 3", "per_prompt = 3\ntemperature = -1.0", "iterate.sample.temperature must be between 0 and 10"),
        ("per_prompt = 3", "per_prompt = 3\ntop_p = 7.0", "iterate.sample.top_p must be above 0 and at most 1, got 7"),
        (
            "budget = 4\nvotes",
            "budget = 4\nthreshold = 3.0\nvotes",
            "iterate.search.threshold must be at least 0 and below 1",
        ),
        ("budget = 4\nvotes", "budget = 4\nmax_calls = 0\nvotes", "iterate.search.max_calls must be at least 1"),
        ("budget = 4\nvotes", "budget = 4\nseconds = -1.0\nvotes", "iterate.search.seconds must be above 0"),
        ("lr = 1e-4", "lr = -1.0", "iterate.dpo.train.optimizer.lr must be above 0"),
        ("rule = \"adamw\"\nlr", "muon_lr = 0.1\nlr", "`muon_lr` has an effect with rule"),
        ("checkpoint_every = 2", "clip = -1.0", "iterate.dpo.train.clip must be at least 0"),
        ("checkpoint_every = 2", "lora = { rank = 0 }", "iterate.dpo.train.lora.rank must be at least 1"),
    ] {
        std::fs::write(file.path(), text.replacen(from, to, 1)).unwrap();
        let message = format!("{:#}", Iterate::read(file.path()).unwrap_err());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn bad_pairs_are_named_or_skipped_and_counted() {
    let directory = tempfile::tempdir().unwrap();
    let (data, recipe, out) =
        (directory.path().join("dpo.jsonl"), directory.path().join("dpo.toml"), directory.path().join("out"));
    let pair = |chosen: &str, rejected: &str| {
        format!(
            r#"{{"prompt": [{{"role": "user", "content": "Write about the river."}}], "chosen": [{{"role": "assistant", "content": "{chosen}"}}], "rejected": [{{"role": "assistant", "content": "{rejected}"}}]}}"#
        )
    };
    let long = "river ".repeat(1200);
    let lines =
        [pair("The river waits.", "The river sings."), "{".into(), pair("a", "a"), pair(" ", "b"), pair("a", &long)];
    std::fs::write(&data, lines.join("\n")).unwrap();
    let kept = directory.path().join("kept.jsonl");
    std::fs::write(&kept, r#"{"messages": [{"role": "user", "content": "a"}]}"#).unwrap();
    let write = |bad: &str| {
        let text = format!(
            "base = '{}'\ndata = '{}'\nkept = '{}'\nbad_lines = '{bad}'\ntokens_per_step = 100\nepochs = 1.0\n[train]\nout_dir = '{}'\n",
            root().join("assets/spar-tiny/actor").display(),
            data.display(),
            kept.display(),
            out.display()
        );
        std::fs::write(&recipe, text).unwrap();
    };
    let dpo = || {
        let program = env!("CARGO_BIN_EXE_spar-train");
        Command::new(program).args(["dpo", "--recipe"]).arg(&recipe).output().unwrap()
    };
    write("stop");
    let stopped = dpo();
    let message = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(!stopped.status.success() && message.contains("dpo.jsonl:2: EOF while parsing"), "{message}");
    std::fs::remove_dir_all(&out).unwrap();
    write("skip");
    let done = dpo();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let record = std::fs::read_to_string(out.join("dpo.stage.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&record).unwrap();
    assert_eq!((&record["counts"]["items"], record["skipped"].as_array().unwrap().len()), (&1.into(), 5));
    for (line, expected) in [(2, "EOF"), (3, "are the same"), (4, "`chosen` is empty"), (5, "too long")] {
        let found = record["skipped"].as_array().unwrap().iter().filter_map(|s| s.as_str());
        assert!(
            found.into_iter().any(|s| s.contains(&format!("dpo.jsonl:{line}: ")) && s.contains(expected)),
            "{record}"
        );
    }
    assert!(record["skipped"].to_string().contains("kept.jsonl:1: the chat has no assistant turn"), "{record}");
    assert!(out.join("model.safetensors").exists() && out.join("tokenizer.json").exists());
}

/// A recipe of one round without a gate, whose text `change` changes.
fn one_round(folder: &Path, change: impl Fn(String) -> String) -> std::process::Output {
    let text = std::fs::read_to_string(root().join("training/recipes/smoke.toml")).unwrap();
    let text = text.replace("iterations = 2", "iterations = 1").replace("per_iteration = 24", "per_iteration = 6");
    let text = text.replace("held_out = { world = \"held-out\" }\nheld_out_count = 12\n", "");
    let text = text.replace("[iterate.gate]\n", "[iterate.gate]\nenabled = false\n");
    let recipe = folder.join("recipe.toml");
    std::fs::write(&recipe, change(text)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_spar-train"));
    command.current_dir(root()).args(["iterate", "--recipe"]).arg(&recipe).arg("--out").arg(folder.join("run"));
    command.env("RUST_BACKTRACE", "1").output().unwrap()
}

#[test]
fn a_round_without_pairs_ends_with_its_funnel_and_trains_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let floor = "[iterate.build.floor]\nshortest = 1.0\nlongest = 1.0\nrepetition = 0.0\n[iterate.build]\nlength_drift = 0.0\npairs = 0\n";
    let ended = one_round(folder.path(), |text| text.replace("[iterate.dpo]", &format!("{floor}[iterate.dpo]")));
    let message = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success());
    for expected in
        ["round 1: 0 pairs came out", "prompts with a failing draft", "pairs above the floor", "what to change: "]
    {
        assert!(message.contains(expected), "{expected} is not in {message}");
    }
    assert!(!message.contains("stack backtrace"), "{message}");
    assert!(!folder.path().join("run/iter-1/actor").exists() && !folder.path().join("run/iter-1/refiner").exists());
    let mut report = Command::new(env!("CARGO_BIN_EXE_spar-train"));
    let report = report.args(["report"]).arg(folder.path().join("run")).output().unwrap();
    assert!(String::from_utf8_lossy(&report.stderr).contains("no finished round yet"), "{report:?}");
}

#[test]
fn what_a_run_lacks_is_named_before_it_begins() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = folder.path().join("prompts.jsonl");
    std::fs::write(&prompts, "{\"prompt\": \"Write about the river.\"}\n").unwrap();
    let train = format!("train = '{}'", prompts.display());
    for (from, to, expected) in [
        ("train = { world = \"train\" }", train.as_str(), "has 1 prompts, and 1 rounds of 6 need 6"),
        (
            "train = { world = \"train\" }",
            "train = 'no/prompts.jsonl'",
            "iterate.prompts.train: there is no no/prompts.jsonl",
        ),
        ("checkpoint_every = 2", "device = \"cuda\"", "built without CUDA"),
        ("actor = \"assets/spar-tiny/actor\"", "actor = 'no/model'", "iterate.actor: there is no no/model"),
    ] {
        let ended = one_round(folder.path(), |text| text.replace(from, to));
        let message = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && message.contains(expected), "{message}");
        assert!(!folder.path().join("run").exists(), "{expected}");
    }
}

#[test]
fn data_that_is_set_apart_is_measured_and_not_learned() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let line = |noun: &str| format!(r#"{{"prompt": "Write about the {noun}.", "completion": "The {noun} waits."}}"#);
    let lines: Vec<String> = ["river", "garden", "teacher", "mountain", "letter", "boat"].map(line).into();
    std::fs::write(path("chats.jsonl"), lines.join("\n")).unwrap();
    let recipe = |eval: &str, out: &str| {
        let base = root().join("assets/spar-tiny/actor");
        let (base, data, out) = (base.display(), path("chats.jsonl"), path(out));
        let text = format!(
            "base = '{base}'\ndata = '{}'\ntokens_per_step = 64\nepochs = 4.0\n{eval}\n[train]\nout_dir = '{}'\n[train.lora]\nrank = 2\n",
            data.display(),
            out.display()
        );
        std::fs::write(path("sft.toml"), text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_spar-train"));
        command.args(["sft", "--recipe"]).arg(path("sft.toml")).output().unwrap()
    };
    let done = recipe("[eval]\nshare = 0.34\nevery = 2", "out");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(String::from_utf8_lossy(&done.stdout).contains("loss on data that was not learned from"));
    let read = |name: &str| std::fs::read_to_string(path("out").join(name)).unwrap();
    let record: serde_json::Value = serde_json::from_str(&read("sft.stage.json")).unwrap();
    assert_eq!((&record["counts"]["items"], &record["counts"]["eval items"]), (&4.into(), &2.into()));
    let metrics: Vec<serde_json::Value> =
        read("metrics.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(metrics[0].get("eval_loss").is_none() && metrics[1]["eval_loss"].as_f64().unwrap() > 0.0);
    assert!(metrics.last().unwrap()["eval_loss"].is_number() && metrics[0]["learning_rate"].is_number());
    assert!(read("adapter_config.json").contains("spar-tiny/actor"));
    assert!(path("out").join("events.out.tfevents.0.spar").exists());
    let refused = recipe("[eval]\nshare = 2.0", "other");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("eval.share must be at least 0 and below 1"));
}
