//! Counts what a rule counts, by the rule itself: the count is the largest number of which the rule says "at least", or the only one that
//! an exact rule accepts. A critique thus never disagrees with the verdict.

use serde_json::Value;
use spar::verify::{Check, sentences, words};

use super::number;

/// How a rule states its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The count must not be lower.
    AtLeast(usize),
    /// The count must be lower.
    LessThan(usize),
    /// The count must be this one.
    Exactly(usize),
}

/// The largest count that is looked for.
const MOST: usize = 1 << 16;
/// The largest exact count that is looked for.
const MOST_EXACT: usize = 64;

/// A counting rule: its id, the argument with the number, the argument with the relation, and the word for one of what is counted.
struct Counting {
    id: &'static str,
    number: &'static str,
    relation: Option<&'static str>,
    noun: &'static str,
}

const COUNTING: [Counting; 11] = [
    counting("length_constraints:number_words", "num_words", Some("relation"), "word"),
    counting("length_constraints:number_sentences", "num_sentences", Some("relation"), "sentence"),
    counting("length_constraints:number_paragraphs", "num_paragraphs", None, "part"),
    counting("keywords:frequency", "frequency", Some("relation"), "occurrence"),
    counting("keywords:letter_frequency", "let_frequency", Some("let_relation"), "occurrence"),
    counting("detectable_content:number_placeholders", "num_placeholders", None, "placeholder"),
    counting("detectable_format:number_bullet_lists", "num_bullets", None, "bullet point"),
    counting("detectable_format:number_highlighted_sections", "num_highlights", None, "highlighted part"),
    counting("detectable_format:multiple_sections", "num_sections", None, "section"),
    counting("change_case:capital_word_frequency", "capital_frequency", Some("capital_relation"), "word in capitals"),
    counting("length_constraints:nth_paragraph_first_word", "num_paragraphs", None, "paragraph"),
];

const fn counting(
    id: &'static str,
    number: &'static str,
    relation: Option<&'static str>,
    noun: &'static str,
) -> Counting {
    Counting { id, number, relation, noun }
}

fn find(check: &Check) -> Option<&'static Counting> {
    COUNTING.iter().find(|counting| counting.id == check.id)
}

/// The bound of a counting rule; `None` for other rules.
#[must_use]
pub fn bound(check: &Check) -> Option<Bound> {
    let counting = find(check)?;
    let limit = number(check, counting.number);
    let relation = counting.relation.and_then(|name| check.kwargs.get(name)).and_then(Value::as_str);
    Some(match relation {
        Some("less than") => Bound::LessThan(limit),
        Some(_) => Bound::AtLeast(limit),
        None if is_exact(check) => Bound::Exactly(limit),
        None => Bound::AtLeast(limit),
    })
}

fn is_exact(check: &Check) -> bool {
    ["number_paragraphs", "number_bullet_lists", "nth_paragraph_first_word"].iter().any(|name| check.id.ends_with(name))
}

/// The number of what a counting rule counts; `None` for other rules, and where the layout has no valid count.
#[must_use]
pub fn count(check: &Check, response: &str) -> Option<usize> {
    let counting = find(check)?;
    match counting.id {
        "length_constraints:number_words" => return Some(words(response).count()),
        "length_constraints:number_sentences" => return Some(sentences(response)),
        "length_constraints:nth_paragraph_first_word" => {
            return Some(response.split("\n\n").filter(|piece| !piece.trim().is_empty()).count());
        }
        _ => {}
    }
    let holds = |n: usize| asking(check, counting, n).is_some_and(|asked| asked.strict(response));
    if is_exact(check) {
        return (0..=MOST_EXACT).find(|&n| holds(n));
    }
    let (mut low, mut high) = (0, 1);
    while high <= MOST && holds(high) {
        (low, high) = (high, 2 * high);
    }
    while high - low > 1 {
        let middle = low.midpoint(high);
        if holds(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// Asks the rule about another number and, if it has a relation, "at least".
fn asking(check: &Check, counting: &Counting, n: usize) -> Option<Check> {
    let mut kwargs = check.kwargs.clone();
    kwargs.insert(counting.number.into(), n.into());
    if let Some(relation) = counting.relation {
        kwargs.insert(relation.into(), "at least".into());
    }
    Check::new(&check.id, kwargs).ok()
}

/// The count in words: `3 bullet points`.
#[must_use]
pub fn counted(check: &Check, response: &str) -> Option<String> {
    let noun = find(check)?.noun;
    let n = count(check, response)?;
    let noun = match (n, noun.split_once(' ')) {
        (1, _) => noun.to_owned(),
        (_, Some((head, rest))) if noun.starts_with("word ") => format!("{head}s {rest}"),
        _ => format!("{noun}s"),
    };
    Some(if n == 0 { format!("no {noun}") } else { format!("{n} {noun}") })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lessons::cases::tests::check;

    #[test]
    fn counts_are_those_of_the_rules() {
        for (id, kwargs, text, expected, words, bound) in [
            (
                "length_constraints:number_words",
                json!({"num_words": 3, "relation": "less than"}),
                "One two don't",
                4,
                "4 words",
                Bound::LessThan(3),
            ),
            (
                "length_constraints:number_sentences",
                json!({"num_sentences": 3, "relation": "at least"}),
                "One.",
                1,
                "1 sentence",
                Bound::AtLeast(3),
            ),
            (
                "keywords:frequency",
                json!({"keyword": "sea", "frequency": 2, "relation": "less than"}),
                "sea, Sea and sea",
                3,
                "3 occurrences",
                Bound::LessThan(2),
            ),
            (
                "keywords:letter_frequency",
                json!({"letter": "o", "let_frequency": 9, "let_relation": "at least"}),
                "oooOO",
                5,
                "5 occurrences",
                Bound::AtLeast(9),
            ),
            (
                "detectable_format:number_bullet_lists",
                json!({"num_bullets": 3}),
                "So:\n* a\n- b",
                2,
                "2 bullet points",
                Bound::Exactly(3),
            ),
            (
                "detectable_content:number_placeholders",
                json!({"num_placeholders": 3}),
                "none",
                0,
                "no placeholders",
                Bound::AtLeast(3),
            ),
            (
                "change_case:capital_word_frequency",
                json!({"capital_frequency": 3, "capital_relation": "less than"}),
                "NASA and ESA fly",
                2,
                "2 words in capitals",
                Bound::LessThan(3),
            ),
        ] {
            let check = check(id, kwargs);
            assert_eq!(count(&check, text), Some(expected), "{id}");
            assert_eq!(counted(&check, text).as_deref(), Some(words), "{id}");
            assert_eq!(super::bound(&check), Some(bound), "{id}");
        }
        let other = check("punctuation:no_comma", json!({}));
        assert_eq!((count(&other, "a"), super::bound(&other)), (None, None));
    }
}
