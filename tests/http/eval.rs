//! `spar eval` and `spar bench` from the command line: on a scripted engine, and on a running server.

use std::path::Path;

use clap::Parser;
use serde_json::{Value, json};
use spar::cli::Cli;

use super::harness::{Server, improving};

/// Runs the program's own main function with these arguments.
async fn spar(arguments: &[&str]) -> anyhow::Result<()> {
    let typed: Vec<String> = ["spar"].iter().chain(arguments).map(|argument| (*argument).to_owned()).collect();
    tokio::task::spawn_blocking(move || Cli::try_parse_from(typed)?.run()).await.unwrap()
}

fn write_prompts(path: &Path) {
    let prompt = |key: usize| {
        let instructions = ["punctuation:no_comma", "change_case:english_lowercase"];
        json!({"key": key, "prompt": format!("case {key}"), "instruction_id_list": instructions, "kwargs": [{}, {}]})
    };
    let lines: Vec<String> = (0..6).map(|key| prompt(key).to_string()).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

fn report(out: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(out.join("report.json")).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_writes_its_report_and_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("p.jsonl"), folder.path().join("out"));
    write_prompts(&data);
    let (file, directory) = (data.to_str().unwrap().to_owned(), out.to_str().unwrap().to_owned());
    let base =
        ["eval", "--engine", "fake", "--judging", "votes", "--data", &file, "--out", &directory, "--budgets", "0,1,2"];
    let arguments = [&base[..], &["--strategy", "bfs,best_of_n"]].concat();
    spar(&arguments).await.unwrap();
    let first = report(&out);
    // Drafts echo the prompt, and `Echo` is no lower case; refinements say `Refined echo`.
    assert_eq!(first["points"][0]["prompt_strict"]["mean"], 0.0);
    assert_eq!(first["points"][0]["instruction_strict"]["mean"], 0.5);
    let bfs = &first["points"][1];
    assert_eq!((&bfs["strategy"], &bfs["budget"], &bfs["accepted"]), (&json!("bfs"), &json!(1), &json!(1.0)));
    assert_eq!(bfs["gain"]["n"], 6);
    assert_eq!(first["equal_tokens"][0]["strategy"], "bfs");
    assert_eq!(first["settings"]["data"]["prompts"], 6);
    for name in ["report.txt", "scores.svg", "metrics.txt"] {
        assert!(out.join(name).metadata().unwrap().len() > 0, "{name}");
    }

    let responses = out.join("responses/bfs-1.jsonl");
    spar(&["verify", "--prompts", &file, "--responses", responses.to_str().unwrap()]).await.unwrap();
    assert!(std::fs::read_to_string(&responses).unwrap().contains("Refined echo"));

    // Half of a run is lost, as after a kill: the rest is not asked again.
    let trials = out.join("trials/bfs-1.jsonl");
    let text = std::fs::read_to_string(&trials).unwrap();
    let kept: String = text.lines().take(3).map(|line| line.replace("Refined echo", "kept") + "\n").collect();
    std::fs::write(&trials, &kept).unwrap();
    spar(&arguments).await.unwrap();
    let text = std::fs::read_to_string(&trials).unwrap();
    assert_eq!((text.matches("kept").count(), text.lines().count()), (3, 6));

    let other = [&base[..], &["--votes", "3"]].concat();
    let error = spar(&other).await.unwrap_err().to_string();
    assert!(error.contains("votes 5, now it is 3"), "{error}");
    let error = spar(&[&base[..8], &["x", "--mode", "paper", "--strategy", "best_of_n"]].concat()).await.unwrap_err();
    assert!(error.to_string().contains("bfs and dfs only"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_ifbench_are_answered_even_where_they_cannot_be_checked() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("p.jsonl"), folder.path().join("out"));
    let prompt = |key: &str, ids: &[&str], kwargs: Value| {
        json!({"key": key, "prompt": format!("case {key}"), "instruction_id_list": ids, "kwargs": kwargs}).to_string()
    };
    // The published form: every argument in every object, most of them null.
    let lines = [
        prompt("0", &["count:numbers"], json!([{"N": 1.0, "word": null}])),
        prompt("1", &["words:start_verb"], json!([{"N": null, "word": null}])),
        prompt("2", &["count:numbers", "words:start_verb"], json!([{"N": 1.0}, {"N": null}])),
    ];
    std::fs::write(&data, lines.join("\n")).unwrap();
    let server = Server::start(improving(), &[]).await;
    let (file, directory) = (data.to_str().unwrap(), out.to_str().unwrap());
    let common = ["eval", "--data", file, "--budgets", "1", "--strategy", "bfs", "--judging", "votes"];
    for judge in ["rules", "both"] {
        spar(&[&common[..], &["--engine", "fake", "--judge", judge]].concat()).await.unwrap();
        let out = format!("{directory}-{judge}");
        spar(&[&common[..], &["--url", &server.url, "--judge", judge, "--out", &out]].concat()).await.unwrap();
        let report = report(Path::new(&out));
        let points = report["points"].as_array().unwrap();
        assert_eq!(points.len(), 2);
        for point in points {
            assert_eq!((&point["prompt_strict"]["n"], &point["instruction_strict"]["n"]), (&json!(1), &json!(3)));
        }
        let responses = format!("{out}/responses/bfs-1.jsonl");
        assert_eq!(std::fs::read_to_string(&responses).unwrap().lines().count(), 3);
        spar(&["verify", "--prompts", file, "--responses", &responses]).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_can_be_evaluated_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let (data, out) = (folder.path().join("p.jsonl"), folder.path().join("out"));
    write_prompts(&data);
    let server = Server::start(improving(), &[]).await;
    let (file, directory) = (data.to_str().unwrap(), out.to_str().unwrap());
    let arguments = ["eval", "--url", &server.url, "--data", file, "--out", directory, "--budgets", "2"];
    spar(&[&arguments[..], &["--judge", "both", "--strategy", "bfs,dfs"]].concat()).await.unwrap();
    let report = report(&out);
    assert_eq!(report["points"].as_array().unwrap().len(), 3, "greedy is always there");
    assert_eq!((&report["points"][2]["strategy"], &report["points"][2]["depth"]), (&json!("dfs"), &json!(1.0)));
    assert_eq!(report["settings"]["model"]["model"], "fake");
    let error = spar(&["eval", "--url", "http://127.0.0.1:1", "--data", file]).await.unwrap_err();
    assert!(error.to_string().contains("http://127.0.0.1:1 cannot be reached"), "{error}");
    spar(&["bench", "--url", &server.url, "--clients", "2", "--searches", "2", "--seconds", "1", "--json"])
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn greedy_answers_are_compared_with_searches_on_prompts_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("own.jsonl");
    let lines = [
        json!({"prompt": "Say it. Do not use any commas."}),
        json!({"prompt": "What is it?"}),
        json!({"key": "c", "prompt": "Quote it.", "checks": [{"id": "startend:quotation"}]}),
    ];
    std::fs::write(&data, lines.map(|line| line.to_string()).join("\n")).unwrap();
    let file = data.to_str().unwrap();
    let server = Server::start(improving(), &[]).await;
    for more in [&[][..], &["--json"], &["--clients", "3"]] {
        let base = ["bench", "--url", &server.url, "--data", file, "--budgets", "1,2"];
        spar(&[&base[..], more].concat()).await.unwrap();
    }
    let refused = spar(&["bench", "--url", &server.url, "--budgets", "1"]).await.unwrap_err().to_string();
    assert!(refused.contains("--data"), "{refused}");
}
