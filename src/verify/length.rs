//! The rules of `length_constraints:` about the number of words, sentences and paragraphs.

use super::CheckError;
use super::kwargs::{Bound, Kwargs, plural};
use super::sentences::sentences;
use super::text::{is_blank, is_space, trim, words};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Words(Bound),
    Sentences(Bound),
    /// Paragraphs separated by `***`.
    Paragraphs(usize),
    /// Paragraphs separated by a blank line; `nth` counts from 1.
    FirstWord {
        paragraphs: usize,
        nth: usize,
        word: String,
    },
}

impl Rule {
    pub(super) fn number_words(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Words(kwargs.bound("num_words", "relation")?))
    }

    pub(super) fn number_sentences(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Sentences(kwargs.bound("num_sentences", "relation")?))
    }

    pub(super) fn number_paragraphs(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Paragraphs(kwargs.count("num_paragraphs")?))
    }

    pub(super) fn nth_paragraph_first_word(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let paragraphs = kwargs.count("num_paragraphs")?;
        let nth = kwargs.ordinal("nth_paragraph", paragraphs)?;
        Ok(Self::FirstWord { paragraphs, nth, word: kwargs.text("first_word")?.to_lowercase() })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Words(bound) => bound.holds(words(response).count()),
            Self::Sentences(bound) => bound.holds(sentences(response)),
            Self::Paragraphs(expected) => starred_paragraphs(response) == Some(*expected),
            Self::FirstWord { paragraphs, nth, word } => {
                let mut pieces = response.split("\n\n");
                let filled = response.split("\n\n").filter(|piece| !is_blank(piece)).count();
                // The position counts blank pieces, but the number of paragraphs does not.
                filled == *paragraphs
                    && pieces.nth(nth - 1).is_some_and(|piece| !is_blank(piece) && first_word(piece) == *word)
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Words(bound) => format!("use {}", bound.with_noun("word")),
            Self::Sentences(bound) => format!("write {}", bound.with_noun("sentence")),
            Self::Paragraphs(count) => {
                format!("write exactly {count} paragraph{}, separated by ***", plural(*count))
            }
            Self::FirstWord { paragraphs, nth, word } => format!(
                "write exactly {paragraphs} paragraph{}, separated by blank lines, and start paragraph {nth} with the word \"{word}\"",
                plural(*paragraphs)
            ),
        }
    }
}

/// Counts the pieces between `***`. A blank piece at either end is ignored; anywhere else it makes the count invalid.
fn starred_paragraphs(response: &str) -> Option<usize> {
    let pieces: Vec<&str> = response.split("***").collect();
    let last = pieces.len() - 1;
    let mut count = 0;
    for (i, piece) in pieces.iter().enumerate() {
        if !is_blank(piece) {
            count += 1;
        } else if i != 0 && i != last {
            return None;
        }
    }
    Some(count)
}

/// The first token without opening quotes, up to a mark that ends a word, lower-cased letter by letter.
fn first_word(paragraph: &str) -> String {
    let token = trim(paragraph).split(is_space).next().unwrap_or_default();
    let token = token.trim_start_matches('\'').trim_start_matches('"');
    token
        .chars()
        .take_while(|c| !matches!(c, '.' | ',' | '?' | '!' | '\'' | '"'))
        .flat_map(char::to_lowercase)
        .collect()
}
