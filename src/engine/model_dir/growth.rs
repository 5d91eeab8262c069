//! By how much a tokenizer may lengthen a text before it is cut into tokens: a few bytes for each one, as published ones do. One
//! that makes a megabyte of every letter would fill the memory with any prompt.

use serde_json::Value;
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, Tokenizer};

/// Bytes that one byte of a text may become.
const MOST: usize = 64;
/// Bytes that are put before a text, at most.
const PREFIX: usize = 4096;
/// Characters that are looked at together.
const TOGETHER: usize = 256;

/// Checks the replacements in a `tokenizer.json`.
///
/// # Errors
/// A sentence about the part that lengthens texts too much.
pub(super) fn check(file: &Value) -> Result<(), String> {
    for part in ["normalizer", "pre_tokenizer", "decoder"] {
        let growth = growth(&file[part], part)?;
        if growth > MOST {
            return Err(format!(
                "`{part}` may make a text more than {MOST} times as long; it is no tokenizer of a model"
            ));
        }
    }
    Ok(())
}

/// How many times as long a part and those in it make a text.
fn growth(part: &Value, name: &str) -> Result<usize, String> {
    let own = match part["type"].as_str() {
        Some("Replace") => {
            let added = part["content"].as_str().map_or(0, str::len);
            match part["pattern"]["String"].as_str() {
                Some("") => {
                    return Err(format!("a `Replace` of `{name}` replaces the empty text; name what it replaces"));
                }
                Some(found) => added.div_ceil(found.len()).max(1),
                // A regular expression may match between any two characters.
                None => added + 1,
            }
        }
        Some("Prepend") if part["prepend"].as_str().map_or(0, str::len) > PREFIX => {
            return Err(format!("a `Prepend` of `{name}` is longer than {PREFIX} bytes"));
        }
        _ => 1,
    };
    let inner = ["normalizers", "pretokenizers", "decoders"].iter().filter_map(|list| part[*list].as_array()).flatten();
    inner.map(|part| growth(part, name)).try_fold(own, |product, part| Ok(product.saturating_mul(part?)))
}

/// Tries out what a table of characters, which the file holds in a form of its own, makes of every one.
///
/// # Errors
/// A sentence about the characters.
pub(super) fn check_characters(tokenizer: &Tokenizer) -> Result<(), String> {
    let Some(normalizer) = tokenizer.get_normalizer().filter(|normalizer| has_table(normalizer)) else { return Ok(()) };
    let all: Vec<char> = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
    for some in all.chunks(TOGETHER) {
        let text: String = some.iter().collect();
        let mut normalized = NormalizedString::from(text.as_str());
        normalizer.normalize(&mut normalized).map_err(|error| error.to_string().replace('\n', " "))?;
        if normalized.get().len() > MOST * text.len() {
            return Err(format!(
                "`normalizer` makes characters from U+{:04X} on more than {MOST} times as long; it is no tokenizer of a model",
                u32::from(some[0])
            ));
        }
    }
    Ok(())
}

fn has_table(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::Precompiled(_) => true,
        NormalizerWrapper::Sequence(parts) => parts.as_ref().iter().any(has_table),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_tokenizers_that_lengthen_texts_a_little_are_taken() {
        let replace = |found: &str, content: &str| json!({ "type": "Replace", "pattern": { "String": found }, "content": content });
        let spaces = json!({ "type": "Replace", "pattern": { "Regex": " {2,}" }, "content": " " });
        let sequence = |parts: Vec<Value>| json!({ "type": "Sequence", "normalizers": parts });
        let long = "x".repeat(100);
        let table = [
            (json!(null), true),
            (json!({ "type": "NFC" }), true),
            (sequence(vec![json!({ "type": "Prepend", "prepend": "▁" }), replace(" ", "▁")]), true),
            (sequence(vec![replace("``", "\""), replace("''", "\""), spaces, replace(" ", "▁")]), true),
            (replace("a", &long), false),
            (replace(&long, &long), true),
            (replace("", "a"), false),
            (json!({ "type": "Replace", "pattern": { "Regex": "x*" }, "content": long }), false),
            (sequence(vec![replace("a", "aaaa"); 4]), false),
            (sequence(vec![sequence(vec![replace("a", "aaaa"); 2]), replace("a", "aaaaa")]), false),
            (json!({ "type": "Prepend", "prepend": "x".repeat(5000) }), false),
        ];
        for (normalizer, taken) in table {
            assert_eq!(check(&json!({ "normalizer": normalizer })).is_ok(), taken, "{normalizer}");
        }
        check(&serde_json::to_value(crate::testing::metaspace_tokenizer()).unwrap()).unwrap();
    }
}
