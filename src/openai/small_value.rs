//! JSON of any shape inside a request, such as a schema: it is kept as a tree, which takes many times the memory of its text,
//! and so has a largest size.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Number, Value};

/// Values in one such tree at most: 20 fields of 1,000 entries each, or a schema of 500 objects with 10 fields.
const MOST: usize = 50_000;
/// Values in the arguments of one of several checks.
const FEW: usize = 1_000;

fn map<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<Map<String, Value>, D::Error> {
    let left = Cell::new(most);
    deserializer.deserialize_map(MapOnly(Tree { most, left: &left }))
}

/// Reads a small object.
///
/// # Errors
/// It is no object, or too large.
pub(super) fn small_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
    map(deserializer, FEW)
}

/// Reads an object of a bounded size, or nothing.
///
/// # Errors
/// It is no object, or too large.
pub fn maybe_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    struct Wrapped(Map<String, Value>);
    impl<'de> Deserialize<'de> for Wrapped {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            map(deserializer, MOST).map(Wrapped)
        }
    }
    Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
}

/// Reads a small object, or nothing.
///
/// # Errors
/// It is no object, or too large.
pub fn maybe_small_map<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Map<String, Value>>, D::Error> {
    struct Wrapped(Map<String, Value>);
    impl<'de> Deserialize<'de> for Wrapped {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            map(deserializer, FEW).map(Wrapped)
        }
    }
    Ok(Option::<Wrapped>::deserialize(deserializer)?.map(|wrapped| wrapped.0))
}

/// Reads any value of a bounded size, or nothing.
///
/// # Errors
/// It is too large.
pub fn maybe_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    value(deserializer, MOST)
}

/// Reads like [`maybe_value`], but one of several: the schema of a function.
///
/// # Errors
/// It is too large.
pub fn maybe_small_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    value(deserializer, FEW * 2)
}

fn value<'de, D: Deserializer<'de>>(deserializer: D, most: usize) -> Result<Option<Value>, D::Error> {
    let value = Tree { most, left: &Cell::new(most) }.deserialize(deserializer)?;
    Ok(Some(value).filter(|value| !value.is_null()))
}

/// Builds a tree from what is left of its size.
#[derive(Clone, Copy)]
struct Tree<'a> {
    most: usize,
    left: &'a Cell<usize>,
}

impl Tree<'_> {
    fn take<E: de::Error>(self) -> Result<(), E> {
        let too_large = || E::custom(format!("it must hold at most {} values", self.most));
        self.left.set(self.left.get().checked_sub(1).ok_or_else(too_large)?);
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Tree<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree<'_> {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        self.take().map(|()| Value::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        self.take().map(|()| value.into())
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        self.take().map(|()| value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        self.take().map(|()| Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.take().map(|()| value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.take().map(|()| value.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.take().map(|()| Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        self.take()?;
        let mut values = Vec::new();
        while let Some(value) = list.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        self.take()?;
        let mut map = Map::new();
        while let Some(name) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(self)?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

/// A tree whose root is an object.
struct MapOnly<'a>(Tree<'a>);

impl<'de> Visitor<'de> for MapOnly<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Self::Value, A::Error> {
        match self.0.visit_map(entries)? {
            Value::Object(map) => Ok(map),
            _ => Err(de::Error::custom("expected a map")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        #[serde(default, deserialize_with = "maybe_value")]
        any: Option<Value>,
        #[serde(default, deserialize_with = "maybe_map")]
        map: Option<Map<String, Value>>,
        #[serde(default, deserialize_with = "small_map")]
        small: Map<String, Value>,
    }

    fn read(text: &str) -> Result<Holder, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_as_they_were_sent() {
        let value = json!({"a": [1, -2, 1.5, true, null, "x", {"b": {}}], "z": 1, "c": [[]]});
        let holder = read(&json!({"any": value, "map": value}).to_string()).unwrap();
        assert_eq!((holder.any.as_ref(), holder.map.map(Value::Object).as_ref()), (Some(&value), Some(&value)));
        assert_eq!(holder.any.unwrap().to_string(), value.to_string(), "in their order");
        for none in ["{}", r#"{"any": null, "map": null}"#] {
            let holder = read(none).unwrap();
            assert!(holder.any.is_none() && holder.map.is_none() && holder.small.is_empty());
        }
        assert!(read(r#"{"map": "fast"}"#).unwrap_err().contains("expected a map"));
    }

    #[test]
    fn large_trees_are_refused_in_the_midst() {
        let list = |count: usize| format!("[{}0]", "0,".repeat(count - 1));
        assert!(read(&format!(r#"{{"any": {}}}"#, list(MOST - 1))).is_ok());
        for text in [format!(r#"{{"any": {}}}"#, list(MOST)), format!(r#"{{"map": {{"a": {}}}}}"#, list(MOST))] {
            assert!(read(&text).unwrap_err().contains("at most 50000 values"));
        }
        let small = |count: usize| read(&format!(r#"{{"small": {{"a": {}}}}}"#, list(count)));
        assert_eq!(small(FEW - 2).unwrap().small.len(), 1);
        assert!(small(FEW).unwrap_err().contains("at most 1000 values"));
    }
}
