//! Arguments that IFEval's reference reads as regular expressions. Almost all are plain text and are searched for as such.

use regex::{Regex, RegexBuilder};

use super::text::{fold, is_word_char};

/// The maximum number of characters in a pattern.
const CHARACTERS: usize = 1_000;
/// The maximum size of a compiled expression in bytes, and of the tables that grow during a search.
const COMPILED_BYTES: usize = 256 << 10;
/// The maximum number of patterns over all checks of a request.
const PATTERNS: usize = 1_024;
/// The maximum number of these patterns that may be regular expressions.
const EXPRESSIONS: usize = 64;

/// How many more patterns may be made. Clients provide them, and each is searched for in every response.
#[derive(Clone, Debug)]
pub struct Allowance {
    patterns: usize,
    expressions: usize,
}

impl Default for Allowance {
    /// The allowance for all checks of one request.
    fn default() -> Self {
        Self { patterns: PATTERNS, expressions: EXPRESSIONS }
    }
}

/// Why a text cannot be a pattern whose search is cheap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PatternError {
    #[error("must have at most {CHARACTERS} characters")]
    Length,
    #[error("is an expression that takes more than {COMPILED_BYTES} bytes; use shorter repetitions")]
    Size,
    #[error("is one too many: the checks of a request may have {PATTERNS} patterns")]
    Patterns,
    #[error("is one too many: the checks of a request may have {EXPRESSIONS} patterns with special characters")]
    Expressions,
}

/// A pattern. If it ignores case, it is compared with folded text.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    /// Text without special characters, or with special characters that make no valid expression, such as `C++`.
    Literal(String),
    /// Any other expression.
    Expression(Regex),
}

impl Pattern {
    /// A pattern of `text` that is case-sensitive.
    pub(super) fn exact(text: &str, allowance: &mut Allowance) -> Result<Self, PatternError> {
        let expression = expression(text, text, Case::Exact, allowance)?;
        Ok(expression.map_or_else(|| Self::Literal(text.to_string()), Self::Expression))
    }

    /// A pattern of `text` that ignores case. It is applied to a [`Folded`] text.
    pub(super) fn any_case(text: &str, allowance: &mut Allowance) -> Result<Self, PatternError> {
        let expression = expression(text, text, Case::Ignored, allowance)?;
        Ok(expression.map_or_else(|| Self::Literal(fold(text)), Self::Expression))
    }

    /// A pattern of `text` that ignores case, with a word boundary on both sides. It is applied to a [`Folded`] text with
    /// [`Pattern::is_whole_in`].
    pub(super) fn whole_word(text: &str, allowance: &mut Allowance) -> Result<Self, PatternError> {
        let expression = expression(text, &format!(r"\b{text}\b"), Case::Ignored, allowance)?;
        Ok(expression.map_or_else(|| Self::Literal(fold(text)), Self::Expression))
    }

    /// Whether the pattern occurs anywhere.
    pub(super) fn is_in(&self, text: &Folded<'_>) -> bool {
        match self {
            Self::Literal(literal) => text.folded.contains(literal.as_str()),
            Self::Expression(regex) => regex.is_match(text.original),
        }
    }

    /// Counts occurrences from left to right that do not overlap.
    pub(super) fn count_in(&self, text: &Folded<'_>) -> usize {
        match self {
            Self::Literal(literal) => text.folded.matches(literal.as_str()).count(),
            Self::Expression(regex) => regex.find_iter(text.original).count(),
        }
    }

    /// Whether a [`Pattern::whole_word`] occurs.
    pub(super) fn is_whole_in(&self, text: &Folded<'_>) -> bool {
        match self {
            Self::Literal(literal) => has_whole(&text.folded, literal),
            Self::Expression(regex) => regex.is_match(text.original),
        }
    }

    /// The end of the first occurrence in `text` at `from` or later, and where to continue the search if it does not count.
    pub(super) fn find_at(&self, text: &str, from: usize) -> Option<(usize, usize)> {
        let (start, end) = match self {
            // An expression may have matched the empty text at the very end.
            _ if from > text.len() => return None,
            Self::Literal(literal) => {
                let start = from + text[from..].find(literal.as_str())?;
                (start, start + literal.len())
            }
            Self::Expression(regex) => {
                let found = regex.find_at(text, from)?;
                (found.start(), found.end())
            }
        };
        let retry = start + text[start..].chars().next().map_or(1, char::len_utf8);
        Some((end, retry))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(a), Self::Literal(b)) => a == b,
            (Self::Expression(a), Self::Expression(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

/// A text and its folded form, which is made once for all patterns.
pub(super) struct Folded<'a> {
    original: &'a str,
    folded: String,
}

impl<'a> Folded<'a> {
    pub(super) fn new(original: &'a str) -> Self {
        Self { original, folded: fold(original) }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Case {
    Exact,
    Ignored,
}

/// Compiles `full` if `text` has special characters and is a valid expression.
fn expression(text: &str, full: &str, case: Case, allowance: &mut Allowance) -> Result<Option<Regex>, PatternError> {
    if text.chars().nth(CHARACTERS).is_some() {
        return Err(PatternError::Length);
    }
    allowance.patterns = allowance.patterns.checked_sub(1).ok_or(PatternError::Patterns)?;
    if !text.contains(['.', '^', '$', '*', '+', '?', '{', '}', '[', ']', '\\', '|', '(', ')']) {
        return Ok(None);
    }
    allowance.expressions = allowance.expressions.checked_sub(1).ok_or(PatternError::Expressions)?;
    let mut builder = RegexBuilder::new(full);
    builder.case_insensitive(case == Case::Ignored).size_limit(COMPILED_BYTES).dfa_size_limit(COMPILED_BYTES);
    match builder.build() {
        Ok(regex) => Ok(Some(regex)),
        Err(regex::Error::CompiledTooBig(_)) => Err(PatternError::Size),
        Err(_) => Ok(None),
    }
}

/// Whether `needle` occurs with a word boundary at both edges, which means that one neighbour is a word character and the other is not.
fn has_whole(text: &str, needle: &str) -> bool {
    let is_word = |c: Option<char>| c.is_some_and(is_word_char);
    let (first, last) = (is_word(needle.chars().next()), is_word(needle.chars().next_back()));
    let mut from = 0;
    while let Some(found) = text[from..].find(needle) {
        let start = from + found;
        let end = start + needle.len();
        let (before, after) = (is_word(text[..start].chars().next_back()), is_word(text[end..].chars().next()));
        if before != first && after != last {
            return true;
        }
        from = start + text[start..].chars().next().map_or(1, char::len_utf8);
    }
    false
}
