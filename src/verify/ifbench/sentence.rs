//! The rules of `sentence:` about a keyword in a given sentence, and about sentences that grow.

use super::sentences::sentences;
use super::text::{all_neighbours, is_edge, without_punctuation, words};
use crate::verify::CheckError;
use crate::verify::kwargs::{Kwargs, plural};

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    AlliterationIncrement,
    /// How many more words each sentence has than the one before it.
    Increment(usize),
    /// A keyword and the number of its sentence, from 1; 0 is the last one.
    Keyword {
        word: String,
        lowered: String,
        sentence: usize,
    },
}

impl Rule {
    pub(super) fn increment(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Increment(kwargs.count("small_n")?))
    }

    pub(super) fn keyword(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let word = kwargs.text("word")?;
        Ok(Self::Keyword { lowered: word.to_lowercase(), word, sentence: kwargs.count("N")? })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        let sentences = sentences(response);
        match self {
            Self::AlliterationIncrement => {
                let lengths: Vec<usize> = sentences.iter().map(|sentence| alliteration(sentence)).collect();
                all_neighbours(&lengths, |before, after| before < after)
            }
            Self::Increment(step) => {
                let counts: Vec<usize> =
                    sentences.iter().map(|sentence| words(&without_punctuation(sentence)).count()).collect();
                all_neighbours(&counts, |before, after| before.checked_add(*step) == Some(*after))
            }
            Self::Keyword { lowered, sentence, .. } => {
                let found = if *sentence == 0 { sentences.last() } else { sentences.get(sentence - 1) };
                found.is_some_and(|sentence| sentence.to_lowercase().contains(lowered))
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::AlliterationIncrement => {
                "put more consecutive words that start with the same letter into each sentence than into the one before it"
                    .to_string()
            }
            Self::Increment(0) => "use equally many words in every sentence".to_string(),
            Self::Increment(step) => {
                format!("use exactly {step} word{} more in each sentence than in the one before it", plural(*step))
            }
            Self::Keyword { word, sentence: 0, .. } => format!("include the keyword \"{word}\" in the last sentence"),
            Self::Keyword { word, sentence, .. } => format!("include the keyword \"{word}\" in sentence {sentence}"),
        }
    }
}

/// The number of words of a sentence that stand next to a word with the same first character.
fn alliteration(sentence: &str) -> usize {
    let lowered = sentence.to_lowercase();
    let firsts: Vec<char> =
        words(&lowered).filter_map(|word| word.trim_start_matches(is_edge).chars().next()).collect();
    firsts.chunk_by(|a, b| a == b).map(<[char]>::len).filter(|run| *run >= 2).sum()
}
