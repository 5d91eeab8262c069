//! Schemas, expressions and choices that are hostile, or only large: each is answered or refused, and the server lives on.

use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream;
use reqwest::StatusCode;
use serde_json::{Map, Value, json};

use super::harness::{Server, json_of, says, with, within_seconds};

/// What the server says to a constraint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// It is honoured.
    Answered,
    /// 400, and a message that says this.
    Refused(&'static str),
    /// Either of these; it depends on how far the compiler comes.
    Bounded,
}
use Expected::{Answered, Bounded, Refused};

/// An object with properties that are numbered.
fn numbered(count: usize, value: impl Fn(usize) -> Value) -> Value {
    (0..count).map(|n| (format!("p{n}"), value(n))).collect::<Map<_, _>>().into()
}

/// A schema of definitions `d0`, `d1`, ... that begins with the first.
fn chain(count: usize, link: impl Fn(usize, Value) -> Value) -> Value {
    let definitions = (0..count).map(|n| {
        let next = if n + 1 < count { json!({"$ref": format!("#/$defs/d{}", n + 1)}) } else { json!({"type": "null"}) };
        (format!("d{n}"), link(n, next))
    });
    json!({"$ref": "#/$defs/d0", "$defs": definitions.collect::<Map<_, _>>()})
}

/// As a code generator writes the types of a large service: each refers to three others.
fn data_model(types: usize) -> Value {
    let reference = |n: usize| json!({"$ref": format!("#/$defs/T{}", n % types)});
    let object = |n: usize| {
        let properties = json!({
            "id": {"type": "integer"},
            "name": {"type": "string"},
            "parent": reference(n * 7 + 1),
            "children": {"type": "array", "items": reference(n * 13 + 5)},
            "other": {"anyOf": [reference(n * 31 + 11), {"type": "null"}]},
        });
        json!({"type": "object", "properties": properties, "required": ["id"], "additionalProperties": false})
    };
    let definitions: Map<_, _> = (0..types).map(|n| (format!("T{n}"), object(n))).collect();
    json!({"$ref": "#/$defs/T0", "$defs": definitions})
}

fn nested(depth: usize, inner: Value, outer: impl Fn(Value) -> Value) -> Value {
    (0..depth).fold(inner, |inner, _| outer(inner))
}

fn schemas() -> Vec<(&'static str, Value, Expected)> {
    let large = Refused("2^53");
    let object = |properties: Value| json!({"type": "object", "properties": properties});
    let tree = |name: &str| object(json!({"child": {"$ref": format!("#/$defs/{name}")}}));
    vec![
        ("the smallest integer", json!({"const": i64::MIN}), large),
        ("a number near it", json!({"const": -9.2e18}), large),
        ("the smallest integer in a list", json!({"enum": [1, i64::MIN]}), large),
        ("the smallest integer inside of a constant", json!({"const": {"a": [{"b": i64::MIN}]}}), large),
        (
            "the smallest integer as both bounds",
            json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MIN}),
            large,
        ),
        ("the smallest integer behind a reference", json!({"$ref": "#/x/y", "x": {"y": {"const": i64::MIN}}}), large),
        ("a bound that no integer has", json!({"type": "integer", "minimum": -1e300}), large),
        ("a huge bound", json!({"type": "number", "maximum": 1e300}), large),
        ("the largest integer", json!({"enum": [u64::MAX]}), large),
        ("a bound above 2^53", json!({"type": "integer", "exclusiveMaximum": 9_007_199_254_740_993_i64}), large),
        ("the largest integer that is exact", json!({"const": 9_007_199_254_740_991_i64}), Answered),
        (
            "the smallest integer that is exact",
            json!({"type": "integer", "minimum": -9_007_199_254_740_991_i64}),
            Answered,
        ),
        ("a number with 300 digits", json!({"const": 1e-300}), Refused("away from it")),
        ("a default with large numbers", json!({"type": "integer", "default": i64::MIN}), Answered),
        ("multiples of nothing", json!({"type": "integer", "multipleOf": 0}), Refused("multipleOf")),
        ("multiples of a small fraction", json!({"type": "number", "multipleOf": 1e-12}), Refused("multipleOf")),
        (
            "multiples of a large prime",
            json!({"type": "integer", "multipleOf": 4_294_967_291_u32}),
            Refused("multipleOf"),
        ),
        (
            "no multiple in range",
            json!({"type": "integer", "multipleOf": 999_983, "minimum": 1, "maximum": 999_982}),
            Bounded,
        ),
        ("254 nested objects", chain(254, |_, next| object(json!({"next": next}))), Answered),
        ("2,000 nested objects", chain(2_000, |_, next| object(json!({"n": next}))), Bounded),
        ("274 alternatives in a row", chain(274, |_, next| json!({"anyOf": [next, {"type": "string"}]})), Answered),
        ("664 references in a row", chain(664, |_, next| next), Answered),
        ("5,000 references in a row", chain(5_000, |_, next| next), Refused("the depth of schemas")),
        ("300 lists in a row", chain(300, |_, next| json!({"type": "array", "items": next})), Answered),
        ("300 merges in a row", chain(300, |_, next| json!({"allOf": [next, {"type": "null"}]})), Bounded),
        ("500 types with 3 references each", data_model(500), Answered),
        ("schemas inside of schemas", nested(50, json!({}), |inner| object(json!({"a": inner}))), Answered),
        (
            "a doubling at every level",
            nested(40, json!({}), |inner| json!({"type": ["array", "array"], "items": inner})),
            Bounded,
        ),
        ("11 types", json!({"type": vec!["string"; 11]}), Refused("`type` names")),
        ("itself", object(json!({"self": {"$ref": "#"}})), Answered),
        (
            "a cycle of two",
            json!({"$ref": "#/$defs/a", "$defs": {
                "a": object(json!({"b": {"$ref": "#/$defs/b"}})), "b": object(json!({"a": {"$ref": "#/$defs/a"}})),
            }}),
            Answered,
        ),
        ("a reference to itself and nothing else", json!({"$ref": "#"}), Bounded),
        (
            "two trees at once",
            json!({"allOf": [{"$ref": "#/$defs/s"}, {"$ref": "#/$defs/t"}], "$defs": {"s": tree("s"), "t": tree("t")}}),
            Bounded,
        ),
        ("a reference to nowhere", json!({"$ref": "#/$defs/none"}), Refused("cannot be used")),
        ("a reference to elsewhere", json!({"$ref": "http://example.com/schema"}), Refused("cannot be used")),
        ("a constant object of 10,000", json!({"const": numbered(10_000, |n| json!(n))}), Refused("constant object")),
        ("a constant object of 16,000", json!({"const": numbered(16_000, |n| json!(n))}), Refused("constant object")),
        ("a constant object of 900", json!({"const": numbered(900, |n| json!(n))}), Answered),
        ("1,001 properties", object(numbered(1_001, |_| json!({}))), Refused("`properties`")),
        ("1,000 properties", object(numbered(1_000, |_| json!({"type": "string"}))), Answered),
        ("30,000 values", json!({"enum": (0..30_000).collect::<Vec<_>>()}), Refused("`enum` values")),
        ("5,000 texts", json!({"enum": (0..5_000).map(|n| format!("value {n}")).collect::<Vec<_>>()}), Answered),
        ("one long text", json!({"const": "a".repeat(8_193)}), Refused("constant text")),
        ("a description of 300 KB", json!({"description": "a".repeat(300_000)}), Refused("262144 bytes")),
        ("1,001 alternatives", json!({"anyOf": vec![json!({"type": "null"}); 1_001]}), Refused("`anyOf`")),
        ("101 exclusive alternatives", json!({"oneOf": vec![json!({"type": "null"}); 101]}), Refused("`oneOf`")),
        ("101 merges", json!({"allOf": vec![json!({"type": "null"}); 101]}), Refused("`allOf`")),
        (
            "every value with every property",
            json!({"enum": (0..9_000).collect::<Vec<_>>(), "properties": numbered(999, |_| json!({"type": "null"}))}),
            Bounded,
        ),
        ("a long pattern", json!({"type": "string", "pattern": "a".repeat(2_001)}), Refused("one `pattern`")),
        (
            "many patterns",
            object(numbered(201, |n| json!({"type": "string", "pattern": format!("^a{n}$")}))),
            Refused("number of patterns"),
        ),
        (
            "a pattern that grows",
            json!({"type": "string", "pattern": "^(a?){500}a{500}$", "minLength": 400, "maxLength": 600}),
            Bounded,
        ),
        (
            "many names by pattern",
            json!({"type": "object", "patternProperties": (0..17).map(|n| (format!("^{n}$"), json!({}))).collect::<Map<_, _>>()}),
            Refused("`patternProperties`"),
        ),
        (
            "names by patterns that overlap",
            json!({"type": "object", "patternProperties": {"a": {"type": "null"}, "b": {"type": "string"}}}),
            Refused("not disjoint"),
        ),
        ("a keyword that is not known", json!({"not": {"type": "string"}}), Refused("Unimplemented")),
        (
            "a length that is a text",
            json!({"type": "string", "minLength": "\u{e9}".repeat(200)}),
            Refused("cannot be used"),
        ),
        ("no text is as long", json!({"type": "string", "minLength": 5, "maxLength": 4}), Refused("cannot be used")),
        ("very long texts", json!({"type": "string", "maxLength": 1_000_000_000_u64}), Bounded),
        ("endless texts", json!({"type": "string", "minLength": u64::MAX}), Bounded),
        (
            "very long lists",
            json!({"type": "array", "items": {"type": "null"}, "maxItems": 1_000_000_000_u64}),
            Bounded,
        ),
        ("endless lists", json!({"type": "array", "items": {"type": "null"}, "minItems": u64::MAX}), Bounded),
        ("nothing", json!(false), Refused("cannot be used")),
        ("anything", json!(true), Answered),
        ("no type", json!({"type": "nothing"}), Refused("cannot be used")),
        (
            "a separator that is an expression",
            json!({"type": "object", "x-guidance": {"item_separator": "a?".repeat(3_000)}}),
            Refused("x-guidance.item_separator"),
        ),
        (
            "white space that is an expression",
            json!({"type": "object", "x-guidance": {"whitespace_pattern": "(a?){1000}"}}),
            Refused("whitespace_pattern"),
        ),
        ("compact", json!({"type": "array", "x-guidance": {"whitespace_flexible": false}}), Answered),
    ]
}

fn expressions() -> Vec<(&'static str, String, Expected)> {
    vec![
        ("an open group", "(".into(), Refused("no regular expression")),
        ("nothing but empty", "()".into(), Bounded),
        ("9 KB", "a".repeat(9_000), Refused("8192")),
        ("8 KB", "a".repeat(8_000), Answered),
        ("repetitions of repetitions", "((a{1000}){1000}){1000}".into(), Bounded),
        ("words in any case", r"(?i)\w{1000}".into(), Bounded),
        ("a thousand classes", r"\w\W".repeat(1_000), Bounded),
        ("a thousand classes in any case", format!("(?i){}", r"\w\W".repeat(1_000)), Bounded),
        ("two thousand classes of one alphabet", r"\p{Greek}\P{Greek}".repeat(400), Bounded),
        ("many ways to match", format!("(a|b|ab)*c{}", "(a|ab)*".repeat(200)), Bounded),
        ("thirty of anything", "(.*a){30}".into(), Bounded),
        ("a state for every subset", "(a|b)*a(a|b){30}".into(), Bounded),
        ("optional parts", format!("{}{}", "a?".repeat(1_000), "a".repeat(1_000)), Bounded),
        ("what looks ahead", "(?=a)b".into(), Refused("structured_outputs.regex")),
        ("no character", r"[^\x00-\x{10ffff}]".into(), Refused("structured_outputs.regex")),
        ("an unknown class", r"\p{Foo}".into(), Refused("structured_outputs.regex")),
        ("300 groups", format!("{}a{}", "(".repeat(300), ")".repeat(300)), Refused("structured_outputs.regex")),
        ("the end of a terminal", "a\\/\nstart: /b".into(), Answered),
    ]
}

/// Longer than any constraint within the limits should take, even where the tests of other modules run beside it.
const PATIENCE: Duration = Duration::from_secs(45);

async fn check(server: &Server, name: &str, fields: Value, param: &str, expected: Expected) {
    let body = with(with(says("hello"), json!({"max_tokens": 2, "seed": 1})), fields);
    let begun = Instant::now();
    let response = server.chat(&body).timeout(PATIENCE).send().await.unwrap_or_else(|error| panic!("{name}: {error}"));
    let status = response.status();
    let answer: Value = response.json().await.unwrap();
    let (named, message) = (&answer["error"]["param"], answer["error"]["message"].as_str().unwrap_or_default());
    let took = begun.elapsed();
    let refused =
        status == StatusCode::BAD_REQUEST && named == param && message.contains(param) && message.len() < 1_000;
    let right = match expected {
        Answered => status == StatusCode::OK,
        Refused(part) => refused && message.contains(part),
        Bounded => status == StatusCode::OK || refused,
    };
    assert!(right, "{name}: {status} after {took:?}, {expected:?}: {named} {message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_constraints_are_answered_or_refused_by_name() {
    for server in Server::of_each_engine(&[]).await {
        let server = &server;
        let format =
            |schema: &Value| json!({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}});
        for (name, schema, expected) in schemas() {
            check(server, name, format(&schema), "response_format", expected).await;
            let alive = within_seconds(10, server.get("/healthz").send()).await.unwrap();
            assert_eq!(alive.status(), StatusCode::OK, "{name}");
        }
        for (name, regex, expected) in expressions() {
            check(server, name, json!({"structured_outputs": {"regex": regex}}), "structured_outputs.regex", expected)
                .await;
        }
        let choices: [(_, Vec<String>, _); 4] = [
            ("4,001 texts", (0..4_001).map(|n| n.to_string()).collect(), Refused("at most 4000 texts")),
            ("70 KB", vec!["a".repeat(70_000)], Refused("65536 bytes")),
            ("3,000 texts", (0..3_000).map(|n| format!("choice {n}")).collect(), Answered),
            ("special characters", vec!["(a+)/\\".into(), "\n[".into()], Answered),
        ];
        for (name, choice, expected) in choices {
            check(
                server,
                name,
                json!({"structured_outputs": {"choice": choice}}),
                "structured_outputs.choice",
                expected,
            )
            .await;
        }
    }
}

/// The judge checks the schema as a rule, and the refiner's grammar holds it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_refuses_what_a_plain_request_refuses() {
    for server in Server::of_each_engine(&[]).await {
        let search =
            json!({"search_budget": 2, "search": {"judge": "rules", "branch": 1, "depth": 1, "refine_tokens": 16}});
        for (name, schema, expected) in schemas().into_iter().filter(|(name, ..)| {
            [
                "the smallest integer",
                "254 nested objects",
                "274 alternatives in a row",
                "a reference to nowhere",
                "anything",
            ]
            .contains(name)
        }) {
            let fields = with(search.clone(), json!({"structured_outputs": {"json": schema}}));
            check(&server, name, fields, "structured_outputs.json", expected).await;
        }
        let slash = with(search, json!({"search": {"judge": "model"}, "structured_outputs": {"regex": "a\\/(b|c)"}}));
        check(&server, "a slash", slash, "structured_outputs.regex", Answered).await;
    }
}

/// Rules of a search become grammars as well; one that cannot be followed leaves the search without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_are_too_large_as_a_grammar_are_still_rules() {
    let words: Vec<String> = (0..60).map(|n| format!("{}{n}", "word ".repeat(150))).collect();
    let checks: Vec<Value> =
        (0..12).map(|_| json!({"id": "keywords:forbidden_words", "kwargs": {"forbidden_words": words}})).collect();
    for server in Server::of_each_engine(&[]).await {
        let search =
            json!({"search_budget": 2, "search": {"checks": checks, "branch": 1, "depth": 1, "refine_tokens": 16}});
        let body = with(with(says("hello"), json!({"max_tokens": 8})), search);
        json_of(server.chat(&body).timeout(PATIENCE), StatusCode::OK).await;
    }
}

/// Others are served while constraints that take long compile, and clients that go away leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn compilations_do_not_hold_others_up() {
    for server in Server::of_each_engine(&[]).await {
        let slow = |n: usize| {
            let schema = json!({"title": n, "enum": (0..9_000).collect::<Vec<_>>(), "properties": numbered(999, |_| json!({"type": "null"}))});
            with(says("hello"), json!({"max_tokens": 2, "structured_outputs": {"json": schema}}))
        };
        let hostile = stream::iter(0..24).map(|n| {
            let request = server.chat(&slow(n)).timeout(Duration::from_millis(300));
            async move { drop(request.send().await) }
        });
        let hostile = hostile.buffer_unordered(12).collect::<Vec<_>>();
        let plain = async {
            for _ in 0..10 {
                let body = with(says("hello"), json!({"max_tokens": 2}));
                within_seconds(10, json_of(server.chat(&body), StatusCode::OK)).await;
            }
        };
        futures::join!(hostile, plain);
        let body = with(says("hello"), json!({"max_tokens": 2, "structured_outputs": {"regex": "yes|no|other"}}));
        within_seconds(30, json_of(server.chat(&body), StatusCode::OK)).await;
    }
}

/// At temperature 0 a small model repeats itself; in JSON that must not be white space without end.
#[tokio::test]
async fn white_space_in_constrained_json_is_bounded() {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age"],
        "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    });
    for server in Server::of_each_engine(&[]).await {
        for format in
            [json!({"type": "json_schema", "json_schema": {"schema": schema}}), json!({"type": "json_object"})]
        {
            let fixed = format["type"] == "json_schema";
            let fields = json!({"temperature": 0, "max_tokens": 300, "response_format": format});
            let answer = server.answer(&with(says("Describe a person as JSON."), fields)).await;
            let (text, finish) = (&answer["choices"][0]["message"]["content"], &answer["choices"][0]["finish_reason"]);
            let text = text.as_str().unwrap();
            let breaks =
                |text: &str| text.split(|c: char| !c.is_whitespace()).map(|run| run.matches('\n').count()).max();
            assert!(breaks(text) <= Some(2), "{text:?}");
            if fixed {
                assert_eq!(finish, "stop", "{text:?}");
                let value: Value = serde_json::from_str(text).unwrap();
                assert!(value["name"].is_string() && value["age"].is_u64(), "{text:?}");
            }
        }
    }
}
