//! Reads keyword arguments, with errors that name the instruction, the argument and what it must be.

use std::fmt;

use serde_json::{Map, Value};

use super::error::CheckError;
use super::pattern::{Allowance, Pattern, PatternError};
use super::text::trim;

/// The maximum number of entries in a list.
const MOST_ENTRIES: usize = 64;
/// The maximum number of characters in a text that is compared with the response.
const TEXT_CHARACTERS: usize = 20_000;
/// The maximum number of characters of an argument that an error shows.
const SHOWN: usize = 200;

/// The arguments of one instruction. Every argument that a rule reads is recorded, so that [`Kwargs::finish`] can reject the others.
pub(super) struct Kwargs<'a> {
    id: &'a str,
    values: &'a Map<String, Value>,
    allowance: &'a mut Allowance,
    known: Vec<&'static str>,
    others_allowed: bool,
}

impl<'a> Kwargs<'a> {
    /// Makes a reader of `values`, which must contain no nulls.
    pub(super) fn new(id: &'a str, values: &'a Map<String, Value>, allowance: &'a mut Allowance) -> Self {
        Self { id, values, allowance, known: Vec::new(), others_allowed: false }
    }

    /// Reads an integer from 0 up.
    pub(super) fn count(&mut self, key: &'static str) -> Result<usize, CheckError> {
        let count = self.value(key).and_then(integer).and_then(|n| usize::try_from(n).ok());
        count.ok_or_else(|| self.must_be(key, "an integer from 0 up"))
    }

    /// Reads an integer from 1 up.
    pub(super) fn positive(&mut self, key: &'static str) -> Result<usize, CheckError> {
        match self.count(key) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(self.must_be(key, "an integer from 1 up")),
        }
    }

    /// Reads an integer of either sign.
    pub(super) fn signed(&mut self, key: &'static str) -> Result<i64, CheckError> {
        let value = self.value(key).and_then(integer);
        value.ok_or_else(|| self.must_be(key, "an integer"))
    }

    /// Reads a number from 0 up, which need not be an integer.
    pub(super) fn percentage(&mut self, key: &'static str) -> Result<f64, CheckError> {
        let value = self.value(key).and_then(Value::as_f64).filter(|percentage| *percentage >= 0.0);
        value.ok_or_else(|| self.must_be(key, "a number from 0 up"))
    }

    /// Reads an integer from 1 to `most`.
    pub(super) fn ordinal(&mut self, key: &'static str, most: usize) -> Result<usize, CheckError> {
        let position = self.count(key)?;
        if (1..=most).contains(&position) {
            return Ok(position);
        }
        Err(self.must_be(key, &format!("between 1 and {most}")))
    }

    /// Reads a number and the relation that a count must have to it.
    pub(super) fn bound(&mut self, count: &'static str, relation: &'static str) -> Result<Bound, CheckError> {
        let limit = self.count(count)?;
        match self.value(relation).and_then(Value::as_str) {
            Some("less than") => Ok(Bound::LessThan(limit)),
            Some("at least") => Ok(Bound::AtLeast(limit)),
            _ => Err(self.must_be(relation, r#""less than" or "at least""#)),
        }
    }

    /// Reads a string without changes.
    pub(super) fn text(&mut self, key: &'static str) -> Result<String, CheckError> {
        match self.value(key).and_then(Value::as_str) {
            Some(text) => self.short_enough(key, text),
            None => Err(self.must_be(key, "a string")),
        }
    }

    /// Reads a string that is not blank, and removes surrounding spaces.
    pub(super) fn trimmed(&mut self, key: &'static str) -> Result<String, CheckError> {
        match self.value(key).and_then(Value::as_str).map(trim) {
            Some(text) if !text.is_empty() => self.short_enough(key, text),
            _ => Err(self.must_be(key, "a string that is not blank")),
        }
    }

    /// Reads a string like [`Kwargs::trimmed`], and makes its pattern.
    pub(super) fn pattern(&mut self, key: &'static str, kind: Kind) -> Result<(String, Pattern), CheckError> {
        let text = self.trimmed(key)?;
        let pattern = self.made(key, &text, kind)?;
        Ok((text, pattern))
    }

    /// Reads strings like [`Kwargs::texts`], and makes their patterns.
    pub(super) fn patterns(
        &mut self,
        key: &'static str,
        kind: Kind,
    ) -> Result<(Vec<String>, Vec<Pattern>), CheckError> {
        let texts = self.texts(key)?;
        let made = |(index, text): (usize, &String)| self.made(&format!("{key}[{index}]"), text, kind);
        let patterns = texts.iter().enumerate().map(made).collect::<Result<_, _>>()?;
        Ok((texts, patterns))
    }

    fn made(&mut self, path: &str, text: &str, kind: Kind) -> Result<Pattern, CheckError> {
        kind(text, self.allowance).map_err(|error| self.too_large(path, &error.to_string()))
    }

    fn short_enough(&self, key: &str, text: &str) -> Result<String, CheckError> {
        if text.chars().count() <= TEXT_CHARACTERS {
            return Ok(text.to_owned());
        }
        Err(self.too_large(key, &format!("must have at most {TEXT_CHARACTERS} characters")))
    }

    /// The error for an argument whose value is too expensive.
    fn too_large(&self, path: &str, reason: &str) -> CheckError {
        CheckError { message: format!("{}: `{path}` {reason}", self.id), argument: Some(path.to_owned()) }
    }

    /// Reads a list of at least one string, none of them empty.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Vec<String>, CheckError> {
        let texts: Option<Vec<String>> = self
            .value(key)
            .and_then(Value::as_array)
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_string)).collect());
        match texts {
            Some(texts) if texts.len() > MOST_ENTRIES => {
                let reason = format!("must hold at most {MOST_ENTRIES} strings, got {}", texts.len());
                Err(self.too_large(key, &reason))
            }
            Some(texts) if !texts.is_empty() && texts.iter().all(|text| !text.is_empty()) => Ok(texts),
            _ => Err(self.must_be(key, "a list of at least one string, none of them empty")),
        }
    }

    /// Accepts arguments that the rule does not read.
    pub(super) fn allow_others(&mut self) {
        self.others_allowed = true;
    }

    /// Refuses arguments that the rule did not read.
    pub(super) fn finish(self) -> Result<(), CheckError> {
        if self.others_allowed {
            return Ok(());
        }
        let Some(unknown) = self.values.keys().find(|key| !self.known.contains(&key.as_str())) else {
            return Ok(());
        };
        let allowed = if self.known.is_empty() { "none".to_string() } else { self.known.join(", ") };
        Err(CheckError::from(format!("{}: unknown argument `{}`, allowed: {allowed}", self.id, shortened(unknown))))
    }

    /// The error for a value that is missing or is not `expected`.
    pub(super) fn must_be(&self, key: &str, expected: &str) -> CheckError {
        let got = match self.values.get(key) {
            Some(value) => format!("got {}", shortened(&value.to_string())),
            None => "but it is missing".to_string(),
        };
        CheckError::from(format!("{}: `{key}` must be {expected}, {got}", self.id))
    }

    fn value(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.values.get(key)
    }
}

/// A function that makes a pattern from a text.
pub(super) type Kind = fn(&str, &mut Allowance) -> Result<Pattern, PatternError>;

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Reads an integer. IFBench's files write 8 as `8.0`, which is accepted as well.
fn integer(value: &Value) -> Option<i64> {
    // Beyond this number a float cannot represent every integer.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let float = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT);
    value.as_i64().or_else(|| float().map(|number| number as i64))
}

/// A bound on how often something may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    LessThan(usize),
    AtLeast(usize),
}

impl Bound {
    pub(super) fn holds(self, count: usize) -> bool {
        match self {
            Self::LessThan(limit) => count < limit,
            Self::AtLeast(limit) => count >= limit,
        }
    }

    /// The bound with its noun: `at least 12 words`.
    pub(super) fn with_noun(self, noun: &str) -> String {
        format!("{self} {noun}{}", plural(self.limit()))
    }

    /// The bound as a frequency: `at least 12 times`.
    pub(super) fn times(self) -> String {
        self.with_noun("time")
    }

    fn limit(self) -> usize {
        match self {
            Self::LessThan(limit) | Self::AtLeast(limit) => limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LessThan(limit) => write!(f, "fewer than {limit}"),
            Self::AtLeast(limit) => write!(f, "at least {limit}"),
        }
    }
}

/// The ending of a regular noun after a count.
pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Joins quoted items: `"a", "b" and "c"`.
pub(super) fn quoted_list(items: &[impl AsRef<str>]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => quoted.concat(),
    }
}
