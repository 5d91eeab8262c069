//! Lists with a largest length: what is beyond it is counted, so that the error can say it, and not kept.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{self, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads the entries of a list, of which there may be `most`; `what` names them in the error.
///
/// # Errors
/// There are more, or one is at fault.
pub(super) fn entries<'de, A, T>(mut list: A, most: usize, what: &str) -> Result<Vec<T>, A::Error>
where
    A: SeqAccess<'de>,
    T: Deserialize<'de>,
{
    let mut kept = Vec::new();
    while kept.len() < most {
        match list.next_element()? {
            Some(entry) => kept.push(entry),
            None => return Ok(kept),
        }
    }
    let mut count = most;
    while list.next_element::<IgnoredAny>()?.is_some() {
        count += 1;
    }
    match count > most {
        true => Err(de::Error::custom(format!("it must hold at most {most} {what}, got {count}"))),
        false => Ok(kept),
    }
}

/// Functions that one request may offer.
const FUNCTIONS: usize = 128;

/// Reads a list of functions, or nothing.
///
/// # Errors
/// As [`entries`].
pub fn maybe_functions<'de, D, T>(deserializer: D) -> Result<Option<Vec<T>>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Functions<T>(Vec<T>);
    impl<'de, T: Deserialize<'de>> Deserialize<'de> for Functions<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_seq(List(PhantomData)).map(Self)
        }
    }
    struct List<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("a sequence")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Vec<T>, A::Error> {
            entries(list, FUNCTIONS, "functions")
        }
    }
    Ok(Option::<Functions<T>>::deserialize(deserializer)?.map(|functions| functions.0))
}
