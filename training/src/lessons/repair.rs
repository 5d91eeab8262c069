//! Repairs a response by rule: the smallest edit that follows an instruction, where there is one that a person could have made.

use std::sync::LazyLock;

use rand::Rng;
use rand::seq::IndexedRandom;
use regex::Regex;
use spar::verify::Check;

use super::count::{Bound, bound, count};
use super::evidence::capitals;
use super::text::{anywhere, capitalised, occurrences, paragraphs, replaced, sentence_ends, without, word_spans};
use super::{Draws, Material, given, layout, listed, number};

/// A repaired response, with what was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// The corrected response.
    pub response: String,
    /// What was done for each broken rule, as clauses that follow "I".
    pub notes: Vec<String>,
}

/// Rounds over the broken rules. A repair can break another rule, which the next round fixes.
const ROUNDS: usize = 3;
/// The most placeholders or highlights that an edit may add. More of them would be decoration without content.
const FEW: usize = 4;

const POSTSCRIPTS: [&str; 4] =
    ["Thank you for reading.", "I hope this helps.", "Please write back soon.", "Keep this for later."];
const PLACEHOLDERS: [&str; 6] = ["name", "date", "address", "city", "time", "phone number"];

/// Instructions in the order in which they are repaired: those that move text first, those about every character last.
const ORDER: [&str; 16] = [
    "detectable_format:json_format",
    "combination:two_responses",
    "length_constraints:",
    "detectable_format:number_bullet_lists",
    "detectable_format:multiple_sections",
    "keywords:",
    "detectable_content:number_placeholders",
    "detectable_format:number_highlighted_sections",
    "detectable_format:title",
    "combination:repeat_prompt",
    "detectable_content:postscript",
    "startend:end_checker",
    "punctuation:",
    "change_case:capital_word_frequency",
    "change_case:",
    "startend:quotation",
];

/// Repairs all broken rules of `checks`. Returns `None` if a broken rule has no edit, or if some rule is still broken afterwards.
#[must_use]
pub fn repair(checks: &[Check], response: &str, material: Material<'_>, draws: &mut Draws) -> Option<Repair> {
    let mut order: Vec<&Check> = checks.iter().collect();
    let rank = |check: &Check| ORDER.iter().position(|id| check.id.starts_with(id)).unwrap_or(ORDER.len());
    order.sort_by_key(|check| rank(check));
    let mut text = response.trim().to_owned();
    let mut notes: Vec<String> = Vec::new();
    for _ in 0..ROUNDS {
        for check in &order {
            if !check.strict(&text) {
                let (edited, note) = edit(check, &text, material, draws)?;
                text = edited;
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
        }
        if checks.iter().all(|check| check.strict(&text)) {
            return (text != response).then_some(Repair { response: text, notes });
        }
    }
    None
}

/// The edited text and what was done.
fn edit(check: &Check, text: &str, material: Material<'_>, draws: &mut Draws) -> Option<(String, String)> {
    let done = |text: String, note: &str| Some((text, note.to_owned()));
    match check.id.as_str() {
        "punctuation:no_comma" => done(without_commas(text), "remove the commas"),
        "change_case:english_lowercase" => done(text.to_lowercase(), "write every letter small"),
        "change_case:english_capital" => done(text.to_uppercase(), "write every letter as a capital"),
        "startend:quotation" => {
            done(format!("\"{}\"", text.trim_matches('"')), "put the whole response into double quotation marks")
        }
        "startend:end_checker" => done(ended(text, given(check, "end_phrase")), "end with the phrase"),
        "detectable_format:title" => done(titled(text)?, "add a title in double angle brackets"),
        "detectable_content:postscript" => {
            let words = POSTSCRIPTS.choose(draws)?;
            done(format!("{text}\n\n{} {words}", given(check, "postscript_marker")), "add a postscript")
        }
        "combination:repeat_prompt" => {
            done(format!("{}\n\n{text}", given(check, "prompt_to_repeat")), "repeat the request first")
        }
        "combination:two_responses" => {
            let other = material.others.iter().find(|other| other.trim() != text && !other.contains("******"))?;
            let first = text.replace("******", "").trim().to_owned();
            done(format!("{first}\n******\n{}", other.trim()), "add a second response after six asterisks")
        }
        "detectable_format:json_format" => json(check, text),
        "keywords:forbidden_words" => {
            let words = listed(check, "forbidden_words");
            let cleared = words.iter().fold(text.to_owned(), |text, word| all_removed(text, word));
            done(cleared, "remove the words that are not allowed")
        }
        "keywords:frequency" => {
            let word = given(check, "keyword");
            let fewer =
                shrunk(check, text, |text| anywhere(text, word).last().map(|range| without(text, range.clone())))?;
            done(fewer, "use the keyword less often")
        }
        "detectable_content:number_placeholders" => {
            let missing = missing(check, text).filter(|missing| *missing <= FEW)?;
            let start = draws.random_range(0..PLACEHOLDERS.len());
            let names = (0..missing).map(|i| format!("[{}]", PLACEHOLDERS[(start + i) % PLACEHOLDERS.len()]));
            let added = names.collect::<Vec<_>>().join("\n");
            done(format!("{text}\n{added}"), "add the missing placeholders")
        }
        "detectable_format:number_highlighted_sections" => highlighted(check, text, draws),
        "detectable_format:number_bullet_lists" => bulleted(check, text),
        "detectable_format:multiple_sections" => sectioned(check, text),
        "change_case:capital_word_frequency" => cased(check, text),
        "length_constraints:number_words" | "length_constraints:number_sentences" => {
            done(cut(check, text)?, "leave out the last sentences")
        }
        "length_constraints:number_paragraphs" => {
            let pieces = text.replace("***", "\n\n");
            let joined = joined(&paragraphs(&pieces), number(check, "num_paragraphs"), "\n\n***\n\n", "\n\n")?;
            done(joined, "separate the paragraphs with three asterisks")
        }
        "length_constraints:nth_paragraph_first_word" => first_word(check, text),
        _ => None,
    }
}

static BETWEEN_DIGITS: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"(\d),(\d)").expect("a test uses it"));
static BEFORE_LETTER: LazyLock<Regex> = LazyLock::new(|| Regex::new(r",(\w)").expect("a test uses it"));

fn without_commas(text: &str) -> String {
    // Digits may overlap as in 1,234,567, where one pass leaves a comma.
    let once = BETWEEN_DIGITS.replace_all(text, "$1$2");
    let twice = BETWEEN_DIGITS.replace_all(&once, "$1$2");
    BEFORE_LETTER.replace_all(&twice, " $1").replace(',', "")
}

/// The text up to the end phrase if little follows it, or else the text with the phrase after it.
fn ended(text: &str, phrase: &str) -> String {
    let text = text.trim_end().trim_end_matches('"');
    match anywhere(text, phrase).last() {
        Some(range) if 2 * range.start > text.len() => text[..range.end].to_owned(),
        _ => format!("{text}\n\n{phrase}"),
    }
}

/// The text with a title: its own heading in brackets, or else the first words of its first sentence.
fn titled(text: &str) -> Option<String> {
    if let Some((line, words)) = layout::heading(text) {
        return Some(replaced(text, line, &format!("<<{}>>", text[words].trim())));
    }
    let words: Vec<String> = word_spans(text).into_iter().take(4).map(|range| capitalised(&text[range])).collect();
    (!words.is_empty()).then(|| format!("<<{}>>\n\n{text}", words.join(" ")))
}

/// The JSON value inside the text, or else the text as the value of a field.
fn json(check: &Check, text: &str) -> Option<(String, String)> {
    let inside = text.find(['{', '[']).zip(text.rfind(['}', ']'])).and_then(|(from, to)| text.get(from..=to));
    if let Some(value) = inside.filter(|value| value.len() > 2 && check.strict(value)) {
        return Some((value.to_owned(), "leave out everything around the JSON value".into()));
    }
    Some((
        serde_json::json!({ "response": text }).to_string(),
        "write the response as the value of a JSON field".into(),
    ))
}

fn all_removed(mut text: String, word: &str) -> String {
    while let Some(range) = occurrences(&text, word).first().cloned() {
        text = without(&text, range);
    }
    text
}

/// Applies `step` until the rule holds.
fn shrunk(check: &Check, text: &str, step: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut text = text.to_owned();
    while !check.strict(&text) {
        let next = step(&text)?;
        if next.len() >= text.len() {
            return None;
        }
        text = next;
    }
    Some(text)
}

/// How many more a rule with a lower bound asks for.
fn missing(check: &Check, text: &str) -> Option<usize> {
    match bound(check)? {
        Bound::AtLeast(n) => n.checked_sub(count(check, text)?).filter(|missing| *missing > 0),
        _ => None,
    }
}

fn highlighted(check: &Check, text: &str, draws: &mut Draws) -> Option<(String, String)> {
    let missing = missing(check, text).filter(|missing| *missing <= FEW)?;
    let starred = |at: usize| {
        let line = text[..at].rfind('\n').map_or(0, |line| line + 1);
        let end = text[at..].find('\n').map_or(text.len(), |end| at + end);
        text[line..end].contains('*')
    };
    let mut spans = word_spans(text);
    spans.retain(|range| text[range.clone()].chars().count() >= 5 && !starred(range.start));
    if spans.len() < missing {
        return None;
    }
    // One word of each part of the text.
    let size = spans.len() / missing;
    let mut edited = text.to_owned();
    for part in (0..missing).rev() {
        let range = spans[part * size + draws.random_range(0..size)].clone();
        edited = replaced(&edited, range.clone(), &format!("*{}*", &text[range]));
    }
    Some((edited, format!("highlight {missing} more part{} with asterisks", if missing == 1 { "" } else { "s" })))
}

fn bulleted(check: &Check, text: &str) -> Option<(String, String)> {
    let wanted = number(check, "num_bullets");
    let lines = layout::bullets(text);
    if lines.len() > wanted {
        let shorter =
            lines[wanted..].iter().rev().fold(text.to_owned(), |text, line| replaced(&text, line.clone(), ""));
        return Some((shorter.trim_end().to_owned(), "leave out the last bullet points".into()));
    }
    let numbers = layout::list_numbers(text);
    let keep = wanted - lines.len();
    if numbers.len() < keep {
        return None;
    }
    let edited = numbers[..keep].iter().rev().fold(text.to_owned(), |text, mark| replaced(&text, mark.clone(), "* "));
    Some((edited, "write the list with bullet points".into()))
}

/// Puts headings before the first paragraphs of a text without any.
fn sectioned(check: &Check, text: &str) -> Option<(String, String)> {
    let (splitter, wanted) = (given(check, "section_spliter"), number(check, "num_sections"));
    let pieces = paragraphs(text);
    if pieces.len() < wanted || count(check, text) != Some(0) {
        return None;
    }
    let headed = |(i, piece): (usize, &&str)| match i < wanted {
        true => format!("{splitter} {}\n{piece}", i + 1),
        false => (*piece).to_owned(),
    };
    let edited: Vec<String> = pieces.iter().enumerate().map(headed).collect();
    Some((edited.join("\n\n"), "put a heading before each section".into()))
}

fn cased(check: &Check, text: &str) -> Option<(String, String)> {
    let mut edited = text.to_owned();
    if let Some(missing) = missing(check, text) {
        let mut spans = word_spans(text);
        spans.retain(|range| text[range.clone()].chars().all(|c| c.is_ascii_lowercase()) && range.len() >= 4);
        if spans.len() < missing || missing > 2 * FEW {
            return None;
        }
        let step = spans.len() / missing;
        for span in spans.into_iter().step_by(step).take(missing) {
            edited = replaced(&edited, span.clone(), &text[span].to_ascii_uppercase());
        }
        return Some((edited, format!("write {missing} more words in capitals")));
    }
    while !check.strict(&edited) {
        let range = capitals(&edited).into_iter().rfind(|range| range.len() > 1)?;
        let lower = edited[range.clone()].to_lowercase();
        edited = replaced(&edited, range, &lower);
    }
    Some((edited, "write fewer words in capitals".into()))
}

/// The longest beginning that ends with a sentence and follows the rule.
fn cut(check: &Check, text: &str) -> Option<String> {
    let ends = sentence_ends(text);
    let kept =
        ends.into_iter().rev().map(|end| &text[..end]).find(|kept| kept.len() < text.len() && check.strict(kept));
    kept.map(str::to_owned)
}

/// The first `count` pieces, where the last one takes in all others.
fn joined(pieces: &[&str], count: usize, between: &str, within: &str) -> Option<String> {
    if count == 0 || pieces.len() < count {
        return None;
    }
    let last = pieces[count - 1..].join(within);
    Some(pieces[..count - 1].iter().copied().chain([last.as_str()]).collect::<Vec<_>>().join(between))
}

fn first_word(check: &Check, text: &str) -> Option<(String, String)> {
    let (wanted, nth) = (number(check, "num_paragraphs"), number(check, "nth_paragraph"));
    let found = paragraphs(text);
    let mut whole = joined(&found, wanted, "\n\n", "\n")?;
    let mut note = "join paragraphs".to_owned();
    if !check.strict(&whole) {
        let word = capitalised(given(check, "first_word"));
        let mut pieces: Vec<String> = whole.split("\n\n").map(str::to_owned).collect();
        let piece = pieces.get_mut(nth.checked_sub(1)?)?;
        *piece = format!("{word}. {piece}");
        whole = pieces.join("\n\n");
        note = format!("start paragraph {nth} with the word");
    }
    Some((whole, note))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use serde_json::json;

    use super::*;
    use crate::lessons::cases::tests::check;

    fn repaired(checks: &[Check], text: &str, others: &[&str]) -> Option<String> {
        repair(checks, text, Material { others }, &mut Draws::seed_from_u64(1)).map(|repair| repair.response)
    }

    #[test]
    fn edits_are_small_and_follow_the_rule() {
        let bounded =
            |id: &str, field: &str, n: usize, relation: &str| check(id, json!({field: n, "relation": relation}));
        for (check, text, expected) in [
            (check("punctuation:no_comma", json!({})), "Old, 1,234,567,so", "Old 1234567 so"),
            (check("startend:quotation", json!({})), "So it is.\"", "\"So it is.\""),
            (
                check("startend:end_checker", json!({"end_phrase": "Any questions?"})),
                "So it is.",
                "So it is.\n\nAny questions?",
            ),
            (
                check("startend:end_checker", json!({"end_phrase": "Any questions?"})),
                "So it is and so it was. Any questions? Yes.",
                "So it is and so it was. Any questions?",
            ),
            (check("detectable_format:title", json!({})), "# The Sea\nIt waits.", "<<The Sea>>\nIt waits."),
            (check("detectable_format:title", json!({})), "it waits.", "<<It Waits>>\n\nit waits."),
            (
                check("keywords:forbidden_words", json!({"forbidden_words": ["sea", "old"]})),
                "The old sea waits, old friend.",
                "The waits, friend.",
            ),
            (
                check("keywords:frequency", json!({"keyword": "sea", "frequency": 2, "relation": "less than"})),
                "The sea and the sea wait.",
                "The sea and the wait.",
            ),
            (
                bounded("length_constraints:number_words", "num_words", 6, "less than"),
                "The sea waits. It is blue. It is wide.",
                "The sea waits.",
            ),
            (
                bounded("length_constraints:number_sentences", "num_sentences", 3, "less than"),
                "The sea waits. It is blue. It is wide.",
                "The sea waits. It is blue.",
            ),
            (
                check("length_constraints:number_paragraphs", json!({"num_paragraphs": 2})),
                "One.\n\nTwo.\n\nThree.",
                "One.\n\n***\n\nTwo.\n\nThree.",
            ),
            (
                check(
                    "length_constraints:nth_paragraph_first_word",
                    json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"}),
                ),
                "One.\n\nTwo.\n\nThree.",
                "One.\n\nWeekend. Two.\nThree.",
            ),
            (
                check("detectable_format:number_bullet_lists", json!({"num_bullets": 2})),
                "So:\n* a\n* b\n* c",
                "So:\n* a\n* b",
            ),
            (
                check("detectable_format:number_bullet_lists", json!({"num_bullets": 2})),
                "So:\n1. a\n2. b",
                "So:\n* a\n* b",
            ),
            (
                check("detectable_format:multiple_sections", json!({"section_spliter": "Day", "num_sections": 2})),
                "Walk.\n\nRest.",
                "Day 1\nWalk.\n\nDay 2\nRest.",
            ),
            (check("detectable_format:json_format", json!({})), "Here it is:\n{\"a\": 1}\nDone.", "{\"a\": 1}"),
            (check("detectable_format:json_format", json!({})), "So.", "{\"response\":\"So.\"}"),
            (check("combination:repeat_prompt", json!({"prompt_to_repeat": "Say it."})), "It.", "Say it.\n\nIt."),
            (
                check(
                    "change_case:capital_word_frequency",
                    json!({"capital_frequency": 2, "capital_relation": "at least"}),
                ),
                "The quiet river waits",
                "The QUIET RIVER waits",
            ),
            (
                check(
                    "change_case:capital_word_frequency",
                    json!({"capital_frequency": 1, "capital_relation": "less than"}),
                ),
                "The QUIET river",
                "The quiet river",
            ),
        ] {
            assert_eq!(repaired(std::slice::from_ref(&check), text, &[]).as_deref(), Some(expected), "{}", check.id);
        }
    }

    #[test]
    fn several_rules_are_repaired_together_or_not_at_all() {
        let checks = [
            check("change_case:english_lowercase", json!({})),
            check("punctuation:no_comma", json!({})),
            check("startend:end_checker", json!({"end_phrase": "That is all you need!"})),
            check("startend:quotation", json!({})),
            check("detectable_content:postscript", json!({"postscript_marker": "P.S."})),
            check("detectable_format:title", json!({})),
        ];
        let text = "The old river runs, and the people of the town walk along the water every day.";
        let found = repair(&checks, text, Material::default(), &mut Draws::seed_from_u64(2)).unwrap();
        assert!(checks.iter().all(|check| check.strict(&found.response)), "{found:?}");
        assert!(found.response.contains("the old river runs and the people"), "{found:?}");
        assert!(found.notes.len() >= 5, "{found:?}");

        let impossible = check("keywords:existence", json!({"keywords": ["lantern"]}));
        assert_eq!(repaired(&[checks[1].clone(), impossible], text, &[]), None);
        assert_eq!(repaired(&checks[1..2], "no mark is in it", &[]), None, "nothing is broken");
    }

    #[test]
    fn marks_are_added_in_small_numbers_only() {
        let highlights =
            |n: usize| check("detectable_format:number_highlighted_sections", json!({"num_highlights": n}));
        let text = "The quiet river carries little boats towards another harbour every morning.";
        let found = repaired(&[highlights(2)], text, &[]).unwrap();
        assert_eq!(found.replace('*', ""), text);
        assert_eq!(repaired(&[highlights(9)], text, &[]), None);
        let placeholders = check("detectable_content:number_placeholders", json!({"num_placeholders": 2}));
        let found = repaired(std::slice::from_ref(&placeholders), "Dear [name]", &[]).unwrap();
        assert!(found.starts_with("Dear [name]\n[") && placeholders.strict(&found), "{found}");
        let two = check("combination:two_responses", json!({}));
        assert_eq!(repaired(&[two], "One.", &["One.", "Two."]).as_deref(), Some("One.\n******\nTwo."));
    }
}
