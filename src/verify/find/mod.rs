//! Placeholder until the finder is merged.
use super::Check;
use crate::chat::Message;
/// A found rule.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundCheck {
    /// The rule.
    pub check: Check,
    /// Its words.
    pub words: String,
}
/// Finds rules.
pub fn find_checks(_conversation: &[Message]) -> Vec<FoundCheck> {
    Vec::new()
}
