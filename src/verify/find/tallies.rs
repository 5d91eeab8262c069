//! Finds instructions with a fixed wording that contains a number or a word: IFBench's counts, and words at a given place.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::{Value, json};

use super::list::{self, Noun};
use super::number::{NUMBER, ordinal, value};
use super::pattern::{compile, pattern};
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

/// The id, the name of its numeric argument, and the wording, in which `{n}` stands for the number.
const WORDINGS: [(&str, &str, &str); 10] = [
    (
        "count:numbers",
        "N",
        r"\bexactly {n} numbers\b(?: ?[.,;!]|$| in (?:your|the) (?:response|answer|reply|output)\b)",
    ),
    ("count:pronouns", "N", r"\bat least {n} pronouns\b"),
    ("count:conjunctions", "small_n", r"\bat least {n} (?:different|distinct|unique) (?:coordinating )?conjunctions\b"),
    ("count:unique_word_count", "N", r"\bat least {n} (?:unique|different|distinct) words\b"),
    (
        "count:words_japanese",
        "N",
        r"\b(?:every|each) {n}(?:st|nd|rd|th) word (?:of|in) (?:your|the) (?:response|answer|reply) (?:must|should|has to) be in japanese\b",
    ),
    (
        "words:repeats",
        "small_n",
        r"\b(?:(?:should|must|do|may|can)(?: not|n't)|cannot|never) repeat any word more than {n} times?\b",
    ),
    (
        "words:repeats",
        "small_n",
        r"\bno word (?:should|must|may|can) (?:be (?:used|repeated)|appear|occur) more than {n} times?\b",
    ),
    (
        "sentence:increment",
        "small_n",
        r"\b(?:each|every) sentence(?: (?:in|of) (?:your|the) \w+)? (?:must|should|has to) (?:contain|have) exactly {n} more words? than the (?:previous|one before)\b",
    ),
    (
        "ratio:stop_words",
        "percentage",
        r"\bstop ?words (?:constitute|make up|account for|form|are|is|to)(?: at)? (?:no more than|at most|not more than) {n} ?(?:%|percent)",
    ),
    (
        "count:person_names",
        "N",
        r"\bat least {n} (?:different )?(?:person|people's|personal) names[^.;]{0,30}, from this list of person names:",
    ),
];

/// The beginning of the only list of names that `count:person_names` knows.
const NAMES: &str = "Emma, Liam, Sophia, Jackson, Olivia, Noah";

static COMPILED: LazyLock<Vec<(&'static str, &'static str, Regex)>> = LazyLock::new(|| {
    let number = format!("(?P<n>{NUMBER})");
    WORDINGS.iter().map(|(id, key, wording)| (*id, *key, compile(&wording.replace("{n}", &number)))).collect()
});

const NTH: &str =
    r"(?P<nth>\d{1,3}(?:-?(?:st|nd|rd|th))|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth)";
// Matches `include the keyword … in the 4-th sentence`.
pattern!(
    IN_SENTENCE,
    [
        r"^ in (?:the|your) ",
        NTH,
        r" sentence\b(?P<word>,? as the (?P<mth>\d{1,3}(?:-?(?:st|nd|rd|th))) word(?: of (?:that|the) sentence)?)?"
    ]
);
pattern!(
    INCLUDES,
    [
        r"\b(?:includ(?:e|es|ing)|us(?:e|es|ing)|mention|contain|have|put|place|insert|with)(?: (?:the|a|exact))* (?:key ?word|word|term)\b"
    ]
);
pattern!(
    SECOND_WORDS,
    [
        r"\bthe second word (?:in|of) your (?:response|answer|reply) and the second[- ]to[- ]last word (?:in|of) your (?:response|answer|reply) (?:should|must) be the word\b"
    ]
);
pattern!(SEPARATOR, [r"\blist of items,? instead of bullet points,? use (?P<sep>\S+)"]);
pattern!(
    OPTIONS,
    [
        r"\b(?:answer|respond|reply)(?: only)? with (?:only |exactly )?one of (?:the following|these) (?:options|words|answers|labels|choices|categories) ?: ?(?P<options>[^\n]+)"
    ]
);
pattern!(CHANGED, [r"\brepeat the request,? but change the first word of the repeated request\b"]);
pattern!(SPAN, [r"\bcopy the span of words that lies between \(and including\) index (?P<from>\d+) and (?P<to>\d+)\b"]);

/// Finds counts and words at given places.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        counted(reading, sentence, finds);
        placed(reading, sentence, finds);
        separator(reading, sentence, finds);
        options(reading, sentence, finds);
        repeated(reading, sentence, finds);
    }
}

fn asked(reading: &Reading<'_>, sentence: &Sentence, range: &std::ops::Range<usize>) -> bool {
    let spot = Spot::new(reading, sentence, range);
    spot.is_asked() && !spot.is_under_negation()
}

fn at(sentence: &Sentence, found: &Captures<'_>) -> std::ops::Range<usize> {
    let whole = found.get(0).map_or(0..0, |whole| whole.range());
    sentence.range.start + whole.start..sentence.range.start + whole.end
}

fn counted(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    for (id, key, wording) in COMPILED.iter() {
        let Some(found) = wording.captures(reading.sentence_text(sentence)) else { continue };
        let Some(number) = value(&found["n"]) else { continue };
        let known = *id != "count:person_names" || reading.original().contains(NAMES);
        let range = at(sentence, &found);
        if known && asked(reading, sentence, &range) {
            finds.push(Find::new(id, json!({*key: number}), range));
        }
    }
}

/// Finds a word in a given sentence, or at the second place from both ends.
fn placed(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    for found in INCLUDES.find_iter(text) {
        let Some(list) = list::read(reading, sentence, found.end(), Noun::Singular) else { continue };
        let (Some(place), [word]) = (IN_SENTENCE.captures(&text[list.end..]), &list.items[..]) else { continue };
        let Some(nth) = ordinal(&place["nth"].replace('-', ""), 0) else { continue };
        let end = list.end + place.get(0).map_or(0, |whole| whole.end());
        let range = sentence.range.start + found.start()..sentence.range.start + end;
        if !asked(reading, sentence, &range) {
            continue;
        }
        match place.name("mth").and_then(|mth| ordinal(&mth.as_str().replace('-', ""), 0)) {
            Some(mth) => {
                let kwargs = json!({"keyword": word, "n": nth, "m": mth});
                finds.push(Find::new("words:keywords_specific_position", kwargs, range));
            }
            None => finds.push(Find::new("sentence:keyword", json!({"word": word, "N": nth}), range)),
        }
    }
    if let Some(found) = SECOND_WORDS.find(text) {
        let list = list::read(reading, sentence, found.end(), Noun::Singular);
        if let Some([word]) = list.as_ref().map(|list| &list.items[..]) {
            let end = list.as_ref().map_or(found.end(), |list| list.end);
            let range = sentence.range.start + found.start()..sentence.range.start + end;
            if asked(reading, sentence, &range) {
                finds.push(Find::new("words:words_position", json!({"keyword": word}), range));
            }
        }
    }
}

fn separator(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let Some(found) = SEPARATOR.captures(reading.sentence_text(sentence)) else { return };
    let range = at(sentence, &found);
    let Some(start) = found.name("sep").map(|sep| sentence.range.start + sep.start()) else { return };
    // Marks such as `!?!?` may have been mistaken for the end of the sentence.
    let rest = &reading.original()[reading.place(start)..];
    let written = rest.split_whitespace().next().unwrap_or_default();
    let written = written.strip_suffix('.').unwrap_or(written).trim_matches(['"', '“', '”', '`', '\'']);
    if !written.is_empty() && asked(reading, sentence, &range) {
        finds.push(Find::new("format:list", json!({"sep": written}), range));
    }
}

/// Finds the options of a choice, if the rule divides them as the text does: at `/`, at its only `or`, or at commas.
fn options(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let Some(found) = OPTIONS.captures(reading.sentence_text(sentence)) else { return };
    let range = at(sentence, &found);
    let Some(list) = found.name("options") else { return };
    let from = sentence.range.start + list.start();
    let written = reading.words(from..from + list.len());
    let written = written.trim_end_matches(['.', '!']).trim();
    let ors = written.matches("or").count();
    let divides = match (written.contains('/'), ors, written.contains(',')) {
        (true, ..) => true,
        (false, 0, comma) => comma,
        (false, 1, comma) => !comma && written.contains(" or "),
        _ => false,
    };
    let short = written.len() <= 120 && !written.contains(['"', '“']);
    if divides && short && asked(reading, sentence, &range) {
        finds.push(Find::new("format:options", json!({"options": written}), range));
    }
}

/// Finds requests to repeat the request with a different first word, or a span of it. The request is the text before the instruction.
fn repeated(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    let found = CHANGED.captures(text).map(|found| ("repeat:repeat_change", found));
    let Some((id, found)) = found.or_else(|| SPAN.captures(text).map(|found| ("repeat:repeat_span", found))) else {
        return;
    };
    let range = at(sentence, &found);
    let request = reading.original()[..reading.place(range.start)].trim();
    if request.is_empty() || !asked(reading, sentence, &range) {
        return;
    }
    let mut kwargs = json!({"prompt_to_repeat": request});
    for (key, group) in [("n_start", "from"), ("n_end", "to")] {
        if let Some(number) = found.name(group).and_then(|number| value(number.as_str())) {
            kwargs[key] = Value::from(number);
        }
    }
    finds.push(Find::new(id, kwargs, range));
}
