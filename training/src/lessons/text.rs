//! Places in a text: words, sentences, paragraphs, and short quotations of them.

use std::ops::Range;

use regex::{Regex, RegexBuilder};

/// Words on each side of a quotation.
const AROUND: usize = 2;

/// The byte ranges of the words, as the rules count them.
pub fn word_spans(text: &str) -> Vec<Range<usize>> {
    let base = text.as_ptr() as usize;
    let span = |word: &str| {
        let start = word.as_ptr() as usize - base;
        start..start + word.len()
    };
    spar::verify::words(text).map(span).collect()
}

/// The byte offsets at which a sentence ends, after closing quotes and brackets, and before white space or the end of the text.
pub fn sentence_ends(text: &str) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut marked = false;
    for (at, c) in text.char_indices() {
        match c {
            '.' | '!' | '?' => marked = true,
            '"' | '\'' | ')' | ']' | '*' | '”' | '’' if marked => {}
            c if c.is_whitespace() => {
                if marked {
                    ends.push(at);
                }
                marked = false;
            }
            _ => marked = false,
        }
    }
    if marked {
        ends.push(text.len());
    }
    ends
}

/// The sentences of a text without the white space between them. Text after the last sentence end is a sentence, too.
pub fn sentences(text: &str) -> Vec<&str> {
    let mut from = 0;
    let mut found = Vec::new();
    for end in sentence_ends(text).into_iter().chain([text.len()]) {
        let sentence = text[from..end].trim();
        if !sentence.is_empty() {
            found.push(sentence);
        }
        from = end;
    }
    found
}

/// The paragraphs of a text, which blank lines separate.
pub fn paragraphs(text: &str) -> Vec<&str> {
    text.split("\n\n").map(str::trim).filter(|piece| !piece.is_empty()).collect()
}

/// The places where `words` occur in any case, as whole words if they begin and end with letters or digits.
pub fn occurrences(text: &str, words: &str) -> Vec<Range<usize>> {
    let edge = |c: Option<char>| if c.is_some_and(char::is_alphanumeric) { r"\b" } else { "" };
    let (first, last) = (edge(words.chars().next()), edge(words.chars().last()));
    places(text, &format!("{first}{}{last}", regex::escape(words)))
}

/// The places where `words` occur in any case, also inside longer words.
pub fn anywhere(text: &str, words: &str) -> Vec<Range<usize>> {
    places(text, &regex::escape(words))
}

fn places(text: &str, pattern: &str) -> Vec<Range<usize>> {
    let made: Result<Regex, _> = RegexBuilder::new(pattern).case_insensitive(true).build();
    made.map(|regex| regex.find_iter(text).map(|found| found.range()).collect()).unwrap_or_default()
}

/// A quotation of `range` with the words around it on the same line.
pub fn excerpt(text: &str, range: Range<usize>) -> String {
    let line = text[..range.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[range.end..].find('\n').map_or(text.len(), |at| range.end + at);
    let start = text[line..range.start].rmatch_indices(' ').nth(AROUND).map_or(line, |(at, _)| line + at + 1);
    let stop = text[range.end..end].match_indices(' ').nth(AROUND).map_or(end, |(at, _)| range.end + at);
    format!("\"{}\"", text[start..stop].trim())
}

/// A quotation of the first `words` words.
pub fn beginning(text: &str, words: usize) -> String {
    let line = text.trim();
    let end = line.match_indices(char::is_whitespace).nth(words - 1).map_or(line.len(), |(at, _)| at);
    format!("\"{}\"", &line[..end])
}

/// A quotation of the last `words` words.
pub fn ending(text: &str, words: usize) -> String {
    let line = text.trim();
    let start = line.rmatch_indices(char::is_whitespace).nth(words - 1).map_or(0, |(at, space)| at + space.len());
    format!("\"{}\"", &line[start..])
}

/// The text without `range`, and with one space where two would meet.
pub fn without(text: &str, range: Range<usize>) -> String {
    let (before, after) = (&text[..range.start], &text[range.end..]);
    let after =
        if before.is_empty() || before.ends_with(char::is_whitespace) { after.trim_start_matches(' ') } else { after };
    format!("{before}{after}")
}

/// The text with `range` replaced.
pub fn replaced(text: &str, range: Range<usize>, by: &str) -> String {
    format!("{}{by}{}", &text[..range.start], &text[range.end..])
}

/// The text with a capital letter at its beginning.
pub fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_marks_before_spaces() {
        for (text, expected) in [
            ("One. Two! \"Three?\" four", vec!["One.", "Two!", "\"Three?\"", "four"]),
            ("Version 1.5 is out.", vec!["Version 1.5 is out."]),
            ("*Bold.* Plain", vec!["*Bold.*", "Plain"]),
            ("", vec![]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }

    #[test]
    fn quotations_stay_on_their_line_and_end_at_spaces() {
        let text = "A first line\nthe old river, and then the sea\nlast";
        let comma = text.find(',').unwrap();
        assert_eq!(excerpt(text, comma..comma + 1), "\"the old river, and then\"");
        assert_eq!((beginning(text, 2), ending(text, 2)), ("\"A first\"".into(), "\"sea\nlast\"".into()));
        assert_eq!((beginning("é", 3), ending("é", 3)), ("\"é\"".into(), "\"é\"".into()));
    }

    #[test]
    fn words_are_found_in_any_case_and_removed_with_their_space() {
        let text = "The Sea is a sea, not seaside.";
        assert_eq!(occurrences(text, "sea").len(), 2);
        assert_eq!(anywhere(text, "sea").len(), 3);
        assert_eq!(without(text, 4..7), "The is a sea, not seaside.");
        assert_eq!(word_spans("a b!").last(), Some(&(2..3)));
        assert_eq!(capitalised("éa"), "Éa");
    }
}
