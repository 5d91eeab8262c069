//! The tokenizer in a GGUF file's metadata, written as the `tokenizer.json` that a Hugging Face directory has.

mod bpe;
mod pieces;

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::container::Value;
use super::{Gguf, ModelError};

/// The model of `tokenizer.json`, and the other parts that belong to it by their names.
type Written = (Json, Vec<(&'static str, Json)>);

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";
const TEMPLATE: &str = "tokenizer.chat_template";

/// Bytes of a token at most: runs of spaces are the longest that there are.
const MOST_TOKEN_BYTES: usize = 1024;

/// Names of tokens that end a turn or a text, where they are control tokens: a file names one end, and chat models have two.
const ENDS: [&str; 8] =
    ["<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>", "<end_of_turn>", "<EOT>"];

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

/// The tokens of a file.
struct Tokens {
    texts: Vec<String>,
    uses: Vec<Use>,
}

/// The two families of tokenizers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// Byte pairs of GPT-2's alphabet, with merges.
    BytePairs,
    /// SentencePiece's, with scores.
    Pieces,
}

impl Gguf {
    /// The tokenizer as `tokenizer.json`.
    ///
    /// # Errors
    /// Names the key, and a family of tokenizers that is not built here.
    pub fn tokenizer_json(&self) -> Result<Json, ModelError> {
        let tokens = self.tokens()?;
        let (model, family) = match self.family()? {
            Family::BytePairs => self.byte_pairs(&tokens)?,
            Family::Pieces => self.pieces(&tokens)?,
        };
        let mut json = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": tokens.added(),
            "normalizer": null, "pre_tokenizer": null, "post_processor": self.around(&tokens)?, "decoder": null,
            "model": model,
        });
        for (part, value) in family {
            json[part] = value;
        }
        Ok(json)
    }

    /// `tokenizer_config.json`: the chat template and the names of special tokens.
    ///
    /// # Errors
    /// Names the key.
    pub fn tokenizer_config_json(&self) -> Result<Json, ModelError> {
        let tokens = self.tokens()?;
        let mut config = json!({});
        if let Some(template) = self.text(TEMPLATE)? {
            config["chat_template"] = template.into();
        }
        let ends = self.id("eos_token_id")?;
        for (name, id) in [("bos_token", self.bos()?), ("eos_token", ends.or(self.default_id(2)?))] {
            if let Some(text) = id.and_then(|id| tokens.texts.get(id as usize)) {
                config[name] = text.clone().into();
            }
        }
        Ok(config)
    }

    /// The tokens that end a reply: those that the file names, and control tokens whose names say so.
    pub(super) fn end_tokens(&self) -> Result<Vec<u32>, ModelError> {
        let tokens = self.tokens()?;
        let mut ends = Vec::new();
        let named =
            [self.id("eos_token_id")?.or(self.default_id(2)?), self.id("eot_token_id")?, self.id("eom_token_id")?];
        let by_name = (0u32..).zip(tokens.texts.iter().zip(&tokens.uses));
        let by_name = by_name.filter(|(_, (text, kind))| **kind == Use::Control && ENDS.contains(&text.as_str()));
        for id in named.into_iter().flatten().chain(by_name.map(|(id, _)| id)) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
        match ends.iter().find(|&&id| id as usize >= tokens.texts.len()) {
            Some(id) => Err(self.wrong(format!("the end token {id} is outside of `{TOKENS}`"))),
            None => Ok(ends),
        }
    }

    /// The token that texts begin with.
    pub(super) fn bos(&self) -> Result<Option<u32>, ModelError> {
        Ok(self.id("bos_token_id")?.or(self.default_id(1)?))
    }

    fn id(&self, name: &str) -> Result<Option<u32>, ModelError> {
        let key = format!("tokenizer.ggml.{name}");
        let id = self.count(&key)?.map(u32::try_from).transpose();
        id.map_err(|_| self.wrong(format!("`{key}` is no token id")))
    }

    /// SentencePiece's usual ids, which old files do not name.
    fn default_id(&self, id: u32) -> Result<Option<u32>, ModelError> {
        Ok((self.family()? == Family::Pieces).then_some(id))
    }

    fn family(&self) -> Result<Family, ModelError> {
        match self.text(MODEL)?.as_deref() {
            Some("gpt2") => Ok(Family::BytePairs),
            Some("llama") => Ok(Family::Pieces),
            Some(other) => Err(self.wrong(format!(
                "`{MODEL}` is `{other}`; tokenizers of the kinds `gpt2` (byte pairs) and `llama` (SentencePiece) are read"
            ))),
            None => Err(self.wrong(format!("`{MODEL}` is missing; convert the model again"))),
        }
    }

    fn tokens(&self) -> Result<Tokens, ModelError> {
        let text = |value: &Value| match value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let texts = self.list(TOKENS, "a list of texts", text)?;
        let texts = texts.ok_or_else(|| self.wrong(format!("`{TOKENS}` is missing; convert the model again")))?;
        if let Some(id) = texts.iter().position(|text| text.len() > MOST_TOKEN_BYTES) {
            let bytes = texts[id].len();
            return Err(self.wrong(format!("token {id} of `{TOKENS}` has {bytes} bytes, more than {MOST_TOKEN_BYTES}")));
        }
        let kind = |value: &Value| match value {
            Value::Whole(1) => Some(Use::Normal),
            Value::Whole(2) => Some(Use::Unknown),
            Value::Whole(3) => Some(Use::Control),
            Value::Whole(4) => Some(Use::UserDefined),
            Value::Whole(0 | 5) => Some(Use::Unused),
            Value::Whole(6) => Some(Use::Byte),
            _ => None,
        };
        let uses = match self.list(TYPES, "a list of token types from 0 to 6", kind)? {
            Some(uses) => uses,
            None => vec![Use::Normal; texts.len()],
        };
        if uses.len() != texts.len() {
            let (types, tokens) = (uses.len(), texts.len());
            return Err(self.wrong(format!("`{TYPES}` has {types} elements for {tokens} tokens")));
        }
        let mut seen = HashMap::with_capacity(texts.len());
        for (id, (text, kind)) in texts.iter().zip(&uses).enumerate() {
            if *kind != Use::Unused
                && let Some(other) = seen.insert(text, id)
            {
                return Err(self.wrong(format!("`{TOKENS}` has `{text}` twice, as {other} and {id}")));
            }
        }
        Ok(Tokens { texts, uses })
    }

    /// What is put around a text: the beginning and the end, where the file or the family says so.
    fn around(&self, tokens: &Tokens) -> Result<Json, ModelError> {
        let by_family = match self.family()? {
            Family::Pieces => true,
            Family::BytePairs => self.begins_by_itself()?,
        };
        let begins = self.flag("tokenizer.ggml.add_bos_token")?.unwrap_or(by_family);
        let ends = self.flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let eos = self.id("eos_token_id")?.or(self.default_id(2)?);
        let special = |wanted: bool, id: Option<u32>| -> Result<Option<(u32, &String)>, ModelError> {
            let Some(id) = id.filter(|_| wanted) else { return Ok(None) };
            let text = tokens.texts.get(id as usize);
            let text = text.ok_or_else(|| self.wrong(format!("token {id} is outside of `{TOKENS}`")))?;
            Ok(Some((id, text)))
        };
        let (before, after) = (special(begins, self.bos()?)?, special(ends, eos)?);
        let piece = |found: Option<(u32, &String)>, kind: u32| {
            found.map(|(_, text)| json!({ "SpecialToken": { "id": text, "type_id": kind } }))
        };
        let sequence = |name: &str, kind: u32| Some(json!({ "Sequence": { "id": name, "type_id": kind } }));
        let single: Vec<Json> = [piece(before, 0), sequence("A", 0), piece(after, 0)].into_iter().flatten().collect();
        let pair: Vec<Json> = single
            .iter()
            .cloned()
            .chain([piece(before, 1), sequence("B", 1), piece(after, 1)].into_iter().flatten())
            .collect();
        let named = [before, after].into_iter().flatten();
        let named: serde_json::Map<String, Json> =
            named.map(|(id, text)| (text.clone(), json!({ "id": text, "ids": [id], "tokens": [text] }))).collect();
        Ok(json!({ "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named }))
    }
}

impl Tokens {
    /// The vocabulary: every token that is used.
    fn vocabulary(&self) -> Json {
        let used = (0u32..).zip(self.texts.iter().zip(&self.uses)).filter(|(_, (_, kind))| **kind != Use::Unused);
        Json::Object(used.map(|(id, (text, _))| (text.clone(), id.into())).collect())
    }

    /// The tokens that are found in a text before anything else is done with it.
    fn added(&self) -> Json {
        let added = (0u32..).zip(self.texts.iter().zip(&self.uses)).filter_map(|(id, (text, kind))| {
            let special = match kind {
                Use::Control | Use::Unknown => true,
                Use::UserDefined => false,
                Use::Normal | Use::Unused | Use::Byte => return None,
            };
            Some(json!({
                "id": id, "content": text, "special": special, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false,
            }))
        });
        added.collect()
    }
}

#[cfg(test)]
mod tests;
