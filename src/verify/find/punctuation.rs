//! Finds answers without commas, and quotation marks around the whole answer.

use serde_json::json;

use super::part::PARTS;
use super::pattern::{NOT, pattern};
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

pattern!(
    NO_COMMA,
    [
        NOT,
        r"(?: (?:any|a|the|single|want|see|need|use|using|allowed|permitted|of|usage|include|including|contain|containing|put|have|having|make|write|with|to|be|ever|insert|add|even|in|your|response|answer|all|employ|employing|allow|type|typing|place|feature|anything with|one|uses?|periods|semi-?colons?|exclamation|question|marks?|points?|dashes|hyphens|bullets?|emojis?|emoticons?|hashtags?|contractions|numbers|digits|abbreviations|acronyms|full stops|colons|quotes|either|so much as|and|or|nor|punctuation|apostrophes|parentheses|it|this|that),?)*[ -]commas?\b",
        r"|\bi (?:really )?(?:don't|do not) (?:want|wish|like)(?: to see| you to use| to have)? (?:any |a single )?commas?\b",
        r"|\byou(?:'re| are| may| can) not (?:allowed|permitted|supposed)? ?(?:to )?use (?:any )?commas?\b",
        r"|\bstop using (?:any )?commas?\b",
        r"|\bcommas?(?: |-)(?:free|less)\b|\bcommaless\b",
        r"|\bcommas? (?:(?:is|are) )?(?:strictly |absolutely |completely )?(?:not (?:to be )?(?:allowed|permitted|used|welcome)|forbidden|banned|prohibited|off[- ]limits|disallowed)\b",
        r"|\bcommas? (?:should|must|may|can|shall) ?not (?:be (?:used|present|included)|appear|occur)\b|\bcommas? (?:can't|cannot|mustn't|shouldn't) (?:be used|appear)\b"
    ]
);
pattern!(
    PLACED,
    [
        r"^ ?(?:between|after|before|splices?|separat\w+|as (?:a )?(?:separators?|delimiters?)|within (?:numbers|the)|to (?:separate|join|delimit)|per|each|than|in (?:each|every|(?:the|your|any|its) (?:[\w-]+ ){0,2}?",
        PARTS,
        r"|numbers?|large|code|dates|lists?)|when|where|around|inside (?:the|each|quotes)|followed|unless|except|and then (?:use|replace)|(?:but|only) (?:in|where|when)|operator|key|delimited|like)\b"
    ]
);

const MARKS: &str = r"(?P<marks>(?:double |quotation |speech |inverted )*(?:quotation ?marks?|quotations? marks?|quotes?|quote marks|double quotations?|speech marks|inverted commas|\x{E000})|\x{22})";
const WRAP: &str = r"(?:wrap(?:ped|ping)?|enclos(?:e|ed|ing)|surround(?:ed|ing)?|put(?:ting)?|plac(?:e|ed|ing)|encas(?:e|ed)|bracket(?:ed)?|start and end|begin and end|starts? and ends?|starting and ending|begins? and ends?|delimit(?:ed)?|contain(?:ed)?|quote|quoted|written|write|give|be|are|sandwich(?:ed)?|answer)";
const ALL: &str = r"(?:(?:(?:your|the|this|an?) )?(?:entire|whole|full|complete|final) (?:[\w-]+ ){0,2}?(?:response|answer|reply|output|text|message|thing|email|letter|poem|story|essay|article|review|speech|content|post|joke|sentence response)|(?:your|the) (?:response|answer|reply|output)|everything(?: you (?:write|say))?|all of (?:it|your (?:response|answer|reply)|the (?:response|text)))";
pattern!(
    QUOTED,
    [
        r"\b",
        WRAP,
        r" (?:up )?",
        ALL,
        r"[^.;]{0,60}?\b(?:with|in|inside|within|by|between|using) (?:an? (?:(?:pair|set) of )?)?",
        MARKS,
        r"|\b(?:put|place|use|add|have|with) ",
        MARKS_FIRST,
        r" (?:around|surrounding|on both (?:sides|ends) of|at the (?:start and end|beginning and (?:the )?end) of) ",
        ALL,
        r"|",
        ALL,
        r"(?: \([^)]*\))? (?:(?:should|must|needs? to|has to|is to|will|to) )?(?:also )?(?:be |is |being )?(?:\w+ and )?",
        WRAP,
        r"(?: up)? (?:with|in|inside|within|by|between) (?:an? (?:(?:pair|set) of )?)?",
        MARKS_SECOND,
        r"|",
        ALL,
        r"(?: \([^)]*\))?[^.;]{0,60}\b(?:be )?(?:wrapped|enclosed|surrounded|placed|encased)(?: up)? (?:with|in|inside|within|by|between) (?:an? (?:(?:pair|set) of )?)?",
        MARKS_SECOND,
        r"|",
        MARKS_FIRST,
        r" (?:should|must|need to|have to) (?:be )?(?:placed |put |go |wrapped |appear )?(?:around|surround) ",
        ALL,
        r"|^(?:please |also |and )*",
        WRAP,
        r" (?:it|everything)(?: all)? (?:with|in|inside|within|by|between) ",
        MARKS_SECOND,
        r" ?[.!]?$"
    ]
);
const MARKS_FIRST: &str = r"(?:double )?(?:quotation marks?|quotations marks|quotes|quote marks|double quotations?)";
const MARKS_SECOND: &str =
    r"(?:double )?(?:quotation marks?|quotations marks?|quotes|quote marks|speech marks|inverted commas)";

/// Finds answers without commas, and answers in quotation marks.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        commas(reading, sentence, finds);
        quotation(reading, sentence, finds);
    }
}

fn commas(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    for found in NO_COMMA.find_iter(reading.sentence_text(sentence)) {
        let range = sentence.range.start + found.start()..sentence.range.start + found.end();
        let spot = Spot::new(reading, sentence, &range);
        let part = super::part::is_named(&spot);
        let both = spot.left.ends_with("with and ") || spot.left.ends_with("with or ");
        if spot.is_asked() && !both && !PLACED.is_match(spot.right) && !spot.is_negated() && !part {
            finds.push(Find::new("punctuation:no_comma", json!({}), range));
        }
    }
}

fn quotation(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    for found in QUOTED.captures_iter(reading.sentence_text(sentence)) {
        let Some(whole) = found.get(0) else { continue };
        let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        // In `in "…"` the quoted text must be the mark itself.
        let mark = found.name("marks").is_none_or(|marks| !marks.as_str().starts_with('\u{e000}'));
        if mark && !whole.as_str().contains("single") && spot.is_asked() && !spot.is_under_negation() {
            finds.push(Find::new("startend:quotation", json!({}), range));
        }
    }
}
