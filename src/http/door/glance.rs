//! A look at a JSON value that is not kept: enough of it to see whether it asks for anything.

use std::fmt;

use serde::de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::openai::Entry;

/// Characters of a text that are looked at.
const LOOKED_AT: usize = 16;

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Glance {
    /// The value `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// Any JSON number.
    Number(f64),
    /// A short text; of a longer one nothing is known.
    Text(Option<String>),
    /// A list without entries, or an object without fields.
    Empty,
    /// A list of nothing but this text, once or more often.
    Same(String),
    /// Any other list or object.
    Full,
}

impl Glance {
    /// Whether it is this text.
    pub fn is_text(&self, text: &str) -> bool {
        matches!(self, Self::Text(Some(own)) if own == text)
    }
}

impl<'de> Deserialize<'de> for Glance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look)
    }
}

struct Look;

impl<'de> Visitor<'de> for Look {
    type Value = Glance;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Glance, E> {
        Ok(Glance::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Glance, E> {
        Ok(Glance::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Glance, E> {
        Ok(Glance::Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Glance, E> {
        Ok(Glance::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Glance, E> {
        Ok(Glance::Number(value))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Glance, E> {
        Ok(Glance::Text((text.len() <= LOOKED_AT).then(|| text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Glance, A::Error> {
        let mut glance = match list.next_element::<Entry>()? {
            None => return Ok(Glance::Empty),
            Some(Entry(Some(text))) => Glance::Same(text),
            Some(Entry(None)) => Glance::Full,
        };
        while let Glance::Same(text) = &glance {
            match list.next_element::<Entry>()? {
                None => return Ok(glance),
                Some(Entry(Some(other))) if other == *text => {}
                Some(_) => glance = Glance::Full,
            }
        }
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(glance)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Glance, A::Error> {
        let mut glance = Glance::Empty;
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {
            glance = Glance::Full;
        }
        Ok(glance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glance_sees_what_a_value_asks_for() {
        let same = |text: &str| Glance::Same(text.into());
        let table = [
            ("null", Glance::Null),
            ("false", Glance::Bool(false)),
            ("0", Glance::Number(0.0)),
            ("-1.5", Glance::Number(-1.5)),
            (r#""none""#, Glance::Text(Some("none".into()))),
            (r#""a text of more than sixteen characters""#, Glance::Text(None)),
            ("[]", Glance::Empty),
            ("{}", Glance::Empty),
            (r#"["text"]"#, same("text")),
            (r#"["text", "text"]"#, same("text")),
            (r#"["text", "audio", ["text"]]"#, Glance::Full),
            ("[[[[]]], 1]", Glance::Full),
            (r#"{"a": {"b": []}}"#, Glance::Full),
        ];
        for (text, expected) in table {
            assert_eq!(serde_json::from_str::<Glance>(text).unwrap(), expected, "{text}");
        }
        assert!(Glance::Text(Some("auto".into())).is_text("auto") && !Glance::Text(None).is_text("auto"));
    }
}
