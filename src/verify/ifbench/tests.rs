//! Sentences and tokens against the reference's.

use serde_json::Value;

use super::sentences::sentences;
use crate::verify::tokens::tokens;

fn texts() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ifbench_sentences.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// How many texts `split` takes apart as `field` says, and how many there are.
fn agreement(field: &str, split: fn(&str) -> Vec<String>) -> (usize, usize) {
    let (mut right, mut all) = (0, 0);
    for line in texts() {
        let found = Value::from(split(line["text"].as_str().unwrap()));
        all += 1;
        if found == line[field] {
            right += 1;
        } else {
            println!("{}: got {found}, expected {}", line["text"], line[field]);
        }
    }
    println!("{field}: {right} of {all} agree");
    (right, all)
}

#[test]
fn sentences_agree_with_the_reference() {
    assert_eq!(agreement("sentences", sentences), (474, 474));
}

/// Compares tokens where that is possible: Punkt's need its sentences, for which we have no trained data.
#[test]
fn tokens_agree_with_the_reference() {
    let (right, all) = agreement("tokens", tokens);
    assert_eq!(all, 474);
    assert!(right >= 448, "{right}");
}
