//! Compares sentences and tokens with those of the reference.

use serde_json::Value;

use super::sentences::sentences;
use crate::verify::tokens::tokens;

fn texts() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ifbench_sentences.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The number of texts that `split` divides as `field` says, and the number of all texts.
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

/// Compares tokens where possible: Punkt's tokens depend on its sentences, for which there is no trained data here.
#[test]
fn tokens_agree_with_the_reference() {
    let (right, all) = agreement("tokens", tokens);
    assert_eq!(all, 474);
    assert!(right >= 448, "{right}");
}
