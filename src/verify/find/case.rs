//! Finds instructions about capital letters: all of them, none, or a number of words in capitals.

use serde_json::json;

use super::number::value;
use super::pattern::pattern;
use super::quantity::{Bounds, Relation, quantity, relation, relation_after};
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::times::times_of;
use super::{Find, Finds};

const CAPITAL: &str = "change_case:english_capital";
const LOWERCASE: &str = "change_case:english_lowercase";
const WORDS: &str = "change_case:capital_word_frequency";

const UPPER: &str = r"(?:upper ?-?case[ds]?(?: letters?| characters?| text)?|capital letters?|capitals|caps(?: ?-?lock)?|capitali[sz]ed(?: letters)?|uppercased?(?: letters?)?|block letters)";
const LOWER: &str =
    r"(?:lower ?-?case[ds]?(?: letters?| characters?| text| english| words)?|small letters|lowercased?(?: letters)?)";
const EVER: &str = r"(?:all|only|entirely|completely|fully|exclusively|strictly|totally|just|nothing but|purely)";

// `in all caps`, `only lowercase letters`, `uppercase only`
pattern!(
    ALL_UPPER,
    [
        r"\ball[- ]?caps\b|\b",
        EVER,
        r"(?: be| use| in| written in| of it in| letters? in| words in)?[- ]",
        UPPER,
        r"\b|\b",
        UPPER,
        r"(?: letters)? (?:only|throughout|exclusively|at all times|all the way)\b|\bcaps ?lock\b|\b(?:all|every|each)(?: of)?(?: the| your)?(?: single)? (?:letters?|words?|text|characters?)(?: (?:in|of|that|you)\b[^,.;]{0,40})? (?:should|must|needs? to|has to|have to|is to|to)? ?(?:all )?(?:is|are|be)?(?: written)?(?: in)?(?: all)? ?",
        UPPER,
        r"\b|\bcapitali[sz]e (?:every(?:thing|\b)|all|each|the (?:whole|entire))(?: (?:of |single )?(?:letter|word|your|the|words|letters)\w*)*|\buppercase everything\b"
    ]
);
pattern!(
    ALL_LOWER,
    [
        r"\b",
        EVER,
        r"(?: be| use| in| written in| of it in| letters? in| words in)?[- ]",
        LOWER,
        r"\b|\b",
        LOWER,
        r"(?: letters)? (?:only|throughout|exclusively|at all times)\b|\b(?:all|every|each)(?: of)?(?: the| your)?(?: single)? (?:letters?|words?|text|characters?)(?: (?:in|of|that|you)\b[^,.;]{0,40})? (?:should|must|needs? to|has to|have to|is to|to)? ?(?:all )?(?:is|are|be)?(?: written)?(?: in)?(?: all)? ?",
        LOWER,
        r"\b"
    ]
);
// `no capital letters`
const NONE: &str = r"(?:\b(?:no|stop using|without|zero|avoid(?:ing)?|never|not|cannot|refrain(?:ing)? from|skip|not a single|omit(?:ting)?)\b|n't\b)(?: (?:use|using|any|a|single|the|use of|contain|containing|include|including|have|having|put|be|employ|allow|allowed|even|ever|one|of|with))* ";
pattern!(
    NO_UPPER,
    [
        NONE,
        r"(?:",
        UPPER,
        r"|capitali[sz]ations?|capitali[sz]ing(?: anything| any\w*)?|capitali[sz]e(?: anything| any(?: \w+)?)?)(?:\b|$)|\b",
        UPPER,
        r" (?:(?:are|is) )?(?:not (?:be )?(?:allowed|permitted|used)|forbidden|banned|prohibited)"
    ]
);
pattern!(
    NO_LOWER,
    [
        NONE,
        LOWER,
        r"\b|\b",
        LOWER,
        r" (?:(?:are|is) )?(?:not (?:be )?(?:allowed|permitted|used)|forbidden|banned|prohibited)"
    ]
);
// Matches `in lowercase`, which counts only if its subject is the whole answer.
pattern!(
    IN_UPPER,
    [
        r"\b(?:in|use|using|with) (?:english (?:and )?)?(?:in )?(?:capital letters|capitals|caps|upper ?-?case(?: letters)?|uppercased? letters)\b"
    ]
);
pattern!(
    IN_LOWER,
    [
        r"\b(?:in|use|using|with) (?:english,? (?:and )?)?(?:in )?(?:lower ?-?case[sd]?(?: letters| english)?|small letters)\b"
    ]
);
pattern!(
    WHOLE,
    [
        r"(?:\b(?:(?:entire|whole|full|complete|everything|your|the|this|each) ?(?:\w+ )?(?:responses?|answers?|reply|replies|output|message|text|thing)|everything|the (?:poem|essay|story|letter|email|song|article|post|haiku|limerick|itinerary|review|speech|joke|riddle|summary)|it)\b[^.;:]{0,50}|^(?:please |and |also |only |always |just |you )*(?:respond|answer|reply|write|type|speak|talk|write it|write everything|it(?: all)?|all)(?: to me| me| back| only| everything| (?:your|the) \w+)? ?|\band ?)$"
    ]
);
// Words for a part of the answer whose case is then meant.
pattern!(
    OF_SOMETHING,
    [
        r"\b(?:words?|titles?|headings?|subheadings?|headers?|headlines?|names?|labels?|keywords?|terms?|phrases?|below|following|first|last|another|second|lines?|subject|some|certain|important|key|points?|brand|slogan|acronyms?|abbreviations?|variables?|constants?|characters?|keys?|columns?|sections?|greeting|signature|emphasi\w*|except|proper nouns?|speaker|scene|a few|several|once|twice|at least|at most|more than|less than|fewer than|exactly|\d+|answer choices?|options?|filenames?|nouns?|verbs?|adjectives?|codes?|ids?|tags?|table|the letter|hashtags?|sentences? (?:in|that))\b|\x{E000} ?(?:in|should|must|to)"
    ]
);
// A phrase after a comma is an instruction of its own. A length next to it does not limit it to a part.
pattern!(ALONE, [r"(?:^|[,;(–—-] ?)(?:and |also )?(?:(?:in|use|using|written in|all in|it in) )?$"]);
pattern!(
    COUNTS,
    [
        r"(?:\b(?:at least|at most|exactly|less than|more than|fewer than|no more than|under|over|up to|a minimum of|a maximum of) )?\b",
        super::number::NUMBER,
        r"\+?[ -](?:or (?:more|less|fewer) )?(?:words?|sentences?|paragraphs?|bullet points?)\b(?: or (?:more|less|fewer))?(?: long)?(?:,| and\b)"
    ]
);
pattern!(
    EVERY_WORD,
    [
        r"\b(?:all|every|each|entire|whole)(?: of)?(?: the| your)?(?: single)? (?:words?|letters?|characters?|sentences?|lines?|titles? and body)\b|\b(?:that|the|your) words? in your (?:entire )?response\b|\bfirst names\b|\bnot a single (?:word|letter)\b"
    ]
);
pattern!(
    FOR_SOMETHING,
    [
        r"^(?:-| )?(?:words?\b|titles?|headings?|headlines?|headers?|names?|labels?|keywords?|letters? (?:for|in|at|on|to)|for (?:the |each |all |every |any |section |your )?(?:[\w-]+ ){0,2}?(?:title|head|name|label|key|emphasis|section|first|word|term|point|line|subject|acronym|proper)|to (?:emphasi|highlight|stress|show|mark|make|express key|denote|indicate)|at the (?:start|beginning)|when|where|or\b|and (?:\w+ )?bold|phrases?|sentences?|in (?:the|each|every) (?:title|head|first|section|subject|name|label|key)|subject|acronym|except|unless|(?:spanish|french|german|italian|portuguese|dutch|russian|polish|swedish|danish|norwegian|finnish|greek|turkish|latin)\b|for (?:titles|headings|names|emphasis|proper)|like)"
    ]
);

/// Finds the case of all letters, and the number of words in capitals.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        let before = finds.len();
        for (pattern, id) in [(&*NO_UPPER, LOWERCASE), (&*NO_LOWER, CAPITAL)] {
            without_other_case(reading, sentence, pattern, id, finds);
        }
        for (pattern, id) in [(&*ALL_UPPER, CAPITAL), (&*ALL_LOWER, LOWERCASE)] {
            throughout(reading, sentence, pattern, id, finds);
        }
        if finds.len() == before {
            // An instruction of a single word: `…, lowercase, …`.
            for (pattern, id) in [(&*UPPER_ALONE, CAPITAL), (&*LOWER_ALONE, LOWERCASE)] {
                throughout(reading, sentence, pattern, id, finds);
            }
            for (pattern, id) in [(&*IN_UPPER, CAPITAL), (&*IN_LOWER, LOWERCASE)] {
                case_of_answer(reading, sentence, pattern, id, finds);
            }
        }
        capital_words(reading, sentence, finds);
    }
}

fn without_other_case(
    reading: &Reading<'_>,
    sentence: &Sentence,
    pattern: &regex::Regex,
    id: &'static str,
    finds: &mut Finds,
) {
    for found in pattern.find_iter(reading.sentence_text(sentence)) {
        let range = sentence.range.start + found.start()..sentence.range.start + found.end();
        let spot = Spot::new(reading, sentence, &range);
        let only = found.as_str().contains("allowed") || found.as_str().contains("forbidden");
        if spot.is_asked()
            && !spot.is_negated()
            && !FOR_SOMETHING.is_match(spot.right)
            && (only || !OF_NAMED.is_match(spot.clause()))
        {
            finds.push(Find::new(id, json!({}), range));
        }
    }
}

pattern!(
    OF_NAMED,
    [
        r"\b(?:title|headings?|subject line|headline|names?|labels?|header|keywords?|first (?:letter|word|line)|section)\b"
    ]
);

fn throughout(reading: &Reading<'_>, sentence: &Sentence, pattern: &regex::Regex, id: &'static str, finds: &mut Finds) {
    for found in pattern.find_iter(reading.sentence_text(sentence)) {
        let range = sentence.range.start + found.start()..sentence.range.start + found.end();
        let spot = Spot::new(reading, sentence, &range);
        let scope = EVERY_WORD.replace_all(spot.scope(), "");
        let of_all = EVERY_WORD.is_match(found.as_str()) && !OF_NAMED.is_match(found.as_str());
        let alone = ALONE.is_match(spot.left) && !super::part::is_led(&spot);
        let scope = COUNTS.replace_all(&scope, "");
        let partial = OF_SOMETHING.is_match(&scope) && !of_all && !alone
            || FOR_SOMETHING.is_match(spot.right)
            || OF_SOMETHING.is_match(spot.header());
        if spot.is_asked() && !spot.is_under_negation() && !partial {
            finds.push(Find::new(id, json!({}), range));
        }
    }
}

fn case_of_answer(
    reading: &Reading<'_>,
    sentence: &Sentence,
    pattern: &regex::Regex,
    id: &'static str,
    finds: &mut Finds,
) {
    for found in pattern.find_iter(reading.sentence_text(sentence)) {
        let range = sentence.range.start + found.start()..sentence.range.start + found.end();
        let spot = Spot::new(reading, sentence, &range);
        let scope = EVERY_WORD.replace_all(spot.scope(), "");
        let partial = OF_SOMETHING.is_match(&COUNTS.replace_all(&scope, "")) || FOR_SOMETHING.is_match(spot.right);
        if spot.is_asked() && WHOLE.is_match(spot.left) && !spot.is_under_negation() && !partial {
            finds.push(Find::new(id, json!({}), range));
        }
    }
}

const SHOUTED: &str = r"(?:all[- ]?(?:caps|capitals?|upper ?-?case|capitali[sz]ed|capital letters?|in caps)|(?:fully|entirely|completely|all) (?:capitali[sz]ed|upper ?-?cased?|in caps)|all[- ]capital[- ]letters?|upper ?-?cased?|capital)";
const IN_CAPITALS: &str = r"(?:that (?:are|is) |which are |(?:should |must |may |can )?be |written |appear |to be |are )*(?:in |with |using )?(?:all(?: of)?(?: the)?[- ]?(?:letters )?(?:caps|capitals?(?: letters)?|upper ?-?case(?: letters)?|capitali[sz]ed)|fully capitali[sz]ed|entirely in (?:caps|capitals|capital letters|uppercase)|full caps|upper ?-?case|caps|capital letters|capitals)";
static COUNT_FIRST: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let words = [r"(?:[\w-]+ ){0,2}?words?(?: or phrases)?(?: in (?:the|your) \w+)?,? ", IN_CAPITALS].concat();
    super::pattern::compile(&[&quantity(), " (?:", SHOUTED, r" words?\b|", &words, r"\b)"].concat())
});
// `words in all caps should appear at most 10 times`
pattern!(
    COUNT_LAST,
    [
        r"\b(?:words? (?:written |that are )?(?:in |with )?(?:all )?(?:caps|capital letters|capitals|upper ?-?case(?: letters)?)|",
        SHOUTED,
        r" words?)(?: \([^)]*\))?(?P<verb> (?:should |must |needs? to |have to |can |may )?(?:only )?(?:appear|be used|occur|show up|be present)| to| for|)"
    ]
);
pattern!(
    NUMBER_OF,
    [
        r"\bnumber of (?:words? (?:written |that are )?(?:in |with )?(?:all )?(?:caps|capital letters|capitals|upper ?-?case(?: letters)?)|",
        SHOUTED,
        r" words?)(?: in (?:the|your) \w+)?(?: should be| must be| to| should not| must not| cannot)(?: be| exceed)*"
    ]
);
static QUANTITY: std::sync::LazyLock<regex::Regex> =
    std::sync::LazyLock::new(|| super::pattern::compile(&["^ ?", &quantity()].concat()));

fn capital_words(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    for counted in COUNT_FIRST.captures_iter(text) {
        let Some(whole) = counted.get(0) else { continue };
        let range = base + whole.start()..base + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        push_words(&spot, bounds_of(&counted, &spot), range, finds);
    }
    for counted in NUMBER_OF.find_iter(text) {
        let Some(quantity) = QUANTITY.captures(&text[counted.end()..]) else { continue };
        let end = counted.end() + quantity.get(0).map_or(0, |whole| whole.end());
        let range = base + counted.start()..base + end;
        let spot = Spot::new(reading, sentence, &range);
        let no = counted.as_str().contains(" not") || counted.as_str().contains("cannot");
        let bounds = if no { None } else { bounds_of(&quantity, &spot) };
        push_words(&spot, bounds, range, finds);
    }
    for counted in COUNT_LAST.captures_iter(text) {
        let Some(whole) = counted.get(0) else { continue };
        let Some((Some(bounds), len)) = times_of(&text[whole.end()..]) else { continue };
        let range = base + whole.start()..base + whole.end() + len;
        let spot = Spot::new(reading, sentence, &range);
        push_words(&spot, Some(bounds), range, finds);
    }
}

fn bounds_of(counted: &regex::Captures<'_>, spot: &Spot<'_>) -> Option<Bounds> {
    let group = |name: &str| counted.name(name).map_or("", |found| found.as_str());
    let low = value(group("low"))?;
    if let Some(high) = counted.name("high") {
        return Some(Bounds::between(low, value(high.as_str())?));
    }
    let stated = relation(group("pre")).or_else(|| relation_after(group("after")));
    let stated = if spot.is_negated() { stated?.negated()? } else { stated? };
    (stated != Relation::About).then(|| stated.bounds(low))
}

fn push_words(spot: &Spot<'_>, bounds: Option<Bounds>, range: std::ops::Range<usize>, finds: &mut Finds) {
    let Some(bounds) = bounds else { return };
    let negated = spot.is_under_negation() && !spot.is_negated();
    if negated
        || !spot.is_asked()
        || super::part::is_of_part(spot) && !spot.right.is_empty() && super::part::is_after(spot)
    {
        return;
    }
    for (relation, count) in bounds.relations() {
        finds.push(Find::new(WORDS, json!({"capital_frequency": count, "capital_relation": relation}), range.clone()));
    }
}

pattern!(UPPER_ALONE, [r"(?:^|[,;(] ?)(?:(?:and|in|all) )*(?:upper ?-?case|caps)(?: ?[,;.)!]|$)"]);
pattern!(LOWER_ALONE, [r"(?:^|[,;(] ?)(?:(?:and|in|all) )*lower ?-?case(?: ?[,;.)!]|$)"]);
