//! Every numeric field with numbers at the edges of their types, and values of other types in every field.

use serde_json::{Value, json};

use super::corpus::{CHAT, Case, TEXT};

/// As JSON writes them, so that they may be beyond every type.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "-0.0",
    "1e308",
    "-1e308",
    "1e-308",
    "5e-324",
    "1e-38",
    "1e-40",
    "3.5e38",
    "9007199254740993",
    "2147483648",
    "9223372036854775807",
    "-9223372036854775808",
    "18446744073709551615",
    "1e999",
    "0.1e-400",
];

const CHAT_FIELDS: &[&str] = &[
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "n",
    "seed",
    "max_tokens",
    "max_completion_tokens",
    "top_logprobs",
    "search_budget",
];

const SEARCH_FIELDS: &[&str] = &[
    "branch",
    "keep",
    "depth",
    "votes",
    "threshold",
    "max_tokens",
    "max_calls",
    "deadline_ms",
    "judge_tokens",
    "refine_tokens",
    "judge_temperature",
    "refine_temperature",
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let turn = r#""messages": [{"role": "user", "content": "Hello"}]"#;
    for number in NUMBERS {
        for field in CHAT_FIELDS {
            // A length of its own would be a second field of that name.
            let length = if field.starts_with("max_") { "" } else { r#", "max_tokens": 4"# };
            let body = format!(r#"{{{turn}, "logprobs": true, "{field}": {number}{length}}}"#);
            cases.push(Case::raw(format!("number: {field}: {number}"), CHAT, body));
        }
        for field in SEARCH_FIELDS {
            let body = format!(r#"{{{turn}, "max_tokens": 4, "search_budget": 1, "search": {{"{field}": {number}}}}}"#);
            cases.push(Case::raw(format!("number: search.{field}: {number}"), CHAT, body));
        }
        for field in ["logprobs", "max_tokens", "n", "best_of"] {
            let body = format!(r#"{{"prompt": "Hello", "{field}": {number}}}"#);
            cases.push(Case::raw(format!("number: completions: {field}: {number}"), TEXT, body));
        }
    }
    cases.extend(biases());
    cases
}

fn biases() -> Vec<Case> {
    let all = |bias: f64| (0..600).map(|id: u32| (id.to_string(), json!(bias))).collect::<Value>();
    [
        ("all forbidden", all(-100.0)),
        ("all wanted", all(100.0)),
        ("one forced", json!({"65": 100.0})),
        ("subnormal", json!({"65": 5e-324})),
        ("100,000 tokens", (0..100_000).map(|id: u32| (id.to_string(), json!(0.5))).collect()),
        ("ids with signs and zeros", json!({"+5": 1, "005": 1, "5": 1})),
        ("ids beyond 64 bits", json!({"99999999999999999999999": 1})),
        ("an empty id", json!({"": 1})),
        ("a long id", json!({("1".repeat(100_000)): 1})),
    ]
    .into_iter()
    .map(|(name, bias)| {
        let turns = json!([{"role": "user", "content": "Hello"}]);
        Case::post(
            format!("bias: {name}"),
            CHAT,
            &json!({"messages": turns, "max_tokens": 8, "n": 4, "logit_bias": bias}),
        )
    })
    .collect()
}
