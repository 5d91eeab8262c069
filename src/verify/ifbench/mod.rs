//! The 58 instructions of IFBench ("Generalizing Verifiable Instruction Following", Pyatkin et al., 2025), with the verdicts of its
//! reference. These are often more lenient than the prompts, or differ from them.

mod count;
mod csv;
mod custom;
mod dates;
mod format;
mod layout;
mod nesting;
mod options;
mod questions;
mod ratio;
mod repeat;
mod sentence;
mod sentences;
mod syllables;
#[cfg(test)]
mod tests;
mod text;
mod words;

use super::CheckError;
use super::kwargs::Kwargs;

/// A rule; each variant has its own file.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Count(count::Rule),
    Custom(custom::Rule),
    Format(format::Rule),
    Ratio(ratio::Rule),
    Repeat(repeat::Rule),
    Sentence(sentence::Rule),
    Words(words::Rule),
}

impl Rule {
    /// Reads a rule by its id; `None` for ids that are not in IFBench.
    pub(super) fn read(id: &str, kwargs: &mut Kwargs<'_>) -> Result<Option<Self>, CheckError> {
        Ok(Some(match id {
            "count:conjunctions" => Self::Count(count::Rule::conjunctions(kwargs)?),
            "count:keywords_multiple" => Self::Count(count::Rule::keywords_multiple(kwargs)?),
            "count:numbers" => Self::Count(count::Rule::numbers(kwargs)?),
            "count:person_names" => Self::Count(count::Rule::person_names(kwargs)?),
            "count:pronouns" => Self::Count(count::Rule::pronouns(kwargs)?),
            "count:punctuation" => Self::Count(count::Rule::Punctuation),
            "count:unique_word_count" => Self::Count(count::Rule::unique_word_count(kwargs)?),
            "count:word_count_range" => Self::Count(count::Rule::word_count_range(kwargs)?),
            "count:words_japanese" => Self::Count(count::Rule::words_japanese(kwargs)?),
            "custom:character_reverse" => custom(custom::Rule::CharacterReverse, kwargs),
            "custom:csv_city" => custom(custom::Rule::CsvCity, kwargs),
            "custom:csv_quotes" => custom(custom::Rule::CsvQuotes, kwargs),
            "custom:csv_special_character" => custom(custom::Rule::CsvSpecialCharacter, kwargs),
            "custom:date_format_list" => custom(custom::Rule::DateFormatList, kwargs),
            "custom:european_capitals_sort" => custom(custom::Rule::EuropeanCapitalsSort, kwargs),
            "custom:mcq_count_length" => custom(custom::Rule::McqCountLength, kwargs),
            "custom:multiples" => custom(custom::Rule::Multiples, kwargs),
            "custom:reverse_newline" => custom(custom::Rule::ReverseNewline, kwargs),
            "custom:sentence_alphabet" => custom(custom::Rule::SentenceAlphabet, kwargs),
            "custom:word_reverse" => custom(custom::Rule::WordReverse, kwargs),
            "format:emoji" => Self::Format(format::Rule::Emoji),
            "format:line_indent" => Self::Format(format::Rule::LineIndent),
            "format:list" => Self::Format(format::Rule::list(kwargs)?),
            "format:newline" => Self::Format(format::Rule::Newline),
            "format:no_bullets_bullets" => Self::Format(format::Rule::NoBulletsBullets),
            "format:no_whitespace" => Self::Format(format::Rule::NoWhitespace),
            "format:options" => Self::Format(format::Rule::options(kwargs)?),
            "format:output_template" => Self::Format(format::Rule::OutputTemplate),
            "format:parentheses" => Self::Format(format::Rule::Parentheses),
            "format:quote_unquote" => Self::Format(format::Rule::QuoteUnquote),
            "format:quotes" => Self::Format(format::Rule::Quotes),
            "format:sub-bullets" => Self::Format(format::Rule::SubBullets),
            "format:thesis" => Self::Format(format::Rule::Thesis),
            "format:title_case" => Self::Format(format::Rule::TitleCase),
            "ratio:overlap" => Self::Ratio(ratio::Rule::overlap(kwargs)?),
            "ratio:sentence_balance" => Self::Ratio(ratio::Rule::SentenceBalance),
            "ratio:sentence_type" => Self::Ratio(ratio::Rule::SentenceType),
            "ratio:sentence_words" => Self::Ratio(ratio::Rule::SentenceWords),
            "ratio:stop_words" => Self::Ratio(ratio::Rule::stop_words(kwargs)?),
            "repeat:repeat_change" => Self::Repeat(repeat::Rule::repeat_change(kwargs)?),
            "repeat:repeat_simple" => Self::Repeat(repeat::Rule::Simple),
            "repeat:repeat_span" => Self::Repeat(repeat::Rule::repeat_span(kwargs)?),
            "sentence:alliteration_increment" => Self::Sentence(sentence::Rule::AlliterationIncrement),
            "sentence:increment" => Self::Sentence(sentence::Rule::increment(kwargs)?),
            "sentence:keyword" => Self::Sentence(sentence::Rule::keyword(kwargs)?),
            "words:alphabet" => Self::Words(words::Rule::Alphabet),
            "words:consonants" => Self::Words(words::Rule::Consonants),
            "words:keywords_specific_position" => Self::Words(words::Rule::keywords_specific_position(kwargs)?),
            "words:last_first" => Self::Words(words::Rule::LastFirst),
            "words:no_consecutive" => Self::Words(words::Rule::NoConsecutive),
            "words:odd_even_syllables" => Self::Words(words::Rule::OddEvenSyllables),
            "words:palindrome" => Self::Words(words::Rule::Palindromes),
            "words:paragraph_last_first" => Self::Words(words::Rule::ParagraphLastFirst),
            "words:prime_lengths" => Self::Words(words::Rule::PrimeLengths),
            "words:repeats" => Self::Words(words::Rule::repeats(kwargs)?),
            "words:vowel" => Self::Words(words::Rule::Vowels),
            "words:words_position" => Self::Words(words::Rule::words_position(kwargs)?),
            _ => return Ok(None),
        }))
    }

    /// Whether the response follows the rule. It is never called with a blank response.
    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Count(rule) => rule.accepts(response),
            Self::Custom(rule) => rule.accepts(response),
            Self::Format(rule) => rule.accepts(response),
            Self::Ratio(rule) => rule.accepts(response),
            Self::Repeat(rule) => rule.accepts(response),
            Self::Sentence(rule) => rule.accepts(response),
            Self::Words(rule) => rule.accepts(response),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Count(rule) => rule.describe(),
            Self::Custom(rule) => rule.describe(),
            Self::Format(rule) => rule.describe(),
            Self::Ratio(rule) => rule.describe(),
            Self::Repeat(rule) => rule.describe(),
            Self::Sentence(rule) => rule.describe(),
            Self::Words(rule) => rule.describe(),
        }
    }
}

/// Makes a custom rule. Only these rules accept any arguments, since the reference ignores them.
fn custom(rule: custom::Rule, kwargs: &mut Kwargs<'_>) -> Rule {
    kwargs.allow_others();
    Rule::Custom(rule)
}
