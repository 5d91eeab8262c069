//! Finds how many words and sentences the whole answer may have.

use std::ops::Range;

use regex::Captures;
use serde_json::json;

use super::number::{NUMBER, value};
use super::part;
use super::pattern::pattern;
use super::quantity::{
    AFTER_LEAST, AFTER_MOST, AT_LEAST, AT_MOST, Bounds, EXACTLY, LESS_THAN, MORE_THAN, Relation, quantity, relation,
    relation_after,
};
use super::reading::{Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

static QUANTITY: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let unit = r"[ -](?:(?P<kind>short|long|concise|simple|complete|full|brief|clear|well-written|english|total|of the)[ -])?(?P<unit>words?|sentences?)\b";
    let after = [
        r"(?:[ ,(-]{1,2}(?:(?:long|in length|in total|total)[ ,(-]{1,2})?(?P<post>",
        AFTER_LEAST,
        "|",
        AFTER_MOST,
        r")\b)?",
    ]
    .concat();
    super::pattern::compile(&[&quantity(), unit, &after].concat())
});

/// Matches `at least 3 but no more than 5 sentences`, whose first number has no unit.
static BOTH: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let relations = [EXACTLY, AT_LEAST, MORE_THAN, AT_MOST, LESS_THAN].join("|");
    let pattern = format!(
        r"(?P<no1>\bno |\bnot )?\b(?P<pre1>{relations}) (?P<n1>{NUMBER})(?: (?P<unit1>words?|sentences?))?,? (?:but|and) (?:also )?(?P<no2>no |not )?(?P<pre2>{relations}) (?P<n2>{NUMBER})(?: (?P<unit2>words?|sentences?))?(?P<rest>\b)"
    );
    super::pattern::compile(&pattern)
});

pattern!(
    LIMITED,
    [
        r"\b(?:limit|restrict|cap|confine|hold|limiting|restricting|capping|limited|capped|restricted|keep|keeping|kept)\b[^,;:]{0,60} (?:to|at)(?: (?:the|a))? ?$"
    ]
);
// Matches `word limit: 200` and `minimum word count is 300`.
pattern!(
    WORD_COUNT,
    [
        r"\b(?P<kind1>max(?:imum)? |min(?:imum)? )?word(?:[ -](?P<kind2>limit|count|maximum|minimum|max|min|cap|length|target))+(?: (?:should be|must be|is|of|has to be|needs to be|to be|to))*(?: ?[:=])? ?(?P<rest>\d|",
        AT_LEAST,
        "|",
        MORE_THAN,
        "|",
        AT_MOST,
        "|",
        LESS_THAN,
        "|",
        EXACTLY,
        "|between|no more|not more|no less|no fewer|a hundred|one|two|three|four|five|six|seven|eight|nine|ten|twenty|fifty)"
    ]
);
// Text that may precede a number of sentences without a relation.
pattern!(
    BARE,
    [
        r"(?:^|\b(?:in|using|with|into|to|of|write|me|us|provide|compose|is|be|are|contain|contains|containing|want|need|only want|only need|make it|keep it|make|keep|have|has|use|a|an|create|as|give|generate|produce|answer|respond|reply|response|summary|explanation|short|brief|concise|simple|quick|nice|of about|max|total|length|form|about)|:) ?$"
    ]
);
// Text that must not precede it, since the number then counts something in the task.
pattern!(
    NOT_BARE,
    [
        r"\b(?:the|these|those|first|last|following|next|my|previous|above|of (?:the|these|my)|each|every|highlight|bold|italicize|capitalize|underline|translate|explain|fix|correct|analy[sz]e|compare|than|another|more|list|name|learn|read|has only|convert|turn|combine|merge|join|rewrite|there (?:is|are)) ?$"
    ]
);
// Matches a number of words to be listed, which is not a length.
pattern!(
    LISTED,
    [
        r"\b(?:list|name|learn|teach(?: me)?|find|choose|pick|highlight|bold|italici[sz]e|capitali[sz]e|underline|replace|change|define|spell|memori[sz]e|repeat|translate|suggest|think of|come up with|give me|tell me|rhyme|know|brainstorm|mark|remove|delete|cut|add|swap|select|extract|recommend|generate)(?: (?:me|up to|only|the|any))? ?$"
    ]
);
pattern!(
    QUALIFIED,
    [
        r"^ ?(?:bold\w*|italic\w*|highlighted|capitali[sz]ed|underlined|that|which|whose|where|from|ending|starting|beginning|containing|to describe|synonyms?|related|like|such as|rhyming|of (?:dialogue|wisdom|the|each|praise|encouragement|your choice|advice)|in (?:all|bold|caps|italics?|capitals?|uppercase|upper|capital|each|every|the (?:first|title|intro|last)|parenthes\w+|quotes|quotation|double)|with (?:all|the (?:letter|word|same)|double|a|more|at|\d|three|two|four)|you|i|we|per|each|every|apiece|should|must|may|can|are|is|be|have|starts?|ends?|begins?|contains?|:|not|after|before|before each|between|apart|about (?:each|every)|or phrases|in (?:the|your) \w+ (?:should|must|that|which|are|need))\b"
    ]
);
pattern!(
    SENTENCE_QUALIFIED,
    [
        r"^ ?(?:that|which|whose|from|ending|starting|beginning|per|each|every|apiece|in (?:all|bold|caps|italics?|each|every|the (?:first|second|third|last|intro|body|passive|future|past|present))|with (?:the word|the letter|examples?|errors?|mistakes)|you|i|should|must|may|can|are|were|have|starts?|ends?|begins?|containing|using the|to (?:the|each|every)|about (?:each|every)|for (?:each|every)|on (?:each|every)|after|before|between|of (?:the|this|dialogue))\b"
    ]
);

/// Finds bounds on words and on sentences.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        let mut from = 0;
        let mut taken: Vec<Range<usize>> = Vec::new();
        for both in BOTH.captures_iter(text) {
            if let Some(range) = both_bounds(reading, sentence, &both, finds) {
                taken.push(range);
            }
        }
        while let Some(quantity) = QUANTITY.captures_at(text, from) {
            let whole = quantity.get(0).expect("the whole match").range();
            from = end_without_next_relation(text, &quantity).unwrap_or(whole.end);
            if !taken.iter().any(|range| range.start < whole.end && whole.start < range.end) {
                find_quantity(reading, sentence, &quantity, finds);
            }
        }
        word_count(reading, sentence, finds);
        number_of(reading, sentence, finds);
    }
}

/// The end of a quantity if the `at most` after it belongs to the next number, as in `at least 50 words, at most 90 words`.
fn end_without_next_relation(text: &str, quantity: &Captures<'_>) -> Option<usize> {
    let post = quantity.name("post")?;
    NUMBER_NEXT.is_match(&text[post.end()..]).then(|| quantity.name("unit").map(|unit| unit.end()))?
}

pattern!(NUMBER_NEXT, [r"^\.?(?: of)? ?", NUMBER, r"\b"]);

fn group<'t>(captures: &Captures<'t>, name: &str) -> &'t str {
    captures.name(name).map_or("", |found| found.as_str())
}

fn both_bounds(
    reading: &Reading<'_>,
    sentence: &Sentence,
    both: &Captures<'_>,
    finds: &mut Finds,
) -> Option<Range<usize>> {
    let units = [group(both, "unit1"), group(both, "unit2")];
    let unit = units.into_iter().find(|unit| !unit.is_empty())?;
    if units.iter().all(|unit| !unit.is_empty()) && units[0][..4] != units[1][..4] {
        return None;
    }
    // In `at least 30 sentences and exactly 2 bullet points` the second number counts something else.
    let after = &reading.sentence_text(sentence)[both.get(0)?.end()..];
    if units[1].is_empty() && !ENDS_COUNT.is_match(after) {
        return None;
    }
    let signed = |no: &str, pre: &str, number: &str| -> Option<Bounds> {
        let relation = relation(group(both, pre))?;
        let relation = if group(both, no).is_empty() { relation } else { relation.negated()? };
        Some(relation.bounds(value(group(both, number))?))
    };
    let (first, second) = (signed("no1", "pre1", "n1")?, signed("no2", "pre2", "n2")?);
    let local = both.get(0)?.range();
    let range = sentence.range.start + local.start..sentence.range.start + local.end;
    let spot = Spot::new(reading, sentence, &range);
    if spot.is_under_negation()
        || !spot.is_asked_of_text()
        || spot.is_within()
        || part::is_of_part(&spot)
        || is_qualified(unit, &spot)
    {
        return Some(local);
    }
    let bounds = Bounds { least: first.least.or(second.least), limit: first.limit.or(second.limit) };
    push(unit, bounds, range, finds);
    Some(local)
}

pattern!(ENDS_COUNT, [r"^(?: ?[.,;!?)]|$| (?:long|in length|in total)\b)"]);

fn is_qualified(unit: &str, spot: &Spot<'_>) -> bool {
    if unit.starts_with("word") { QUALIFIED.is_match(spot.right) } else { SENTENCE_QUALIFIED.is_match(spot.right) }
}

fn find_quantity(reading: &Reading<'_>, sentence: &Sentence, quantity: &Captures<'_>, finds: &mut Finds) -> Option<()> {
    let mut local = quantity.get(0)?.range();
    let cut = end_without_next_relation(reading.sentence_text(sentence), quantity);
    local.end = cut.unwrap_or(local.end);
    let range = sentence.range.start + local.start..sentence.range.start + local.end;
    let spot = Spot::new(reading, sentence, &range);
    let unit = group(quantity, "unit");
    let words = unit.starts_with("word");
    let bounds = bounds_of(quantity, &spot, words, if cut.is_some() { "" } else { group(quantity, "post") })?;
    let listed = words && LISTED.is_match(spot.left) || NOT_BARE.is_match(spot.left);
    if listed || is_qualified(unit, &spot) || !spot.is_asked_of_text() || spot.is_within() || part::is_of_part(&spot) {
        return None;
    }
    push(unit, bounds, range, finds);
    Some(())
}

fn bounds_of(quantity: &Captures<'_>, spot: &Spot<'_>, words: bool, post: &str) -> Option<Bounds> {
    let low = value(group(quantity, "low"))?;
    let pre = group(quantity, "pre");
    let before = relation(pre);
    if !pre.is_empty() && before.is_none() {
        return None;
    }
    let after = [group(quantity, "after"), post].into_iter().find_map(relation_after);
    if let Some(high) = quantity.name("high") {
        let high = value(high.as_str())?;
        // `between 5 and 10`, `no more than 5 to 10` and `5 or 10` have different meanings.
        let open = before.is_none() || before == Some(Relation::Exactly);
        return (open && !spot.is_under_negation() && low < high).then(|| Bounds::between(low, high));
    }
    let negated = spot.is_negated();
    if !negated && spot.is_under_negation() {
        return None;
    }
    let relation = match (before, after) {
        (Some(Relation::About), _) => return None,
        (Some(relation), None | Some(_)) if negated => relation.negated()?,
        (None, _) if negated => return None,
        (Some(Relation::Exactly), Some(after)) | (None, Some(after)) => after,
        (Some(Relation::Exactly), None) if words && matches!(pre.trim(), "just" | "only") => return None,
        (Some(before), _) => before,
        (None, None) if LIMITED.is_match(spot.left) => Relation::AtMost,
        // A bare number of words is a rough size, except in `in one word`; a number of sentences is meant exactly.
        (None, None) if words && low == 1 && ONE_WORD.is_match(spot.left) && ONE_WORD_AFTER.is_match(spot.right) => {
            Relation::Exactly
        }
        (None, None) if !words && (BARE.is_match(spot.left) || is_apart(spot)) => Relation::Exactly,
        (None, None) => return None,
    };
    Some(relation.bounds(low))
}

pattern!(ONE_WORD, [r"(?:^|[,;:–—-] ?|\b(?:in|with|using|a|give me|just|only|say|be|to)) ?$"]);
pattern!(ONE_WORD_AFTER, [r"^(?: ?[.,;:!?)]|$| (?:answers?|reply|response|only)\b| -)"]);

/// Finds `word limit: 200`, in which the unit comes first.
fn word_count(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) -> Option<()> {
    let text = reading.sentence_text(sentence);
    let head = WORD_COUNT.captures(text)?;
    let start = head.get(0)?.start();
    let rest = head.name("rest")?.start();
    let quantity = NUMBERS
        .captures_at(text, rest)
        .filter(|quantity| quantity.get(0).is_some_and(|whole| whole.start() <= rest + 10))?;
    let low = value(group(&quantity, "low"))?;
    let end = quantity.get(0)?.end();
    let range = sentence.range.start + start..sentence.range.start + end;
    let spot = Spot::new(reading, sentence, &range);
    let kinds = [group(&head, "kind1"), group(&head, "kind2")].join(" ");
    let negated = ["no ", "not "].iter().any(|no| text[rest..].starts_with(no));
    let stated = relation(group(&quantity, "pre"));
    let relation = match stated.or_else(|| relation_after(group(&quantity, "after"))) {
        Some(relation) if negated => relation.negated()?,
        Some(relation) => relation,
        None if kinds.contains("min") => Relation::AtLeast,
        None if kinds.contains("max") || kinds.contains("limit") || kinds.contains("cap") => Relation::AtMost,
        None => Relation::About,
    };
    let bounds = match quantity.name("high") {
        Some(high) => Bounds::between(low, value(high.as_str())?),
        None => relation.bounds(low),
    };
    // The same numbers, followed by their unit, were found already.
    let is_repeated = text[end..].trim_start().starts_with("word") && stated.is_some();
    if is_repeated || !spot.is_asked() || spot.is_under_negation() || part::is_of_part(&spot) {
        return None;
    }
    push("words", bounds, range, finds);
    Some(())
}

pattern!(
    NUMBER_OF,
    [
        r"\b(?:total )?number of (?P<unit>words|sentences)\b[^.;,]{0,40}?(?: (?:should|must|needs to|has to|is to) (?:be|stay|remain|fall)| to| is)(?P<no> not (?:be )?)?(?: (?:kept|limited))?(?: in| to| at)?(?: the range(?: of)?)? "
    ]
);

/// Finds `the number of words should be between 50 and 60`.
fn number_of(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) -> Option<()> {
    let text = reading.sentence_text(sentence);
    let head = NUMBER_OF.captures(text)?;
    let whole = head.get(0)?;
    let quantity = NUMBERS
        .captures_at(text, whole.end())
        .filter(|quantity| quantity.get(0).is_some_and(|found| found.start() <= whole.end() + 1))?;
    let low = value(group(&quantity, "low"))?;
    let bounds = match quantity.name("high") {
        Some(high) => Bounds::between(low, value(high.as_str())?),
        None => relation(group(&quantity, "pre"))
            .or_else(|| relation_after(group(&quantity, "after")))
            .unwrap_or(Relation::About)
            .bounds(low),
    };
    let range = sentence.range.start + whole.start()..sentence.range.start + quantity.get(0)?.end();
    let spot = Spot::new(reading, sentence, &range);
    let clean = head.name("no").is_none() && !spot.is_under_negation() && !part::is_of_part(&spot);
    // In `… 5 words in all caps` the number counts something else.
    let plain = QUALIFIED_NUMBER.find(&text[head.name("unit")?.end()..]).is_none();
    (clean && plain && spot.is_asked_of_text()).then(|| push(group(&head, "unit"), bounds, range, finds))
}

pattern!(
    QUALIFIED_NUMBER,
    [r"^ (?:with|that|which|in (?:all|each|every|the (?:title|first|intro)|caps|capital)|per|you)\b"]
);

static NUMBERS: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| super::pattern::compile(&quantity()));

fn push(unit: &str, bounds: Bounds, range: Range<usize>, finds: &mut Finds) {
    let (id, key) = if unit.starts_with("word") {
        ("length_constraints:number_words", "num_words")
    } else {
        ("length_constraints:number_sentences", "num_sentences")
    };
    for (relation, count) in bounds.relations() {
        finds.push(Find::new(id, json!({"relation": relation, key: count}), range.clone()));
    }
}

/// Whether the quantity stands apart, as in `a review, 3 sentences, …`.
fn is_apart(spot: &Spot<'_>) -> bool {
    spot.left.trim_end().ends_with([',', ';', '(', '-']) && APART.is_match(spot.right)
}

pattern!(APART, [r"^(?: ?[.,;!)]|$| please\b| -)"]);
