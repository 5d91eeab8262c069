//! Why a check cannot be made.

/// An unknown instruction id, or keyword arguments that the instruction cannot use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CheckError {
    /// What is wrong, and what is expected.
    pub message: String,
    /// The argument that is too large, such as `keywords[3]`.
    pub argument: Option<String>,
}

impl From<String> for CheckError {
    fn from(message: String) -> Self {
        Self { message, argument: None }
    }
}
