//! Byte pairs: the vocabulary and merges are in the file, and how a text is cut before is named there.

use serde_json::{Value as Json, json};

use super::Written;
use super::{MERGES, PRE, Tokens, Value};
use crate::weights::gguf::{Gguf, ModelError};

/// Contractions, a word with what precedes it, numbers of `$digits` digits, punctuation, and white space.
macro_rules! words {
    ($digits:literal) => {
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

/// The pattern of Mistral's tokenizers from Nemo on, which also part words where their case changes.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// How a text is cut before pairs are merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    kind: Pattern,
    /// Whether the text is composed (NFC) first.
    composed: bool,
    /// Whether a piece that is a token is taken as it is.
    whole_tokens: bool,
    /// Whether texts begin with the beginning token, unless the file says otherwise.
    begins: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    /// The pattern of GPT-2.
    Gpt2,
    /// The pattern of GPT-2, with every digit by itself.
    Digits,
    /// A regular expression.
    Regex(&'static str),
}

impl Cut {
    const fn new(kind: Pattern) -> Self {
        Self { kind, composed: false, whole_tokens: false, begins: false }
    }

    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "gpt-2" | "phi-2" => Self::new(Pattern::Gpt2),
            "smollm" | "starcoder" | "refact" | "codeshell" | "command-r" => Self::new(Pattern::Digits),
            "llama-bpe" | "llama3" | "llama-v3" => {
                Self { whole_tokens: true, begins: true, ..Self::new(Pattern::Regex(words!("{1,3}"))) }
            }
            "dbrx" | "smaug-bpe" => Self::new(Pattern::Regex(words!("{1,3}"))),
            "qwen2" => Self { composed: true, ..Self::new(Pattern::Regex(words!(""))) },
            "deepseek-r1-qwen" => Self::new(Pattern::Regex(words!(""))),
            "tekken" => Self { whole_tokens: true, begins: true, ..Self::new(Pattern::Regex(TEKKEN)) },
            _ => return None,
        })
    }

    fn steps(self) -> Json {
        let bytes = |splits: bool| json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": splits });
        let regex = |regex: &str| json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false });
        let steps = match self.kind {
            Pattern::Gpt2 => return bytes(true),
            Pattern::Digits => vec![json!({ "type": "Digits", "individual_digits": true }), bytes(true)],
            Pattern::Regex(pattern) => vec![regex(pattern), bytes(false)],
        };
        json!({ "type": "Sequence", "pretokenizers": steps })
    }
}

impl Gguf {
    /// The model of `tokenizer.json`, and the other parts that belong to it.
    pub(super) fn byte_pairs(&self, tokens: &Tokens) -> Result<Written, ModelError> {
        let cut = self.cut()?;
        let pair = |value: &Value| match value {
            Value::Text(text) => {
                // A space at the start is a part of the first half.
                let at = text.char_indices().skip(1).find(|(_, c)| *c == ' ')?.0;
                Some(json!([text[..at], text[at + 1..]]))
            }
            _ => None,
        };
        let merges = self.list(MERGES, "a list of pairs with a space between them", pair)?;
        let merges = merges.ok_or_else(|| self.wrong(format!("`{MERGES}` is missing; convert the model again")))?;
        let model = json!({
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": cut.whole_tokens,
            "vocab": tokens.vocabulary(), "merges": merges,
        });
        let decoder = json!({ "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true });
        let mut parts = vec![("pre_tokenizer", cut.steps()), ("decoder", decoder)];
        if cut.composed {
            parts.push(("normalizer", json!({ "type": "NFC" })));
        }
        Ok((model, parts))
    }

    pub(super) fn begins_by_itself(&self) -> Result<bool, ModelError> {
        self.cut().map(|cut| cut.begins)
    }

    fn cut(&self) -> Result<Cut, ModelError> {
        let Some(name) = self.text(PRE)? else {
            return Err(
                self.wrong(format!("`{PRE}` is missing, so texts would be cut wrongly; convert the model again"))
            );
        };
        let unknown = || {
            self.wrong(format!(
                "`{PRE}` is `{name}`, which is not known here; use the model's Hugging Face directory instead"
            ))
        };
        Cut::named(&name).ok_or_else(unknown)
    }
}
