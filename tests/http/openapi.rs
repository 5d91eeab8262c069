//! The API document: the committed one is the served one, and what is answered is in it.

use std::collections::BTreeSet;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use super::harness::{Server, improving, json_of};

#[tokio::test]
async fn the_committed_document_is_the_served_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi/openapi.json");
    let current = spar::http::openapi::document();
    if std::env::var("UPDATE").is_ok_and(|update| update == "1") {
        std::fs::write(path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == current, "openapi/openapi.json is stale: run the tests with UPDATE=1");
    let server = Server::start(improving(), &[]).await;
    let served = json_of(server.get("/openapi.json"), StatusCode::OK).await;
    assert_eq!(served, serde_json::from_str::<Value>(&current).unwrap());
    assert_eq!(server.get("/docs/").send().await.unwrap().status(), StatusCode::OK);
}

/// An operation of the document.
struct Operation {
    method: Method,
    path: String,
    says: Value,
}

fn document() -> Value {
    serde_json::from_str(&spar::http::openapi::document()).unwrap()
}

fn operations(document: &Value) -> Vec<Operation> {
    let paths = document["paths"].as_object().unwrap();
    let of_path = |(path, item): (&String, &Value)| -> Vec<Operation> {
        let item = item.as_object().unwrap().clone();
        let operation = |(method, says): (String, Value)| Operation {
            method: method.to_ascii_uppercase().parse().unwrap(),
            path: path.clone(),
            says,
        };
        item.into_iter().map(operation).collect()
    };
    paths.iter().flat_map(of_path).collect()
}

/// What a document refers to.
fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

#[test]
fn every_operation_says_who_may_call_it_and_describes_each_of_its_answers() {
    let document = document();
    for Operation { method, path, says } in operations(&document) {
        let needs: Vec<&str> = says["security"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|one| one.as_object().unwrap().keys())
            .map(String::as_str)
            .collect();
        let expected: &[&str] = match says["tags"][0].as_str().unwrap() {
            "operation" => &[],
            "admin" => &["admin_key"],
            _ => &["api_key"],
        };
        assert_eq!(needs, expected, "{method} {path}");
        for scheme in expected {
            assert_eq!(document["components"]["securitySchemes"][scheme]["scheme"], "bearer", "{scheme}");
        }
        for (status, answer) in says["responses"].as_object().unwrap() {
            let answer = resolved(&document, answer);
            assert!(!answer["description"].as_str().unwrap().is_empty(), "{method} {path}: {status}");
            if !status.starts_with('2') {
                let schema = &answer["content"]["application/json"]["schema"]["$ref"];
                let own = if path.starts_with("/v1/messages") { "MessagesErrorBody" } else { "ErrorBody" };
                assert_eq!(*schema, format!("#/components/schemas/{own}"), "{method} {path}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn every_answer_that_can_be_provoked_is_documented() {
    let swaps = tempfile::tempdir().unwrap();
    let flags = ["--max-body", "3000", "--swap-dir", swaps.path().to_str().unwrap()];
    let open = Server::swapping(&flags).await;
    open.ready().await;
    let keyed = Server::with_keys(improving(), &[], Some("secret")).await;
    let document = document();
    let mut seen = BTreeSet::new();
    for operation in operations(&document) {
        let ask = |server: &Server, method: &Method, path: &str| {
            server.client.request(method.clone(), format!("{}{path}", server.url))
        };
        let (method, path) = (&operation.method, operation.path.replace("{id}", "none"));
        let allowed = |request: RequestBuilder| request.bearer_auth("admin");
        let json =
            |body: String| allowed(ask(&open, method, &path)).header("content-type", "application/json").body(body);
        let mut requests =
            vec![ask(&keyed, method, &path), ask(&open, method, &path), allowed(ask(&open, &Method::PATCH, &path))];
        requests.push(allowed(ask(&open, method, &path)).header("host", "evil.example"));
        if operation.says["requestBody"].is_object() {
            requests.extend(
                ["", "{", "[]", "{}", "null", r#"{"messages": 5, "prompt": 5, "tokens": 5, "role": 5}"#]
                    .map(|body| json(body.into())),
            );
            requests.push(json(format!("{{\"a\": \"{}\"}}", "b".repeat(4_000))));
            requests.push(allowed(ask(&open, method, &path)).body("{}"));
            requests.push(allowed(ask(&open, method, &path)).header("content-type", "text/plain").body("{}"));
            requests.push(json(r#"{"messages": [{"role": "user", "content": "a"}], "prompt": "a", "tokens": [5], "model": "none", "max_tokens": 1}"#.into()));
        }
        if operation.path.contains("{id}") {
            requests.push(allowed(ask(&open, method, &operation.path.replace("{id}", "%ff"))));
            requests.push(allowed(ask(&open, method, &path)));
        }
        for request in requests {
            let what = format!("{request:?}");
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16().to_string();
            let kind =
                answer.headers().get("content-type").map(|kind| kind.to_str().unwrap().to_owned()).unwrap_or_default();
            let headers = answer.headers().clone();
            let text = answer.text().await.unwrap();
            let documented = resolved(&document, &operation.says["responses"][&status]);
            assert!(documented.is_object(), "{status} is not documented: {what}: {text}");
            let kinds = documented["content"].as_object().unwrap();
            let essence = |kind: &str| kind.split(';').next().unwrap_or_default().to_owned();
            assert!(kinds.keys().any(|one| essence(one) == essence(&kind)), "{kind} is not documented: {what}");
            for name in documented["headers"].as_object().into_iter().flatten().map(|(name, _)| name) {
                assert!(headers.contains_key(name.as_str()), "{status} has no {name}: {what}");
            }
            if !status.starts_with('2') {
                let error: Value = serde_json::from_str(&text).unwrap();
                for field in ["code", "type", "message"] {
                    assert!(error["error"][field].as_str().is_some_and(|text| !text.is_empty()), "{what}: {text}");
                }
            }
            seen.insert(status);
        }
    }
    for status in ["400", "401", "403", "404", "405", "413", "415", "421"] {
        assert!(seen.contains(status), "nothing was answered with {status}: {seen:?}");
    }
}

/// The example of what an operation is sent, for whatever model is served.
fn sent(says: &Value) -> Option<Value> {
    let mut body = says["requestBody"]["content"]["application/json"]["example"].clone();
    body.as_object_mut()?.remove("model");
    Some(body)
}

#[tokio::test]
async fn a_model_that_a_key_may_not_use_is_documented_where_it_is_refused_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("keys.toml");
    std::fs::write(&path, "[[keys]]\nname = \"other\"\nkey = \"o\"\nmodels = [\"mine\"]\n").unwrap();
    let server = Server::start(improving(), &["--api-keys-file", path.to_str().unwrap()]).await;
    server.ready().await;
    let document = document();
    let mut refused = 0;
    for Operation { method, path, says } in operations(&document) {
        if says["tags"][0] == "operation" || says["tags"][0] == "admin" {
            continue;
        }
        let url = format!("{}{}", server.url, path.replace("{id}", "fake"));
        let mut request = server.client.request(method.clone(), url).bearer_auth("o");
        if says["requestBody"].is_object() {
            request = request.json(&sent(&says).unwrap_or_else(|| panic!("{method} {path} has no example")));
        }
        let status = request.send().await.unwrap().status();
        let documented = says["responses"]["403"].is_object();
        assert_eq!(status == StatusCode::FORBIDDEN, documented, "{method} {path}: {status}");
        refused += usize::from(documented);
    }
    assert!(refused >= 10, "only {refused} routes refuse a model");
}

#[tokio::test]
async fn every_route_has_examples_that_work() {
    let server = Server::native(&[], None).await;
    server.ready().await;
    let document = document();
    for Operation { method, path, says } in operations(&document) {
        let sent = sent(&says);
        assert_eq!(sent.is_some(), says["requestBody"].is_object(), "{method} {path} has no example of its body");
        for (kind, content) in says["responses"]["200"]["content"].as_object().unwrap() {
            assert!(!content["example"].is_null(), "{method} {path} has no example of {kind}");
        }
        let is_asked = says["tags"][0] != "admin" && !path.contains('{');
        if is_asked && let Some(body) = sent {
            let url = format!("{}{path}", server.url);
            let answer = server.client.request(method.clone(), url).json(&body).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert_eq!(status, StatusCode::OK, "{method} {path}: {body}: {text}");
        }
    }
}

#[tokio::test]
async fn every_event_that_is_sent_is_documented() {
    let server = Server::native(&[], None).await;
    server.ready().await;
    let document = document();
    for (path, schema) in [("/v1/responses", "ResponsesEvent"), ("/v1/messages", "MessagesEvent")] {
        let documented = document["components"]["schemas"][schema].to_string();
        let mut body = sent(&document["paths"][path]["post"]).unwrap();
        body["stream"] = json!(true);
        let text = server.post(path, &body).send().await.unwrap().text().await.unwrap();
        let kinds: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert!(kinds.len() >= 5, "{path}: {kinds:?}");
        for kind in kinds {
            assert!(documented.contains(&format!("[\"{kind}\"]")), "{path} sends {kind}, which is not documented");
        }
    }
}

/// The description of a field: its own, that of one of its forms, or that of what it refers to.
fn description<'a>(document: &'a Value, field: &'a Value) -> Option<&'a str> {
    let mut forms = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|name| field[name].as_array()).flatten();
    let own = field["description"].as_str();
    let referred = || field["$ref"].is_string().then(|| description(document, resolved(document, field))).flatten();
    own.or_else(referred).or_else(|| forms.find_map(|form| description(document, form)))
}

/// Says of which fields within `schema`, called `name`, there is no sentence.
fn without_sentence(document: &Value, name: &str, schema: &Value, found: &mut Vec<String>) {
    for (field, says) in schema["properties"].as_object().into_iter().flatten() {
        let name = format!("{name}.{field}");
        let text = description(document, says).unwrap_or_default();
        let begins = text.starts_with(|first: char| first.is_uppercase() || first == '`');
        if !begins || !text.ends_with(['.', ')']) {
            found.push(format!("{name}: {text:?}"));
        }
        without_sentence(document, &name, says, found);
    }
    let forms = ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|form| schema[form].as_array()).flatten();
    for form in forms.chain(schema["items"].is_object().then_some(&schema["items"])) {
        without_sentence(document, name, form, found);
    }
}

#[test]
fn every_field_and_parameter_has_a_sentence() {
    let document = document();
    let mut found = Vec::new();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        without_sentence(&document, name, schema, &mut found);
    }
    for Operation { method, path, says } in operations(&document) {
        for parameter in says["parameters"].as_array().into_iter().flatten() {
            if !parameter["description"].as_str().is_some_and(|text| text.ends_with('.')) {
                found.push(format!("{method} {path}: {parameter}"));
            }
        }
        assert!(says["summary"].as_str().is_some_and(|text| text.ends_with('.')), "{method} {path} has no sentence");
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Bodies that the document allows and that the server refuses for their shape, or the other way round.
#[test]
fn admin_bodies_are_documented_as_they_are_taken() {
    let document = document();
    let body = |path: &str| &document["paths"][path]["post"]["requestBody"];
    let rollback = body("/admin/generations/rollback");
    assert_ne!(rollback["required"], true, "it may be left out");
    assert!(rollback["content"]["application/json"]["schema"]["$ref"].is_string(), "but it is never null: {rollback}");
    let order = &document["components"]["schemas"]["SwapRequest"]["allOf"];
    let either: Vec<&Value> = order[1]["anyOf"].as_array().unwrap().iter().map(|one| &one["required"][0]).collect();
    assert_eq!(either, ["model_path", "adapter_path"], "one of them must be a text");
}
