//! Counts syllables like the syllapy library: with its dictionary, and with a rule for words that it does not contain.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::verify::text::is_digit;

/// Words and their number of syllables, from syllapy 0.8.0. Its MIT licence is next to the data.
static DICTIONARY: LazyLock<HashMap<&str, usize>> = LazyLock::new(|| {
    let entry = |line: &'static str| {
        let (word, syllables) = line.rsplit_once(',')?;
        Some((word, syllables.parse().ok()?))
    };
    include_str!("data/syllables.csv").lines().filter_map(entry).collect()
});

/// The number of syllables of a lower-case word without punctuation. A word with a digit has none.
pub(super) fn syllables(word: &str) -> usize {
    if word.contains(is_digit) {
        return 0;
    }
    DICTIONARY.get(word).copied().unwrap_or_else(|| by_rule(word))
}

/// Counts groups of vowels, without a final silent e, but at least one.
fn by_rule(word: &str) -> usize {
    let is_vowel = |c: char| "aeiouy".contains(c);
    let mut count = 0;
    let mut after_vowel = false;
    for c in word.chars() {
        count += usize::from(is_vowel(c) && !after_vowel);
        after_vowel = is_vowel(c);
    }
    let has_spoken_ending =
        word.strip_suffix("le").and_then(|stem| stem.chars().next_back()).is_some_and(|c| !is_vowel(c));
    if word.ends_with('e') && !has_spoken_ending {
        count = count.saturating_sub(1);
    }
    count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dictionary_comes_before_the_rule() {
        assert!(DICTIONARY.len() > 6_000);
        for (word, expected) in [
            ("ability", 4),
            ("abandon", 3),
            ("brindle", 2),
            ("scale", 1),
            ("zzz", 1),
            ("the2nd", 0),
            ("東京", 1),
            ("é", 1),
            ("queueing", 1),
        ] {
            assert_eq!(syllables(word), expected, "{word}");
        }
    }
}
