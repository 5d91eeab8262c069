//! Reads numbers as people write them: digits, words and dozens.

use super::pattern::pattern;

/// Matches a whole number in digits or words, without a capture group.
pub(super) const NUMBER: &str = concat!(
    r"(?:\d{1,3}(?:,\d{3})+|\d{1,6}",
    r"|(?:half a|a|one|two|three|four|five|six|seven|eight|nine|ten)?\s?\bdozen",
    r"|(?:(?:a|one|two|three|four|five|six|seven|eight|nine|ten|twelve|fifteen) (?:hundred|thousand))(?:(?: and)? (?:",
    r"(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?|ten))?",
    r"|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|six|seven|eight|nine))?",
    r"|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen",
    r"|zero|one|two|three|four|five|six|seven|eight|nine|a single|single)",
);

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];

pattern!(SEPARATORS, [r"[\s-]+"]);

/// The value of a text that [`NUMBER`] matched.
pub(super) fn value(text: &str) -> Option<usize> {
    let text = text.trim();
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return text.replace(',', "").parse().ok();
    }
    let mut sum = 0;
    let mut half = false;
    for word in SEPARATORS.split(text) {
        match word {
            "a" | "and" | "" => {}
            "single" => sum = 1,
            "half" => half = true,
            "dozen" => sum = if half { 6 } else { 12 * sum.max(1) },
            "hundred" => sum = 100 * sum.max(1),
            "thousand" => sum = 1000 * sum.max(1),
            _ => sum += small(word)?,
        }
    }
    Some(sum)
}

fn small(word: &str) -> Option<usize> {
    let ten = || TENS.iter().position(|ten| !ten.is_empty() && *ten == word).map(|ten| 10 * ten);
    SMALL.iter().position(|small| *small == word).or_else(ten)
}

/// The value of `first`, `2nd`, `third` or `last`; the last is number `count`.
pub(super) fn ordinal(text: &str, count: usize) -> Option<usize> {
    const WORDS: [&str; 10] =
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
    match text {
        "last" | "final" => Some(count),
        _ => WORDS.iter().position(|word| *word == text).map(|at| at + 1).or_else(|| {
            let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
            value(if digits.is_empty() { text } else { digits })
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use regex::Regex;

    #[test]
    fn numbers_have_their_values() {
        let whole = Regex::new(&format!("^{NUMBER}$")).unwrap();
        for (text, expected) in [
            ("0", 0),
            ("12", 12),
            ("1,200", 1200),
            ("three", 3),
            ("a dozen", 12),
            ("two dozen", 24),
            ("half a dozen", 6),
            ("a hundred", 100),
            ("one hundred and fifty", 150),
            ("two thousand", 2000),
            ("twenty-five", 25),
            ("ninety", 90),
            ("seventeen", 17),
            ("a single", 1),
        ] {
            assert!(whole.is_match(text), "{text}");
            assert_eq!(value(text), Some(expected), "{text}");
        }
        for (text, expected) in [("first", 1), ("2nd", 2), ("last", 7), ("4", 4), ("two", 2)] {
            assert_eq!(ordinal(text, 7), Some(expected), "{text}");
        }
    }
}
