//! Marks in a text that format rules count: bullets, highlights, placeholders and headings.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

static BULLET: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[ \t]*(?:\*[ \t]|-[ \t]?)[^\n]*\n?"));
static NUMBERED: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?m)^[ \t]*\d+[.)][ \t]+"));
static HIGHLIGHT: LazyLock<Regex> = LazyLock::new(|| pattern(r"\*\*?[^*\n]+\*\*?"));
static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| pattern(r"\[[^\[\]\n]*\]"));
static HEADING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"(?m)\A\s*(?:#+[ \t]*|\*\*|(?:Title|Subject)[ \t]*:[ \t]*)([^\n*]{2,80}?)\*{0,2}[ \t]*$")
});

fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a test uses every pattern")
}

fn ranges(regex: &Regex, text: &str) -> Vec<Range<usize>> {
    regex.find_iter(text).map(|found| found.range()).collect()
}

/// Whole lines that are bullet points.
pub fn bullets(text: &str) -> Vec<Range<usize>> {
    ranges(&BULLET, text)
}

/// The numbers at the beginning of the lines of a numbered list.
pub fn list_numbers(text: &str) -> Vec<Range<usize>> {
    ranges(&NUMBERED, text)
}

/// Parts between asterisks, with the asterisks.
pub fn highlights(text: &str) -> Vec<Range<usize>> {
    ranges(&HIGHLIGHT, text)
}

/// Parts in square brackets, with the brackets.
pub fn placeholders(text: &str) -> Vec<Range<usize>> {
    ranges(&PLACEHOLDER, text)
}

/// A heading in the first line: the range of the line and that of its words.
pub fn heading(text: &str) -> Option<(Range<usize>, Range<usize>)> {
    let found = HEADING.captures(text)?;
    Some((found.get(0)?.range(), found.get(1)?.range()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found() {
        let text = "So:\n* one\n- two\n1. three\n*bold* and **very bold** [name] [your town]";
        let of = |found: Vec<Range<usize>>| found.into_iter().map(|range| &text[range]).collect::<Vec<_>>();
        assert_eq!(of(bullets(text)), ["* one\n", "- two\n"]);
        assert_eq!(of(list_numbers(text)), ["1. "]);
        assert_eq!(of(highlights(text)), ["*bold*", "**very bold**"]);
        assert_eq!(of(placeholders(text)), ["[name]", "[your town]"]);
    }

    #[test]
    fn headings_are_recognised_by_their_mark() {
        for (text, expected) in [
            ("# The Sea\nIt is wide.", Some("The Sea")),
            ("**The Sea**\nIt is wide.", Some("The Sea")),
            ("Subject: The Sea\n\nIt is wide.", Some("The Sea")),
            ("The Sea\nIt is wide.", None),
        ] {
            assert_eq!(heading(text).map(|(_, words)| &text[words]), expected, "{text}");
        }
    }
}
