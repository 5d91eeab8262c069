//! Says in words what decides a rule: a quotation or a count of the response.

use std::ops::Range;

use spar::verify::Check;

use super::count::{Bound, bound, counted};
use super::layout;
use super::text::{anywhere, beginning, ending, excerpt, occurrences, paragraphs, sentences};
use super::{given, listed, number};

/// The most items that are quoted one by one.
const LISTED: usize = 8;
/// The most words of an item that are quoted.
const ITEM_WORDS: usize = 3;

/// One or two sentences that quote or count the part of `response` that decides `check`.
#[must_use]
pub fn evidence(check: &Check, response: &str) -> String {
    let (head, tail) = (|n| beginning(response, n), |n| ending(response, n));
    match check.id.as_str() {
        "keywords:existence" => each(&listed(check, "keywords"), response, anywhere),
        "keywords:forbidden_words" => each(&listed(check, "forbidden_words"), response, occurrences),
        "keywords:frequency" => counting(check, response, &quoted_places(response, given(check, "keyword"))),
        "length_constraints:number_sentences" => counting(check, response, &starts(&sentences(response))),
        "length_constraints:number_paragraphs" => {
            let parts: Vec<&str> = response.split("***").map(str::trim).filter(|part| !part.is_empty()).collect();
            counting(check, response, &starts(&parts))
        }
        "length_constraints:nth_paragraph_first_word" => {
            let nth = number(check, "nth_paragraph");
            let found = paragraphs(response);
            let first = found.get(nth.saturating_sub(1)).map(|paragraph| beginning(paragraph, 1));
            let first = first.map_or_else(|| "does not exist".into(), |word| format!("starts with {word}"));
            format!("{} Paragraph {nth} {first}.", counting(check, response, &starts(&found)))
        }
        "detectable_content:number_placeholders" => {
            counting(check, response, &quoted(response, &layout::placeholders(response)))
        }
        "detectable_format:number_highlighted_sections" => {
            counting(check, response, &quoted(response, &layout::highlights(response)))
        }
        "detectable_format:number_bullet_lists" => {
            let lines: Vec<&str> = layout::bullets(response).into_iter().map(|range| response[range].trim()).collect();
            counting(check, response, &starts(&lines))
        }
        "detectable_format:multiple_sections" => {
            counting(check, response, &quoted_places(response, given(check, "section_spliter")))
        }
        "change_case:capital_word_frequency" => counting(check, response, &quoted(response, &capitals(response))),
        "length_constraints:number_words" | "keywords:letter_frequency" => counting(check, response, &[]),
        "detectable_content:postscript" => place(response, given(check, "postscript_marker")),
        "detectable_format:title" => match response.find("<<").zip(response.find(">>")) {
            Some((open, close)) if open < close => format!("It has {}.", &response[open..close + 2]),
            _ => "No text is in double angle brackets.".into(),
        },
        "detectable_format:json_format" => {
            let state = if check.strict(response) { "is one JSON value" } else { "is not one JSON value" };
            format!("It begins with {} and ends with {}, and it {state}.", head(ITEM_WORDS), tail(ITEM_WORDS))
        }
        "detectable_format:constrained_response" => place(response, "My answer is"),
        "combination:two_responses" => {
            let parts = response.split("******").filter(|part| !part.trim().is_empty()).count();
            format!("Six asterisks separate it into {parts} part{}.", if parts == 1 { "" } else { "s" })
        }
        "combination:repeat_prompt" | "language:response_language" => format!("It begins with {}.", head(6)),
        "startend:end_checker" => {
            let words = given(check, "end_phrase").split_whitespace().count();
            format!("It ends with {}.", tail(words.max(ITEM_WORDS)))
        }
        "startend:quotation" => {
            let mark = |holds: bool| if holds { "a double quotation mark" } else { "no double quotation mark" };
            let text = response.trim();
            format!("At its beginning is {}, at its end {}.", mark(text.starts_with('"')), mark(text.ends_with('"')))
        }
        "change_case:english_lowercase" => letter(response, char::is_uppercase, "a capital letter"),
        "change_case:english_capital" => letter(response, char::is_lowercase, "a small letter"),
        "punctuation:no_comma" => match response.matches(',').count() {
            0 => "It has no comma.".into(),
            n => {
                let at = response.find(',').unwrap_or_default();
                let plural = if n == 1 { "" } else { "s" };
                format!("It has {n} comma{plural}: {}.", excerpt(response, at..at + 1))
            }
        },
        _ => format!("It begins with {}.", head(ITEM_WORDS)),
    }
}

/// The count, what is counted, and the number that is asked for.
fn counting(check: &Check, response: &str, items: &[String]) -> String {
    let found = counted(check, response).unwrap_or_else(|| "no valid number of them".into());
    let list = if items.is_empty() || items.len() > LISTED { String::new() } else { format!(": {}", items.join(", ")) };
    let wanted = match bound(check) {
        Some(Bound::AtLeast(n)) => format!("at least {n}"),
        Some(Bound::LessThan(n)) => format!("fewer than {n}"),
        Some(Bound::Exactly(n)) => format!("exactly {n}"),
        None => return format!("It has {found}{list}."),
    };
    let verb = if wanted.ends_with(" 1") { "is" } else { "are" };
    format!("It has {found}{list}; {wanted} {verb} asked for.")
}

/// Says of each of `words` whether and where it occurs.
fn each(words: &[&str], response: &str, find: impl Fn(&str, &str) -> Vec<Range<usize>>) -> String {
    let state = |word: &&str| match find(response, word).first() {
        Some(range) => format!("\"{word}\" occurs: {}", excerpt(response, range.clone())),
        None => format!("\"{word}\" does not occur"),
    };
    format!("{}.", words.iter().map(state).collect::<Vec<_>>().join("; "))
}

/// Says whether and where `words` occur.
fn place(response: &str, words: &str) -> String {
    match anywhere(response, words).first() {
        Some(range) => format!("{words} occurs: {}.", excerpt(response, range.clone())),
        None => format!("{words} does not occur."),
    }
}

fn letter(response: &str, wanted: fn(char) -> bool, name: &str) -> String {
    match response.char_indices().find(|(_, c)| wanted(*c)) {
        Some((at, c)) => format!("There is {name}: {}.", excerpt(response, at..at + c.len_utf8())),
        None => format!("There is not {name} in it."),
    }
}

fn quoted_places(response: &str, words: &str) -> Vec<String> {
    let found = anywhere(response, words).into_iter();
    found.map(|range| excerpt(response, range)).collect()
}

fn quoted(response: &str, ranges: &[Range<usize>]) -> Vec<String> {
    ranges.iter().map(|range| response[range.clone()].to_owned()).collect()
}

/// The numbered beginnings of items.
fn starts(items: &[&str]) -> Vec<String> {
    items.iter().enumerate().map(|(i, item)| format!("{} {}", i + 1, beginning(item, ITEM_WORDS))).collect()
}

/// Words of capital letters alone.
pub(super) fn capitals(response: &str) -> Vec<Range<usize>> {
    let mut spans = super::text::word_spans(response);
    spans.retain(|range| {
        let word = &response[range.clone()];
        word.chars().any(char::is_uppercase) && !word.chars().any(char::is_lowercase)
    });
    spans
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lessons::cases::tests::check;

    #[test]
    fn evidence_quotes_and_counts() {
        for (id, kwargs, text, expected) in [
            (
                "punctuation:no_comma",
                json!({}),
                "The river, calm and old, waits.",
                "It has 2 commas: \"The river, calm and\".",
            ),
            ("punctuation:no_comma", json!({}), "The river waits.", "It has no comma."),
            (
                "keywords:existence",
                json!({"keywords": ["sea", "boat"]}),
                "The wide sea waits.",
                "\"sea\" occurs: \"The wide sea waits.\"; \"boat\" does not occur.",
            ),
            (
                "length_constraints:number_words",
                json!({"num_words": 9, "relation": "at least"}),
                "The sea waits.",
                "It has 3 words; at least 9 are asked for.",
            ),
            (
                "length_constraints:number_sentences",
                json!({"num_sentences": 2, "relation": "less than"}),
                "The old sea waits here. It is blue.",
                "It has 2 sentences: 1 \"The old sea\", 2 \"It is blue.\"; fewer than 2 are asked for.",
            ),
            (
                "length_constraints:nth_paragraph_first_word",
                json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "but"}),
                "One.\n\nTwo is here.",
                "It has 2 paragraphs: 1 \"One.\", 2 \"Two is here.\"; exactly 2 are asked for. Paragraph 2 starts with \"Two\".",
            ),
            (
                "detectable_format:number_bullet_lists",
                json!({"num_bullets": 1}),
                "* one thing",
                "It has 1 bullet point: 1 \"* one thing\"; exactly 1 is asked for.",
            ),
            (
                "startend:end_checker",
                json!({"end_phrase": "Any other questions?"}),
                "So it is. Any questions?",
                "It ends with \"is. Any questions?\".",
            ),
            (
                "startend:quotation",
                json!({}),
                "\"So it is.",
                "At its beginning is a double quotation mark, at its end no double quotation mark.",
            ),
            (
                "change_case:english_lowercase",
                json!({}),
                "the old Sea waits here",
                "There is a capital letter: \"the old Sea waits here\".",
            ),
            ("detectable_format:title", json!({}), "<<The Sea>>\nIt waits.", "It has <<The Sea>>."),
            ("detectable_format:title", json!({}), "The Sea", "No text is in double angle brackets."),
            (
                "detectable_content:postscript",
                json!({"postscript_marker": "P.S."}),
                "It waits.\n\nP.S. It is calm today.",
                "P.S. occurs: \"P.S. It is\".",
            ),
        ] {
            assert_eq!(evidence(&check(id, kwargs), text), expected, "{id}: {text}");
        }
    }

    #[test]
    fn every_rule_has_evidence_for_any_text() {
        for id in spar::verify::IDS {
            let group = id.split(':').next().unwrap();
            let Ok(check) = Check::new(id, serde_json::Map::new()) else { continue };
            for text in ["", " \n", "é", "A \"b\" [c] *d* <<e>> ***\n\nf,"] {
                assert!(evidence(&check, text).ends_with('.'), "{group}: {text:?}");
            }
        }
    }
}
