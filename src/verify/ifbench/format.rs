//! The rules of `format:` about the layout and the marks of a response.

use std::sync::LazyLock;

use regex::Regex;

use super::layout::{has_bullets_after_text, has_rising_indents};
use super::nesting::{has_deep_brackets, has_deep_quotes, has_text_after_quotes};
use super::options::Options;
use super::sentences::sentences;
use super::text::{without_punctuation, words};
use crate::verify::CheckError;
use crate::verify::kwargs::Kwargs;
use crate::verify::text::{is_all_lower, is_all_upper, is_blank, is_space, trim};
use crate::verify::tokens::tokens;

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) enum Rule {
    Emoji,
    LineIndent,
    /// The marker of list items.
    List(String),
    Newline,
    NoBulletsBullets,
    NoWhitespace,
    Options(Options),
    OutputTemplate,
    Parentheses,
    QuoteUnquote,
    Quotes,
    SubBullets,
    Thesis,
    TitleCase,
}

impl Rule {
    pub(super) fn list(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::List(kwargs.text("sep")?))
    }

    pub(super) fn options(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Options(Options::read(&kwargs.text("options")?)))
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Emoji => has_emoji_after_sentences(response),
            Self::LineIndent => has_rising_indents(response),
            Self::List(separator) => response.matches(separator.as_str()).count() >= 2,
            Self::Newline => {
                let text = without_punctuation(response);
                trim(&text).split('\n').filter(|line| !line.is_empty()).count() == words(&text).count()
            }
            Self::NoBulletsBullets => has_bullets_after_text(response),
            Self::NoWhitespace => !response.contains(is_space),
            Self::Options(options) => options.include(response),
            Self::OutputTemplate => TEMPLATE.iter().all(|part| response.contains(part)),
            Self::Parentheses => has_deep_brackets(response),
            Self::QuoteUnquote => has_text_after_quotes(response),
            Self::Quotes => has_deep_quotes(response),
            Self::SubBullets => response.split('*').skip(1).all(|bullet| bullet.contains('-')),
            Self::Thesis => has_thesis(response),
            Self::TitleCase => tokens(response).iter().all(|token| is_title_case(token)),
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Emoji => "end every sentence with an emoji".to_string(),
            Self::LineIndent => "indent every line by more spaces than the line before it".to_string(),
            Self::List(separator) => format!("write a list whose items are marked with {separator}"),
            Self::Newline => "write every word on a line of its own".to_string(),
            Self::NoBulletsBullets => {
                "write at least two sentences and then at least two bullet points that start with *, without empty lines".to_string()
            }
            Self::NoWhitespace => "write without spaces or line breaks".to_string(),
            Self::Options(options) => options.describe(),
            Self::OutputTemplate => format!("use this template: {}", TEMPLATE.map(|part| format!("{part} […]")).join(" ")),
            Self::Parentheses => "nest parentheses, brackets and braces at least five levels deep".to_string(),
            Self::QuoteUnquote => "follow every quotation with an explanation of it outside of the quotation marks".to_string(),
            Self::Quotes => {
                "nest quotations at least three levels deep, with \" and ' in turn".to_string()
            }
            Self::SubBullets => {
                "use bullet points that start with * and put at least one sub-bullet that starts with - under each".to_string()
            }
            Self::Thesis => "begin with a thesis statement between <i> and </i>, and write the text after it".to_string(),
            Self::TitleCase => "write everything in title case, with a capital at the start of every word".to_string(),
        }
    }
}

const TEMPLATE: [&str; 3] = ["My Answer:", "My Conclusion:", "Future Outlook:"];

/// Whether each sentence ends with an emoji, or the next one starts with it, since a mark before an emoji ends the sentence.
fn has_emoji_after_sentences(response: &str) -> bool {
    let sentences: Vec<String> = sentences(response).iter().map(|sentence| without_punctuation(sentence)).collect();
    sentences.iter().enumerate().all(|(i, sentence)| {
        let text = trim(sentence);
        // A variation selector or a joined character may follow the emoji.
        let at_end = text.chars().rev().take(2).any(is_emoji);
        let follows = || sentences.get(i + 1).and_then(|next| trim(next).chars().next()).is_some_and(is_emoji);
        !text.is_empty() && (at_end || follows())
    })
}

/// Whether the character is an emoji by itself, which digits and halves of a flag are not.
fn is_emoji(c: char) -> bool {
    static EMOJI: LazyLock<Regex> = LazyLock::new(|| {
        // The other ranges are newer than the tables of the regex crate.
        let known =
            r"[\p{Emoji}\x{1F6D8}\x{1FA8A}\x{1FA8E}\x{1FAC8}\x{1FACD}\x{1FAEA}\x{1FAEF}--[0-9#*\x{1F1E6}-\x{1F1FF}]]";
        Regex::new(known).expect("the pattern is a constant that a test compiles")
    });
    !c.is_ascii() && EMOJI.is_match(c.encode_utf8(&mut [0; 4]))
}

/// Whether there is text in italics and text after it. Either kind of tag may open and close it.
fn has_thesis(response: &str) -> bool {
    let first = |text: &str, tags: [&str; 2]| tags.into_iter().find_map(|tag| text.find(tag));
    let Some(open) = first(response, ["<i>", "<em>"]) else { return false };
    let text = &response[open..];
    let Some(close) = first(text, ["</i>", "</em>"]) else { return false };
    // The reference assumes that every tag is as short as `<i>`. With `<em>` a `>` is left, which is not blank.
    !is_blank(&text[3..close]) && !is_blank(&text[close + 4..])
}

/// Whether the token is in title case: it is neither entirely in lower case, nor in upper case except for its first letter.
fn is_title_case(token: &str) -> bool {
    let mut chars = token.chars();
    let starts_low = chars.next().is_some_and(char::is_lowercase);
    let rest = chars.as_str();
    !(starts_low && (is_all_upper(rest) || is_all_lower(rest)))
}
