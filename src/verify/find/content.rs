//! Finds placeholders and postscripts.

use serde_json::json;

use super::number::value;
use super::pattern::pattern;
use super::quantity::{Relation, quantity, relation, relation_after};
use super::reading::{BRACKETED, QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

static PLACEHOLDERS: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    super::pattern::compile(&[&quantity(), r" (?:[\w-]+ ){0,3}?(?:placeholders?|place-?holders?|place holders?|bracketed (?:fields?|blanks?|variables?|slots?))\b"].concat())
});
/// Matches `placeholders, at least 8 of them`.
static PLACEHOLDERS_FIRST: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    super::pattern::compile(
        &[
            r"\bplaceholders?(?: in (?:square )?brackets)?(?:,|:| -|;| \() ?",
            &quantity(),
            r"(?: (?:of them|in total|total)|\)|[,.;]|$)",
        ]
        .concat(),
    )
});
pattern!(BRACKETS, [r"\b(?:square |in |with )?(?:square[- ])?bracket(?:s|ed)?\b|\[|\x{E002}"]);
pattern!(PER, [r"^ ?(?:in|per|for) (?:each|every)\b|^ ?(?:each|apiece)\b"]);
pattern!(EACH, [r"\b(?:each|every)\b"]);
pattern!(POSTSCRIPT, [r"(?:^|[ ,(:])(?P<marker>p\. ?(?:p\. ?)?s\b\.?)"]);
pattern!(
    ADDS,
    [
        r"\b(?:add|adding|includ(?:e|es|ing)|end|ends|ending|finish|close|conclude|sign off|append|put|write|with|contain|contains|have|has|post ?-?script|starting with|beginning with|starts with|begins with|tack on|throw in|attach|need|want|place|insert|use|forget)\b"
    ]
);
pattern!(OWN, [r"^(?:p\. ?)?p\. ?s\b"]);

/// Finds placeholders in square brackets, and postscripts with their marker.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    for sentence in &reading.sentences {
        placeholders(reading, sentence, finds);
        postscript(reading, sentence, finds);
    }
}

fn placeholders(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    for found in PLACEHOLDERS.captures_iter(text).chain(PLACEHOLDERS_FIRST.captures_iter(text)) {
        let Some(whole) = found.get(0) else { continue };
        let range = sentence.range.start + whole.start()..sentence.range.start + whole.end();
        let spot = Spot::new(reading, sentence, &range);
        let group = |name: &str| found.name(name).map_or("", |found| found.as_str());
        let Some(low) = value(group("low")) else { continue };
        let pre = group("pre");
        let stated = if pre.is_empty() { relation_after(group("after")) } else { relation(pre) };
        let stated = if spot.is_negated() { stated.and_then(Relation::negated) } else { stated };
        let least = match stated {
            Some(Relation::AtLeast | Relation::Exactly) => low,
            Some(Relation::MoreThan) => low + 1,
            None if pre.is_empty() && !spot.is_negated() => low,
            _ => continue,
        };
        let bracketed = BRACKETS.is_match(&reading.text) || reading.text.contains(BRACKETED);
        let each = PER.is_match(spot.right) || EACH.is_match(spot.clause());
        if bracketed && !each && spot.is_asked() && (spot.is_negated() || !spot.is_under_negation()) {
            finds.push(Find::new("detectable_content:number_placeholders", json!({"num_placeholders": least}), range));
        }
    }
}

/// The marker in the rule's spelling. `PS` without dots would also match other text, so it is left to the judge.
fn marker(text: &str) -> Option<&'static str> {
    match text.to_lowercase().replace(' ', "").trim_end_matches(':') {
        "p.s." | "p.s" => Some("P.S."),
        "p.p.s" | "p.p.s." => Some("P.P.S"),
        _ => None,
    }
}

fn postscript(reading: &Reading<'_>, sentence: &Sentence, finds: &mut Finds) {
    let text = reading.sentence_text(sentence);
    let base = sentence.range.start;
    let plain = POSTSCRIPT
        .captures_iter(text)
        .filter_map(|found| found.name("marker"))
        .map(|found| (found.range(), found.as_str()));
    let quoted = text
        .match_indices(QUOTED)
        .filter_map(|(at, mark)| Some((at..at + mark.len(), reading.quoted(base + at)?.trim())));
    for (local, written) in plain.chain(quoted) {
        let Some(marker) = marker(written) else { continue };
        let range = base + local.start..base + local.end;
        let spot = Spot::new(reading, sentence, &range);
        // The sentence may be the user's own postscript.
        let own = OWN.is_match(text) && local.start == 0;
        let Some(verb) = ADDS.find(spot.scope()) else { continue };
        if own || !spot.is_asked() || spot.is_under_negation() {
            continue;
        }
        let start = base + spot.left.len() - spot.scope().len() + verb.start();
        finds.push(Find::new("detectable_content:postscript", json!({"postscript_marker": marker}), start..range.end));
        return;
    }
}
