//! Finds how often a letter or a mark may occur.

use serde_json::json;

use super::keywords::is_placed;
use super::number::value;
use super::pattern::pattern;
use super::quantity::{Bounds, quantity, relation, relation_after};
use super::reading::{QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::times::times_of;
use super::{Find, Finds};

const ID: &str = "keywords:letter_frequency";

pattern!(
    LETTER,
    [r"\b(?:the |any |single |of the |lowercase |character |this )*letters? (?P<letter>\x{E000}|[a-z]\b)(?:'s)?"]
);
pattern!(FIRST, [r"\b(?:start|begin|end|finish|words?|each|every|alliterat|first|last|vowel)\w*\b(?: \w+){0,3} ?$"]);
pattern!(
    VERB,
    [
        r"^,? ?(?:should|must|needs? to|has to|have to|is to|may|shall|will|can|cannot|can't|mustn't|shouldn't|appears?|appearing|occurs?|shows? up|to|comes? up|is|be|doesn't|does|isn't|used|included)\b(?: ?(?:not|never|be|appear|occur|show up|appear|used|included|present|found|a total of|for|allowed|come up|feature|exist|at all|anywhere))*"
    ]
);
pattern!(
    GAP,
    [
        r"^(?: ?(?:in|throughout|within|across|anywhere in|somewhere in) (?:the|your|this|it)(?: (?:entire|whole|full))?(?: \w+)?|,| appears?| appearing| a total of| for| whatsoever| at all| anywhere)* ?"
    ]
);
pattern!(
    USING,
    [
        r"\b(?:us(?:e|es|ing)|includ(?:e|es|ing)|contain(?:s|ing)?|ha(?:s|ve|ving)|with|without|avoid(?:ing)?|no|omit(?:ting)?|mention(?:ing)?|exclud(?:e|ing)|leav(?:e|ing) out|skip(?:ping)?|refrain from|typ(?:e|ing)|writ(?:e|ing)|add(?:ing)?|put(?:ting)?|employ(?:ing)?|from)(?: (?:using|the use of|any|at least|all|words with|it with))? ?$"
    ]
);
pattern!(
    FORBIDS,
    [
        r"\b(?:not|never|cannot|without|avoid(?:ing)?|no|omit(?:ting)?|exclud(?:e|ing)|leav(?:e|ing) out|skip(?:ping)?|refrain from|stay away from|steer clear of)\b|n't\b"
    ]
);
pattern!(NOT_IN_VERB, [r"\b(?:not|never|cannot)\b|n't\b"]);

/// Finds bounds on letters and on marks.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        for letter in LETTER.captures_iter(text) {
            let (Some(whole), Some(group)) = (letter.get(0), letter.name("letter")) else { continue };
            let base = sentence.range.start;
            let written = if group.as_str().starts_with(QUOTED) {
                reading.quoted(base + group.start()).map(str::trim)
            } else {
                Some(reading.words(base + group.start()..base + group.end()))
            };
            let single = written.filter(|written| written.chars().count() == 1);
            if let Some(single) = single {
                find_letter(reading, sentence, whole.range(), &single.to_lowercase(), finds);
            }
        }
        marks(reading, sentence, finds);
    }
}

fn find_letter(
    reading: &Reading<'_>,
    sentence: &Sentence,
    at: std::ops::Range<usize>,
    letter: &str,
    finds: &mut Finds,
) -> Option<()> {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    let range = base + at.start..base + at.end;
    let spot = Spot::new(reading, sentence, &range);
    if !spot.is_asked() || FIRST.is_match(spot.clause()) {
        return None;
    }
    let after = &text[at.end..];
    let verb = VERB.find(after).map_or("", |verb| verb.as_str());
    let rest = &after[verb.len()..];
    let gap = GAP.find(rest).map_or(0, |gap| gap.end());
    let counted = times_of(rest).or_else(|| times_of(&rest[gap..]).map(|(bounds, len)| (bounds, gap + len)));
    let under_negation = spot.is_under_negation();
    let forbidden = NOT_IN_VERB.is_match(verb);
    let mut push = |bounds: Bounds, end: usize| {
        for (relation, count) in bounds.relations() {
            let kwargs = json!({"letter": letter, "let_frequency": count, "let_relation": relation});
            finds.push(Find::new(ID, kwargs, range.start..base + end));
        }
    };
    if let Some((bounds, len)) = counted {
        let bounds = bounds?;
        let bounds = match (under_negation || forbidden, bounds) {
            (false, bounds) => bounds,
            (true, Bounds { least: Some(least), limit: None }) => Bounds { least: None, limit: Some(least) },
            (true, Bounds { least: None, limit: Some(limit) }) => Bounds { least: Some(limit), limit: None },
            _ => return None,
        };
        let end = at.end + verb.len() + len;
        return (!is_placed(&text[end..])).then(|| push(bounds, end));
    }
    let none = Bounds { least: None, limit: Some(1) };
    if forbidden && !under_negation && !is_placed(&rest[gap..]) {
        push(none, at.end + verb.len());
    } else if verb.is_empty()
        && USING.is_match(spot.left)
        && FORBIDS.is_match(spot.clause())
        && !is_placed(&rest[gap..])
    {
        push(none, at.end);
    }
    Some(())
}

const MARKS: [(&str, &str); 7] = [
    ("exclamation", "!"),
    ("question", "?"),
    ("semi", ";"),
    ("hash", "#"),
    ("ampersand", "&"),
    ("exclamations", "!"),
    ("comma", ","),
];

static COUNTED_MARK: std::sync::LazyLock<regex::Regex> =
    std::sync::LazyLock::new(|| super::pattern::compile(&[&quantity(), r" (?:or more )?", COUNTABLE].concat()));
/// Includes commas, unlike [`MARK`]: an answer without any comma has a rule of its own.
const COUNTABLE: &str = r"(?:of )?(?P<mark>exclamation|question|semi|hash|ampersand|comma)(?: ?-?(?:marks?|points?|colons?|tags?|signs?)|s|)\b";
const MARK: &str =
    r"(?:of )?(?P<mark>exclamation|question|semi|hash|ampersand)(?: ?-?(?:marks?|points?|colons?|tags?|signs?)|s)\b";
pattern!(
    NO_MARK,
    [
        super::pattern::NOT,
        r"(?: (?:use|using|any|of|a|single|include|including|the use of|usage of|contain|containing|put|have|having|add|adding|all|to|be|with|end with|ever))* ",
        MARK
    ]
);
pattern!(
    WITHIN,
    [
        r"^ ?(?:in (?:each|every|the (?:first|title|last|heading|headline|subject|opening|intro|greeting))|per|each|at the (?:end|start|beginning)|after|before|between|that|which|about)\b"
    ]
);

/// Finds `at least 3 exclamation marks` and `no question marks`.
fn marks(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    let mut push = |range: std::ops::Range<usize>, mark: &str, bounds: Bounds| {
        let sign = MARKS.iter().find(|(name, _)| *name == mark).map_or("", |(_, sign)| sign);
        for (relation, count) in bounds.relations() {
            let kwargs = json!({"letter": sign, "let_frequency": count, "let_relation": relation});
            finds.push(Find::new(ID, kwargs, range.clone()));
        }
    };
    for counted in COUNTED_MARK.captures_iter(text) {
        let Some(whole) = counted.get(0) else { continue };
        let range = base + whole.start()..base + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        let group = |name: &str| counted.name(name).map_or("", |found| found.as_str());
        let Some(low) = value(group("low")) else { continue };
        let stated = relation(group("pre")).or_else(|| relation_after(group("after")));
        let stated = if spot.is_negated() { stated.and_then(super::quantity::Relation::negated) } else { stated };
        let bounds = match (counted.name("high").and_then(|high| value(high.as_str())), stated) {
            (Some(high), _) => Bounds::between(low, high),
            (None, Some(stated)) => stated.bounds(low),
            (None, None) => continue,
        };
        if spot.is_asked()
            && !WITHIN.is_match(spot.right)
            && (spot.is_negated() || !spot.is_under_negation())
            && !super::part::is_of_part(&spot)
        {
            push(range, group("mark"), bounds);
        }
    }
    for none in NO_MARK.captures_iter(text) {
        let (Some(whole), Some(mark)) = (none.get(0), none.name("mark")) else { continue };
        let range = base + whole.start()..base + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        if spot.is_asked() && !WITHIN.is_match(spot.right) && !super::part::is_of_part(&spot) {
            push(range, mark.as_str(), Bounds { least: None, limit: Some(1) });
        }
    }
}
