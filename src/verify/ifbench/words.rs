//! The rules of `words:` about every word, or about a word at a given place.

use std::collections::{HashMap, HashSet};

use super::sentences::sentences;
use super::syllables::syllables;
use super::text::{all_neighbours, bare, is_edge, lowered_first, without_punctuation, words};
use crate::verify::CheckError;
use crate::verify::kwargs::{Kwargs, plural};
use crate::verify::text::{is_blank, trim};
use crate::verify::tokens::tokens;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    Alphabet,
    Consonants,
    LastFirst,
    NoConsecutive,
    OddEvenSyllables,
    Palindromes,
    ParagraphLastFirst,
    PrimeLengths,
    /// The maximum number of times a word may occur.
    Repeats(usize),
    Vowels,
    /// A token at a given place of a given sentence, both counted from 1.
    At {
        keyword: String,
        sentence: usize,
        place: usize,
    },
    /// The second token and the second to last.
    SecondAndLast(String),
}

impl Rule {
    pub(super) fn repeats(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Repeats(kwargs.count("small_n")?))
    }

    pub(super) fn keywords_specific_position(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let keyword = kwargs.trimmed("keyword")?;
        Ok(Self::At { keyword, sentence: kwargs.positive("n")?, place: kwargs.positive("m")? })
    }

    pub(super) fn words_position(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::SecondAndLast(kwargs.trimmed("keyword")?))
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Alphabet => follows_alphabet(response),
            Self::Consonants => words(&response.to_lowercase()).all(has_consonant_cluster),
            Self::LastFirst => all_neighbours(&sentences(response), |before, after| is_handed_on(before, after)),
            Self::NoConsecutive => {
                let text = without_punctuation(&response.to_lowercase());
                let firsts: Vec<Option<char>> = words(&text).map(|word| word.chars().next()).collect();
                all_neighbours(&firsts, |a, b| a != b)
            }
            Self::OddEvenSyllables => {
                let text = without_punctuation(response).to_lowercase();
                let counts: Vec<usize> = words(&text).map(syllables).collect();
                all_neighbours(&counts, |a, b| a % 2 != b % 2)
            }
            Self::Palindromes => {
                let text = without_punctuation(response).to_lowercase();
                words(&text).filter(|word| is_palindrome(word)).count() >= PALINDROMES
            }
            Self::ParagraphLastFirst => response.split('\n').filter(|line| !is_blank(line)).all(returns_to_its_start),
            Self::PrimeLengths => {
                words(&without_punctuation(response)).all(|word| PRIMES.contains(&word.chars().count()))
            }
            Self::Repeats(most) => {
                let text = without_punctuation(&response.to_lowercase());
                let mut counts: HashMap<&str, usize> = HashMap::new();
                words(&text).for_each(|word| *counts.entry(word).or_default() += 1);
                counts.values().all(|count| count <= most)
            }
            Self::Vowels => has_few_vowels(response),
            Self::At { keyword, sentence, place } => {
                let sentences = sentences(response);
                let sentence = sentences.get(sentence - 1).map(|sentence| tokens(sentence)).unwrap_or_default();
                sentence.get(place - 1) == Some(keyword)
            }
            Self::SecondAndLast(keyword) => {
                let tokens = tokens(response);
                tokens.len() >= 2 && tokens[1] == *keyword && tokens[tokens.len() - 2] == *keyword
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Alphabet => {
                "start each word with the letter that follows the previous word's first letter in the alphabet, with A after Z".to_string()
            }
            Self::Consonants => "use only words in which at least two consonants stand next to each other".to_string(),
            Self::LastFirst => "start each sentence with the last word of the sentence before it".to_string(),
            Self::NoConsecutive => "start no two consecutive words with the same letter".to_string(),
            Self::OddEvenSyllables => "alternate between words with an odd and an even number of syllables".to_string(),
            Self::Palindromes => {
                format!("include at least {PALINDROMES} words of at least {PALINDROME} letters that read the same backwards")
            }
            Self::ParagraphLastFirst => {
                "end each paragraph with the word that it starts with, and separate paragraphs by line breaks".to_string()
            }
            Self::PrimeLengths => "use only words whose number of letters is a prime number".to_string(),
            Self::Repeats(most) => format!("use each word at most {most} time{}", plural(*most)),
            Self::Vowels => "write a single paragraph with at most three different vowels".to_string(),
            Self::At { keyword, sentence, place } => {
                format!("use \"{keyword}\" as word {place} of sentence {sentence}")
            }
            Self::SecondAndLast(keyword) => {
                // A final mark would count as the last word.
                format!("use \"{keyword}\" as the second word and as the last but one, without a mark at the end")
            }
        }
    }
}

const PALINDROMES: usize = 10;
const PALINDROME: usize = 5;

#[rustfmt::skip]
const PRIMES: [usize; 25] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
];

/// Whether each first letter follows the previous one in the alphabet, with `a` after `z`.
fn follows_alphabet(response: &str) -> bool {
    let text = without_punctuation(response);
    let mut expected: Option<u8> = None;
    for word in words(&text) {
        let first = lowered_first(word);
        let [letter @ b'a'..=b'z'] = first.as_bytes() else { return false };
        if expected.is_some_and(|expected| expected != *letter) {
            return false;
        }
        expected = Some(if *letter == b'z' { b'a' } else { letter + 1 });
    }
    expected.is_some()
}

fn has_consonant_cluster(word: &str) -> bool {
    let is_consonant = |byte: &u8| byte.is_ascii_lowercase() && !b"aeiou".contains(byte);
    word.as_bytes().windows(2).any(|pair| pair.iter().all(is_consonant))
}

/// Whether the last word of `before` is the first of `after`. A sentence that consists of marks has neither.
fn is_handed_on(before: &str, after: &str) -> bool {
    let last = words(before.trim_end_matches(is_edge)).next_back();
    let first = words(after.trim_start_matches(is_edge)).next();
    matches!((last, first), (Some(last), Some(first)) if last.to_lowercase() == first.to_lowercase())
}

fn is_palindrome(word: &str) -> bool {
    word.chars().count() >= PALINDROME && word.chars().eq(word.chars().rev())
}

fn returns_to_its_start(line: &str) -> bool {
    let line = trim(line).to_lowercase();
    let mut words = words(bare(&line));
    // A line of a single word ends with the word it starts with.
    words.next().is_some_and(|first| words.next_back().is_none_or(|last| first == last))
}

/// Whether the response is one line with at most three of the vowels a, e, i, o and u.
fn has_few_vowels(response: &str) -> bool {
    let text = trim(response);
    if text.contains('\n') {
        return false;
    }
    let vowels: HashSet<char> = text.to_lowercase().chars().filter(|c| "aeiou".contains(*c)).collect();
    vowels.len() <= 3
}
