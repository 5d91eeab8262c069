//! Damages a response by rule: a small edit after which one instruction no longer holds, for near misses whose truth is known.

use std::ops::Range;

use rand::Rng;
use rand::seq::IndexedRandom;
use spar::verify::Check;

use super::count::{Bound, bound};
use super::evidence::capitals;
use super::text::{anywhere, capitalised, replaced, sentence_ends, sentences, without, word_spans};
use super::{Draws, Material, given, layout, listed, number};

/// The most edits of one kind until the rule must be broken.
const MOST_EDITS: usize = 40;
const LAST_WORDS: [&str; 4] =
    ["I hope this helps!", "Let me know what you think.", "Thank you for your time.", "That is all for now."];

/// A copy of `response` that breaks the rule at `broken` and follows every other rule. Returns `None` if no edit does that.
#[must_use]
pub fn damage(
    checks: &[Check],
    broken: usize,
    response: &str,
    material: Material<'_>,
    draws: &mut Draws,
) -> Option<String> {
    const ATTEMPTS: usize = 4;
    (0..ATTEMPTS).find_map(|_| {
        let text = edit(&checks[broken], response.trim(), material, draws)?;
        let near = !text.trim().is_empty() && text != response;
        let as_meant = checks.iter().enumerate().all(|(i, check)| check.strict(&text) == (i != broken));
        (near && as_meant).then_some(text)
    })
}

fn edit(check: &Check, text: &str, material: Material<'_>, draws: &mut Draws) -> Option<String> {
    match check.id.as_str() {
        "punctuation:no_comma" => (0..draws.random_range(1..=2)).try_fold(text.to_owned(), |text, _| {
            let place = inner_words(&text).choose(draws)?.end;
            Some(replaced(&text, place..place, ","))
        }),
        "change_case:english_lowercase" => {
            let span = word_spans(text).choose(draws)?.clone();
            Some(replaced(text, span.clone(), &capitalised(&text[span])))
        }
        "change_case:english_capital" => {
            let span = word_spans(text).choose(draws)?.clone();
            Some(replaced(text, span.clone(), &text[span].to_lowercase()))
        }
        "startend:quotation" => {
            let one_side = if draws.random_bool(0.5) { text.strip_prefix('"') } else { text.strip_suffix('"') };
            one_side.map(str::to_owned)
        }
        "startend:end_checker" => {
            if draws.random_bool(0.5) {
                return Some(format!("{text} {}", LAST_WORDS.choose(draws)?));
            }
            let range = anywhere(text, given(check, "end_phrase")).pop()?;
            Some(text[..range.start].trim_end().to_owned())
        }
        "detectable_format:title" => {
            let (open, close) = (text.find("<<")?, text.find(">>")?);
            let title = text.get(open + 2..close)?;
            let instead = if draws.random_bool(0.5) { format!("<{title}>") } else { title.to_owned() };
            Some(replaced(text, open..close + 2, &instead))
        }
        "detectable_content:postscript" => {
            let range = anywhere(text, given(check, "postscript_marker")).pop()?;
            Some(if draws.random_bool(0.5) { text[..range.start].trim_end().to_owned() } else { without(text, range) })
        }
        "detectable_format:number_highlighted_sections" => until_broken(check, text, |text| {
            let range = layout::highlights(text).pop()?;
            Some(replaced(text, range.clone(), text[range].trim_matches('*')))
        }),
        "detectable_content:number_placeholders" => until_broken(check, text, |text| {
            let range = layout::placeholders(text).pop()?;
            Some(replaced(text, range.clone(), text[range].trim_matches(['[', ']'])))
        }),
        "detectable_format:number_bullet_lists" => {
            let lines = layout::bullets(text);
            let line = lines.choose(draws)?.clone();
            Some(match draws.random_range(0..3) {
                0 => replaced(text, line, "").trim_end().to_owned(),
                1 => replaced(text, line.clone(), text[line].trim_start_matches([' ', '\t', '*', '-'])),
                _ => replaced(text, line.start..line.start, &format!("{}\n", text[line].trim_end_matches('\n'))),
            })
        }
        "length_constraints:number_paragraphs" => {
            let marks = anywhere(text, "***");
            match marks.choose(draws) {
                Some(mark) if draws.random_bool(0.7) => Some(replaced(text, mark.clone(), "")),
                _ => {
                    let ends = sentence_ends(text);
                    let place = *ends.get(..ends.len().checked_sub(1)?)?.choose(draws)?;
                    Some(replaced(text, place..place, "\n\n***\n\n"))
                }
            }
        }
        "length_constraints:nth_paragraph_first_word" => {
            let mut pieces: Vec<&str> = text.split("\n\n").collect();
            let piece = pieces.get_mut(number(check, "nth_paragraph").checked_sub(1)?)?;
            let whole = *piece;
            let first = word_spans(whole).first()?.end;
            *piece = whole[first..].trim_start_matches([' ', '.', ',', ':']);
            Some(pieces.join("\n\n"))
        }
        "detectable_format:multiple_sections" => until_broken(check, text, |text| {
            let range = anywhere(text, given(check, "section_spliter")).pop()?;
            let end = text[range.start..].find('\n').map_or(text.len(), |end| range.start + end);
            Some(without(text, range.start..end))
        }),
        "detectable_format:json_format" => Some(match draws.random_bool(0.5) {
            true => format!("Here is the answer:\n{text}"),
            false => text.strip_suffix(['}', ']'])?.to_owned(),
        }),
        "detectable_format:constrained_response" => {
            let range = anywhere(text, "My answer is ").into_iter().next()?;
            let rest = &text[range.end..];
            Some(format!("{}{}", &text[..range.start], capitalised(rest)))
        }
        "combination:two_responses" => Some(text.replace("******", "***")),
        "combination:repeat_prompt" => {
            let prompt = given(check, "prompt_to_repeat");
            let cut = if draws.random_bool(0.5) { prompt.find(' ')? + 1 } else { prompt.len() };
            text.get(cut..).map(|rest| rest.trim_start().to_owned())
        }
        "keywords:existence" => {
            let words = listed(check, "keywords");
            let word = words.choose(draws)?;
            without_sentences(text, word).filter(|_| draws.random_bool(0.7)).or_else(|| Some(all_removed(text, word)))
        }
        "keywords:forbidden_words" => inserted(text, listed(check, "forbidden_words").choose(draws)?, draws),
        "keywords:frequency" => {
            let word = given(check, "keyword");
            match bound(check)? {
                Bound::LessThan(_) => {
                    let mut text = text.to_owned();
                    for _ in 0..MOST_EDITS {
                        if !check.strict(&text) {
                            return Some(text);
                        }
                        text = inserted(&text, word, draws)?;
                    }
                    None
                }
                _ => until_broken(check, text, |text| anywhere(text, word).pop().map(|range| without(text, range))),
            }
        }
        "length_constraints:number_words" | "length_constraints:number_sentences" => {
            sized(check, text, material, draws)
        }
        "change_case:capital_word_frequency" => match bound(check)? {
            Bound::LessThan(_) => until_broken(check, text, |text| {
                let spans = word_spans(text);
                let span =
                    spans.iter().find(|span| span.len() > 3 && text[(*span).clone()].contains(char::is_lowercase))?;
                Some(replaced(text, span.clone(), &text[span.clone()].to_uppercase()))
            }),
            _ => until_broken(check, text, |text| {
                let span = capitals(text).pop()?;
                Some(replaced(text, span.clone(), &text[span].to_lowercase()))
            }),
        },
        _ => None,
    }
}

/// Words that a sentence could be divided after: all but the last ones of sentences.
fn inner_words(text: &str) -> Vec<Range<usize>> {
    let mut spans = word_spans(text);
    spans.retain(|span| text[span.end..].starts_with(' '));
    spans
}

/// Applies `step` until the rule is broken.
fn until_broken(check: &Check, text: &str, step: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut text = text.to_owned();
    for _ in 0..MOST_EDITS {
        if !check.strict(&text) {
            return Some(text);
        }
        text = step(&text)?;
    }
    None
}

/// The text with `word` before one of its words.
fn inserted(text: &str, word: &str, draws: &mut Draws) -> Option<String> {
    let place = inner_words(text).choose(draws)?.end;
    Some(replaced(text, place..place, &format!(" {word}")))
}

/// The text without the sentences that contain `word`; `None` if little would be left.
fn without_sentences(text: &str, word: &str) -> Option<String> {
    let mut edited = text.to_owned();
    for sentence in sentences(text).into_iter().filter(|sentence| !anywhere(sentence, word).is_empty()) {
        let start = edited.find(sentence)?;
        edited = without(&edited, start..start + sentence.len());
    }
    let edited = edited.trim();
    (2 * edited.len() > text.len()).then(|| edited.to_owned())
}

/// The text without every place where `word` occurs, also inside longer words.
fn all_removed(text: &str, word: &str) -> String {
    anywhere(text, word).into_iter().rev().fold(text.to_owned(), |text, range| without(&text, range))
}

/// A text that is too short or too long: one of the longest beginnings that are too short, or the text with further sentences.
fn sized(check: &Check, text: &str, material: Material<'_>, draws: &mut Draws) -> Option<String> {
    if let Bound::LessThan(_) = bound(check)? {
        let other = material.others.choose(draws)?;
        let mut longer = text.to_owned();
        for sentence in sentences(other).into_iter().filter(|sentence| !text.contains(*sentence)) {
            longer = format!("{longer} {sentence}");
            if !check.strict(&longer) {
                return Some(longer);
            }
        }
        return None;
    }
    let mut ends = sentence_ends(text);
    ends.retain(|&end| end < text.len() && !check.strict(&text[..end]));
    let near = ends.len().saturating_sub(3);
    ends.get(near..)?.choose(draws).map(|&end| text[..end].to_owned())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use serde_json::json;

    use super::*;
    use crate::lessons::cases::tests::check;

    #[test]
    fn one_rule_is_broken_and_the_others_hold() {
        let long = "The quiet river waits. It is wide and old. A boat lies near the shore. Nobody is in it.";
        let others = ["The town is far away. Its people sleep. The night is long and the lamps are out."];
        let cases = [
            (check("punctuation:no_comma", json!({})), long),
            (check("change_case:english_lowercase", json!({})), "the quiet river waits for the people of the town."),
            (
                check("change_case:english_capital", json!({})),
                "PLEASE WATER THE TOMATOES TWICE A WEEK AND MOVE THEM OUT OF THE WIND.",
            ),
            (check("startend:quotation", json!({})), "\"The quiet river waits.\""),
            (check("startend:end_checker", json!({"end_phrase": "Good night."})), "The river waits. Good night."),
            (check("detectable_format:title", json!({})), "<<The River>>\nIt waits."),
            (check("detectable_content:postscript", json!({"postscript_marker": "P.S."})), "It waits.\n\nP.S. Bye."),
            (
                check("detectable_format:number_highlighted_sections", json!({"num_highlights": 2})),
                "The *quiet* river **waits**.",
            ),
            (check("detectable_content:number_placeholders", json!({"num_placeholders": 2})), "Dear [name] of [town]"),
            (check("detectable_format:number_bullet_lists", json!({"num_bullets": 2})), "So:\n* one\n* two\n"),
            (check("length_constraints:number_paragraphs", json!({"num_paragraphs": 2})), "One.\n\n***\n\nTwo. Three."),
            (
                check(
                    "length_constraints:nth_paragraph_first_word",
                    json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "but"}),
                ),
                "One.\n\nBut two waits.",
            ),
            (
                check("detectable_format:multiple_sections", json!({"section_spliter": "Day", "num_sections": 2})),
                "Day 1\nWalk.\nDay 2\nRest.",
            ),
            (check("detectable_format:json_format", json!({})), "{\"a\": 1}"),
            (check("detectable_format:constrained_response", json!({})), "My answer is yes."),
            (check("combination:two_responses", json!({})), "One.\n******\nTwo."),
            (check("combination:repeat_prompt", json!({"prompt_to_repeat": "Say it."})), "Say it. It."),
            (check("keywords:existence", json!({"keywords": ["river", "boat"]})), long),
            (check("keywords:forbidden_words", json!({"forbidden_words": ["lantern"]})), long),
            (check("keywords:frequency", json!({"keyword": "is", "frequency": 2, "relation": "at least"})), long),
            (check("keywords:frequency", json!({"keyword": "boat", "frequency": 2, "relation": "less than"})), long),
            (check("length_constraints:number_words", json!({"num_words": 15, "relation": "at least"})), long),
            (check("length_constraints:number_words", json!({"num_words": 20, "relation": "less than"})), long),
            (check("length_constraints:number_sentences", json!({"num_sentences": 4, "relation": "at least"})), long),
            (check("length_constraints:number_sentences", json!({"num_sentences": 5, "relation": "less than"})), long),
            (
                check(
                    "change_case:capital_word_frequency",
                    json!({"capital_frequency": 2, "capital_relation": "at least"}),
                ),
                "The QUIET river WAITS",
            ),
            (
                check(
                    "change_case:capital_word_frequency",
                    json!({"capital_frequency": 2, "capital_relation": "less than"}),
                ),
                "The quiet river waits",
            ),
        ];
        for (check, text) in cases {
            assert!(check.strict(text), "{} holds at first", check.id);
            let other = super::super::cases::tests::check("language:response_language", json!({"language": "en"}));
            let mut found = 0;
            for seed in 0..12 {
                let mut draws = Draws::seed_from_u64(seed);
                let checks = std::slice::from_ref(&check);
                if let Some(near) = damage(checks, 0, text, Material { others: &others }, &mut draws) {
                    found += 1;
                    assert!(!check.strict(&near), "{}: {near}", check.id);
                    if let Some(near) =
                        damage(&[other.clone(), check.clone()], 1, text, Material { others: &others }, &mut draws)
                    {
                        assert!(other.strict(&near) && !check.strict(&near), "{near}");
                    }
                }
            }
            assert!(found >= 6, "{} was broken {found} times in 12", check.id);
        }
    }

    #[test]
    fn what_has_no_edit_has_no_near_miss() {
        let letters =
            check("keywords:letter_frequency", json!({"letter": "e", "let_frequency": 1, "let_relation": "at least"}));
        assert_eq!(damage(&[letters], 0, "The sea.", Material::default(), &mut Draws::seed_from_u64(0)), None);
    }
}
