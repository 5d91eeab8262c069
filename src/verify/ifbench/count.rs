//! The rules of `count:` about the number of words, numbers, names and marks of some kind.

use std::collections::HashSet;

use super::text::{bare, is_wide_digit, numbers, without_punctuation, words};
use crate::verify::CheckError;
use crate::verify::kwargs::{Kwargs, plural};
use crate::verify::text;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    Conjunctions(usize),
    /// Five keywords and their lower-case forms.
    Keywords {
        keywords: Vec<String>,
        lowered: Vec<String>,
    },
    Numbers(usize),
    PersonNames(usize),
    Pronouns(usize),
    Punctuation,
    UniqueWords(usize),
    Words {
        least: usize,
        most: usize,
    },
    /// Every n-th word must be Japanese.
    Japanese(usize),
}

impl Rule {
    pub(super) fn conjunctions(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Conjunctions(kwargs.count("small_n")?))
    }

    pub(super) fn keywords_multiple(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let names = ["keyword1", "keyword2", "keyword3", "keyword4", "keyword5"];
        let keywords: Vec<String> = names.iter().map(|name| kwargs.trimmed(name)).collect::<Result<_, _>>()?;
        let lowered = keywords.iter().map(|keyword| keyword.to_lowercase()).collect();
        Ok(Self::Keywords { keywords, lowered })
    }

    pub(super) fn numbers(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Numbers(kwargs.count("N")?))
    }

    pub(super) fn person_names(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::PersonNames(kwargs.count("N")?))
    }

    pub(super) fn pronouns(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Pronouns(kwargs.count("N")?))
    }

    pub(super) fn unique_word_count(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::UniqueWords(kwargs.count("N")?))
    }

    pub(super) fn word_count_range(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Words { least: kwargs.count("min_words")?, most: kwargs.count("max_words")? })
    }

    pub(super) fn words_japanese(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Japanese(kwargs.count("N")?))
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Conjunctions(least) => {
                let is_conjunction = |word: &&str| CONJUNCTIONS.contains(&bare(word).to_lowercase().as_str());
                // Words that differ only in case or in their marks count as different.
                words(response).filter(is_conjunction).collect::<HashSet<_>>().len() >= *least
            }
            Self::Keywords { lowered, .. } => {
                let text = response.to_lowercase();
                lowered.iter().zip(TIMES).all(|(keyword, times)| text.matches(keyword.as_str()).count() == times)
            }
            Self::Numbers(count) => numbers(&without_punctuation(response)).count() == *count,
            Self::PersonNames(least) => names().filter(|name| response.contains(name)).count() >= *least,
            Self::Pronouns(least) => pronouns(response) >= *least,
            Self::Punctuation => has_all_marks(response),
            Self::UniqueWords(least) => {
                words(&response.to_lowercase()).map(bare).collect::<HashSet<_>>().len() >= *least
            }
            Self::Words { least, most } => (*least..=*most).contains(&text::words(response).count()),
            // No index is a multiple of 0. The reference fails there.
            Self::Japanese(0) => false,
            Self::Japanese(step) => words(response).skip(step - 1).step_by(*step).all(is_japanese),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Conjunctions(least) => {
                format!(
                    "use at least {least} different coordinating conjunction{}, such as \"and\", \"but\" or \"yet\"",
                    plural(*least)
                )
            }
            Self::Keywords { keywords, .. } => {
                let times = keywords.iter().zip(TIMES);
                let each: Vec<String> = times
                    .map(|(keyword, times)| format!("\"{keyword}\" exactly {times} time{}", plural(times)))
                    .collect();
                format!("use the keywords {}", each.join(", "))
            }
            Self::Numbers(count) => format!("include exactly {count} number{}, written in digits", plural(*count)),
            Self::PersonNames(least) => {
                format!("mention at least {least} of these names: {}", names().collect::<Vec<_>>().join(", "))
            }
            Self::Pronouns(least) => format!("use at least {least} personal pronoun{}", plural(*least)),
            Self::Punctuation => "use each of the marks . , ! ? ; : and also the interrobang ?!".to_string(),
            Self::UniqueWords(least) => format!("use at least {least} different word{}", plural(*least)),
            Self::Words { least, most } => format!("use at least {least} and at most {most} words"),
            Self::Japanese(1) => "write every word in Japanese".to_string(),
            Self::Japanese(step) => {
                format!(
                    "put spaces between words and write each word whose position is a multiple of {step} in Japanese"
                )
            }
        }
    }
}

/// How often each of the five keywords must occur.
const TIMES: [usize; 5] = [1, 2, 3, 5, 7];

const CONJUNCTIONS: [&str; 7] = ["and", "but", "for", "nor", "or", "so", "yet"];

const PRONOUNS: &str = "i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers \
    herself it its itself they them their theirs themselves";

const NAMES: &str = "Emma Liam Sophia Jackson Olivia Noah Ava Lucas Isabella Mason Mia Ethan Charlotte Alexander Amelia Benjamin \
    Harper Leo Zoe Daniel Chloe Samuel Lily Matthew Grace Owen Abigail Gabriel Ella Jacob Scarlett Nathan Victoria Elijah Layla \
    Nicholas Audrey David Hannah Christopher Penelope Thomas Nora Andrew Aria Joseph Claire Ryan Stella Jonathan";

fn names() -> impl Iterator<Item = &'static str> {
    NAMES.split_ascii_whitespace()
}

fn pronouns(response: &str) -> usize {
    let text = without_punctuation(&response.replace('/', " ").to_lowercase());
    words(&text).filter(|word| PRONOUNS.split_ascii_whitespace().any(|pronoun| pronoun == *word)).count()
}

/// Whether there is an interrobang and, apart from it, each of the six marks.
fn has_all_marks(response: &str) -> bool {
    let rest = match ["?!", "!?"].into_iter().find(|mark| response.contains(mark)) {
        Some(mark) => response.replacen(mark, "", 1),
        None if response.contains('‽') => response.to_string(),
        None => return false,
    };
    ".,!?;:".chars().all(|mark| rest.contains(mark))
}

/// Whether the word contains a Japanese character. Marks and numbers are accepted, too.
fn is_japanese(word: &str) -> bool {
    let word = bare(word);
    word.chars().all(is_wide_digit) || word.contains(|c| matches!(c, '\u{3040}'..='\u{30ff}' | '\u{4e00}'..='\u{9fff}'))
}
