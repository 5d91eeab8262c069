//! Rule checkers of two benchmarks. An instruction id and keyword arguments make a check, which gives a verdict on a response.
//!
//! The rules are the 25 instructions of IFEval, "Instruction-Following Evaluation for Large Language Models" (Zhou et al., 2023), and those
//! of IFBench in `ifbench/`, with the verdicts of their published references.

mod case;
mod combination;
mod content;
pub mod data;
mod error;
pub mod find;
mod format;
mod guide;
mod ids;
mod ifbench;
mod json;
mod keywords;
mod kwargs;
mod language;
mod length;
mod pattern;
mod punctuation;
mod room;
pub mod score;
mod sentences;
mod startend;
#[cfg(test)]
mod tests;
mod text;
mod tokens;

use serde_json::{Map, Value};

pub use error::CheckError;
pub use guide::guide;
pub use ids::{IDS, UNCHECKED};
use kwargs::Kwargs;
pub use pattern::Allowance;
pub use sentences::sentences;
pub use text::words;

/// An instruction that can be checked by a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// The instruction id, such as `punctuation:no_comma`.
    pub id: String,
    /// The keyword arguments, without nulls. The verdict depends on their values at the time the check was made.
    pub kwargs: Map<String, Value>,
    rule: Rule,
}

impl Check {
    /// Checks the id and the keyword arguments. Nulls count as absent.
    ///
    /// # Errors
    /// Names the id, the argument and what it must be, if an argument is missing, has the wrong type, is out of range or is unknown.
    pub fn new(id: &str, kwargs: Map<String, Value>) -> Result<Self, CheckError> {
        Self::within(id, kwargs, &mut Allowance::default())
    }

    /// Makes a check like [`Check::new`], as one of several whose patterns share an `allowance`.
    ///
    /// # Errors
    /// Fails like [`Check::new`], and if the allowance is used up.
    pub fn within(id: &str, mut kwargs: Map<String, Value>, allowance: &mut Allowance) -> Result<Self, CheckError> {
        kwargs.retain(|_, value| !value.is_null());
        let mut reader = Kwargs::new(id, &kwargs, allowance);
        let rule = Rule::read(id, &mut reader)?;
        reader.finish()?;
        Ok(Self { id: id.to_string(), kwargs, rule })
    }

    /// The benchmarks' strict verdict: the response is not blank and follows the instruction.
    pub fn strict(&self, response: &str) -> bool {
        !text::is_blank(response) && self.rule.accepts(response)
    }

    /// The benchmarks' loose verdict: the response follows the instruction as it is, or without its first line, its last line, both, or
    /// asterisks.
    pub fn loose(&self, response: &str) -> bool {
        if self.strict(response) {
            return true;
        }
        let has_stars = response.contains('*');
        let either = |text: &str| self.strict(text) || has_stars && self.strict(&text.replace('*', ""));
        if has_stars && self.strict(&response.replace('*', "")) {
            return true;
        }
        // A response of one line is empty without it.
        let (Some((_, tail)), Some((head, _))) = (response.split_once('\n'), response.rsplit_once('\n')) else {
            return false;
        };
        let middle = tail.rsplit_once('\n').map_or("", |(middle, _)| middle);
        [tail, head, middle].into_iter().any(|lines| either(text::trim(lines)))
    }

    /// Describes the requirement as one clause: `use at least 12 words`.
    pub fn describe(&self) -> String {
        self.rule.describe()
    }
}

/// A rule; each variant has its own file.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Keywords(keywords::Rule),
    Language(language::Rule),
    Length(length::Rule),
    Content(content::Rule),
    Format(format::Rule),
    Combination(combination::Rule),
    StartEnd(startend::Rule),
    Case(case::Rule),
    NoComma,
    IfBench(ifbench::Rule),
}

impl Rule {
    /// Reads the rule with this id.
    fn read(id: &str, kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(match id {
            "keywords:existence" => Self::Keywords(keywords::Rule::existence(kwargs)?),
            "keywords:frequency" => Self::Keywords(keywords::Rule::frequency(kwargs)?),
            "keywords:forbidden_words" => Self::Keywords(keywords::Rule::forbidden_words(kwargs)?),
            "keywords:letter_frequency" => Self::Keywords(keywords::Rule::letter_frequency(kwargs)?),
            "language:response_language" => Self::Language(language::Rule::response_language(kwargs)?),
            "length_constraints:number_sentences" => Self::Length(length::Rule::number_sentences(kwargs)?),
            "length_constraints:number_paragraphs" => Self::Length(length::Rule::number_paragraphs(kwargs)?),
            "length_constraints:number_words" => Self::Length(length::Rule::number_words(kwargs)?),
            "length_constraints:nth_paragraph_first_word" => {
                Self::Length(length::Rule::nth_paragraph_first_word(kwargs)?)
            }
            "detectable_content:number_placeholders" => Self::Content(content::Rule::number_placeholders(kwargs)?),
            "detectable_content:postscript" => Self::Content(content::Rule::postscript(kwargs)?),
            "detectable_format:number_bullet_lists" => Self::Format(format::Rule::number_bullet_lists(kwargs)?),
            "detectable_format:constrained_response" => Self::Format(format::Rule::Constrained),
            "detectable_format:number_highlighted_sections" => {
                Self::Format(format::Rule::number_highlighted_sections(kwargs)?)
            }
            "detectable_format:multiple_sections" => Self::Format(format::Rule::multiple_sections(kwargs)?),
            "detectable_format:json_format" => Self::Format(format::Rule::Json),
            "detectable_format:title" => Self::Format(format::Rule::Title),
            "combination:two_responses" => Self::Combination(combination::Rule::TwoResponses),
            "combination:repeat_prompt" => Self::Combination(combination::Rule::repeat_prompt(kwargs)?),
            "startend:end_checker" => Self::StartEnd(startend::Rule::end_checker(kwargs)?),
            "startend:quotation" => Self::StartEnd(startend::Rule::Quotation),
            "change_case:capital_word_frequency" => Self::Case(case::Rule::capital_word_frequency(kwargs)?),
            "change_case:english_capital" => Self::Case(case::Rule::EnglishCapital),
            "change_case:english_lowercase" => Self::Case(case::Rule::EnglishLowercase),
            "punctuation:no_comma" => Self::NoComma,
            _ => Self::IfBench(ifbench::Rule::read(id, kwargs)?.ok_or_else(|| ids::unknown(id))?),
        })
    }

    /// Whether the response follows the rule. It is never called with a blank response.
    fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Keywords(rule) => rule.accepts(response),
            Self::Language(rule) => rule.accepts(response),
            Self::Length(rule) => rule.accepts(response),
            Self::Content(rule) => rule.accepts(response),
            Self::Format(rule) => rule.accepts(response),
            Self::Combination(rule) => rule.accepts(response),
            Self::StartEnd(rule) => rule.accepts(response),
            Self::Case(rule) => rule.accepts(response),
            Self::NoComma => punctuation::has_no_comma(response),
            Self::IfBench(rule) => rule.accepts(response),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Keywords(rule) => rule.describe(),
            Self::Language(rule) => rule.describe(),
            Self::Length(rule) => rule.describe(),
            Self::Content(rule) => rule.describe(),
            Self::Format(rule) => rule.describe(),
            Self::Combination(rule) => rule.describe(),
            Self::StartEnd(rule) => rule.describe(),
            Self::Case(rule) => rule.describe(),
            Self::NoComma => "use no commas".to_string(),
            Self::IfBench(rule) => rule.describe(),
        }
    }
}
