use std::sync::mpsc;

use serde_json::{Value, json};

use super::memory::Bytes;
use super::*;

const END: u32 = 256;

/// A model whose tokens are bytes, with memory and threads of its own.
fn model(spaces: Spaces, limit: usize, places: usize) -> ModelGrammars {
    let pool = Box::leak(Box::new(Pool::new(places)));
    ModelGrammars::of(Vocabulary::Bytes, spaces, Memory::new(limit), pool)
}

fn enumeration(values: usize, name: &str) -> Constraint {
    let values: Vec<String> = (0..values).map(|n| format!("{name} {n}")).collect();
    Constraint::JsonSchema(json!({"enum": values}))
}

fn bytes() -> Grammars {
    let vocabulary = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
    Grammars::new(vocabulary.chain([TokenText::Special("<end>".into())]), &[END]).unwrap()
}

fn allows(allowed: &[u32], token: u32) -> bool {
    allowed[token as usize / 32] >> (token % 32) & 1 == 1
}

/// Feeds `text` as long as it is allowed: how much was, whether the text may end there, whether it must.
fn check(constraint: &Constraint, text: &str, expected: (usize, bool, bool)) {
    let mut matcher = bytes().matcher(constraint).unwrap();
    let (mut taken, mut complete) = (0, false);
    for byte in text.bytes() {
        if complete || !allows(&matcher.allowed().unwrap(), byte.into()) {
            break;
        }
        complete = matcher.accept(byte.into()).unwrap().unwrap();
        taken += 1;
    }
    let may_end = allows(&matcher.allowed().unwrap(), END);
    assert_eq!((taken, may_end, complete), expected, "{constraint:?} {text:?}");
}

#[test]
fn text_matches_from_its_first_to_its_last_character() {
    let regex = |r: &str| Constraint::Regex(r.into());
    check(&regex("[0-9]{3}"), "1234", (3, true, true));
    check(&regex("[0-9]{3}"), "12", (2, false, false));
    check(&regex("[0-9]+"), "12a", (2, true, false));
    check(&regex("yes|no"), "xyes", (0, false, false));
    check(&regex("é"), "é", (2, true, true));
    let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false});
    check(&Constraint::JsonSchema(schema), r#"{"a":12}x"#, (8, true, true));
    check(&Constraint::Lark("start: \"a\" start | \"b\"".into()), "aaab", (4, true, true));
}

#[tokio::test]
async fn whole_texts_match_or_do_not() {
    let schema = Constraint::JsonSchema(serde_json::json!({"type": "object", "required": ["a"]}));
    for (constraint, text, expected) in [
        (&schema, r#"{"a": [1, 2]}"#, true),
        (&schema, r#"{"b": 1}"#, false),
        (&schema, r#"{"a": 1"#, false),
        (&schema, "so: {\"a\": 1}", false),
        (&Constraint::Regex("[0-9]+".into()), "12", true),
        (&Constraint::Regex("[0-9]+".into()), "", false),
        // A text that is checked may be spaced as JSON allows.
        (&schema, "{\n\n\n   \"a\"  :\t\t1\r\n}", true),
    ] {
        assert_eq!(matches(constraint, Namespace::SHARED, text).await, Ok(expected), "{constraint:?} {text:?}");
    }
    let broken = matches(&Constraint::Regex("(".into()), Namespace::SHARED, "(").await;
    assert!(matches!(&broken, Err(EngineError::Constraint(reason)) if reason.contains("unclosed group")), "{broken:?}");
}

#[test]
fn clones_go_their_own_ways() {
    let mut first = bytes().matcher(&Constraint::Regex("ab|cd".into())).unwrap();
    let mut second = first.clone();
    assert_eq!(first.accept(b'a'.into()).unwrap(), Some(false));
    assert_eq!(second.accept(b'c'.into()).unwrap(), Some(false));
    assert_eq!(first.accept(b'b'.into()).unwrap(), Some(true));
    assert_eq!(second.accept(b'd'.into()).unwrap(), Some(true));
}

#[test]
fn bad_constraints_are_refused() {
    for constraint in [
        Constraint::Regex("(".into()),
        Constraint::Lark("start: other".into()),
        Constraint::JsonSchema(serde_json::json!({"type": "nothing"})),
    ] {
        assert!(matches!(bytes().matcher(&constraint), Err(EngineError::Constraint(_))), "{constraint:?}");
    }
    let mut matcher = bytes().matcher(&Constraint::Regex("a".into())).unwrap();
    for token in [b'b'.into(), END, 999] {
        assert_eq!(matcher.accept(token).unwrap(), None);
    }
    assert_eq!(matcher.accept(b'a'.into()).unwrap(), Some(true));
}

/// The tokens that are accepted at every point of a random walk are those of the mask; and a matcher that was used
/// before allows the same as a fresh one.
#[test]
fn what_is_accepted_is_what_the_mask_says() {
    let words = ["a", "b", "ab", "ba", "\"", "{\"a\":", "1", "}", " ", "Final", " Judgement:", " Yes", "No", "\n"];
    let vocabulary = || {
        let words = words.iter().map(|word| TokenText::Bytes(word.as_bytes().to_vec()));
        let bytes = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
        bytes.chain(words).chain([TokenText::Special("<end>".into()), TokenText::Special("<user>".into())])
    };
    let (end, count) = (256 + words.len() as u32, 258 + words.len() as u32);
    let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
    for constraint in [
        Constraint::Regex("(ab|ba)*".into()),
        Constraint::JsonSchema(schema),
        crate::prompts::Templates::general().verdict_constraint(),
    ] {
        let grammars = Grammars::new(vocabulary(), &[end]).unwrap();
        let source = Source::new(&constraint, Spaces::Bounded, Namespace::SHARED);
        let compiled = Arc::new(grammars.compile(&source, 0, &Memory::new(memory::DEFAULT_BYTES)).unwrap());
        for round in 0..6u64 {
            let mut matcher = compiled.matcher();
            let mut taken = Vec::new();
            for step in 0..40 {
                let fresh = Grammars::new(vocabulary(), &[end]).unwrap();
                let mut fresh = fresh.matcher(&constraint).unwrap();
                assert!(taken.iter().all(|&token| fresh.accept(token).unwrap() == Some(false)));
                let allowed = matcher.allowed().unwrap();
                assert_eq!(allowed, fresh.allowed().unwrap(), "{constraint:?} after {taken:?}");
                let can = |id: &u32| matcher.clone().accept(*id).unwrap().is_some();
                let accepted: Vec<u32> = (0..count).filter(can).collect();
                let masked: Vec<u32> = (0..count).filter(|&id| allows(&allowed, id)).collect();
                assert_eq!(accepted, masked, "{constraint:?} after {taken:?}");
                let draw = crate::engine::derive_seed(round, step) as usize;
                let next = accepted[draw % accepted.len()];
                if matcher.accept(next).unwrap() == Some(true) || next == end {
                    break;
                }
                taken.push(next);
            }
        }
    }
}

#[test]
fn generated_json_holds_little_white_space() {
    let schema = Constraint::JsonSchema(json!({"type": "object", "additionalProperties": {"type": "integer"}}));
    for (text, taken) in [
        ("{\n\n  \"a\": 1,\n  \"b\": 2\n}", 23),
        ("{\"a\":1}", 7),
        ("{\r\n\t\"a\" : 1}", 12),
        ("{\n\n\n", 3),
        ("{  ", 2),
        ("\n{", 0),
        ("{\n \n", 3),
    ] {
        let mut matcher = bytes().matcher(&schema).unwrap();
        let accepted = text.bytes().take_while(|&byte| matcher.accept(byte.into()).unwrap().is_some()).count();
        assert_eq!(accepted, taken, "{text:?}");
    }
    let indented = format!("{{\n{}\"a\"", " ".repeat(33));
    let mut matcher = bytes().matcher(&schema).unwrap();
    assert_eq!(indented.bytes().take_while(|&byte| matcher.accept(byte.into()).unwrap().is_some()).count(), 34);
    let compact = json!({"type": "object", "x-guidance": {"whitespace_flexible": false}});
    let mut matcher = bytes().matcher(&Constraint::JsonSchema(compact)).unwrap();
    assert_eq!(b"{ ".iter().take_while(|&&byte| matcher.accept(byte.into()).unwrap().is_some()).count(), 1);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_compiled() {
    let refs = |count: usize| {
        let definition = |n: usize| (format!("d{n}"), json!({"$ref": format!("#/$defs/d{}", n + 1)}));
        json!({"$ref": "#/$defs/d0", "$defs": (0..count).map(definition).collect::<serde_json::Map<_, _>>()})
    };
    // Both spellings of an index lead to the same place, and each is followed once.
    let spellings = json!({"anyOf": [{"$ref": "#/anyOf/1"}, {"items": {"$ref": "#/anyOf/01"}}]});
    let unseen = json!({"type": "string", "examples": [i64::MIN], "x-other": {"const": i64::MIN}});
    for (schema, refused) in [
        (json!({}), None),
        (unseen, None),
        (spellings, None),
        (refs(3_990), None),
        (refs(4_010), Some("the depth of schemas")),
        (json!({"properties": {"a": {"items": [{"const": i64::MIN}]}}}), Some("2^53")),
        (json!({"patternProperties": {"a": {"additionalProperties": {"minimum": -1e16}}}}), Some("2^53")),
        (json!({"prefixItems": [{"allOf": [{"oneOf": [{"multipleOf": 1e-9}]}]}]}), Some("`multipleOf`")),
        (json!({"enum": vec![Value::Null; 10_001]}), Some("`enum`")),
        (json!({"anyOf": vec![json!({"enum": vec![0; 9_999]}); 3]}), Some("constant values")),
        (json!({"required": vec!["a"; 1_001]}), Some("`required`")),
        (json!({"x-guidance": []}), Some("must be an object")),
    ] {
        match (limits::check_schema(&schema), refused) {
            (Ok(()), None) => {}
            (Err(message), Some(part)) => assert!(message.contains(part), "{message}"),
            (got, expected) => panic!("{got:?} instead of {expected:?}"),
        }
    }
    for (regex, fits) in [("a+", true), ("(", false), (&*"a".repeat(8_193), false)] {
        assert_eq!(limits::check_regex(regex).is_ok(), fits, "{regex}");
    }
    assert!(limits::check(&Constraint::Lark("a".repeat(600_000))).is_err());
}

#[tokio::test]
async fn requests_for_the_same_new_grammar_share_one_compilation() {
    let model = model(Spaces::Bounded, memory::DEFAULT_BYTES, 2);
    let constraint = enumeration(2_000, "value");
    let all = futures::future::join_all((0..20).map(|_| model.compiled(&constraint, Namespace::SHARED))).await;
    let first = all[0].clone().unwrap();
    assert!(all.iter().all(|compiled| Arc::ptr_eq(compiled.as_ref().unwrap(), &first)));
    assert!(Arc::ptr_eq(&model.compiled(&constraint, Namespace::SHARED).await.unwrap(), &first));
    // Another caller does not find it, so that timing does not reveal that the grammar is cached.
    let stranger = Namespace::of([7; 32]);
    let own = model.compiled(&constraint, stranger).await.unwrap();
    assert!(!Arc::ptr_eq(&own, &first));
    assert!(Arc::ptr_eq(&model.compiled(&constraint, stranger).await.unwrap(), &own));
    let bad = Constraint::JsonSchema(json!({"type": "nothing"}));
    let refused = futures::future::join_all((0..5).map(|_| model.compiled(&bad, Namespace::SHARED))).await;
    assert!(refused.iter().all(|outcome| matches!(outcome, Err(EngineError::Constraint(_)))));
}

#[tokio::test]
async fn what_nobody_waits_for_is_not_compiled() {
    let model = model(Spaces::Bounded, memory::DEFAULT_BYTES, 1);
    let constraint = enumeration(3, "value");
    let held = model.0.pool.place().await;
    {
        let mut gone = std::pin::pin!(model.compiled(&constraint, Namespace::SHARED));
        let mut stays = std::pin::pin!(model.compiled(&constraint, Namespace::SHARED));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
    }
    drop(held);
    let free = model.0.pool.place().await;
    drop(free);
    assert_eq!(model.0.memory.bytes(), Bytes::default());
    // Another request continues the compilation when the first one is dropped.
    let held = model.0.pool.place().await;
    let mut stays = std::pin::pin!(model.compiled(&constraint, Namespace::SHARED));
    {
        let mut gone = std::pin::pin!(model.compiled(&constraint, Namespace::SHARED));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
    }
    drop(held);
    assert!(stays.await.is_ok());
}

#[test]
fn a_compilation_does_not_hold_the_process_up() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().worker_threads(1).build().unwrap();
    let (end, ended) = mpsc::channel::<()>();
    let pool = Pool::new(1);
    let place = runtime.block_on(pool.place());
    pool::run(place, move || ended.recv().unwrap_or(())).unwrap();
    drop(runtime);
    end.send(()).unwrap();
}

/// The thread that compiled a grammar holds it for a moment after it was given out.
async fn is_empty_soon(memory: &Memory) {
    for _ in 0..500 {
        if memory.bytes() == Bytes::default() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", memory.bytes());
}

/// Memory is what was asked for and nothing is left when all have gone.
#[tokio::test]
async fn grammars_are_kept_within_a_number_of_bytes() {
    let limit = 24 << 20;
    let model = model(Spaces::Bounded, limit, 2);
    let memory = Arc::clone(&model.0.memory);
    for round in 0..30 {
        let constraint = enumeration(3_000, &format!("round {round}"));
        let mut matchers = model.matchers(&constraint, Namespace::SHARED, 4).await.unwrap();
        for matcher in &mut matchers {
            matcher.allowed().unwrap();
        }
        assert!(memory.bytes().running > 0);
        drop(matchers);
        let Bytes { running, kept } = memory.bytes();
        assert!(kept > 0 && running + kept <= limit, "round {round}: {running} {kept}");
    }
    memory.set_limit(1 << 20);
    assert!(memory.bytes().kept <= 1 << 20);
    let large = enumeration(9_000, "large");
    let refused = model.matchers(&large, Namespace::SHARED, 64).await.err();
    assert!(
        matches!(&refused, Some(EngineError::Constraint(reason)) if reason.contains("--grammar-bytes")),
        "{refused:?}"
    );
    memory.set_limit(limit);
    drop(model.matchers(&enumeration(3, "small"), Namespace::SHARED, 8).await.unwrap());
    assert!(memory.bytes().kept > 0);
    memory.drop_unused(Duration::ZERO);
    is_empty_soon(&memory).await;
    drop(model.matchers(&enumeration(3, "small"), Namespace::SHARED, 8).await.unwrap());
    // A model takes its grammars with it.
    drop(model);
    is_empty_soon(&memory).await;
}

#[tokio::test]
async fn who_needs_memory_waits_until_others_have_ended() {
    let model = model(Spaces::Bounded, memory::DEFAULT_BYTES, 2);
    let memory = Arc::clone(&model.0.memory);
    let constraint = enumeration(500, "value");
    let held = model.matchers(&constraint, Namespace::SHARED, 8).await.unwrap();
    let Bytes { running, kept } = memory.bytes();
    memory.set_limit(running + kept + running / 2);
    let mut waits = std::pin::pin!(model.matchers(&constraint, Namespace::SHARED, 8));
    assert!(futures::poll!(&mut waits).is_pending());
    drop(held);
    assert_eq!(waits.await.unwrap().len(), 8);
}
