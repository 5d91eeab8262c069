//! Access to the fields of a JSON object, with errors that name the file and the field.

use std::path::Path;

use serde_json::Value;

use super::super::ModelError;

/// No number of a configuration is larger. Products of two fit into 64 bits.
const MOST: u64 = 1 << 30;

/// A JSON object and the file that errors name.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) path: &'a Path,
    pub(super) value: &'a Value,
}

impl<'a> Fields<'a> {
    /// The error that a field of this name is wrong, or asks for what is not computed.
    pub(super) fn wrong(&self, name: &str, reason: &str) -> ModelError {
        ModelError::Broken { file: self.path.into(), reason: format!("`{name}` {reason}") }
    }

    /// The field of this name; null where there is none.
    pub(super) fn get(&self, name: &str) -> &'a Value {
        static NONE: Value = Value::Null;
        self.value.get(name).unwrap_or(&NONE)
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    pub(super) fn count(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_count(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    /// A positive whole number, unless the field is absent or null.
    pub(super) fn optional_count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match self.get(name) {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(count) if count > MOST => {
                    Err(self.wrong(name, &format!("is {count}, more than the {MOST} that any model has")))
                }
                Some(count) if count > 0 => Ok(Some(count as usize)),
                _ => Err(self.wrong(name, &format!("is {value}, not a positive whole number"))),
            },
        }
    }

    /// A finite number above 0, unless the field is absent or null.
    pub(super) fn positive(&self, name: &str) -> Result<Option<f64>, ModelError> {
        match self.get(name) {
            Value::Null => Ok(None),
            value => match value.as_f64() {
                Some(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
                _ => Err(self.wrong(name, &format!("is {value}, not a number above 0"))),
            },
        }
    }

    /// True or false, unless the field is absent or null.
    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, ModelError> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::Bool(on) => Ok(Some(*on)),
            value => Err(self.wrong(name, &format!("is {value}, neither true nor false"))),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(name) {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            value => Err(self.wrong(name, &format!("is {value}, not a string"))),
        }
    }
}
