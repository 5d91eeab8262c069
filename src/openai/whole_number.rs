//! Whole numbers as clients write them: `16.0` is one, as in JSON Schema, since some languages know no other numbers.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// The largest number below which a float holds every whole number exactly, 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// A number that was written as an integer, or as a float without a fraction.
struct Whole(i64);

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WholeOnly).map(Self)
    }
}

struct WholeOnly;

impl Visitor<'_> for WholeOnly {
    type Value = i64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number between -(2^63) and 2^63 - 1")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(value), &self))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<i64, E> {
        match value.fract() == 0.0 && value.abs() <= EXACT {
            true => Ok(value as i64),
            false => Err(E::invalid_value(de::Unexpected::Float(value), &self)),
        }
    }
}

/// Reads a whole number, or nothing.
///
/// # Errors
/// It is something else.
pub(crate) fn maybe<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Ok(Option::<Whole>::deserialize(deserializer)?.map(|whole| whole.0))
}

/// Reads a whole number.
///
/// # Errors
/// It is something else.
pub(crate) fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    Whole::deserialize(deserializer).map(|whole| whole.0)
}

/// An id of a token, as one of a list.
#[derive(Clone, Copy)]
pub(super) struct TokenId(pub(super) u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Whole(id) = Whole::deserialize(deserializer)?;
        let expected = "a token id between 0 and 2^32 - 1";
        u32::try_from(id).map(Self).map_err(|_| de::Error::invalid_value(de::Unexpected::Signed(id), &expected))
    }
}

/// Reads a list of token ids.
///
/// # Errors
/// An entry is no id.
pub(super) fn token_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    Ok(Vec::<TokenId>::deserialize(deserializer)?.into_iter().map(|id| id.0).collect())
}

/// Reads a list of token ids, or nothing.
///
/// # Errors
/// An entry is no id.
pub(super) fn maybe_token_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u32>>, D::Error> {
    let ids = Option::<Vec<TokenId>>::deserialize(deserializer)?;
    Ok(ids.map(|ids| ids.into_iter().map(|id| id.0).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "maybe")]
        number: Option<i64>,
        #[serde(default, deserialize_with = "token_ids")]
        ids: Vec<u32>,
    }

    #[test]
    fn floats_without_a_fraction_are_whole() {
        let read = |text: &str| serde_json::from_str::<Holder>(text).map(|holder| (holder.number, holder.ids));
        for (text, expected) in [
            ("{}", Some((None, vec![]))),
            (r#"{"number": null}"#, Some((None, vec![]))),
            (r#"{"number": 16}"#, Some((Some(16), vec![]))),
            (r#"{"number": 16.0, "ids": [5, 6.0, 4294967295]}"#, Some((Some(16), vec![5, 6, u32::MAX]))),
            (r#"{"number": -1.6e1}"#, Some((Some(-16), vec![]))),
            (r#"{"number": -9223372036854775808}"#, Some((Some(i64::MIN), vec![]))),
            (r#"{"number": 16.5}"#, None),
            (r#"{"number": 1e300}"#, None),
            (r#"{"number": 9223372036854775808}"#, None),
            (r#"{"number": "16"}"#, None),
            (r#"{"number": true}"#, None),
            (r#"{"ids": [-1]}"#, None),
            (r#"{"ids": [0.5]}"#, None),
            (r#"{"ids": [4294967296]}"#, None),
        ] {
            assert_eq!(read(text).ok(), expected, "{text}");
        }
    }
}
