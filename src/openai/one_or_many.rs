//! A text or a list, read without collecting it first, which an untagged enum would do.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads either. An error in a list names the entry that is at fault.
///
/// # Errors
/// The deserializer's; `expected` says what should have been there.
pub fn text_or_list<'de, D, L, T>(
    deserializer: D,
    expected: &'static str,
    text: fn(String) -> T,
    list: fn(Vec<L>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    L: Deserialize<'de>,
{
    deserializer.deserialize_any(Either { expected, text, list, _entries: PhantomData })
}

/// Reads a text or a list of texts. An error is one of the whole: a list of something else is not what was asked for.
///
/// # Errors
/// The deserializer's.
pub(super) fn text_or_texts<'de, D, T>(
    deserializer: D,
    one: fn(String) -> T,
    many: fn(Vec<String>) -> T,
) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
{
    let expected = "a string or a list of strings";
    match text_or_list(deserializer, expected, Entries::One, Entries::Many)? {
        Entries::One(text) => Ok(one(text)),
        Entries::Many(entries) => {
            let texts: Option<Vec<String>> = entries.into_iter().map(|entry| entry.0).collect();
            texts.map(many).ok_or_else(|| de::Error::custom(format!("expected {expected}")))
        }
    }
}

enum Entries {
    One(String),
    Many(Vec<Entry>),
}

/// An entry of a list: a text, or anything else, of which nothing is kept.
pub struct Entry(pub Option<String>);

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOnly).map(Self)
    }
}

struct TextOnly;

impl<'de> Visitor<'de> for TextOnly {
    type Value = Option<String>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Self::Value, E> {
        Ok(Some(text))
    }

    fn visit_bool<E: de::Error>(self, _value: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: de::Error>(self, _value: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: de::Error>(self, _value: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: de::Error>(self, _value: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(None)
    }
}

struct Either<L, T> {
    expected: &'static str,
    text: fn(String) -> T,
    list: fn(Vec<L>) -> T,
    _entries: PhantomData<L>,
}

impl<'de, L: Deserialize<'de>, T> Visitor<'de> for Either<L, T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        Ok((self.text)(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<T, E> {
        Ok((self.text)(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<T, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(self.list)
    }
}
