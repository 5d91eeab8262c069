//! Splits text like IFBench's reference: words between spaces, ASCII punctuation, runs of digits.

use crate::verify::text::{is_digit, is_space};

/// Maximal runs of characters that are not spaces.
pub(super) fn words(text: &str) -> impl DoubleEndedIterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

/// Removes ASCII punctuation: `well-known` becomes `wellknown`, and a lone `-` vanishes.
pub(super) fn without_punctuation(text: &str) -> String {
    text.replace(|c: char| c.is_ascii_punctuation(), "")
}

/// Whether the character is removed from the ends of words, which are ASCII punctuation and U+0020.
pub(super) fn is_edge(c: char) -> bool {
    c.is_ascii_punctuation() || c == ' '
}

/// Removes ASCII punctuation and U+0020 from both ends.
pub(super) fn bare(text: &str) -> &str {
    text.trim_matches(is_edge)
}

/// Maximal runs of decimal digits.
pub(super) fn numbers(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_digit(c)).filter(|number| !number.is_empty())
}

/// The first character in lower case, which may be two characters.
pub(super) fn lowered_first(word: &str) -> String {
    word.chars().take(1).flat_map(char::to_lowercase).collect()
}

/// Whether `fits` holds for every two neighbouring items.
pub(super) fn all_neighbours<T>(items: &[T], fits: impl Fn(&T, &T) -> bool) -> bool {
    items.windows(2).all(|pair| fits(&pair[0], &pair[1]))
}

/// Whether the character is a digit for Python's `isdigit`: a decimal one, a superscript, a subscript, or one in a circle or similar.
pub(super) fn is_wide_digit(c: char) -> bool {
    is_digit(c)
        || matches!(
            c,
            '\u{b2}' | '\u{b3}' | '\u{b9}' | '\u{1369}'..='\u{1371}' | '\u{19da}' | '\u{2070}' | '\u{2074}'..='\u{2079}'
                | '\u{2080}'..='\u{2089}' | '\u{2460}'..='\u{2468}' | '\u{2474}'..='\u{247c}' | '\u{2488}'..='\u{2490}'
                | '\u{24ea}' | '\u{24f5}'..='\u{24fd}' | '\u{24ff}' | '\u{2776}'..='\u{277e}' | '\u{2780}'..='\u{2788}'
                | '\u{278a}'..='\u{2792}' | '\u{10a40}'..='\u{10a43}' | '\u{10e60}'..='\u{10e68}' | '\u{11052}'..='\u{1105a}'
                | '\u{1f100}'..='\u{1f10a}'
        )
}
