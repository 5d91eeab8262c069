//! Extreme conversations and prompts: every extreme text on every route that takes a text, many turns, odd roles, many parts.

use serde_json::{Value, json};

use super::corpus::{CHAT, CHECKS, Case, DETOKENIZE, TEXT, TOKENIZE, chat, list};
use super::texts::texts;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, text) in texts() {
        let turns = json!([{"role": "user", "content": text}]);
        let search = json!({"search_budget": 1, "search": {"checks": "auto", "judge_tokens": 16}});
        cases.push(Case::post(format!("text: chat: {name}"), CHAT, &chat(&text, &json!({}))));
        cases.push(Case::post(format!("text: search: {name}"), CHAT, &chat(&text, &search)));
        cases.push(Case::post(format!("text: completion: {name}"), TEXT, &json!({"prompt": text, "max_tokens": 4})));
        cases.push(Case::post(format!("text: tokens: {name}"), TOKENIZE, &json!({"prompt": text})));
        cases.push(Case::post(format!("text: checks: {name}"), CHECKS, &json!({"messages": turns})));
    }
    cases.extend(turns());
    cases.extend(prompts());
    cases
}

/// Conversations.
fn turns() -> Vec<Case> {
    let turn = |role: &str, content: Value| json!({"role": role, "content": content});
    let conversations: Vec<(&str, Value)> = vec![
        ("no turn", json!([])),
        ("5,000 turns", (0..5_000).map(|i| turn("user", format!("{i}").into())).collect()),
        ("20,000 empty turns", (0..20_000).map(|_| turn("user", "".into())).collect()),
        ("300 alternating turns", (0..300).map(|i| turn(["user", "assistant"][i % 2], "a".into())).collect()),
        ("system turns alone", (0..500).map(|_| turn("system", "Be short.".into())).collect()),
        ("developer turns alone", (0..500).map(|_| turn("developer", "Be short.".into())).collect()),
        ("assistant turns alone", (0..50).map(|_| turn("assistant", "a".into())).collect()),
        ("system at the end", json!([turn("user", "a".into()), turn("system", "b".into())])),
        ("an unknown role", json!([turn("wizard", "a".into())])),
        ("an empty role", json!([turn("", "a".into())])),
        ("a role in capitals", json!([turn("USER", "a".into())])),
        ("a long role", json!([turn(&"user".repeat(20_000), "a".into())])),
        ("a role with a NUL", json!([turn("user\0", "a".into())])),
        ("a role with a look-alike", json!([turn("uѕer", "a".into())])),
        ("tool and function turns", json!([turn("tool", "a".into()), turn("function", "b".into())])),
        ("content null", json!([turn("user", Value::Null)])),
        ("content an empty list", json!([turn("user", json!([]))])),
        ("10,000 parts", json!([turn("user", (0..10_000).map(|_| json!({"type": "text", "text": "a"})).collect())])),
        (
            "20,000 empty parts",
            json!([turn("user", (0..20_000).map(|_| json!({"type": "text", "text": ""})).collect())]),
        ),
        ("a part without text", json!([turn("user", json!([{"type": "text"}]))])),
        ("a part of a long type", json!([turn("user", json!([{"type": "t".repeat(100_000), "text": "a"}]))])),
        (
            "an image as data",
            json!([turn(
                "user",
                json!([{"type": "image_url", "image_url": {"url": format!("data:image/png;base64,{}", "A".repeat(300_000))}}])
            )]),
        ),
        (
            "long reasoning",
            json!([turn("user", "a".into()), {"role": "assistant", "content": "b", "reasoning_content": "c ".repeat(30_000)}, turn("user", "d".into())]),
        ),
        (
            "fields that are unknown",
            json!([{"role": "user", "content": "a", "name": "n".repeat(50_000), "weight": 1e300}]),
        ),
    ];
    let mut cases = Vec::new();
    for (name, messages) in conversations {
        for (kind, path, fields) in [
            ("chat", CHAT, json!({"max_tokens": 4})),
            ("search", CHAT, json!({"max_tokens": 4, "search_budget": 1})),
            ("tokens", TOKENIZE, json!({})),
            ("checks", CHECKS, json!({})),
        ] {
            let mut body = fields;
            body["messages"] = messages.clone();
            cases.push(Case::post(format!("turns: {kind}: {name}"), path, &body));
        }
    }
    cases
}

/// Prompts and token ids.
fn prompts() -> Vec<Case> {
    let text = |name: &str, fields: Value| Case::post(format!("prompt: {name}"), TEXT, &fields);
    let ids = |name: &str, tokens: String| {
        Case::raw(format!("tokens: {name}"), DETOKENIZE, format!("{{\"tokens\": {tokens}}}"))
    };
    vec![
        text("none", json!({"prompt": []})),
        text("four at once", json!({"prompt": ["a", "b", "c", "d"], "max_tokens": 8})),
        text("four by four", json!({"prompt": ["a", "b", "c", "d"], "n": 4})),
        text("10,000 at once", json!({"prompt": vec!["a"; 10_000]})),
        text("empty ones", json!({"prompt": vec![""; 4]})),
        text("ids", json!({"prompt": [1, 2, 3]})),
        text("lists of ids", json!({"prompt": [[1, 2], [3]]})),
        text("ids out of range", json!({"prompt": [u32::MAX, 0]})),
        text(
            "echo with all alternatives",
            json!({"prompt": "The river ", "echo": true, "logprobs": 20, "n": 4, "max_tokens": 8}),
        ),
        text(
            "echo of a long prompt",
            json!({"prompt": "the river ".repeat(200), "echo": true, "logprobs": 20, "max_tokens": 0}),
        ),
        text("echo of nothing", json!({"prompt": "", "echo": true, "max_tokens": 0})),
        text("all of the context", json!({"prompt": "The river", "max_tokens": i64::MAX, "ignore_eos": true, "n": 4})),
        text("best of many", json!({"prompt": "a", "best_of": i64::MAX})),
        text("a long suffix", json!({"prompt": "a", "suffix": "b".repeat(100_000)})),
        ids("none", "[]".into()),
        ids("200,000", list(200_000, |index| (index % 500).to_string())),
        ids("the largest", u32::MAX.to_string() + "0"),
        ids("out of range", format!("[{}]", u32::MAX)),
        ids("above 32 bits", format!("[{}]", u64::MAX)),
        ids("negative", "[-1]".into()),
        ids("fractions", "[1.0, 1.5]".into()),
        ids("one many times", list(100_000, |_| "7".into())),
        Case::get("models: percent-encoding that is no UTF-8", "/v1/models/%ff"),
        Case::get("models: a NUL", "/v1/models/%00"),
        Case::get("models: a long name", format!("/v1/models/{}", "m".repeat(6_000))),
        Case::get("models: dots", "/v1/models/%2e%2e%2f%2e%2e"),
        Case::get("models: aliases of aliases", "/v1/models/spar-tiny:search:search"),
        Case::get("searches: percent-encoding that is no UTF-8", "/v1/searches/%c3%28"),
        Case::get("searches: a long id", format!("/v1/searches/{}", "s".repeat(6_000))),
        Case::get("files: above the documentation", "/docs/%2e%2e/%2e%2e/etc/passwd"),
        Case::get("files: a long query", format!("/healthz?{}", "q=1&".repeat(1_500))),
    ]
}
