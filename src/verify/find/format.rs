//! Finds bullets, highlights, titles and JSON.

use serde_json::json;

use super::number::value;
use super::part;
use super::pattern::pattern;
use super::quantity::{Relation, quantity, relation, relation_after};
use super::reading::{BRACKETED, QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

/// Finds formats that apply to the whole answer.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        bullets(reading, sentence, finds);
        highlights(reading, sentence, finds);
        title(reading, sentence, finds);
        json(reading, sentence, finds);
    }
}

static BULLETS: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let item = r"(?:[ -](?:markdown|short|concise|brief|very|simple|clear|main|key|separate|distinct|different|quick|to the point|style|formatted|short,|unique|of the|-)){0,3}[ -](?:bullet(?:ed)?[ -]?(?:point(?:s|ed)?|list items?|items?|lists?)?s?|bullet-?points?|bulletpoints?)(?: list)?\b";
    super::pattern::compile(&[&quantity(), item].concat())
});
static BULLETED_LIST: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let list =
        r"\bbullet(?:ed)?(?:[ -]?point(?:ed|s)?)?[ -]lists? (?:of|with|containing|that has|having|consisting of) ";
    let item = r"(?: [\w-]+){0,2}? (?:items?|points?|bullets?|entries|elements|things|reasons|tips|lines)\b";
    super::pattern::compile(&[list, &quantity(), item].concat())
});
pattern!(NUMBERED, [r"\b(?:numbered|sub-?bullets?|nested)\b"]);

fn bullets(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    // The rule counts lines that start with `*` or `-`.
    if reading.text.contains(['•', '‣', '◦']) {
        return;
    }
    for found in BULLETS.captures_iter(text).chain(BULLETED_LIST.captures_iter(text)) {
        let Some(whole) = found.get(0) else { continue };
        let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        let group = |name: &str| found.name(name).map_or("", |found| found.as_str());
        let Some(count) = value(group("low")) else { continue };
        let pre = group("pre");
        let exact = pre.is_empty() || relation(pre) == Some(Relation::Exactly);
        let exact =
            exact && found.name("high").is_none() && found.name("after").is_none() && !AT_LEAST.is_match(spot.right);
        let exact = exact && !LIKE.is_match(spot.left) && !LIMITED.is_match(spot.left);
        let numbered = NUMBERED.is_match(text);
        if exact && !numbered && !spot.is_under_negation() && spot.is_asked() && !of_each(&spot) {
            finds.push(Find::new("detectable_format:number_bullet_lists", json!({"num_bullets": count}), range));
        }
    }
}

pattern!(AT_LEAST, [r"^,? ?(?:\(?max\b|max(?:imum)?\b|or (?:more|less|fewer|so)|at (?:least|most)|minimum|tops)"]);
pattern!(
    EACH,
    [
        r"\b(?:each|every|per|both|the (?:first|second|third|last|final|introduction|conclusion|next)|for all|all (?:the )?(?:sections|slides|chapters|paragraphs)|sections? (?:with|of|containing|should))\b"
    ]
);
pattern!(
    EACH_AFTER,
    [
        r"^[ -]?(?:points? )?(?:each|per|apiece|(?:for|in|under|on|from|to|within|of|below|after) (?:each|every|both|all|the (?:first|second|third|last|final|intro\w*|conclusion|next|section))|every|into|are|is|from the|above|below the)\b"
    ]
);

fn of_each(spot: &Spot<'_>) -> bool {
    EACH.is_match(spot.scope()) || EACH_AFTER.is_match(spot.right) || EACH.is_match(spot.header())
}

const SHOWN: &str =
    r"(?:highlight|italici[sz]e|bold|bolden|emphasi[sz]e|emphasi[sz]ing|highlighting|italici[sz]ing|bolding|embolden)";
const THINGS: &str = r"(?:(?:text )?(?:sections?|parts?|words?|phrases?|keywords?|terms?|texts?|sentences?|passages?|pieces?|names?|points?|ideas?|bits?|items?|segments?|snippets?|concepts?|spans?|lines?|areas?|places?|things|portions?|facts?|spots?|quotes?|ingredients?|dates?|figures?|takeaways?|arguments?))";
static SHOW_COUNT: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let pattern = [r"\b", SHOWN, r" ", &quantity(), r" (?:of )?(?:[\w'-]+ ){0,3}?", THINGS, r"\b"].concat();
    super::pattern::compile(&pattern)
});
static COUNT_SHOWN: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let shown = r"(?:highlighted|italici[sz]ed|italics?|bold(?:ed)?|bold-?faced?|emphasi[sz]ed)";
    let pattern = [
        &quantity(), r" (?:[\w'-]+ ){0,2}?(?:", shown, r" (?:text )?", THINGS, r"|", THINGS,
        r"(?: (?:of|in) (?:the|your) \w+)?,? (?:(?:that (?:are|is) |should be |must be |to be |are |be )*(?:in |with )?(?:markdown )?(?:bold|italics?|italici[sz]ed|highlighted|bolded|asterisks|emphasi[sz]ed)))\b",
    ]
    .concat();
    super::pattern::compile(&pattern)
});
pattern!(MARKED, [r"\b(?:markdown|asterisks?|italic\w*|bold\w*|md)\b|\*"]);
pattern!(OF_EACH, [r"^ ?(?:in|per|of|from|for) (?:each|every)\b|^ ?(?:each|apiece)\b"]);

fn highlights(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    for found in SHOW_COUNT.captures_iter(text).chain(COUNT_SHOWN.captures_iter(text)) {
        let Some(whole) = found.get(0) else { continue };
        let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        let group = |name: &str| found.name(name).map_or("", |found| found.as_str());
        let Some(low) = value(group("low")) else { continue };
        let pre = group("pre");
        let stated = if pre.is_empty() { relation_after(group("after")) } else { relation(pre) };
        let stated = if spot.is_negated() { stated.and_then(Relation::negated) } else { stated };
        // The rule requires at least this many, which `exactly` includes.
        let least = match stated {
            Some(Relation::AtLeast | Relation::Exactly) => low,
            Some(Relation::MoreThan) => low + 1,
            None if pre.is_empty() && !spot.is_negated() => low,
            _ => continue,
        };
        let marked = MARKED.is_match(text) || asterisks_near(reading, sentence);
        let each = EACH_OF.is_match(spot.scope()) || OF_EACH.is_match(spot.right);
        if marked && !each && spot.is_asked() && (spot.is_negated() || !spot.is_under_negation()) {
            finds.push(Find::new(
                "detectable_format:number_highlighted_sections",
                json!({"num_highlights": least}),
                range,
            ));
        }
    }
}

pattern!(EACH_OF, [r"\b(?:in|for|of|per|within) (?:each|every)\b|\beach (?:paragraph|section|stanza|line|verse)\b"]);

/// Whether the text from the sentence on, quotations included, contains text between asterisks.
fn asterisks_near(reading: &Reading<'_>, sentence: &Sentence) -> bool {
    let from = reading.place(sentence.range.start);
    let to = (from + 400).min(reading.original().len());
    let to = (to..=reading.original().len()).find(|at| reading.original().is_char_boundary(*at)).unwrap_or(from);
    BETWEEN_ASTERISKS.is_match(&reading.original()[from..to])
}

pattern!(BETWEEN_ASTERISKS, [r"\*[^*\n]+\*|(?i:markdown)"]);

pattern!(
    ANGLES,
    [
        r"\bdouble[- ](?:angul?ar|angled?|pointed|pointy|chevron|arrow)(?:[- ]?bracket(?:s|ed)?)?\b|<<[^<>\n]*>>|\bdouble chevrons\b"
    ]
);
pattern!(
    TITLED,
    [r"\b(?:titles?|titled|name|headline|heading|wrap\w*|enclos\w*|brackets?|surround\w*|inside|within)\b"]
);

fn title(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    let Some(angles) = ANGLES.find(text).map(|found| found.range()).or_else(|| quoted_angles(reading, sentence)) else {
        return;
    };
    let range = sentence.range.start + angles.start..sentence.range.start + angles.end;
    let spot = Spot::new(reading, sentence, &range);
    if TITLED.is_match(text) && spot.is_asked() && !spot.is_under_negation() {
        let start = TITLED.find_iter(spot.left).next().map_or(range.start, |word| sentence.range.start + word.start());
        finds.push(Find::new("detectable_format:title", json!({}), start..range.end));
    }
}

/// Finds `"<<title>>"` in quotation marks.
fn quoted_angles(reading: &Reading<'_>, sentence: &Sentence) -> Option<std::ops::Range<usize>> {
    let text = reading.sentence_text(sentence);
    text.match_indices([QUOTED, BRACKETED]).find_map(|(at, mark)| {
        let inner = reading.quoted(sentence.range.start + at)?.trim();
        (inner.starts_with("<<") && inner.ends_with(">>") && inner.len() <= 60).then_some(at..at + mark.len())
    })
}

const JSON: &str = r"(?:valid |proper |well-formed |strict |raw |pure |plain |minified |single |one |compact |a |an )*json(?: (?:format(?:ted)?|object|block|array|string|document|blob|output|code block|data|structure|file|response|syntax|code|dictionary|body))?";
pattern!(
    AS_JSON,
    [
        r"\b(?:in|as|into|using|with|to|inside|within)(?: (?:only|one|single))? ",
        JSON,
        r"\b|\b(?:only|just|nothing but|exclusively|strictly|use|return|output|need|want|give me|provide|respond with|answer with|reply with|must be|should be|be|emit|produce)(?: (?:in|with|as|only|back|me|your answer as))* ",
        JSON,
        r"(?: only)?\b|\bjson[- ](?:only|formatted|format)\b|\b(?:output|response|answer|reply)? ?(?:format|type) ?: ?json\b|^json\b|\bjson please\b|\b(?:only|just) (?:contain|have|include|be) ",
        JSON,
        r"\b"
    ]
);
pattern!(
    ANSWER_SUBJECT,
    [
        r"(?:\b(?:(?:entire|whole|full|complete|your|the|my|all|everything)(?: \w+)? (?:responses?|answers?|reply|replies|outputs?|words|result|results|text)|everything|(?:your|the) (?:responses?|answers?|reply|output|result|results|answers)|it|all)\b[^.;:]{0,50}|(?:^|[,;:.] ?(?:and |but |then )?|\b(?:please|and|then|also|only|always|just|should|must|will|you|to|then) )(?:(?:respond|answer|reply|return|output|format|use|print|give me|give|provide|present|structure|emit|produce|respond only|write|list|create|generate|wrap|put|make|send|have|get|show|display|summari[sz]e|describe|deliver)\b[^.;:?]{0,70}|in particular,? )|^(?:please |only |just |in |as )*|[,;:] ?(?:all |and |just |only |please )*|assistant that (?:only )?\w+ (?:only )?)$"
    ]
);
pattern!(
    NOT_JSON_ANSWER,
    [
        r"\b(?:functions?|scripts?|code|programs?|api|apis|class|parsers?|parse|how|regex|schema|endpoint|tutorial|query|app|server|method|module|library|from|convert|file that|request|requests|payload|data|database|explain|article|essay|story|poem about|about|python|javascript|java|rust|save|store|difference|component|command|config|database|that returns?|which returns?|stored|encoded|xml|yaml|csv|or)\b"
    ]
);
pattern!(
    NOT_JSON_AFTER,
    [
        r"^ ?(?:schema|parser|parsing|file called|api|library|and (?:xml|yaml|csv)|or (?:xml|yaml|csv|plain)|to|files?\b|below|above|from|into|data (?:from|into|below)|is|are|was|serialization|encoder|decoder|web|path|with comments|lines|pointer|for the (?:\w+ )?(?:table|appendix|example|config)|[.]stringify|[.]parse|in (?:python|javascript|java|go|rust|c))\b"
    ]
);

fn json(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    for found in AS_JSON.find_iter(text) {
        let range = sentence.range.start + found.start()..sentence.range.start + found.end();
        let spot = Spot::new(reading, sentence, &range);
        let other = NOT_JSON_ANSWER.is_match(spot.left) || NOT_JSON_AFTER.is_match(spot.right);
        let whole = ANSWER_SUBJECT.is_match(spot.left);
        if whole && !other && !spot.is_under_negation() && spot.is_asked() && !part::is_named(&spot) {
            finds.push(Find::new("detectable_format:json_format", json!({}), range));
            return;
        }
    }
}

// Matches `limit yourself to 3 bullets`, which allows fewer.
pattern!(LIMITED, [r"\b(?:limit|restrict|cap|confine|keep)\w*\b[^,;:]{0,40} (?:to|at) ?$"]);
// Matches `like five bullet points`, but not `I'd like five`.
pattern!(LIKE, [r"(?:^|,|\bsomething|\bmaybe) ?like ?$"]);
