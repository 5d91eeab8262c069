//! The rules of `change_case:` about capital letters, as single words or throughout.

use super::CheckError;
use super::kwargs::{Bound, Kwargs};
use super::language::may_be;
use super::text::{is_all_lower, is_all_upper};
use super::tokens::capital_words;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    CapitalWords(Bound),
    EnglishCapital,
    EnglishLowercase,
}

impl Rule {
    pub(super) fn capital_word_frequency(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::CapitalWords(kwargs.bound("capital_frequency", "capital_relation")?))
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::CapitalWords(bound) => bound.holds(capital_words(response)),
            Self::EnglishCapital => is_all_upper(response) && may_be(response, "en"),
            Self::EnglishLowercase => is_all_lower(response) && may_be(response, "en"),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::CapitalWords(bound) => format!("use {} in all capital letters", bound.with_noun("word")),
            Self::EnglishCapital => "write in English and in capital letters only".to_string(),
            Self::EnglishLowercase => "write in English and in lowercase letters only".to_string(),
        }
    }
}
