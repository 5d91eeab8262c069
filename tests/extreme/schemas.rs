//! JSON schemas, regular expressions and choices that are large, deep, contradictory, or at the edges of their numbers.

use serde_json::{Map, Value, json};

use super::corpus::{CHAT, Case, chat};

const ASKED: &str = "Describe a river as JSON.";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, schema) in schemas() {
        let outputs = json!({"structured_outputs": {"json": schema}, "n": 4, "max_tokens": 16});
        cases.push(Case::post(format!("schema: {name}"), CHAT, &chat(ASKED, &outputs)));
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "strict": true, "schema": schema}});
        let searched = json!({"response_format": format, "search_budget": 1, "max_tokens": 16});
        cases.push(Case::post(format!("schema: searched: {name}"), CHAT, &chat(ASKED, &searched)));
    }
    for (name, outputs) in outputs() {
        let fields = json!({"structured_outputs": outputs, "n": 4, "max_tokens": 16});
        cases.push(Case::post(format!("outputs: {name}"), CHAT, &chat(ASKED, &fields)));
    }
    cases
}

/// A chain of `count` definitions, each of which `wraps` a reference to the next.
fn chain(count: usize, wraps: impl Fn(Value) -> Value) -> Value {
    let next = |i: usize| wraps(json!({"$ref": format!("#/$defs/d{}", i + 1)}));
    let mut definitions: Map<String, Value> = (0..count).map(|i| (format!("d{i}"), next(i))).collect();
    definitions.insert(format!("d{count}"), json!({"type": "string"}));
    json!({"$ref": "#/$defs/d0", "$defs": definitions})
}

/// Objects that refer to three others each, as a large data model does.
fn data_model(objects: usize) -> Value {
    let fields = |i: usize| -> Map<String, Value> {
        (1..4).map(|k| (format!("f{k}"), json!({"$ref": format!("#/$defs/o{}", (i * 7 + k * 13) % objects)}))).collect()
    };
    let definitions: Map<String, Value> =
        (0..objects).map(|i| (format!("o{i}"), json!({"type": "object", "properties": fields(i)}))).collect();
    json!({"$ref": "#/$defs/o0", "$defs": definitions})
}

fn nested(depth: usize, wraps: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(json!({"type": "string"}), |inner, _| wraps(inner))
}

fn properties(count: usize, each: &Value) -> Map<String, Value> {
    (0..count).map(|i| (format!("p{i}"), each.clone())).collect()
}

fn schemas() -> Vec<(&'static str, Value)> {
    let object = |inner: Value| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]});
    vec![
        ("everything", json!(true)),
        ("nothing", json!(false)),
        ("an empty object", json!({})),
        ("an unknown type", json!({"type": "wizard"})),
        ("all types", json!({"type": ["string", "number", "integer", "boolean", "null", "array", "object"]})),
        ("no types", json!({"type": []})),
        ("itself", json!({"$ref": "#"})),
        (
            "two that are each other",
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
        ),
        ("a tree", json!({"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}})),
        ("a reference to elsewhere", json!({"$ref": "http://127.0.0.1:1/x.json"})),
        ("a reference to a file", json!({"$ref": "file:///etc/passwd"})),
        ("a reference to nothing", json!({"$ref": "#/$defs/none"})),
        ("100 nested objects", nested(100, object)),
        ("100 nested lists", nested(100, |inner| json!({"type": "array", "items": inner, "minItems": 1}))),
        ("40 nested choices", nested(40, |inner| json!({"anyOf": [inner, {"type": "null"}]}))),
        ("254 definitions in a chain", chain(254, object)),
        ("274 choices in a chain", chain(274, |next| json!({"anyOf": [next, {"type": "integer"}]}))),
        ("664 references in a chain", chain(664, |next| next)),
        ("a data model of 500 objects", data_model(500)),
        ("the smallest integer", json!({"const": i64::MIN})),
        ("the largest integer", json!({"const": i64::MAX})),
        ("an integer beyond 64 bits", json!({"const": u64::MAX})),
        ("the smallest integer in a list", json!({"enum": [1, i64::MIN]})),
        ("bounds that are the smallest integer", json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MIN})),
        ("bounds that are all integers", json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX})),
        ("bounds that are all numbers", json!({"type": "number", "minimum": -1e308, "maximum": 1e308})),
        ("bounds that are upside down", json!({"type": "number", "minimum": 2, "maximum": 1})),
        ("bounds without room", json!({"type": "number", "exclusiveMinimum": 1, "exclusiveMaximum": 1})),
        ("multiples of little", json!({"type": "number", "multipleOf": 1e-300})),
        ("multiples of nothing", json!({"type": "number", "multipleOf": 0})),
        ("multiples of much", json!({"type": "integer", "multipleOf": 9_007_199_254_740_993_i64})),
        ("a long text at least", json!({"type": "string", "minLength": 1_000_000_000})),
        ("a long text at most", json!({"type": "string", "maxLength": 1_000_000_000})),
        ("lengths below nothing", json!({"type": "string", "minLength": -1})),
        ("many items at least", json!({"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000})),
        ("many items at most", json!({"type": "array", "items": {"type": "integer"}, "maxItems": 1_000_000})),
        ("unique items", json!({"type": "array", "items": {"type": "integer"}, "uniqueItems": true})),
        ("many properties at least", json!({"type": "object", "minProperties": 1_000_000})),
        ("1,000 properties", json!({"type": "object", "properties": properties(1_000, &json!({"type": "string"}))})),
        (
            "1,000 properties, all required",
            json!({"type": "object", "properties": properties(1_000, &json!({"type": "string"})), "required": (0..1_000).map(|i| format!("p{i}")).collect::<Vec<_>>()}),
        ),
        (
            "required ones that are not described",
            json!({"type": "object", "required": (0..1_000).map(|i| format!("q{i}")).collect::<Vec<_>>()}),
        ),
        ("a constant of 2,000 keys", json!({"const": properties(2_000, &json!(1))})),
        ("a constant of 10,000 keys", json!({"const": properties(10_000, &json!(1))})),
        ("a constant of a long text", json!({"const": "a".repeat(100_000)})),
        ("a list of 10,000 texts", json!({"enum": (0..10_000).map(|i| format!("value {i}")).collect::<Vec<_>>()})),
        ("a list of nothing", json!({"enum": []})),
        ("a list of everything", json!({"enum": [null, true, 1.5, "a", [1], {"a": 1}]})),
        ("a pattern that doubles", json!({"type": "string", "pattern": "^(a|aa)+$"})),
        ("a pattern that is large", json!({"type": "string", "pattern": "^((a{100}){100}){100}$"})),
        ("a pattern that looks around", json!({"type": "string", "pattern": "^(?=a)(?!b)a$"})),
        ("a pattern that refers back", json!({"type": "string", "pattern": "^(a)\\1$"})),
        ("a pattern that is none", json!({"type": "string", "pattern": "["})),
        (
            "names by 500 patterns",
            json!({"type": "object", "patternProperties": (0..500).map(|i| (format!("^k{i}.*$"), json!({"type": "string"}))).collect::<Map<_, _>>()}),
        ),
        ("every format", json!({"type": "object", "properties": formats()})),
        ("not everything", json!({"not": {}})),
        (
            "all of many",
            json!({"allOf": (0..300).map(|i| json!({"properties": {(format!("p{i}")): {"type": "integer"}}})).collect::<Vec<_>>()}),
        ),
        (
            "one of many",
            json!({"oneOf": (0..300).map(|i| json!({"type": "object", "properties": {(format!("p{i}")): {"const": i}}, "required": [format!("p{i}")]})).collect::<Vec<_>>()}),
        ),
        (
            "any of many that are alike",
            json!({"anyOf": (0..300).map(|_| json!({"type": "string", "maxLength": 300})).collect::<Vec<_>>()}),
        ),
        ("conditions", json!({"if": {"type": "string"}, "then": {"minLength": 1}, "else": {"type": "integer"}})),
        (
            "names with every escape",
            json!({"type": "object", "properties": {"\0\u{1}\"\\\u{2028}😀": {"const": "\u{10FFFF}"}}, "required": ["\0\u{1}\"\\\u{2028}😀"]}),
        ),
        (
            "a separator that may be anything",
            json!({"type": "array", "items": {"type": "integer"}, "x-guidance": {"item_separator": "a?".repeat(3_000)}}),
        ),
        ("unknown keywords", json!({"type": "object", "x-wizard": "a".repeat(100_000)})),
    ]
}

fn formats() -> Map<String, Value> {
    let names = [
        "date-time",
        "date",
        "time",
        "duration",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "uri",
        "uuid",
        "regex",
        "wizard",
    ];
    names.iter().map(|name| ((*name).to_owned(), json!({"type": "string", "format": name}))).collect()
}

fn outputs() -> Vec<(&'static str, Value)> {
    let regex = |text: &str| json!({"regex": text});
    vec![
        ("an empty expression", regex("")),
        ("an expression that matches nothing", regex("[^\\s\\S]")),
        ("an expression of everything", regex("(?s).*")),
        ("an expression that doubles", regex("(a|aa)*b")),
        ("an expression that is large", regex("((a{100}){100}){100}")),
        ("an expression of letters of any script", regex("\\pL{200}x")),
        ("an expression that is deep", regex(&format!("{}a{}", "(".repeat(2_000), ")".repeat(2_000)))),
        ("an expression that is long", regex(&"a".repeat(200_000))),
        ("an expression of many choices", regex(&(0..5_000).map(|i| format!("w{i}")).collect::<Vec<_>>().join("|"))),
        ("an expression that looks around", regex("(?=a)b")),
        ("an expression with a NUL", regex("\0")),
        ("an expression of code points at the edge", regex("[\u{10FFFE}-\u{10FFFF}]{3}")),
        ("counts that are large", regex("a{1000000}")),
        ("counts that are upside down", regex("a{3,1}")),
        ("10,000 choices", json!({"choice": (0..10_000).map(|i| format!("choice {i}")).collect::<Vec<_>>()})),
        ("choices that begin alike", json!({"choice": (1..300).map(|i| "a".repeat(i)).collect::<Vec<_>>()})),
        ("a long choice", json!({"choice": ["a".repeat(200_000)]})),
        ("the same choice often", json!({"choice": vec!["a"; 5_000]})),
        ("a choice of special signs", json!({"choice": [".*+?()[]{}|\\^$#&-~", "\0", "\u{FFFD}"]})),
        ("two at once", json!({"regex": "a", "choice": ["a"]})),
        ("none", json!({})),
    ]
}
