//! Label probabilities: which of a few short answers the model would give to a question, read from one forward pass
//! instead of being generated.

pub(crate) mod points;

use super::{EngineError, Origin, Purpose};
use crate::question::{Label, Question};

/// Questions that are answered by the same labels. Their prompts usually share most of their tokens, which are then
/// computed once.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelRequest {
    /// What the call is for.
    pub purpose: Purpose,
    /// The questions, at least one.
    pub questions: Vec<Question>,
    /// The labels, at least one.
    pub labels: Vec<Label>,
    /// The client on whose behalf the call is made.
    pub origin: Origin,
}

impl LabelRequest {
    /// Whether there is something to read.
    ///
    /// # Errors
    /// [`EngineError::Invalid`]: no question, no label, or a label without a spelling.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let missing = match () {
            () if self.questions.is_empty() => "questions",
            () if self.labels.is_empty() => "labels",
            () if self.labels.iter().any(|label| label.spellings.is_empty()) => "spellings of a label",
            () => return Ok(()),
        };
        Err(EngineError::Invalid(format!("the {missing} are missing; name at least one")))
    }
}

/// The answer to a [`LabelRequest`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelScores {
    /// For every question, the natural log-probability of every label in the order of the request; not normalised, so
    /// the rest up to 1 is the probability of any other text. Where the tokenizer merges a question's last characters with
    /// a label, they are read with the labels, and so their own probability is a factor of all labels of the question.
    pub logprobs: Vec<Vec<f32>>,
    /// Prompt tokens of all questions; tokens that several questions share count once.
    pub prompt_tokens: usize,
    /// The number of these whose keys and values were reused rather than computed.
    pub cached_tokens: usize,
}

/// Which questions an engine can answer by label probabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LabelSupport {
    /// No labels can be read.
    #[default]
    Nothing,
    /// Questions whose reply has not begun.
    Prompts,
    /// Every question can be answered.
    Replies,
}
