//! Finds the phrase that the answer must end with.

use serde_json::json;

use super::part::PARTS;
use super::pattern::pattern;
use super::reading::{QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

const ANSWER: &str = r"(?:(?:your|the|this|my|an?|every|each|all|all your|each of your|every one of your) )?(?:(?:entire|whole|full|very) )?(?:responses?|answers?|repl(?:y|ies)|output|messages?|letter|email|e-mail|essay|article|story|poem|blog post|blog|post|song|rant|review|speech|joke|summary|text|limerick|haiku|rap|piece|report|advert(?:isement)?|ad|it|everything|things|off|toast|dialogue|script|riddle|memo|note|itinerary|cover letter|proposal|pitch)(?: (?:off|out|up))?";
const PHRASE: &str = r"(?: (?:of|with|by|saying|reading|the|this|these|exactly|exact|following|precise|specific|closing|final|last|words?|phrases?|sentences?|lines?|text|question|statement|sign-off|remark|message|just|only|literally|simply|a|my|quote|expression|like|signature|catchphrase|verbatim)\b)*";

// Matches `end your response with the exact phrase …`.
pattern!(
    ENDS,
    [
        r"\b(?:end|ends|ending|finish|finishes|finishing|conclude|concludes|concluding|close|closes|closing|wrap up|sign off|terminate)(?: (?:off|up))?(?: ",
        ANSWER,
        r")?,? (?P<with>with|by (?:saying|writing|stating|asking|adding|using)|on|in|using)",
        PHRASE,
        r" ?(?P<colon>[:,-])? ?(?:\n)?(?P<phrase>\x{E000})?"
    ]
);
// Matches `the last sentence of your response should be …`.
pattern!(
    LAST_IS,
    [
        r"\b(?:the |your )?(?:very )?(?:(?:last|final|closing) (?:words?|sentence|line|phrase|thing)|end)(?: (?:of|in) ",
        ANSWER,
        r"| you (?:say|write))? (?:(?:should|must|needs to|has to|will|have to) (?:exactly )?)?(?:be|read|say|contain)(?: (?:exactly|like|as|just|literally|this|these|words?|the|phrase|following|exact|sentence))*(?: ?(?P<colon>:)? ?(?P<phrase>\x{E000})| ?:)"
    ]
);
// Matches `"…" must be the last sentence`.
pattern!(
    IS_LAST,
    [
        r"(?P<phrase>\x{E000}) (?:should|must|has to|needs to) (?:be|come) (?:the |your |at the )?(?:very )?(?:(?:last|final|closing) (?:words?|sentence|line|phrase|thing)|end)\b"
    ]
);
pattern!(
    OF_PART,
    [
        r"\b(?:each|every|the|a|an|your|its|one|this|all)(?: [\w-]+){0,2}? ",
        PARTS,
        r"\b|\b(?:sentences?|words|lines|questions?|stanzas?|verses?)\b"
    ]
);
pattern!(
    NOT_PHRASE,
    [
        r"^ ?(?:and (?:start|begin)|or\b|in (?:each|every|the (?:title|first))|as (?:the|a) (?:title|name)|style|format|-style|like|symbol|character|mark|emoji)"
    ]
);

/// Finds the phrase at the end of the answer.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for (index, sentence) in reading.sentences.iter().enumerate() {
        for pattern in [&*ENDS, &*LAST_IS, &*IS_LAST] {
            for found in pattern.captures_iter(reading.sentence_text(sentence)) {
                finds.extend(ending(reading, index, &found));
            }
        }
    }
}

fn ending(reading: &Reading<'_>, index: usize, found: &regex::Captures<'_>) -> Option<Find> {
    let sentence = &reading.sentences[index];
    let whole = found.get(0)?;
    let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
    let (phrase, range) = match found.name("phrase") {
        Some(phrase) => (reading.quoted(sentence.range.start + phrase.start())?, range),
        None => unquoted(reading, index, whole.end(), whole.as_str())?,
    };
    let spot = Spot::new(reading, sentence, &(sentence.range.start + whole.start()..range.end));
    let of_part = OF_PART.is_match(spot.clause())
        || found.name("with").is_some() && EACH_PART.is_match(&super::part::without_answers(whole.as_str()))
        || OF_PART.is_match(spot.header());
    if of_part || !spot.is_asked() || spot.is_under_negation() || NOT_PHRASE.is_match(spot.right) {
        return None;
    }
    let phrase = phrase.trim();
    let usable = phrase.split_whitespace().count() <= 40 && phrase.chars().any(char::is_alphanumeric) && marker(phrase);
    usable.then(|| Find::new("startend:end_checker", json!({"end_phrase": phrase}), range))
}

pattern!(
    EACH_PART,
    [r"\b(?:each|every|paragraph|section|stanza|(?:first|second|third|opening|top|title|subject|that|which) line)\b"]
);

/// Whether the phrase is one to end with; `P.S.` marks a postscript instead.
fn marker(phrase: &str) -> bool {
    !matches!(phrase.to_lowercase().as_str(), "p.s." | "p.s" | "p.p.s" | "p.p.s." | "ps" | "pps")
}

/// Reads the phrase of `end with the exact phrase Is there more?` and `end with: That is all.`, up to the end of the line.
fn unquoted<'a>(
    reading: &Reading<'a>,
    index: usize,
    end: usize,
    found: &str,
) -> Option<(&'a str, std::ops::Range<usize>)> {
    let sentence = &reading.sentences[index];
    let rest = &reading.sentence_text(sentence)[end..];
    let colon = found.trim_end().ends_with(':');
    if rest.contains(QUOTED) || !(colon || NAMES_PHRASE.is_match(found)) {
        return None;
    }
    let start = sentence.range.start + end;
    let (from, to) = if rest.trim().is_empty() && colon {
        let next = reading.sentences.get(index + 1).filter(|next| next.header == sentence.range)?;
        (next.range.start, line_end(reading, next.range.end))
    } else {
        (start, line_end(reading, start))
    };
    if reading.text[from..].starts_with(QUOTED) {
        return reading.quoted(from).map(|inner| (inner, sentence.range.start..from + QUOTED.len_utf8()));
    }
    let words = reading.words(from..to);
    let capital = words.chars().next().is_some_and(char::is_uppercase);
    (capital || colon)
        .then_some((words, sentence.range.start..to))
        .filter(|(words, _)| !words.is_empty() && words.split_whitespace().count() <= 20)
}

pattern!(
    NAMES_PHRASE,
    [r"\b(?:exact|following|this|these) (?:\w+ )?(?:phrase|words?|sentence|question|line|statement)(?: of)?:? ?$"]
);

/// The end of the line, or of its first sentence if more follow.
fn line_end(reading: &Reading<'_>, from: usize) -> usize {
    let line = reading.text[from..].find('\n').map_or(reading.text.len(), |len| from + len);
    reading
        .sentences
        .iter()
        .map(|sentence: &Sentence| sentence.range.end)
        .find(|end| *end > from)
        .map_or(line, |end| end.min(line))
}
