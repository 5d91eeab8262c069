//! The rules of `ratio:` about shares of words, characters and kinds of sentences.

use std::collections::HashSet;

use super::sentences::sentences;
use crate::verify::CheckError;
use crate::verify::kwargs::Kwargs;
use crate::verify::text::words;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    Overlap { reference: String, trigrams: HashSet<[char; 3]>, percentage: f64 },
    SentenceBalance,
    SentenceType,
    SentenceWords,
    StopWords(f64),
}

impl Rule {
    pub(super) fn overlap(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let reference = kwargs.text("reference_text")?;
        let trigrams = trigrams(&reference);
        Ok(Self::Overlap { reference, trigrams, percentage: kwargs.percentage("percentage")? })
    }

    pub(super) fn stop_words(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::StopWords(kwargs.percentage("percentage")?))
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        let ending_in = |mark: char| sentences(response).iter().filter(|sentence| sentence.ends_with(mark)).count();
        match self {
            Self::Overlap { trigrams: wanted, percentage, .. } => {
                let found = trigrams(response);
                let share = found.intersection(wanted).count() as f64 / found.len() as f64;
                // A response of fewer than three characters has no share, and comparisons with it are false.
                (percentage - 2.0..=percentage + 2.0).contains(&(share * 100.0))
            }
            Self::SentenceBalance => ending_in('.') == ending_in('?') && ending_in('?') == ending_in('!'),
            Self::SentenceType => ending_in('.') == 2 * ending_in('?'),
            Self::SentenceWords => {
                let lengths: Vec<usize> = sentences(response).iter().map(|sentence| sentence.chars().count()).collect();
                matches!(lengths[..], [a, b, c] if a == b && b == c)
            }
            Self::StopWords(most) => {
                let is_stop_word = |word: &str| {
                    let word = word.to_lowercase();
                    STOP_WORDS.split_ascii_whitespace().any(|stop| stop == word)
                };
                let all = words(response).count();
                let stops = words(response).filter(|word| is_stop_word(word)).count();
                all > 0 && stops as f64 / all as f64 * 100.0 <= *most
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Overlap { reference, percentage, .. } => format!(
                "take {percentage} % (within 2 percentage points) of the response's different three-character sequences from this text: \"{reference}\""
            ),
            Self::SentenceBalance => {
                "write equally many sentences that end in a full stop, in a question mark and in an exclamation mark"
                    .to_string()
            }
            Self::SentenceType => {
                "write exactly twice as many sentences that end in a full stop as sentences that end in a question mark"
                    .to_string()
            }
            Self::SentenceWords => {
                "write exactly three sentences, all with the same number of characters and with different words"
                    .to_string()
            }
            Self::StopWords(most) => {
                format!("use stop words such as \"the\", \"of\" and \"is\" for at most {most} % of all words")
            }
        }
    }
}

/// All sequences of three characters, spaces included.
fn trigrams(text: &str) -> HashSet<[char; 3]> {
    let third = text.chars().zip(text.chars().skip(1)).zip(text.chars().skip(2));
    third.map(|((a, b), c)| [a, b, c]).collect()
}

/// NLTK's English stop words, which follow the Snowball project. Those with an apostrophe are omitted, since no counted word has one.
const STOP_WORDS: &str = "a about above after again against ain all am an and any are aren as at be because been before being below \
    between both but by can couldn d did didn do does doesn doing don down during each few for from further had hadn has hasn have \
    haven having he her here hers herself him himself his how i if in into is isn it its itself just ll m ma me mightn more most \
    mustn my myself needn no nor not now o of off on once only or other our ours ourselves out over own re s same shan she should \
    shouldn so some such t than that the their theirs them themselves then there these they this those through to too under until \
    up ve very was wasn we were weren what when where which while who whom why will with won wouldn y you your yours yourself \
    yourselves";
