//! The rules of `keywords:` about words and letters that must, or must not, occur.

use super::CheckError;
use super::kwargs::{Bound, Kwargs, quoted_list};
use super::pattern::{Folded, Pattern};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Existence { keywords: Vec<String>, patterns: Vec<Pattern> },
    Forbidden { words: Vec<String>, patterns: Vec<Pattern> },
    Frequency { keyword: String, pattern: Pattern, bound: Bound },
    LetterFrequency { letter: char, lowered: String, bound: Bound },
}

impl Rule {
    pub(super) fn existence(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let (keywords, patterns) = kwargs.patterns("keywords", Pattern::any_case)?;
        Ok(Self::Existence { keywords, patterns })
    }

    pub(super) fn forbidden_words(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let (words, patterns) = kwargs.patterns("forbidden_words", Pattern::whole_word)?;
        Ok(Self::Forbidden { words, patterns })
    }

    pub(super) fn frequency(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let (keyword, pattern) = kwargs.pattern("keyword", Pattern::any_case)?;
        Ok(Self::Frequency { keyword, pattern, bound: kwargs.bound("frequency", "relation")? })
    }

    pub(super) fn letter_frequency(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let text = kwargs.trimmed("letter")?;
        let mut chars = text.chars();
        let (Some(letter), None) = (chars.next(), chars.next()) else {
            return Err(kwargs.must_be("letter", "one character"));
        };
        let bound = kwargs.bound("let_frequency", "let_relation")?;
        Ok(Self::LetterFrequency { letter, lowered: text.to_lowercase(), bound })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Existence { patterns, .. } => {
                let text = Folded::new(response);
                patterns.iter().all(|pattern| pattern.is_in(&text))
            }
            Self::Forbidden { patterns, .. } => {
                let text = Folded::new(response);
                !patterns.iter().any(|pattern| pattern.is_whole_in(&text))
            }
            Self::Frequency { pattern, bound, .. } => bound.holds(pattern.count_in(&Folded::new(response))),
            Self::LetterFrequency { lowered, bound, .. } => bound.holds(letter_count(response, lowered)),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Existence { keywords, .. } if keywords.len() == 1 => {
                format!("include the keyword {}", quoted_list(keywords))
            }
            Self::Existence { keywords, .. } => format!("include the keywords {}", quoted_list(keywords)),
            Self::Forbidden { words, .. } if words.len() == 1 => format!("do not use the word {}", quoted_list(words)),
            Self::Forbidden { words, .. } => format!("do not use any of the words {}", quoted_list(words)),
            Self::Frequency { keyword, bound, .. } => format!("use the keyword \"{keyword}\" {}", bound.times()),
            Self::LetterFrequency { letter, bound, .. } => format!("use the letter \"{letter}\" {}", bound.times()),
        }
    }
}

/// Counts characters of the lower-cased response that equal the lower-cased letter. `İ` becomes two characters and equals none.
fn letter_count(response: &str, lowered: &str) -> usize {
    let mut chars = lowered.chars();
    let (Some(letter), None) = (chars.next(), chars.next()) else {
        return 0;
    };
    if response.is_ascii() {
        return response.chars().filter(|c| c.to_ascii_lowercase() == letter).count();
    }
    // The whole text is lower-cased at once, since the form of a capital sigma depends on its neighbours.
    response.to_lowercase().chars().filter(|&c| c == letter).count()
}
