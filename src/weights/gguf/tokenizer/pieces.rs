//! SentencePiece's byte pairs, whose merges follow from the scores: of all neighbours that are a token together, those with the
//! best score are merged first.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::Written;
use super::{SCORES, Tokens, Use, Value};
use crate::weights::gguf::{Gguf, ModelError};

/// The sign for a space.
const SPACE: &str = "▁";

impl Gguf {
    /// The model of `tokenizer.json`, and the other parts that belong to it.
    pub(super) fn pieces(&self, tokens: &Tokens) -> Result<Written, ModelError> {
        let number = |value: &Value| match value {
            Value::Float(score) if score.is_finite() => Some(*score),
            _ => None,
        };
        let scores = self.list(SCORES, "a list of finite numbers", number)?;
        let scores = scores.ok_or_else(|| self.wrong(format!("`{SCORES}` is missing; convert the model again")))?;
        if scores.len() != tokens.texts.len() {
            let (scores, tokens) = (scores.len(), tokens.texts.len());
            return Err(self.wrong(format!("`{SCORES}` has {scores} elements for {tokens} tokens")));
        }
        let unknown = self.id("unknown_token_id")?.unwrap_or(0);
        let unknown = tokens.texts.get(unknown as usize);
        let has_bytes = tokens.uses.contains(&Use::Byte);
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes, "ignore_merges": false,
            "vocab": tokens.vocabulary(), "merges": merges(tokens, &scores),
        });
        let begins_with_space = self.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let marked = json!({ "type": "Replace", "pattern": { "String": " " }, "content": SPACE });
        let prefix = begins_with_space.then(|| json!({ "type": "Prepend", "prepend": SPACE }));
        let normalizers: Vec<Json> = prefix.into_iter().chain([marked]).collect();
        let mut decoders = vec![
            json!({ "type": "Replace", "pattern": { "String": SPACE }, "content": " " }),
            json!({ "type": "ByteFallback" }),
            json!({ "type": "Fuse" }),
        ];
        if begins_with_space {
            decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
        }
        let parts = vec![
            ("normalizer", json!({ "type": "Sequence", "normalizers": normalizers })),
            ("decoder", json!({ "type": "Sequence", "decoders": decoders })),
        ];
        Ok((model, parts))
    }
}

/// Every way to put a token together from two others, best first.
fn merges(tokens: &Tokens, scores: &[f64]) -> Vec<Json> {
    let normal = tokens.texts.iter().zip(&tokens.uses).enumerate().filter(|(_, (_, kind))| **kind == Use::Normal);
    let ids: HashMap<&str, usize> = normal.map(|(id, (text, _))| (text.as_str(), id)).collect();
    let mut found = Vec::new();
    for (&text, &id) in &ids {
        for (at, _) in text.char_indices().skip(1) {
            if let (Some(&left), Some(&right)) = (ids.get(&text[..at]), ids.get(&text[at..])) {
                found.push((id, left, right));
            }
        }
    }
    // Equal scores and other orders of the halves are settled by ids, so that a file has one list of merges.
    found.sort_unstable_by(|a, b| scores[b.0].total_cmp(&scores[a.0]).then_with(|| a.cmp(b)));
    let text = |id: usize| tokens.texts[id].as_str();
    found.into_iter().map(|(_, left, right)| json!([text(left), text(right)])).collect()
}
