//! Orders to swap weights with extreme paths, names and lists. None of them names weights that can be used.

use serde_json::{Value, json};

use super::corpus::Case;

const SWAP: &str = "/admin/generations";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, path) in paths() {
        let order = json!({"role": "actor", "model_path": path, "dry_run": true});
        cases.push(Case::post(format!("admin: model: {name}"), SWAP, &order));
        let order = json!({"role": "both", "adapter_path": path, "mode": "drain"});
        cases.push(Case::post(format!("admin: adapter: {name}"), SWAP, &order));
        let order = json!({"lora_name": path, "lora_path": path});
        cases.push(Case::post(format!("admin: lora: {name}"), "/v1/load_lora_adapter", &order));
        cases.push(Case::post(
            format!("admin: unload: {name}"),
            "/v1/unload_lora_adapter",
            &json!({"lora_name": path}),
        ));
        cases.push(Case::post(
            format!("admin: update: {name}"),
            "/update_weights_from_disk",
            &json!({"model_path": path}),
        ));
        let back = json!({"expected_generation": path});
        cases.push(Case::post(format!("admin: rollback: {name}"), "/admin/generations/rollback", &back));
    }
    for role in ["actor", "refiner", "both"] {
        for mode in ["auto", "blue_green", "drain"] {
            let order = json!({"role": role, "mode": mode, "model_path": "none", "changes": ["tokenizer", "chat_template", "templates"]});
            cases.push(Case::post(format!("admin: {role}, {mode}"), SWAP, &order));
        }
        cases.push(Case::post(
            format!("admin: rollback of {role}"),
            "/admin/generations/rollback",
            &json!({"role": role, "expected_generation": "g-999"}),
        ));
    }
    for (name, order) in [
        ("100,000 changes", json!({"role": "actor", "model_path": "none", "changes": vec!["tokenizer"; 100_000]})),
        ("both paths null", json!({"role": "actor", "model_path": Value::Null, "adapter_path": Value::Null})),
        ("a field that is unknown", json!({"role": "actor", "model_path": "none", "wizard": "w".repeat(300_000)})),
        ("an unknown role", json!({"role": "r".repeat(300_000), "model_path": "none"})),
    ] {
        cases.push(Case::post(format!("admin: {name}"), SWAP, &order));
    }
    cases.push(Case::get("admin: the list", SWAP));
    cases
}

fn paths() -> Vec<(&'static str, String)> {
    vec![
        ("nothing", String::new()),
        ("here", ".".into()),
        ("above", "../../../../etc".into()),
        ("the root", "/".into()),
        ("a device", "/dev/zero".into()),
        ("a process's memory", "/proc/self/mem".into()),
        ("a NUL", "a\0b".into()),
        ("a long name", "a".repeat(300_000)),
        ("many parts", "a/".repeat(100_000)),
        ("a name of four bytes", "𝕏".repeat(50)),
        ("a name with controls", "a\r\nb\u{1b}[31m".into()),
        ("a home", "~root".into()),
        ("an address", "https://127.0.0.1:1/model".into()),
    ]
}
