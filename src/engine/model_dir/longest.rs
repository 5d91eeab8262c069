//! How much text one token can stand for, so that a text which cannot fit a context is refused without being tokenized.

use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

use crate::engine::pieces::Pieces;

/// Composing characters (NFC, NFKC) makes a text this many times shorter at most.
const COMPOSED: usize = 4;

/// The most bytes of text that become one token; `None` where the tokenizer may drop text, or may make one unknown token of
/// any amount of it.
pub(super) fn longest(tokenizer: &Tokenizer, pieces: &Pieces) -> Option<usize> {
    let json = |part: serde_json::Result<Value>| part.ok();
    let (mut normalizers, mut splitters) = (Vec::new(), Vec::new());
    flatten(json(serde_json::to_value(tokenizer.get_normalizer()))?, "normalizers", &mut normalizers);
    flatten(json(serde_json::to_value(tokenizer.get_pre_tokenizer()))?, "pretokenizers", &mut splitters);
    let by_bytes = normalizers.iter().chain(&splitters).any(|part| part["type"] == "ByteLevel");
    let falls_back = match tokenizer.get_model() {
        ModelWrapper::BPE(model) => model.byte_fallback,
        _ => false,
    };
    let every_byte = (by_bytes || falls_back) && pieces.hold_every_byte();
    let absorbs = tokenizer.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip);
    if !every_byte || absorbs || !splitters.iter().all(keeps_all) {
        return None;
    }
    let shrinks: Option<Vec<usize>> = normalizers.iter().map(shrinks).collect();
    Some(pieces.longest() * shrinks?.into_iter().max().unwrap_or(1))
}

/// The parts of a sequence of parts.
fn flatten(part: Value, nested: &str, parts: &mut Vec<Value>) {
    match part {
        Value::Object(mut fields) if fields.contains_key(nested) => {
            if let Some(Value::Array(inner)) = fields.remove(nested) {
                inner.into_iter().for_each(|part| flatten(part, nested, parts));
            }
        }
        Value::Null => {}
        part => parts.push(part),
    }
}

/// How much a normalizer may shorten a text; `None` where it may drop any amount of it.
fn shrinks(normalizer: &Value) -> Option<usize> {
    match normalizer["type"].as_str()? {
        "Prepend" | "ByteLevel" | "NFD" | "NFKD" => Some(1),
        "NFC" | "NFKC" => Some(COMPOSED),
        "Replace" if normalizer["pattern"]["String"] == " " && normalizer["content"] == "▁" => Some(1),
        _ => None,
    }
}

/// Whether a pre-tokenizer only cuts a text, without dropping any of it.
fn keeps_all(splitter: &Value) -> bool {
    match splitter["type"].as_str() {
        Some("ByteLevel" | "Metaspace" | "Digits") => true,
        Some("Split" | "Punctuation") => splitter["behavior"] != "Removed",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing;

    fn of(change: impl FnOnce(&mut Value)) -> Option<usize> {
        let mut file: Value = serde_json::from_str(&testing::tokenizer().to_string(false).unwrap()).unwrap();
        change(&mut file);
        let tokenizer = Tokenizer::from_bytes(file.to_string()).unwrap();
        let pieces = Pieces::new(&tokenizer).unwrap();
        longest(&tokenizer, &pieces)
    }

    #[test]
    fn only_tokenizers_that_keep_every_byte_have_a_longest_token() {
        let plain = of(|_| ()).expect("it works on bytes");
        assert!(plain >= "<|assistant|>".len(), "{plain}");
        assert_eq!(of(|file| file["normalizer"] = json!({"type": "NFC"})), Some(plain * COMPOSED));
        let strip = json!({"type": "Sequence", "normalizers": [
            {"type": "NFC"}, {"type": "Strip", "strip_left": true, "strip_right": true},
        ]});
        assert_eq!(of(|file| file["normalizer"] = strip), None);
        let removed = json!({"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]});
        assert_eq!(of(|file| file["pre_tokenizer"] = removed), None);
        assert_eq!(of(|file| file["added_tokens"][0]["rstrip"] = json!(true)), None);
        let spaces = testing::metaspace_tokenizer();
        let ModelWrapper::BPE(model) = spaces.get_model() else { panic!("it merges pairs") };
        assert_eq!(longest(&spaces, &Pieces::new(&spaces).unwrap()).is_some(), model.byte_fallback);
    }
}
