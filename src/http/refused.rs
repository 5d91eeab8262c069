//! Fields that are not honoured: a request that asks for something by one of them is refused, so that it is not answered as
//! if it had not asked.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::glance::Glance;

/// A field that is not honoured, and the values of it that ask for nothing.
pub struct Refused {
    name: &'static str,
    harmless: fn(&Glance) -> bool,
}

/// Reads an object and says which of its fields is refused, if any is. Nothing of it is kept.
pub struct Refusal(pub &'static [&'static [Refused]]);

const fn unless_empty(name: &'static str) -> Refused {
    Refused { name, harmless: is_empty }
}

fn is_empty(value: &Glance) -> bool {
    matches!(value, Glance::Null | Glance::Bool(false) | Glance::Empty)
}

fn is_zero(value: &Glance) -> bool {
    matches!(value, Glance::Null) || *value == Glance::Number(0.0)
}

fn is_one(value: &Glance) -> bool {
    matches!(value, Glance::Null) || *value == Glance::Number(1.0)
}

fn is_true(value: &Glance) -> bool {
    matches!(value, Glance::Null | Glance::Bool(true))
}

fn calls_nothing(value: &Glance) -> bool {
    matches!(value, Glance::Null) || value.is_text("none") || value.is_text("auto")
}

fn is_text_only(value: &Glance) -> bool {
    match value {
        Glance::Null | Glance::Empty => true,
        Glance::Same(kind) => kind == "text",
        _ => false,
    }
}

fn is_no_text(value: &Glance) -> bool {
    matches!(value, Glance::Null) || value.is_text("")
}

/// Fields that both kinds of completions refuse.
const REFUSED: &[Refused] = &[
    unless_empty("guided_whitespace_pattern"),
    Refused { name: "length_penalty", harmless: is_one },
    unless_empty("logits_processors"),
    Refused { name: "skip_special_tokens", harmless: is_true },
    Refused { name: "spaces_between_special_tokens", harmless: is_true },
    unless_empty("structural_tag"),
    unless_empty("use_beam_search"),
];

const REFUSED_IN_CHATS: &[Refused] = &[
    unless_empty("echo"),
    unless_empty("functions"),
    Refused { name: "function_call", harmless: calls_nothing },
    Refused { name: "modalities", harmless: is_text_only },
    unless_empty("audio"),
    unless_empty("web_search_options"),
    unless_empty("chat_template"),
    unless_empty("documents"),
];

const REFUSED_IN_COMPLETIONS: &[Refused] = &[
    Refused { name: "best_of", harmless: is_one },
    Refused { name: "suffix", harmless: is_no_text },
    Refused { name: "search_budget", harmless: is_zero },
    unless_empty("search"),
];

const REFUSED_IN_TOKENIZE: &[Refused] = &[unless_empty("chat_template"), unless_empty("tools")];

/// What a tokenization must not ask for.
pub const IN_TOKENIZE: &[&[Refused]] = &[REFUSED_IN_TOKENIZE];
/// What a chat completion must not ask for.
pub const IN_CHATS: &[&[Refused]] = &[REFUSED_IN_CHATS, REFUSED];
/// What a text completion must not ask for.
pub const IN_COMPLETIONS: &[&[Refused]] = &[REFUSED_IN_COMPLETIONS, REFUSED];

impl<'de> DeserializeSeed<'de> for Refusal {
    /// The first field of the lists that asks for something.
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Refusal {
    type Value = Option<&'static str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let all: Vec<&'static Refused> = self.0.iter().copied().flatten().collect();
        let mut seen = vec![false; all.len()];
        let mut asked: Option<usize> = None;
        while let Some(Known(at)) = fields.next_key_seed(Name(&all))? {
            let Some(at) = at else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(de::Error::duplicate_field(all[at].name));
            }
            let value: Glance = fields.next_value()?;
            if !(all[at].harmless)(&value) {
                asked = Some(asked.map_or(at, |before| before.min(at)));
            }
        }
        Ok(asked.map(|at| all[at].name))
    }
}

/// The place of a field's name in the lists.
struct Known(Option<usize>);

struct Name<'a>(&'a [&'static Refused]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Known;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Known;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Known, E> {
        Ok(Known(self.0.iter().position(|field| field.name == name)))
    }
}

/// For bodies of which no field is refused.
pub const NOTHING: &[&[Refused]] = &[];

impl Refusal {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
