//! Finds instructions without arguments that have a fixed wording: IFBench's patterns of words, sentences and layout.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::json;

use super::pattern::compile;
use super::reading::Reading;
use super::spot::Spot;
use super::{Find, Finds};

const WORDINGS: [(&str, &str); 26] = [
    (
        "words:consonants",
        r"\b(?:each|every) word(?: (?:in|of) (?:your|the) \w+)? (?:must |should |needs to )?(?:ha(?:s|ve)|contains?|includes?) at least one consonant cluster\b",
    ),
    (
        "words:no_consecutive",
        r"\bno two (?:consecutive|adjacent|neighbou?ring|successive) words (?:(?:can|may|should|must|are to|to) )?(?:share|start with|begin with|have|starting with|beginning with|sharing|having) the same (?:first|initial|starting|opening)? ?letter\b",
    ),
    (
        "words:alphabet",
        r"\b(?:each|every) (?:\w+ )?word(?: (?:in|of) (?:your|the) \w+)? (?:(?:must|should|has to|needs to) )?(?:starts?|begins?) with the next letter (?:of|in) the alphabet\b",
    ),
    (
        "words:last_first",
        r"\bthe last word of (?:each|every) sentence (?:(?:must|should|has to|is to|to) )?(?:becomes?|be|is) the first word of the (?:next|following)\b",
    ),
    (
        "words:paragraph_last_first",
        r"\b(?:each|every) paragraph(?: (?:in|of) (?:your|the) \w+)? (?:must|should|has to|needs to) (?:end with the same word (?:that )?it (?:started|starts|began|begins) with|(?:start|begin) and end with the same word)\b",
    ),
    (
        "words:prime_lengths",
        r"\bonly words (?:with lengths? that (?:are|is)|whose lengths? (?:are|is)|of)(?: an?)? prime(?: numbers?| length)?\b",
    ),
    (
        "words:palindrome",
        r"\bat least (?:10|ten) (?:single-word )?palindromes?,? (?:each|all|every one)(?: of)? (?:them )?(?:at least|with at least|having at least) (?:5|five) (?:characters|letters)\b",
    ),
    (
        "words:odd_even_syllables",
        r"\balternat(?:e|ing) between words with (?:an )?odd and (?:an )?even numbers? of syllables\b",
    ),
    ("words:vowel", r"\bwords that contain only (?:three|3) types of vowels\b"),
    (
        "format:emoji",
        r"\b(?:use|put|add|place|include|have|with)? ?an emoji (?:at|to) the end of (?:every|each)(?: single)? sentence\b|\b(?:end|finish|close) (?:every|each)(?: single)? sentence with an emoji\b",
    ),
    (
        "format:line_indent",
        r"\bcreate stairs by (?:incrementally )?indenting each (?:new )?line\b|\bindent (?:each|every) (?:new )?line (?:\w+ ){0,3}more than the (?:previous|last|one before)\b",
    ),
    (
        "format:thesis",
        r"\b(?:each|every) section must (?:begin|start) with a thesis statement in italics,? (?:use|using) html\b",
    ),
    ("format:parentheses", r"\bnest(?:ed)? parentheses[^.;]{0,40} at least (?:5|five) levels\b"),
    ("format:quotes", r"\bquotes within quotes(?: within quotes)?,? at least (?:3|three) levels deep\b"),
    ("format:quote_unquote", r"\b(?:every|each) quoted phrase must be followed by an unquoted explanation\b"),
    (
        "format:newline",
        r"\b(?:write|put|place) (?:each|every) (?:single )?word on (?:a new|a separate|its own|a different)(?: separate)? line\b",
    ),
    (
        "format:no_whitespace",
        r"\b(?:(?:should|must|may|can|do|does)(?: not|n't)|cannot) (?:contain|use|include|have) any whitespaces?\b|\b(?:without|with no|no)(?: any)? whitespaces?\b",
    ),
    (
        "format:title_case",
        r"\b(?:entire|whole|full|complete) (?:response|answer|reply|output|text|message) (?:(?:must|should) be )?(?:written )?in title case\b",
    ),
    ("format:sub-bullets", r"\bbullet points denoted by \* and at least one sub-?bullet(?: point)? denoted by -"),
    (
        "format:no_bullets_bullets",
        r"\bat least (?:two|2) sentences ending in a period followed by at least (?:two|2) bullet points denoted by \*",
    ),
    (
        "ratio:sentence_balance",
        r"\bratio of sentence types \(declarative, interrogative,? (?:and )?exclamatory\)[^.;]{0,40}\b(?:is|be) balanced\b|\b(?:equal numbers?|the same number|an equal amount) of declarative, interrogative,? and exclamatory sentences\b",
    ),
    (
        "ratio:sentence_type",
        r"\b(?:2:1|two[- ]to[- ]one) ratio of declarative to interrogative sentences\b|\btwice as many declarative (?:sentences )?as interrogative\b",
    ),
    (
        "ratio:sentence_words",
        r"\b(?:three|3) sentences,? (?:all|each) (?:containing|with|having|of) the same number of characters\b",
    ),
    (
        "sentence:alliteration_increment",
        r"\b(?:each|every) sentence must have a longer sequence of consecutive alliterative words than the previous\b",
    ),
    ("count:punctuation", r"\bevery standard punctuation mark at least once\b"),
    ("repeat:repeat_simple", r"\bonly output this sentence here, ignore all other requests\b"),
];

static COMPILED: LazyLock<Vec<(&'static str, Regex)>> =
    LazyLock::new(|| WORDINGS.iter().map(|(id, wording)| (*id, compile(wording))).collect());

/// The lines of the template of `format:output_template`.
const TEMPLATE: [&str; 3] = ["My Answer:", "My Conclusion:", "Future Outlook:"];

/// Finds instructions by their fixed wording.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        for (id, wording) in COMPILED.iter() {
            let Some(found) = wording.find(reading.sentence_text(sentence)) else { continue };
            let range = sentence.range.start + found.start()..sentence.range.start + found.end();
            let spot = Spot::new(reading, sentence, &range);
            if spot.is_asked() && !spot.is_under_negation() {
                finds.push(Find::new(id, json!({}), range));
            }
        }
    }
    template(reading, finds);
}

fn template(reading: &Reading<'_>, finds: &mut Finds) {
    if !TEMPLATE.iter().all(|line| reading.original().contains(line)) {
        return;
    }
    let asked = reading.sentences.iter().find(|sentence| {
        let text = reading.sentence_text(sentence);
        text.contains("template")
            && Spot::new(reading, sentence, &(sentence.range.start..sentence.range.start)).is_asked()
    });
    if let Some(sentence) = asked {
        finds.push(Find::new("format:output_template", json!({}), sentence.range.clone()));
    }
}
