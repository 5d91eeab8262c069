//! What a request is checked against.

use crate::config::Settings;
use crate::engine::{ConstraintSupport, ModelInfo};
use crate::openai::JudgeState;

/// What a request is checked against.
#[derive(Clone, Copy)]
pub struct Bounds<'a> {
    /// The model that answers.
    pub model: &'a ModelInfo,
    /// The name that clients use for it.
    pub name: &'a str,
    /// Which constraints it honours.
    pub constraints: ConstraintSupport,
    /// Whether it gives log-probabilities of a given text.
    pub scores: bool,
    /// Whether the models of both roles keep rules on tokens.
    pub token_rules: bool,
    /// What is known of the judge.
    pub judge: JudgeState,
    /// The server's defaults and caps.
    pub settings: &'a Settings,
}
