//! `/metrics` holds what the contract names, and what the dashboards ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};
use spar::engine::EngineError;
use spar::engine::fake::FakeEngine;

use super::harness::{Server, asked, improving, says, with};
use super::swap::world::World;

/// Names of vLLM that its dashboards and the autoscalers of its ecosystem read.
const VLLM: &[&str] = &[
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_queries_total",
    "vllm:prefix_cache_hits_total",
    "vllm:request_success_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
    "vllm:time_per_output_token_seconds_bucket",
    "vllm:e2e_request_latency_seconds_bucket",
    "vllm:request_queue_time_seconds_bucket",
    "vllm:request_prefill_time_seconds_bucket",
    "vllm:request_decode_time_seconds_bucket",
    "vllm:request_prompt_tokens_bucket",
    "vllm:request_generation_tokens_bucket",
];

/// Name, type and labels of every metric that users may rely on.
const CONTRACT: &[(&str, &str, &[&str])] = &[
    ("spar_http_requests_total", "counter", &["route", "status"]),
    ("spar_http_request_duration_seconds", "histogram", &["route"]),
    ("spar_connections", "gauge", &[]),
    ("spar_connections_refused_total", "counter", &[]),
    ("spar_connection_timeouts_total", "counter", &["at"]),
    ("spar_requests_running", "gauge", &[]),
    ("spar_requests_waiting", "gauge", &[]),
    ("spar_requests_rejected_total", "counter", &["reason"]),
    ("spar_answers_total", "counter", &["mode", "reason"]),
    ("spar_queue_time_seconds", "histogram", &["mode"]),
    ("spar_prefill_seconds", "histogram", &[]),
    ("spar_decode_seconds", "histogram", &[]),
    ("spar_request_prompt_tokens", "histogram", &["mode"]),
    ("spar_request_generation_tokens", "histogram", &["mode"]),
    ("spar_kv_usage_ratio", "gauge", &["state"]),
    ("process_resident_memory_bytes", "gauge", &[]),
    ("process_cpu_seconds_total", "counter", &[]),
    ("process_open_fds", "gauge", &[]),
    ("process_threads", "gauge", &[]),
    ("process_start_time_seconds", "gauge", &[]),
    ("spar_time_to_first_token_seconds", "histogram", &["mode"]),
    ("spar_inter_token_latency_seconds", "histogram", &["mode"]),
    ("spar_e2e_request_latency_seconds", "histogram", &["mode"]),
    ("spar_prompt_tokens_total", "counter", &["purpose"]),
    ("spar_generation_tokens_total", "counter", &["purpose"]),
    ("spar_engine_call_duration_seconds", "histogram", &["purpose"]),
    ("spar_engine_errors_total", "counter", &["kind"]),
    ("spar_engine_restarts_total", "counter", &["kind"]),
    ("spar_search_requests_total", "counter", &["strategy", "stop_reason"]),
    ("spar_search_depth", "histogram", &["strategy"]),
    ("spar_search_nodes", "histogram", &["strategy"]),
    ("spar_search_calls", "histogram", &["strategy"]),
    ("spar_search_tokens", "histogram", &["strategy"]),
    ("spar_search_duration_seconds", "histogram", &["strategy"]),
    ("spar_search_value", "histogram", &["strategy"]),
    ("spar_search_gain", "histogram", &["strategy"]),
    ("spar_judge_votes_total", "counter", &["verdict"]),
    ("spar_judge_agreement", "histogram", &[]),
    ("spar_votes_saved_total", "counter", &[]),
    ("spar_generation_info", "gauge", &["model", "role", "generation"]),
    ("spar_build_info", "gauge", &["version", "features"]),
    ("spar_swaps_total", "counter", &["role", "result"]),
    ("spar_swap_duration_seconds", "histogram", &["role", "result"]),
];

/// A server after a load that touches everything: plain, streamed and searched requests, keys, refusals, failures and a swap.
async fn loaded() -> Server {
    let keys = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(keys.path(), "[[keys]]\nname = \"named\"\nkey = \"k\"\n").unwrap();
    let keyed = Server::start(improving(), &["--api-keys-file", keys.path().to_str().unwrap()]).await;
    assert_eq!(keyed.chat(&says("hello")).bearer_auth("k").send().await.unwrap().status(), 200);
    let server = Server::start(improving(), &[]).await;
    server.ready().await;
    server.answer(&says("hello")).await;
    server.stream(&with(says("hello"), json!({"stream": true}))).await;
    for strategy in ["bfs", "dfs", "best_of_n", "refine_chain"] {
        server.answer(&with(says("hello"), json!({"search_budget": 2, "search": {"strategy": strategy}}))).await;
    }
    assert_eq!(server.chat(&with(says("hello"), json!({"n": 0}))).send().await.unwrap().status(), 400);
    let failing = FakeEngine::new(|request, _| match asked(request).contains("fail") {
        true => Err(EngineError::Crashed("as scripted".into())),
        false => Ok("fine".into()),
    });
    let failing = Server::start(failing.paced(|_, _| Duration::from_millis(1)), &[]).await;
    assert_eq!(failing.chat(&says("fail")).send().await.unwrap().status(), 500);
    World::start(&[]).await.swap("actor", json!({"model_path": "actor"})).await;
    server
}

/// Of every metric: its type, and the labels of all its series.
fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        }
    }
    let series = Regex::new(r"^(\w+)(?:\{(.*)\})? ").unwrap();
    let label = Regex::new(r#"(\w+)="[^"]*""#).unwrap();
    for found in text.lines().filter_map(|line| series.captures(line)) {
        let family = ["", "_bucket", "_sum", "_count"].iter().find_map(|end| found[1].strip_suffix(end));
        let family = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|end| found[1].strip_suffix(end))
            .find(|name| families.contains_key(*name))
            .or(family)
            .unwrap();
        let labels = found.get(2).map_or("", |labels| labels.as_str());
        let names = label.captures_iter(labels).map(|label| label[1].to_owned()).filter(|name| name != "le");
        families.get_mut(family).unwrap_or_else(|| panic!("{family} has no type")).1.extend(names);
    }
    families
}

#[tokio::test]
async fn every_metric_of_the_contract_is_there_with_its_labels() {
    let server = loaded().await;
    let text = server.metrics().await;
    let families = families(&text);
    for (name, kind, labels) in CONTRACT {
        let (found, with) = families.get(*name).unwrap_or_else(|| panic!("{name} is missing in\n{text}"));
        assert_eq!(found, kind, "{name}");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
        let series = text.lines().filter(|line| line.starts_with(name));
        assert!(series.count() > 0, "{name} has no series");
        assert_eq!(with, &labels.iter().map(|label| (*label).to_owned()).collect(), "{name}");
    }
    assert!(families.keys().all(|name| name.starts_with("spar_") || name.starts_with("process_")), "{families:?}");
}

#[tokio::test]
async fn every_documented_route_is_a_label_of_its_own() {
    let server = Server::start(improving(), &[]).await;
    let document: Value = serde_json::from_str(&spar::http::openapi::document()).unwrap();
    let paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    for path in &paths {
        // Answered or refused: the route counts.
        server.get(&path.replace("{id}", "x")).send().await.unwrap();
    }
    let text = server.metrics().await;
    for path in paths {
        assert!(text.contains(&format!("route=\"{path}\"")), "{path} is not counted under its name");
    }
}

#[tokio::test]
async fn vllms_names_are_shown_where_they_are_asked_for_with_its_labels() {
    let server = Server::start(improving(), &["--vllm-metrics"]).await;
    server.answer(&says("hello")).await;
    server.stream(&with(says("hello"), json!({"stream": true}))).await;
    let text = server.metrics().await;
    for name in VLLM {
        let series = format!("{name}{{engine=\"0\",model_name=\"fake\"");
        assert!(text.lines().any(|line| line.starts_with(&series)), "{name} is missing in\n{text}");
    }
    let finished = "vllm:request_success_total{engine=\"0\",model_name=\"fake\",finished_reason=\"stop\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(finished)).expect("answers are counted");
    assert!(count.parse::<f64>().unwrap() >= 2.0, "{count}");
    assert!(!loaded().await.metrics().await.contains("vllm:"), "nobody asked for them");
}

#[tokio::test]
async fn answers_are_counted_by_why_they_end() {
    let engine = FakeEngine::new(|request, _| match asked(request).contains("fail") {
        true => Err(EngineError::Crashed("as scripted".into())),
        false => Ok("one two three four five six".into()),
    });
    let server = Server::start(engine, &[]).await;
    let count = |text: &str, reason: &str| {
        let series = format!("spar_answers_total{{mode=\"plain\",reason=\"{reason}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&*series)).unwrap().parse::<u64>().unwrap()
    };
    // Other tests count on the same recorder, so that numbers may only be larger.
    let before = server.metrics().await;
    server.answer(&with(says("hello"), json!({"n": 2}))).await;
    server.answer(&with(says("hello"), json!({"max_tokens": 2}))).await;
    assert_eq!(server.chat(&says("fail")).send().await.unwrap().status(), 500);
    let after = server.metrics().await;
    for (reason, more) in [("stop", 2), ("length", 1), ("error", 1)] {
        assert!(count(&after, reason) >= count(&before, reason) + more, "{reason}");
    }
}

fn dashboard_file(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards").join(name)).unwrap()
}

#[tokio::test]
async fn the_dashboards_ask_for_metrics_and_labels_that_exist() {
    let server = loaded().await;
    // Engines with a cache of their own say more than a scripted one.
    let text = server.metrics().await
        + &Server::native(&[], None).await.metrics().await
        + &super::fleet::own::in_front_of(&[&server]).await.0.metrics().await;
    let families = families(&text);
    let labels: BTreeSet<&str> = families.values().flat_map(|(_, labels)| labels).map(String::as_str).collect();

    let dashboard: Value = serde_json::from_str(&dashboard_file("spar.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    let mut queries: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    assert!(queries.len() > 20);
    queries.push(dashboard_file("alerts.yml"));

    let metric = Regex::new(r"\b(?:spar|process)_\w+").unwrap();
    let grouped = Regex::new(r"\b(?:by|ignoring|without) \(([^)]*)\)").unwrap();
    let matched = Regex::new(r#"(\w+)(?:=~|!~|!=|=)""#).unwrap();
    assert!(panels.iter().all(|panel| panel["type"] == "row" || panel["fieldConfig"]["defaults"]["unit"].is_string()));
    // Prometheus adds these itself.
    let known = |label: &str| ["le", "instance", "job"].contains(&label) || labels.contains(label);
    for query in &queries {
        for name in metric.find_iter(query).map(|found| found.as_str()) {
            let series =
                text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
            assert!(series, "{name} is not in /metrics: {query}");
        }
        let groups = grouped
            .captures_iter(query)
            .flat_map(|group| group[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
        let matchers = matched.captures_iter(query).map(|label| label[1].to_owned());
        for label in groups.chain(matchers) {
            assert!(known(&label), "no metric has the label {label}: {query}");
        }
    }
}
