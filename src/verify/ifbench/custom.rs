//! The rules of `custom:`, each of which belongs to a single prompt.

use unicode_normalization_alignments::UnicodeNormalization;

use super::csv;
use super::dates::is_date_list;
use super::questions::are_four_growing_questions;
use super::sentences::sentences;
use super::text::{bare, numbers, without_punctuation, words};
use crate::verify::text::{is_blank, trim};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    CharacterReverse,
    CsvCity,
    CsvQuotes,
    CsvSpecialCharacter,
    DateFormatList,
    EuropeanCapitalsSort,
    McqCountLength,
    Multiples,
    ReverseNewline,
    SentenceAlphabet,
    WordReverse,
}

impl Rule {
    pub(super) fn accepts(self, response: &str) -> bool {
        match self {
            Self::CharacterReverse => response.to_lowercase().contains("elgae dlab"),
            Self::CsvCity => csv::is_city_table(response),
            Self::CsvQuotes => csv::is_quoted_table(response),
            Self::CsvSpecialCharacter => csv::is_table_with_special_character(response),
            Self::DateFormatList => is_date_list(response),
            Self::EuropeanCapitalsSort => {
                let text = ascii(response);
                text.split(',').filter(|piece| !is_blank(piece)).map(trim).eq(CAPITALS.split_ascii_whitespace())
            }
            Self::McqCountLength => are_four_growing_questions(response),
            Self::Multiples => numbers(response).eq(["14", "21", "28", "35", "42", "49"]),
            Self::ReverseNewline => is_country_list(response),
            Self::SentenceAlphabet => {
                let sentences = sentences(response);
                let starts_with = |(sentence, letter): (&String, char)| {
                    words(sentence).next().is_some_and(|word| word.to_lowercase().starts_with(letter))
                };
                sentences.len() == 26 && sentences.iter().zip('a'..='z').all(starts_with)
            }
            Self::WordReverse => {
                let text = without_punctuation(&response.to_lowercase());
                words(&text).rev().collect::<Vec<_>>().join(" ").contains("bald eagle")
            }
        }
    }

    pub(super) fn describe(self) -> String {
        match self {
            Self::CharacterReverse => "write the answer backwards, letter by letter, and name the animal".to_string(),
            Self::CsvCity => {
                "write only CSV with commas: the header ID,Country,City,Year,Count and seven rows of five fields"
                    .to_string()
            }
            Self::CsvQuotes => {
                "write only CSV with tabs: a header of StudentID, Subject, Grade, Semester and Score and three \
                rows of five fields, every field in double quotes"
                    .to_string()
            }
            Self::CsvSpecialCharacter => {
                "write only CSV with commas: the header ProductID,Category,Brand,Price,Stock and 14 rows \
                of five fields, one of which holds a special character and stands in double quotes"
                    .to_string()
            }
            Self::DateFormatList => {
                "write only dates in the form YYYY-MM-DD, from 1769 to 1821, separated by commas".to_string()
            }
            Self::EuropeanCapitalsSort => {
                "write only the names of the European capitals north of 45 degrees, from north to \
                south, separated by commas, without a mark at the end"
                    .to_string()
            }
            Self::McqCountLength => {
                "write four questions that start with \"Question\" and a number, each with five options \
                marked A to E on lines of their own, and each question longer than the one before it"
                    .to_string()
            }
            Self::Multiples => "print only the multiples of 7 between 10 and 50, and no other number".to_string(),
            Self::ReverseNewline => {
                "list the countries of Africa in reverse alphabetical order, each on a line of its own".to_string()
            }
            Self::SentenceAlphabet => {
                "write exactly 26 sentences whose first words start with the letters from A to Z in order".to_string()
            }
            Self::WordReverse => "write the answer with its words in reverse order, and name the animal".to_string(),
        }
    }
}

const CAPITALS: &str = "Reykjavik Helsinki Oslo Tallinn Stockholm Riga Moscow Copenhagen Vilnius Minsk Dublin Berlin Amsterdam \
    Warsaw London Brussels Prague Luxembourg Paris Vienna Bratislava Budapest Vaduz Chisinau Bern Ljubljana Zagreb";

/// The ASCII characters of `text` in compatibility decomposition: `é` becomes `e`, and `ø` vanishes.
fn ascii(text: &str) -> String {
    text.nfkd().map(|(c, _)| c).filter(char::is_ascii).collect()
}

/// Whether the response has at least 52 lines in reverse alphabetical order, from Zimbabwe on.
fn is_country_list(response: &str) -> bool {
    let lines = response.split('\n').map(bare).filter(|line| !line.is_empty());
    let names: Vec<String> = lines.skip_while(|line| !line.contains("Zimbabwe")).map(ascii).collect();
    names.len() >= 52 && names.is_sorted_by(|a, b| a >= b)
}
