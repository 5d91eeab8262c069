//! The rules of `startend:` about how a response begins and ends.

use super::CheckError;
use super::kwargs::Kwargs;
use super::text::trim;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    /// The response is between two ASCII double quotes.
    Quotation,
    /// The response ends with this phrase, in any case.
    End { phrase: String, lowered: String },
}

impl Rule {
    pub(super) fn end_checker(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let phrase = kwargs.trimmed("end_phrase")?;
        Ok(Self::End { lowered: phrase.to_lowercase(), phrase })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        let text = trim(response);
        match self {
            Self::Quotation => text.len() >= 2 && text.starts_with('"') && text.ends_with('"'),
            Self::End { lowered, .. } => text.trim_matches('"').to_lowercase().ends_with(lowered),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Quotation => "wrap the whole response in double quotation marks".to_string(),
            Self::End { phrase, .. } => {
                format!("end the response with the exact phrase \"{phrase}\" and nothing after it")
            }
        }
    }
}
