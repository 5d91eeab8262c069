//! The metrics under the names and with the labels that vLLM gives them, for the dashboards and autoscalers that read those.

use std::collections::HashMap;
use std::fmt::Write;

use super::label_value;

/// A metric of vLLM.
struct Alias {
    vllm: &'static str,
    kind: &'static str,
    help: &'static str,
    /// The metrics whose series it is the sum of.
    ours: &'static [&'static str],
    /// The label that a series must have to be part of it.
    only: Option<&'static str>,
}

const fn alias(
    vllm: &'static str,
    kind: &'static str,
    ours: &'static [&'static str],
    only: Option<&'static str>,
    help: &'static str,
) -> Alias {
    Alias { vllm, kind, help, ours, only }
}

/// The KV cache that running replies use, which is what vLLM's share counts: blocks that are kept for later prompts count as free.
const RUNNING: Option<&str> = Some("state=\"running\"");

/// Names with `gpu_` and `time_per_output_token` are those of older versions, which many dashboards still ask for.
const ALIASES: &[Alias] = &[
    alias("vllm:num_requests_running", "gauge", &["spar_requests_running"], None, "Requests that are being answered"),
    alias("vllm:num_requests_waiting", "gauge", &["spar_requests_waiting"], None, "Requests that wait for their turn"),
    alias("vllm:kv_cache_usage_perc", "gauge", &["spar_kv_usage_ratio"], RUNNING, "KV cache usage; 1 means all of it"),
    alias("vllm:gpu_cache_usage_perc", "gauge", &["spar_kv_usage_ratio"], RUNNING, "KV cache usage; 1 means all of it"),
    alias("vllm:prompt_tokens_total", "counter", &["spar_prompt_tokens_total"], None, "Tokens of prompts"),
    alias("vllm:generation_tokens_total", "counter", &["spar_generation_tokens_total"], None, "Generated tokens"),
    alias(
        "vllm:prefix_cache_queries_total",
        "counter",
        &["spar_prefix_tokens_reused_total", "spar_prompt_tokens_computed_total"],
        None,
        "Tokens of prompts that were looked up in the cache of prefixes",
    ),
    alias(
        "vllm:prefix_cache_hits_total",
        "counter",
        &["spar_prefix_tokens_reused_total"],
        None,
        "Tokens of prompts that the cache of prefixes had",
    ),
    alias("vllm:request_success_total", "counter", &["spar_answers_total"], None, "Answers by why they ended"),
    alias(
        "vllm:time_to_first_token_seconds",
        "histogram",
        &["spar_time_to_first_token_seconds"],
        None,
        "Time to the first token",
    ),
    alias(
        "vllm:inter_token_latency_seconds",
        "histogram",
        &["spar_inter_token_latency_seconds"],
        None,
        "Time between tokens",
    ),
    alias(
        "vllm:time_per_output_token_seconds",
        "histogram",
        &["spar_inter_token_latency_seconds"],
        None,
        "Time between tokens",
    ),
    alias(
        "vllm:e2e_request_latency_seconds",
        "histogram",
        &["spar_e2e_request_latency_seconds"],
        None,
        "Time of a whole request",
    ),
    alias(
        "vllm:request_queue_time_seconds",
        "histogram",
        &["spar_queue_time_seconds"],
        None,
        "Time that a request waits for its turn",
    ),
    alias(
        "vllm:request_prefill_time_seconds",
        "histogram",
        &["spar_prefill_seconds"],
        None,
        "Time from a request's turn to its first token",
    ),
    alias(
        "vllm:request_decode_time_seconds",
        "histogram",
        &["spar_decode_seconds"],
        None,
        "Time from a request's first token to its last one",
    ),
    alias("vllm:request_prompt_tokens", "histogram", &["spar_request_prompt_tokens"], None, "Tokens of a prompt"),
    alias(
        "vllm:request_generation_tokens",
        "histogram",
        &["spar_request_generation_tokens"],
        None,
        "Tokens generated for a request",
    ),
];

/// The metrics of `text`, which is this server's own Prometheus text, as vLLM would name those of `model`. Series that differ in labels
/// which vLLM does not have are added up.
pub fn vllm_names(text: &str, model: &str) -> String {
    let mut sums: Vec<Sums> = ALIASES.iter().map(|_| Sums::default()).collect();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((series, value)) = line.rsplit_once(' ') else { continue };
        let Ok(value) = value.parse::<f64>() else { continue };
        let (name, labels) =
            series.split_once('{').map_or((series, ""), |(name, rest)| (name, rest.trim_end_matches('}')));
        for (alias, sums) in ALIASES.iter().zip(&mut sums) {
            let ending = |ours: &&str| {
                let ending = name.strip_prefix(*ours)?;
                let histogram = matches!(ending, "_bucket" | "_sum" | "_count") && alias.kind == "histogram";
                (ending.is_empty() || histogram).then_some(ending)
            };
            let Some(ending) = alias.ours.iter().find_map(ending) else { continue };
            if alias.only.is_none_or(|label| labels.split(',').any(|other| other == label)) {
                sums.add(ending, kept(labels), value);
            }
        }
    }
    let model = label_value(model);
    let mut text = String::new();
    for (Alias { vllm, kind, help, .. }, sums) in ALIASES.iter().zip(&sums) {
        if sums.order.is_empty() {
            continue;
        }
        let mut write = || -> std::fmt::Result {
            writeln!(text, "# HELP {vllm} {help}\n# TYPE {vllm} {kind}")?;
            for key in &sums.order {
                let (ending, label) = key;
                let value = sums.values.get(key).copied().unwrap_or_default();
                writeln!(text, "{vllm}{ending}{{engine=\"0\",model_name=\"{model}\"{label}}} {value}")?;
            }
            writeln!(text)
        };
        write().expect("a string can be written to");
    }
    text
}

/// Sums by what follows a metric's name and by the labels that stay, in the order in which they were first seen.
#[derive(Default)]
struct Sums {
    order: Vec<(String, String)>,
    values: HashMap<(String, String), f64>,
}

impl Sums {
    fn add(&mut self, ending: &str, label: String, value: f64) {
        let key = (ending.to_owned(), label);
        if !self.values.contains_key(&key) {
            self.order.push(key.clone());
        }
        *self.values.entry(key).or_default() += value;
    }
}

/// The labels that vLLM has as well, under its names.
fn kept(labels: &str) -> String {
    let kept = labels.split(',').filter_map(|label| match label.split_once('=')? {
        ("le", value) => Some(format!(",le={value}")),
        ("reason", value) => Some(format!(",finished_reason={value}")),
        _ => None,
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_added_up_under_the_other_names() {
        let ours = "# HELP spar_requests_running x\n# TYPE spar_requests_running gauge\nspar_requests_running 3\n\
                    spar_kv_usage_ratio{state=\"running\"} 0.25\nspar_kv_usage_ratio{state=\"kept\"} 0.75\n\
                    spar_answers_total{mode=\"plain\",reason=\"stop\"} 4\nspar_answers_total{mode=\"search\",reason=\"stop\"} 2\n\
                    spar_answers_total{mode=\"plain\",reason=\"length\"} 1\n\
                    spar_prefix_tokens_reused_total 6\nspar_prompt_tokens_computed_total 4\n\
                    spar_time_to_first_token_seconds_bucket{mode=\"plain\",le=\"0.5\"} 1\n\
                    spar_time_to_first_token_seconds_bucket{mode=\"plain\",le=\"+Inf\"} 2\n\
                    spar_time_to_first_token_seconds_sum{mode=\"plain\"} 1.5\n\
                    spar_time_to_first_token_seconds_count{mode=\"plain\"} 2\n\
                    spar_time_to_first_token_seconds_bucket{mode=\"search\",le=\"0.5\"} 0\n\
                    spar_time_to_first_token_seconds_bucket{mode=\"search\",le=\"+Inf\"} 1\n\
                    spar_time_to_first_token_seconds_sum{mode=\"search\"} 3\n\
                    spar_time_to_first_token_seconds_count{mode=\"search\"} 1\n";
        let text = vllm_names(ours, "my \"model\"");
        let labels = |more: &str| format!("{{engine=\"0\",model_name=\"my \\\"model\\\"\"{more}}}");
        for (series, more, value) in [
            ("vllm:num_requests_running", "", "3"),
            ("vllm:kv_cache_usage_perc", "", "0.25"),
            ("vllm:request_success_total", ",finished_reason=\"stop\"", "6"),
            ("vllm:request_success_total", ",finished_reason=\"length\"", "1"),
            ("vllm:prefix_cache_queries_total", "", "10"),
            ("vllm:prefix_cache_hits_total", "", "6"),
            ("vllm:time_to_first_token_seconds_bucket", ",le=\"0.5\"", "1"),
            ("vllm:time_to_first_token_seconds_bucket", ",le=\"+Inf\"", "3"),
            ("vllm:time_to_first_token_seconds_sum", "", "4.5"),
            ("vllm:time_to_first_token_seconds_count", "", "3"),
        ] {
            let line = format!("{series}{} {value}\n", labels(more));
            assert_eq!(text.matches(&line).count(), 1, "{line} in\n{text}");
        }
        assert!(text.contains("# TYPE vllm:time_to_first_token_seconds histogram\n"), "{text}");
        assert!(!text.contains("vllm:num_requests_waiting"), "what is not measured is not shown:\n{text}");
    }
}
