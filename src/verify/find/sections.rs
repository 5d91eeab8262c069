//! Finds sections with a marker, paragraphs between `***` or blank lines, and two answers between `******`.

use std::ops::Range;

use serde_json::json;

use super::list::{self, Noun};
use super::number::{NUMBER, ordinal, value};
use super::pattern::pattern;
use super::quantity::{Relation, quantity, relation};
use super::reading::{QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

const PIECES: &str = r"(?:paragraphs?|sections?|parts?|chapters?|stanzas?|days?|acts?|scenes?|steps?|segments?|verses?|pieces?|blocks?|audiences?|weeks?|rounds?|levels?|phases?|lessons?|modules?|q ?(?:&|and) ?as?)";

static COUNTED: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    super::pattern::compile(&[&quantity(), r"[ -](?:[\w-]+ ){0,2}?(?P<pieces>", PIECES, r")\b"].concat())
});
pattern!(
    MARKS,
    [
        r"\b(?:mark(?:s|ed|ing)?|labell?(?:s|ed|ing)?|start(?:s|ed|ing)?|begin(?:s|ning)?|titled?|denot(?:e|ed|ing)|noted|nam(?:e|ed)|call(?:ed)?|head(?:ed|ing|ings)?|indicat(?:e|ed)|introduc(?:e|ed)|preced(?:e|ed)|number(?:ed)?|designat(?:e|ed)|open(?:s|ing)?|identif(?:y|ied)|prefix(?:ed)?|separat(?:e|ed)|announc(?:e|ed)|tagged)\b"
    ]
);
pattern!(LABEL, [r"\b(?P<word>[a-z]{2,20}) (?P<number>x|n|#|1|i)\b"]);
pattern!(QUOTED_LABEL, [r"^(?P<word>\p{L}{2,20}) (?P<number>X|N|#|1|\[?[XNxn]\]?|\{?[XNxn]\}?|<[XNxn]>)[:.]?$"]);
pattern!(ENUMERATED, [r"\b(?P<word>[a-z]{2,20}) (?P<number>\d{1,2})\b"]);

/// Finds instructions about how the answer is divided.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    labelled(reading, finds);
    starred(reading, finds);
    spaced(reading, finds);
    two_answers(reading, finds);
}

struct Count {
    number: usize,
    exact: bool,
    pieces: String,
    place: Range<usize>,
    sentence: usize,
}

/// The requested numbers of sections, paragraphs and similar pieces.
fn counts(reading: &Reading<'_>) -> Vec<Count> {
    let mut counts = Vec::new();
    for (index, sentence) in reading.sentences.iter().enumerate() {
        for found in COUNTED.captures_iter(reading.sentence_text(sentence)) {
            let Some(whole) = found.get(0) else { continue };
            let place = sentence.range.start + whole.start()..sentence.range.start + whole.end();
            let spot = Spot::new(reading, sentence, &place);
            let group = |name: &str| found.name(name).map_or("", |found| found.as_str());
            let stated = relation(group("pre"));
            let bare = group("pre").is_empty() && found.name("after").is_none() && found.name("high").is_none();
            let exact = bare || stated == Some(Relation::Exactly);
            let usable = exact || stated == Some(Relation::AtLeast);
            if let (Some(number), true) = (value(group("low")), usable && spot.is_asked() && !spot.is_under_negation())
            {
                counts.push(Count { number, exact, pieces: group("pieces").to_string(), place, sentence: index });
            }
        }
    }
    counts
}

fn labelled(reading: &Reading<'_>, finds: &mut Finds) {
    let counts = counts(reading);
    for (index, sentence) in reading.sentences.iter().enumerate() {
        let Some(label) = label(reading, sentence) else { continue };
        let spot = Spot::new(reading, sentence, &label.place);
        if !spot.is_asked() || spot.is_under_negation() {
            continue;
        }
        let singular = label.word.to_lowercase();
        let near = |count: &&Count| count.sentence.abs_diff(index) <= 2;
        let same = |count: &&Count| count.pieces.trim_end_matches('s') == singular;
        let of_sections = |count: &&Count| {
            count.pieces.starts_with("section")
                || count.pieces.starts_with("part")
                || count.pieces.starts_with("paragraph")
        };
        let counted = counts
            .iter()
            .filter(near)
            .find(same)
            .or_else(|| counts.iter().filter(near).find(of_sections))
            .or_else(|| counts.iter().find(near));
        let number = match (counted, label.named) {
            // This is the case in `exactly 3 sections, marked SECTION 1, SECTION 2 and so on`.
            (Some(count), named @ 2..) if count.sentence == index && count.number > named => count.number,
            (_, named @ 2..) => named,
            (Some(count), _) => count.number,
            (None, _) => continue,
        };
        let place = match counted {
            Some(count) if count.sentence == index => {
                count.place.start.min(label.place.start)..count.place.end.max(label.place.end)
            }
            _ => label.place,
        };
        finds.push(Find::new(
            "detectable_format:multiple_sections",
            json!({"section_spliter": label.word, "num_sections": number}),
            place,
        ));
        return;
    }
}

struct Label {
    word: String,
    /// The number of numbered labels that are spelled out.
    named: usize,
    place: Range<usize>,
}

/// Finds `SECTION X`, or `Part 1, Part 2 and Part 3`, in a sentence about marking sections.
fn label(reading: &Reading<'_>, sentence: &Sentence) -> Option<Label> {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    let marks = MARKS.find(text);
    let mut named: Vec<(String, usize, Range<usize>)> = Vec::new();
    for found in ENUMERATED.captures_iter(text) {
        let (Some(word), Some(number), Some(whole)) = (found.name("word"), found.name("number"), found.get(0)) else {
            continue;
        };
        let written = reading.words(base + word.start()..base + word.end());
        if written.starts_with(char::is_uppercase) {
            named.push((written.to_string(), number.as_str().parse().ok()?, base + whole.start()..base + whole.end()));
        }
    }
    for (at, mark) in text.match_indices(QUOTED) {
        let inner = reading.quoted(base + at)?.trim();
        if let Some(found) = NUMBERED_LABEL.captures(inner) {
            named.push((found["word"].to_string(), found["number"].parse().ok()?, base + at..base + at + mark.len()));
        }
    }
    let first = named.first().map(|(word, ..)| word.clone());
    let in_order =
        named.iter().enumerate().all(|(at, (word, number, _))| Some(word) == first.as_ref() && *number == at + 1);
    if let (Some(word), true, 2..) = (&first, in_order, named.len()) {
        let is_piece = IS_PIECE.is_match(&word.to_lowercase()) || marks.is_some();
        let place = named[0].2.start..named[named.len() - 1].2.end;
        return is_piece.then(|| Label { word: word.clone(), named: named.len(), place });
    }
    let marks = marks?;
    for found in LABEL.captures_iter(text) {
        let (Some(word), Some(number), Some(whole)) = (found.name("word"), found.name("number"), found.get(0)) else {
            continue;
        };
        let written = reading.words(base + word.start()..base + word.end());
        let written_number = reading.words(base + number.start()..base + number.end());
        let capital = written.starts_with(char::is_uppercase) && matches!(written_number, "X" | "N" | "#" | "1" | "I");
        if capital && whole.start() >= marks.start() {
            return Some(Label {
                word: written.to_string(),
                named: 0,
                place: base + marks.start()..base + whole.end(),
            });
        }
    }
    for (at, mark) in text.match_indices(QUOTED) {
        let inner = reading.quoted(base + at)?.trim();
        if let Some(found) = QUOTED_LABEL.captures(inner) {
            return Some(Label {
                word: found["word"].to_string(),
                named: 0,
                place: base + marks.start()..base + at + mark.len(),
            });
        }
    }
    None
}

pattern!(NUMBERED_LABEL, [r"^(?P<word>\p{Lu}[\p{L}]{1,19}) (?P<number>\d{1,2}):?$"]);
pattern!(IS_PIECE, [r"^", PIECES, r"$"]);

pattern!(THREE, [r"(?:^|[^*])\*{3}(?:[^*]|$)|\b(?:3|three) ast?erisks?\b"]);
pattern!(DIVIDED, [r"\b(?:separat\w+|divid\w+|divider|split|between|delimit\w*|break)\b"]);

/// Finds `exactly 3 paragraphs, separated by ***`.
fn starred(reading: &Reading<'_>, finds: &mut Finds) {
    let counts = counts(reading);
    for (index, sentence) in reading.sentences.iter().enumerate() {
        let text = reading.sentence_text(sentence);
        if !DIVIDED.is_match(text) {
            continue;
        }
        let quoted = text
            .match_indices(QUOTED)
            .find(|(at, _)| reading.quoted(sentence.range.start + at).is_some_and(|inner| inner.trim() == "***"));
        let Some(local) =
            THREE.find(text).map(|found| found.range()).or_else(|| quoted.map(|(at, mark)| at..at + mark.len()))
        else {
            continue;
        };
        let place = sentence.range.start + local.start..sentence.range.start + local.end;
        let spot = Spot::new(reading, sentence, &place);
        let near = counts
            .iter()
            .filter(|count| count.sentence.abs_diff(index) <= 1 && count.exact && DIVISIBLE.is_match(&count.pieces));
        let Some(count) = near.min_by_key(|count| count.sentence.abs_diff(index)) else { continue };
        if spot.is_asked() && !spot.is_under_negation() {
            let range = if count.sentence == index {
                count.place.start.min(place.start)..count.place.end.max(place.end)
            } else {
                count.place.clone()
            };
            finds.push(Find::new(
                "length_constraints:number_paragraphs",
                json!({"num_paragraphs": count.number}),
                range,
            ));
            return;
        }
    }
}

pattern!(
    DIVISIBLE,
    [r"^(?:paragraphs?|sections?|parts?|stanzas?|verses?|segments?|pieces?|chapters?|scenes?|blocks?)$"]
);

pattern!(
    BLANK_LINE,
    [
        r"\b(?:two|2|double) (?:new ?lines?|line ?-?breaks?|line-?feeds?|carriage returns)|\bblank lines?|\bempty lines?|\bdouble[- ](?:spac|new ?line|line)\w*|\\n ?\\n|\bline breaks? between"
    ]
);
pattern!(PARAGRAPHS, [r"^paragraphs?$"]);
const NTH: &str =
    r"(?P<nth>first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last|final|\d{1,2}(?:st|nd|rd|th))";
pattern!(
    FIRST_WORD,
    [
        r"\b(?:",
        NTH,
        r" paragraph|paragraph (?:number |#)?(?P<number>",
        NUMBER,
        r"))\b(?: (?:should|must|needs to|has to|will|to|has|is to))? ?(?:always )?(?:start|begin|open)s?(?: off)? with(?: the)?(?: (?:exact|single|first|very))*(?P<noun> (?:word|term|keyword))?"
    ]
);
pattern!(
    START_WORD,
    [
        r"\b(?:start|begin|open)(?:ing)? (?:off )?(?:the )?(?:very )?(?:",
        NTH,
        r" paragraph|paragraph (?:number |#)?(?P<number>",
        NUMBER,
        r")) with(?: the)?(?: (?:exact|single))*(?P<noun> (?:word|term|keyword))?"
    ]
);

/// Finds `3 paragraphs separated by two new lines; the second starts with the word …`.
fn spaced(reading: &Reading<'_>, finds: &mut Finds) {
    let blank = BLANK_LINE.is_match(&reading.text) || reading.original().contains("\\n\\n");
    let counts: Vec<Count> =
        counts(reading).into_iter().filter(|count| count.exact && PARAGRAPHS.is_match(&count.pieces)).collect();
    let [count] = &counts[..] else { return };
    if !blank {
        return;
    }
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        for found in FIRST_WORD.captures_iter(text).chain(START_WORD.captures_iter(text)) {
            let Some(whole) = found.get(0) else { continue };
            let nth =
                found.name("nth").or_else(|| found.name("number")).and_then(|nth| ordinal(nth.as_str(), count.number));
            let Some(list) = list::read(reading, sentence, whole.end(), Noun::Singular) else { continue };
            let (Some(nth), [word]) = (nth.filter(|nth| (1..=count.number).contains(nth)), &list.items[..]) else {
                continue;
            };
            let single = !word.contains(' ')
                && (found.name("noun").is_some() || text[whole.end()..].trim_start().starts_with(QUOTED));
            let range = sentence.range.start + whole.start()..sentence.range.start + list.end;
            let spot = Spot::new(reading, sentence, &range);
            if single && spot.is_asked() && !spot.is_under_negation() {
                let kwargs =
                    json!({"first_word": word.to_lowercase(), "num_paragraphs": count.number, "nth_paragraph": nth});
                finds.push(Find::new("length_constraints:nth_paragraph_first_word", kwargs, range));
                return;
            }
        }
    }
}

pattern!(SIX, [r"\*{6}|\b(?:6|six) ast?erisks?\b"]);
pattern!(
    TWO,
    [
        r"\b(?:two|2)(?: [\w-]+){0,4}? (?:responses?|answers?|versions?|poems?|stor(?:y|ies)|options?|variants?|variations?|alternatives?|jokes?|haikus?|limericks?|letters?|suggestions?|emails?|drafts?|replies|solutions?|explanations?|critiques?|parts?|paragraphs?|pieces?|slogans?|taglines?|descriptions?|summaries|scenes?|movies|riddles?|essays?|songs?|raps?|ads?|advertisements?|names?|ideas?|posts?|tweets?|titles?|examples?|sections?|opinions?|views?|arguments?|sides?|perspectives?|outputs?|sentences?|recipes?|paraphrases|rewrites|translations|takes)\b|\bboth (?:answers|versions|responses|of them)\b"
    ]
);

fn two_answers(reading: &Reading<'_>, finds: &mut Finds) {
    for (index, sentence) in reading.sentences.iter().enumerate() {
        let text = reading.sentence_text(sentence);
        let quoted = text
            .match_indices(QUOTED)
            .find(|(at, _)| reading.quoted(sentence.range.start + at).is_some_and(|inner| inner.trim() == "******"));
        let Some(local) =
            SIX.find(text).map(|found| found.range()).or_else(|| quoted.map(|(at, mark)| at..at + mark.len()))
        else {
            continue;
        };
        let place = sentence.range.start + local.start..sentence.range.start + local.end;
        let spot = Spot::new(reading, sentence, &place);
        let from = index.saturating_sub(3);
        let two = (from..=index).find_map(|near| {
            TWO.find(reading.sentence_text(&reading.sentences[near])).map(|found| (near, found.range()))
        });
        let Some((near, found)) = two else { continue };
        let divided = DIVIDED.is_match(text) || near == index;
        if divided && spot.is_asked() && !spot.is_under_negation() {
            let start = reading.sentences[near].range.start + found.start;
            let range = if near == index {
                start.min(place.start)..place.end.max(start + found.len())
            } else {
                sentence.range.start..place.end
            };
            finds.push(Find::new("combination:two_responses", json!({}), range));
            return;
        }
    }
}
