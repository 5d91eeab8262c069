//! Bodies whose JSON itself is extreme: deep, spaced out, escaped, repeated, or just not an object of ours.

use super::corpus::{CHAT, CHECKS, Case, DETOKENIZE, TEXT, TOKENIZE, list};

const TURN: &str = r#""messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4"#;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, body) in bodies() {
        for path in [CHAT, TEXT, CHECKS, TOKENIZE, DETOKENIZE, "/admin/generations", "/admin/generations/rollback"] {
            cases.push(Case::raw(format!("raw: {path}: {name}"), path, body.clone()));
        }
    }
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    for (name, body) in [
        ("a field of depth 120", format!(r#"{{{TURN}, "metadata": {}}}"#, nested(120))),
        ("a field of depth 100,000", format!(r#"{{{TURN}, "metadata": {}}}"#, nested(100_000))),
        ("white space", format!("{}{{{TURN}}}{}", " \n\t\r".repeat(100_000), " ".repeat(100_000))),
        (
            "escapes alone",
            format!(r#"{{"messages": [{{"role": "user", "content": "{}"}}]}}"#, "\\u0061".repeat(30_000)),
        ),
        (
            "pairs of surrogates",
            format!(r#"{{"messages": [{{"role": "user", "content": "{}"}}]}}"#, "\\ud83d\\ude00".repeat(10_000)),
        ),
        ("half a surrogate", r#"{"messages": [{"role": "user", "content": "\ud800"}]}"#.into()),
        ("surrogates in the wrong order", r#"{"messages": [{"role": "user", "content": "\ude00\ud83d"}]}"#.into()),
        ("a field twice", format!(r#"{{{TURN}, "temperature": 0, "temperature": 1}}"#)),
        ("a field 20,000 times", format!("{{{TURN}{}}}", r#", "temperature": 0.5"#.repeat(20_000))),
        ("messages twice", format!("{{{TURN}, {TURN}}}")),
        ("a field with an escaped name", format!(r#"{{{TURN}, "n\u0000": 1, "\u006e": 2}}"#)),
        ("a number of 100,000 digits", format!(r#"{{{TURN}, "metadata": {}}}"#, "9".repeat(100_000))),
        ("a number of 100,000 places", format!(r#"{{{TURN}, "temperature": 0.{}}}"#, "9".repeat(100_000))),
        ("an exponent of 100,000 digits", format!(r#"{{{TURN}, "temperature": 1e-{}}}"#, "9".repeat(100_000))),
        (
            "50,000 objects that are ignored",
            format!(r#"{{{TURN}, "metadata": {}}}"#, list(50_000, |_| "{\"a\":0}".into())),
        ),
        (
            "100,000 fields that are ignored",
            format!("{{{TURN}{}}}", (0..60_000).map(|i| format!(",\"{i}\":0")).collect::<String>()),
        ),
        ("a byte order mark", format!("\u{FEFF}{{{TURN}}}")),
        ("a comment", format!("{{{TURN}}} // and more")),
        ("two objects", format!("{{{TURN}}}{{{TURN}}}")),
    ] {
        cases.push(Case::raw(format!("raw: chat: {name}"), CHAT, body));
    }
    cases
}

/// Bodies that no route takes.
fn bodies() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("nothing", Vec::new()),
        ("an empty object", b"{}".to_vec()),
        ("null", b"null".to_vec()),
        ("a list", b"[]".to_vec()),
        ("a text", b"\"messages\"".to_vec()),
        ("a number", b"1e308".to_vec()),
        ("100,000 opened lists", b"[".repeat(100_000)),
        ("100,000 opened objects", b"{\"a\":".repeat(100_000)),
        ("NULs", vec![0; 10_000]),
        ("bytes that are no UTF-8", b"{\"prompt\": \"\xff\xfe\"}".to_vec()),
        (
            "nulls everywhere",
            br#"{"messages": null, "prompt": null, "tokens": null, "role": null, "model_path": null}"#.to_vec(),
        ),
        ("too much", vec![b' '; 1_100_000]),
    ]
}
