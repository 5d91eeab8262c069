//! The bytes of a vocabulary's tokens.

use std::sync::OnceLock;

use tokenizers::Tokenizer;

use super::reasoning::Form;
use super::tools::format::Format;

/// Ids that a small vocabulary may leave out.
const SPARSE: usize = 1 << 16;

/// The bytes of every token, computed once per model.
pub struct Pieces {
    bytes: Vec<Box<[u8]>>,
    special: Vec<bool>,
    /// The decoder drops the space that the first word of a text begins with.
    pub(super) strips_first_space: bool,
    /// The tokens of text in the order of their bytes, once that is needed.
    ordered: OnceLock<Vec<u32>>,
}

impl Pieces {
    /// The pieces of a tokenizer whose decoder works on bytes (`ByteLevel`), or on a space mark and byte tokens
    /// (`Metaspace`, `ByteFallback`).
    ///
    /// # Errors
    /// Another kind of decoder, as a sentence.
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|e| e.to_string())?;
        let mut kinds = Vec::new();
        list_decoders(&decoder, &mut kinds);
        let named = |name: &str| kinds.iter().find(|kind| kind["type"] == name);
        let byte_level = named("ByteLevel").is_some();
        if !byte_level && named("ByteFallback").is_none() && named("Metaspace").is_none() {
            return Err("its decoder has neither ByteLevel nor ByteFallback, so tokens have no bytes".into());
        }
        let strips_first_space = !byte_level
            && (named("Strip").is_some_and(|strip| strip["start"].as_u64() > Some(0))
                || named("Metaspace").is_some_and(|mark| mark["prepend_scheme"] != "never"));
        let added = tokenizer.get_added_tokens_decoder();
        let from_char = byte_level_table();
        let vocabulary = tokenizer.get_vocab(true);
        let size = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
        // A few numbers may be left out, but each takes memory.
        let most = SPARSE + 4 * vocabulary.len();
        if size > most {
            let (highest, tokens) = (size - 1, vocabulary.len());
            return Err(format!(
                "a token has the id {highest}, but there are only {tokens} tokens: ids must be below {most}"
            ));
        }
        drop(vocabulary);
        let mut bytes = vec![Box::default(); size];
        let mut special = vec![false; size];
        for id in 0..size as u32 {
            let Some(token) = tokenizer.id_to_token(id) else { continue };
            let added = added.get(&id);
            special[id as usize] =
                added.is_some_and(|token| token.special) && !Form::is_mark(&token) && !Format::is_mark(&token);
            bytes[id as usize] = if added.is_some() {
                token.into_bytes()
            } else if byte_level {
                let mapped: Option<Vec<u8>> = token.chars().map(&from_char).collect();
                mapped.unwrap_or_else(|| token.into_bytes())
            } else if let Some(byte) = byte_token(&token) {
                vec![byte]
            } else {
                token.replace('▁', " ").into_bytes()
            }
            .into_boxed_slice();
        }
        Ok(Self { bytes, special, strips_first_space, ordered: OnceLock::new() })
    }

    /// The token's bytes; none for an id outside the vocabulary. A special token has its name's.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.bytes.get(id as usize).map_or(&[], |bytes| bytes)
    }

    /// Bytes of the token that has the most.
    pub fn longest(&self) -> usize {
        self.bytes.iter().map(|bytes| bytes.len()).max().unwrap_or_default()
    }

    /// Whether each single byte is a token, so that every text can be said.
    pub fn hold_every_byte(&self) -> bool {
        let mut held = [false; 256];
        for bytes in &self.bytes {
            if let [byte] = **bytes {
                held[usize::from(byte)] = true;
            }
        }
        held.iter().all(|held| *held)
    }

    /// The tokens of text whose bytes begin with `beginning`.
    pub fn beginning_with(&self, beginning: &[u8]) -> &[u32] {
        let ordered = self.ordered.get_or_init(|| {
            let mut ids: Vec<u32> = (0..self.bytes.len() as u32).filter(|&id| !self.is_special(id)).collect();
            ids.sort_unstable_by_key(|&id| self.bytes(id));
            ids
        });
        let from = ordered.partition_point(|&id| self.bytes(id) < beginning);
        let count = ordered[from..].partition_point(|&id| self.bytes(id).starts_with(beginning));
        &ordered[from..from + count]
    }

    /// Whether the token is left out of text. Marks of reasoning and of calls never are: the text could not be read without them.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// Ids from 0 to here, without this, may have bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn list_decoders<'a>(decoder: &'a serde_json::Value, kinds: &mut Vec<&'a serde_json::Value>) {
    match decoder["decoders"].as_array() {
        Some(inner) => inner.iter().for_each(|decoder| list_decoders(decoder, kinds)),
        None => kinds.push(decoder),
    }
}

/// `<0xE4>` stands for the byte 0xE4.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
}

/// GPT-2's map from characters to bytes: printable bytes stand for themselves, the others for 256, 257, … in order.
fn byte_level_table() -> impl Fn(char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let others: Vec<u8> = (0..=u8::MAX).filter(|&byte| !printable(byte)).collect();
    move |c| match u8::try_from(c as u32) {
        Ok(byte) => printable(byte).then_some(byte),
        Err(_) => others.get((c as usize).wrapping_sub(256)).copied(),
    }
}
