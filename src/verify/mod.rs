//! IFEval-style rule checkers: instruction id and keyword arguments in, verdict on a response out.

use serde_json::{Map, Value};

/// An instruction that can be checked by a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The instruction id, such as `punctuation:no_comma`.
    pub id: String,
    /// Its keyword arguments; nulls count as absent.
    pub kwargs: Map<String, Value>,
}

/// An unknown instruction id, or keyword arguments that it cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CheckError(pub String);

impl Check {
    /// Checks the id and the keyword arguments.
    ///
    /// # Errors
    /// Names the id, the argument and what it must be.
    pub fn new(id: &str, kwargs: Map<String, Value>) -> Result<Self, CheckError> {
        let _ = (id, kwargs);
        todo!("the verify owner")
    }

    /// IFEval's strict verdict.
    pub fn strict(&self, response: &str) -> bool {
        let _ = response;
        todo!("the verify owner")
    }

    /// IFEval's loose verdict: any of eight variants of the response passes.
    pub fn loose(&self, response: &str) -> bool {
        let _ = response;
        todo!("the verify owner")
    }

    /// What the instruction asks for, in one clause; joins a critique when the rule fails.
    pub fn describe(&self) -> String {
        todo!("the verify owner")
    }
}
