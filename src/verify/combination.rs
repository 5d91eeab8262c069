//! The rules of `combination:`: two answers in one, or the prompt before the answer.

use super::CheckError;
use super::kwargs::Kwargs;
use super::text::{is_blank, trim};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// Two different responses, separated by six asterisks.
    TwoResponses,
    /// The response begins with the prompt, in any case.
    RepeatPrompt { prompt: String, lowered: String },
}

impl Rule {
    pub(super) fn repeat_prompt(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let prompt = kwargs.trimmed("prompt_to_repeat")?;
        Ok(Self::RepeatPrompt { lowered: prompt.to_lowercase(), prompt })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::TwoResponses => are_two_responses(response),
            Self::RepeatPrompt { lowered, .. } => trim(response).to_lowercase().starts_with(lowered),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::TwoResponses => "give two different responses, separated by six asterisks: ******".to_string(),
            Self::RepeatPrompt { prompt, .. } => {
                format!("first repeat this request word for word, then answer it: \"{prompt}\"")
            }
        }
    }
}

fn are_two_responses(response: &str) -> bool {
    let pieces: Vec<&str> = response.split("******").collect();
    let last = pieces.len() - 1;
    if pieces.iter().enumerate().any(|(i, piece)| i != 0 && i != last && is_blank(piece)) {
        return false;
    }
    let filled: Vec<&str> = pieces.into_iter().map(trim).filter(|piece| !piece.is_empty()).collect();
    matches!(filled[..], [first, second] if first != second)
}
