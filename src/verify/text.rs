//! Definitions of space, word and case, and of the equality of letters, in IFEval's reference. They differ from those of Rust and of
//! `regex`.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Whether the character is Unicode white space or one of the four ASCII separators that Python adds to it.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Removes spaces from both ends.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Whether the text consists of spaces only.
pub(super) fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// Whether the character is a letter, a number of any kind, or `_`. Combining marks are not included.
pub(super) fn is_word_char(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    matches!(
        get_general_category(c),
        Category::UppercaseLetter
            | Category::LowercaseLetter
            | Category::TitlecaseLetter
            | Category::ModifierLetter
            | Category::OtherLetter
            | Category::DecimalNumber
            | Category::LetterNumber
            | Category::OtherNumber
    )
}

/// Whether the character is a decimal digit of any script.
pub(super) fn is_digit(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { get_general_category(c) == Category::DecimalNumber }
}

/// The words of `text` as `length_constraints:number_words` counts them: maximal runs of letters, numbers and `_`, so `don't` is two words.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c| !is_word_char(c)).filter(|word| !word.is_empty())
}

/// Whether at least one character is upper-case, and none is lower-case or title-case.
pub(super) fn is_all_upper(text: &str) -> bool {
    is_all(text, char::is_uppercase, char::is_lowercase)
}

/// Whether at least one character is lower-case, and none is upper-case or title-case.
pub(super) fn is_all_lower(text: &str) -> bool {
    is_all(text, char::is_lowercase, char::is_uppercase)
}

fn is_all(text: &str, wanted: fn(char) -> bool, refused: fn(char) -> bool) -> bool {
    let is_titlecase = |c: char| !c.is_ascii() && get_general_category(c) == Category::TitlecaseLetter;
    let mut seen = false;
    for c in text.chars() {
        if wanted(c) {
            seen = true;
        } else if refused(c) || is_titlecase(c) {
            return false;
        }
    }
    seen
}

/// Maps every character to one representative of those that match it when case is ignored. This is Unicode's simple case folding, with `i`,
/// `I`, `İ` and `ı` as one letter. The number of characters stays the same.
pub(super) fn fold(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    let mut folded = String::with_capacity(text.len());
    folded.extend(text.chars().map(fold_char));
    folded
}

fn fold_char(c: char) -> char {
    match c {
        _ if c.is_ascii() => c.to_ascii_lowercase(),
        'İ' | 'ı' => 'i',
        // The upper-case forms of these pairs have several characters, so case mapping cannot find them.
        '\u{1fd3}' => '\u{390}',
        '\u{1fe3}' => '\u{3b0}',
        '\u{fb05}' => '\u{fb06}',
        // The mapping goes through upper case, because `ſ`, `ς` and `ϐ` are lower-case already.
        _ => single(single(c, c.to_uppercase()), single(c, c.to_uppercase()).to_lowercase()),
    }
}

/// The mapped character, or `c` itself if the mapping has several.
fn single(c: char, mut mapped: impl Iterator<Item = char>) -> char {
    match (mapped.next(), mapped.next()) {
        (Some(only), None) => only,
        _ => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_numbers_and_underscores() {
        for (text, expected) in [
            ("don't", 2),
            ("3.14", 2),
            ("snake_case ½", 2),
            ("हिन्दी", 3),
            ("a\u{2060}b", 2),
            ("👍🏽 ok", 1),
            ("", 0),
            ("…", 0),
        ] {
            assert_eq!(words(text).count(), expected, "{text}");
        }
    }

    #[test]
    fn folding_agrees_with_simple_case_folding() {
        // Every character that has a case is compared with an independent implementation.
        let unassigned = regex::Regex::new(r"\p{Cn}").unwrap();
        for c in ('\u{80}'..=char::MAX).filter(|&c| fold_char(c) != c && !"İı".contains(c)) {
            // The standard library may know a newer Unicode.
            if unassigned.is_match(&c.to_string()) {
                continue;
            }
            let pattern =
                regex::RegexBuilder::new(&regex::escape(&c.to_string())).case_insensitive(true).build().unwrap();
            assert!(pattern.is_match(&fold_char(c).to_string()), "{c:?} folds to {:?}", fold_char(c));
        }
        for same in ["kK\u{212a}", "sSſ", "ßẞ", "σςΣ", "iIİı", "µμΜ", "ǅǆǄ", "ﬅﬆ", "θϑΘϴ", "ᾳᾼ"]
        {
            let mut folds: Vec<char> = same.chars().map(fold_char).collect();
            folds.dedup();
            assert_eq!(folds.len(), 1, "{same}");
        }
        assert_ne!(fold("ß"), fold("ss"));
        assert_ne!(fold("é"), fold("e\u{301}"));
    }

    #[test]
    fn case_ignores_characters_without_case() {
        assert!(
            is_all_upper("A 1!")
                && is_all_upper("Ⓐ")
                && !is_all_upper("1!")
                && !is_all_upper("Aª")
                && !is_all_upper("Aǅ")
        );
        assert!(is_all_lower("a 1!") && !is_all_lower("") && !is_all_lower("aⅧ") && !is_all_lower("aǅ"));
    }
}
