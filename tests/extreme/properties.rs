//! Promises that hold for whatever is sent or written, on values drawn by fixed seeds.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof};
use proptest::sample::select;
use proptest::strategy::{Strategy, Union};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use serde_json::{Map, Value, json};
use spar::chat::{Chat, Message};
use spar::engine::grammar;
use spar::engine::model_dir::ModelDir;
use spar::engine::{Constraint, Namespace};
use spar::testing::{TinyModel, random_adapter, write_model};
use spar::weights::adapter::Adapter;
use tokio::runtime::Runtime;

use crate::http::harness::{Server, improving, says, with};

/// Whether a text matches; nothing matches what does not compile.
fn matches(constraint: &Constraint, text: &str) -> bool {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
    RUNTIME.block_on(grammar::matches(constraint, Namespace::SHARED, text)).unwrap_or(false)
}

/// Runs `test` on `cases` values, the same ones in every run.
fn check<S: Strategy>(cases: u32, values: S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { cases, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..Config::default() };
    if let Err(error) = TestRunner::new(config).run(&values, test) {
        panic!("{error}");
    }
}

/// Texts with what parsers, templates and tokenizers mind.
fn text() -> impl Strategy<Value = String> {
    let pieces = [
        "a",
        "é",
        "\0",
        "\"",
        "\\",
        "{{",
        "}}",
        "{%",
        "\n",
        " ",
        "\u{202E}",
        "😀",
        "\u{FDFA}",
        "auto",
        "1",
        "[[start]]",
    ];
    prop_oneof![vec(select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat()), any::<String>()]
}

/// JSON of little depth, with numbers that every field must stand.
fn any_json() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-3..20_i64).prop_map(Value::from),
        (-3.0..3.0_f64).prop_map(Value::from),
    ];
    json_of(number)
}

/// JSON of little depth without numbers that make a grammar or a table large.
fn modest_json() -> impl Strategy<Value = Value> {
    json_of((-100_000..100_000_i64).prop_map(Value::from))
}

fn json_of(number: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Value> {
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, text().prop_map(Value::from)];
    leaf.prop_recursive(3, 24, 4, |inner| {
        let fields = vec((text(), inner.clone()), 0..4).prop_map(|fields| fields.into_iter().collect::<Map<_, _>>());
        prop_oneof![vec(inner, 0..4).prop_map(Value::from), fields.prop_map(Value::from)]
    })
}

const FIELDS: &[&str] = &[
    "messages",
    "model",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "frequency_penalty",
    "presence_penalty",
    "repetition_penalty",
    "logit_bias",
    "n",
    "seed",
    "stop",
    "ignore_eos",
    "stream",
    "stream_options",
    "user",
    "max_tokens",
    "max_completion_tokens",
    "logprobs",
    "top_logprobs",
    "chat_template_kwargs",
    "reasoning_effort",
    "response_format",
    "structured_outputs",
    "search_budget",
    "search",
    "tools",
    "functions",
    "audio",
    "guided_regex",
    "guided_choice",
    "json_schema",
    "grammar",
    "min_tokens",
    "stop_token_ids",
    "bad_words",
    "priority",
    "request_id",
    "continue_final_message",
];

const SEARCH_FIELDS: &[&str] = &[
    "strategy",
    "mode",
    "branch",
    "keep",
    "depth",
    "votes",
    "threshold",
    "max_tokens",
    "max_calls",
    "deadline_ms",
    "judge",
    "judging",
    "checklist",
    "checks",
    "judge_tokens",
    "refine_tokens",
    "judge_temperature",
    "refine_temperature",
    "trace",
    "events",
];

#[test]
fn a_field_with_any_value_is_answered_or_named() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(improving(), &["--max-search-budget", "4", "--search-budget", "4"]));
    let within = select(SEARCH_FIELDS).prop_map(|field| ("search", Some(field)));
    let field = prop_oneof![2 => select(FIELDS).prop_map(|field| (field, None)), 1 => within];
    check(600, (field, any_json()), |((field, inner), value)| {
        let fields = match inner {
            Some(inner) => json!({(field): {(inner): value}}),
            None => json!({(field): value}),
        };
        let (status, answer) = runtime.block_on(async {
            let answer = server.chat(&with(says("hello"), fields.clone())).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
        prop_assert!([200, 400, 404].contains(&status), "{} for {}: {}", status, fields, answer);
        if status != 200 {
            let error: Value = serde_json::from_str(&answer).unwrap();
            let named = error["error"]["param"].as_str().unwrap_or_default();
            prop_assert!(named.starts_with(field), "{} names {:?}: {}", fields, named, answer);
        }
        Ok(())
    });
}

#[test]
fn any_body_is_answered_in_the_envelope() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(Server::start(improving(), &[]));
    let routes = ["/v1/chat/completions", "/v1/completions", "/v1/checks", "/tokenize", "/detokenize"];
    let body = prop_oneof![any_json().prop_map(|body| body.to_string().into_bytes()), vec(any::<u8>(), 0..200)];
    check(300, (select(routes.to_vec()), body), |(route, body)| {
        let (status, answer) = runtime.block_on(async {
            let request =
                server.client.post(format!("{}{route}", server.url)).header("content-type", "application/json");
            let answer = request.body(body.clone()).send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        });
        let body = String::from_utf8_lossy(&body);
        prop_assert!([200, 400, 404].contains(&status), "{} for {} {}: {}", status, route, body, answer);
        let json: Value = serde_json::from_str(&answer).unwrap();
        prop_assert_eq!(json["error"]["message"].is_string(), status != 200, "{}", answer);
        Ok(())
    });
}

/// A schema and a value that it allows.
fn schema_and_value() -> impl Strategy<Value = (Value, Value)> {
    let leaf = prop_oneof![
        Just((json!({"type": "null"}), Value::Null)),
        any::<bool>().prop_map(|value| (json!({"type": "boolean"}), Value::from(value))),
        (-1_000..1_000_i64, 0..50_i64, 0..50_i64).prop_map(|(value, below, above)| {
            (json!({"type": "integer", "minimum": value - below, "maximum": value + above}), Value::from(value))
        }),
        ("[a-zA-Z0-9 é😀]{0,12}", 0..5_usize).prop_map(|(value, more)| {
            let length = value.chars().count();
            (
                json!({"type": "string", "minLength": length.saturating_sub(more), "maxLength": length + more}),
                Value::from(value),
            )
        }),
        text().prop_map(|value| (json!({"enum": ["other", value]}), Value::from(value))),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let list = vec(inner.clone(), 0..4).prop_map(|items| {
            let (schemas, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
            let items = if schemas.is_empty() { json!(true) } else { json!({"anyOf": schemas}) };
            (json!({"type": "array", "items": items, "maxItems": values.len()}), Value::from(values))
        });
        let object = vec(inner, 0..4).prop_map(|fields| {
            let named = fields.into_iter().enumerate().map(|(index, field)| (format!("k{index}"), field));
            let (mut schemas, mut values) = (Map::new(), Map::new());
            for (name, (schema, value)) in named {
                schemas.insert(name.clone(), schema);
                values.insert(name, value);
            }
            let required: Vec<&String> = schemas.keys().collect();
            let schema =
                json!({"type": "object", "properties": schemas, "required": required, "additionalProperties": false});
            (schema, Value::from(values))
        });
        prop_oneof![list, object]
    })
}

#[test]
fn a_grammar_takes_what_its_schema_allows() {
    check(200, schema_and_value(), |(schema, value)| {
        let constraint = Constraint::JsonSchema(schema.clone());
        prop_assert!(matches(&constraint, &value.to_string()), "{} refuses {}", schema, value);
        prop_assert!(!matches(&constraint, &format!("{value}?")), "{} takes more than {}", schema, value);
        Ok(())
    });
}

#[test]
fn any_schema_and_any_expression_is_followed_or_refused() {
    let words = [
        "type",
        "properties",
        "items",
        "anyOf",
        "enum",
        "const",
        "required",
        "minLength",
        "maximum",
        "$ref",
        "pattern",
    ];
    let schema = vec((select(words.to_vec()), modest_json()), 0..4).prop_map(|fields| {
        Constraint::JsonSchema(fields.into_iter().map(|(word, value)| (word.to_owned(), value)).collect())
    });
    let pieces = [
        "a", "(", ")", "[", "]", "|", "*", "+", "?", "{2}", "{3,}", "\\d", "\\pL", "^", "$", ".", "é", "-", "\\",
        "(?i)",
    ];
    let expression = vec(select(pieces.to_vec()), 0..10).prop_map(|pieces| Constraint::Regex(pieces.concat()));
    check(300, (prop_oneof![schema, expression], text()), |(constraint, text)| {
        // Whether it matches is for the engine to say; that it says so is the promise.
        let first = matches(&constraint, &text);
        prop_assert_eq!(first, matches(&constraint, &text));
        Ok(())
    });
}

fn small_model() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel { layers: 1, ..TinyModel::default() });
    dir
}

fn copy_of(model: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(model).unwrap() {
        let file = file.unwrap().path();
        fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
    }
    copy
}

#[test]
fn any_chat_template_renders_or_says_why_not() {
    let model = small_model();
    let pieces = [
        "{{ messages[0].content }}",
        "{% for m in messages %}",
        "{% endfor %}",
        "{% if tools %}",
        "{% else %}",
        "{% endif %}",
        "{{ bos_token }}",
        "{{ raise_exception('no') }}",
        "{% set x = messages|length %}",
        "{{ x / 0 }}",
        "{{ nothing.at.all }}",
        "{{ 'a' * 9 }}",
        "{{ strftime_now('%Y') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}",
        "{{ f() }}",
        "{{ [1, 2][9] }}",
        "{# ",
        " #}",
        "{{",
        "}}",
        "{%- ",
        " -%}",
        "\u{202E}",
        "text",
        "{% for i in range(9) %}",
        "{{ messages|tojson }}",
        "{{ messages[0].content.split('a')[-1] }}",
        "{% include 'chat' %}",
        "{{ self }}",
        "{% break %}",
    ];
    let template = vec(select(pieces.to_vec()), 0..9).prop_map(|pieces| pieces.concat());
    check(200, (template, vec(text(), 0..3)), |(template, turns)| {
        let dir = copy_of(model.path());
        fs::write(dir.path().join("chat_template.jinja"), &template).unwrap();
        match ModelDir::open(dir.path()) {
            Err(error) => {
                prop_assert!(error.to_string().contains("chat_template.jinja"), "{}: {}", template, error);
            }
            Ok(model) => {
                let chat = Chat::from(turns.into_iter().map(Message::user).collect::<Vec<_>>());
                if let Err(error) = model.render(&chat) {
                    prop_assert!(error.to_string().contains("template"), "{}: {}", template, error);
                }
            }
        }
        Ok(())
    });
}

/// What happens to one file of a directory.
#[derive(Clone, Debug)]
enum Damage {
    Gone,
    /// Cut after this share of it.
    Cut(f64),
    /// One bit flipped in the byte at this share of it.
    Flipped(f64, u8),
    /// Replaced.
    Other(Value),
    /// One field of its JSON replaced, by its number.
    Field(usize, Value),
}

fn damage() -> impl Strategy<Value = Damage> {
    Union::new_weighted(vec![
        (1, Just(Damage::Gone).boxed()),
        (3, (0.0..1.0).prop_map(Damage::Cut).boxed()),
        (3, (0.0..1.0, 0..8_u8).prop_map(|(at, bit)| Damage::Flipped(at, bit)).boxed()),
        (1, modest_json().prop_map(Damage::Other).boxed()),
        (6, (any::<usize>(), modest_json()).prop_map(|(field, value)| Damage::Field(field, value)).boxed()),
    ])
}

fn inflict(damage: &Damage, file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let length = bytes.len();
    let place = |share: &f64| ((length as f64 * share) as usize).min(length.saturating_sub(1));
    match damage {
        Damage::Gone => return fs::remove_file(file).unwrap(),
        Damage::Cut(share) => bytes.truncate(place(share)),
        Damage::Flipped(share, bit) => {
            let place = place(share);
            bytes[place] ^= 1 << bit;
        }
        Damage::Other(value) => bytes = value.to_string().into_bytes(),
        Damage::Field(number, value) => {
            let Ok(Value::Object(mut fields)) = serde_json::from_slice(&bytes) else { return };
            let names: Vec<String> = fields.keys().cloned().collect();
            fields.insert(names[number % names.len()].clone(), value.clone());
            bytes = Value::from(fields).to_string().into_bytes();
        }
    }
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_model_directory_opens_or_says_which_file_is_damaged() {
    let model = small_model();
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "spar.json"];
    check(400, (select(files.to_vec()), damage()), |(file, damage)| {
        let dir = copy_of(model.path());
        inflict(&damage, &dir.path().join(file));
        match ModelDir::open(dir.path()).and_then(|model| model.weights.check_finite()) {
            Ok(()) => {}
            Err(error) => {
                let message = error.to_string();
                prop_assert!(message.contains(&dir.path().display().to_string()), "{} {:?}: {}", file, damage, message);
            }
        }
        Ok(())
    });
}

#[test]
fn a_damaged_adapter_opens_or_says_which_file_is_damaged() {
    let model = small_model();
    let adapter = tempfile::tempdir().unwrap();
    random_adapter(model.path(), 0.1, 3).save(adapter.path()).unwrap();
    let linears = ModelDir::open(model.path()).unwrap().weights.linears();
    let files = ["adapter_config.json", "adapter_model.safetensors"];
    check(200, (select(files.to_vec()), damage()), |(file, damage)| {
        let dir = copy_of(adapter.path());
        inflict(&damage, &dir.path().join(file));
        if let Err(error) = Adapter::open(dir.path(), &linears) {
            let message = error.to_string();
            prop_assert!(message.contains(&dir.path().display().to_string()), "{} {:?}: {}", file, damage, message);
        }
        Ok(())
    });
}
