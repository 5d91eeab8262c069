//! Finds requests to repeat the request before the answer, and to choose one of three given answers.

use serde_json::json;

use super::pattern::pattern;
use super::reading::{QUOTED, Reading, Sentence};
use super::spot::Spot;
use super::{Find, Finds};

const REQUEST: &str =
    r"(?:requests?|prompts?|questions?|sentences?|messages?|instructions?|text|query|task|lines?|words|paragraph)";
pattern!(
    REPEATS,
    [
        r"\b(?:repeat|restate|copy|reproduce|echo)(?: back)? (?:the |this |my |that |all |your |it|itself|exact,? |entire |whole |full |very |same |above |request |exactly |verbatim )*(?P<what>",
        REQUEST,
        r"|it)\b(?P<where>[^.;]*)"
    ]
);
pattern!(BEFORE, [r"\b(?:first|then|before|beginning|start|prior to)\b"]);
pattern!(
    EXACT,
    [
        r"\b(?:word (?:for|by) word|without (?:any )?(?:change|changing|modif)\w*|exact(?:ly)?|verbatim|do not change|don't change|as (?:it )?is|letter for letter|unchanged|just repeat|repeat the (?:request|prompt|question))\b"
    ]
);
pattern!(
    CHANGED,
    [
        r"\b(?:in your own words|change the first word|but change|do not answer|don't answer|paraphras\w+|at the end|after your answer|only output)\b"
    ]
);
// Matches what may follow the request to repeat: more about the repetition, and the answer after it.
pattern!(
    ABOUT_REPEATING,
    [r"\b(?:repeat|repeating|repeated|request|before|change|then|answer|say any|output any|do not|after that)\b|^\W*$"]
);

const ANSWERS: [&str; 3] = ["my answer is yes", "my answer is no", "my answer is maybe"];

/// Finds requests to repeat the prompt, and the choice of three answers.
pub(super) fn find(reading: &Reading<'_>, finds: &mut Finds) {
    repetition(reading, finds);
    three_answers(reading, finds);
}

fn repetition(reading: &Reading<'_>, finds: &mut Finds) -> Option<()> {
    if let Some(find) = reading.sentences.iter().find_map(|sentence| quoted_request(reading, sentence)) {
        finds.push(find);
        return Some(());
    }
    let sentences = &reading.sentences;
    let (index, found) = sentences.iter().enumerate().find_map(|(index, sentence)| {
        let found = REPEATS.captures(reading.sentence_text(sentence))?;
        let place = sentence.range.start + found.get(0)?.start()..sentence.range.start + found.get(0)?.end();
        let spot = Spot::new(reading, sentence, &place);
        (spot.is_asked() && !spot.is_under_negation()).then_some((index, found))
    })?;
    let sentence = &sentences[index];
    let about = &reading.text[sentence.range.start..];
    if !BEFORE.is_match(about) || !EXACT.is_match(about) || CHANGED.is_match(about) {
        return None;
    }
    let range = sentence.range.clone();
    let below = found["where"].contains("below")
        || found["where"].contains("following")
        || PRECEDES.is_match(reading.sentence_text(sentence));
    let part = matches!(&found["what"], "line" | "paragraph" | "words") || about.contains("only contains");
    let before = reading.original()[..reading.place(sentence.range.start)].trim();
    let request = if below || before.is_empty() {
        // The request follows the paragraph that asks for its repetition, which must come first.
        let paragraph = reading.text[sentence.range.start..].find("\n\n")? + sentence.range.start;
        let first = sentences[..index]
            .iter()
            .chain(sentences[index + 1..].iter().take_while(|next| next.range.start < paragraph));
        let only = first.into_iter().all(|other| ABOUT_REPEATING.is_match(reading.sentence_text(other)));
        only.then(|| reading.original()[reading.place(paragraph)..].trim())?
    } else {
        let last = sentences[index + 1..].iter().all(|after| ABOUT_REPEATING.is_match(reading.sentence_text(after)));
        last.then_some(before)?
    };
    if part || request.is_empty() {
        return None;
    }
    finds.push(Find::new("combination:repeat_prompt", json!({"prompt_to_repeat": request}), range));
    Some(())
}

pattern!(
    REPEATS_QUOTED,
    [
        r"\b(?:first,? |begin by |start by )(?:repeat|restate|repeating|restating) (?:the (?:sentence|question|request|text|phrase) )?\x{E000}"
    ]
);

/// Finds `First, repeat "…" word for word`.
fn quoted_request(reading: &Reading<'_>, sentence: &Sentence) -> Option<Find> {
    let text = reading.sentence_text(sentence);
    let found = REPEATS_QUOTED.find(text)?;
    let range = sentence.range.start + found.start()..sentence.range.start + found.end();
    let spot = Spot::new(reading, sentence, &range);
    let request = reading.quoted(range.end - QUOTED.len_utf8())?.trim();
    (EXACT.is_match(spot.right) && spot.is_asked() && !spot.is_under_negation())
        .then(|| Find::new("combination:repeat_prompt", json!({"prompt_to_repeat": request}), range))
}

pattern!(PRECEDES, [r"\b(?:the )?(?:following|below) (?:request|prompt|question|sentence)\b"]);

fn three_answers(reading: &Reading<'_>, finds: &mut Finds) -> Option<()> {
    let lower = reading.original().to_lowercase();
    let all = ANSWERS.iter().all(|answer| lower.contains(answer));
    if !all || lower.len() != reading.original().len() {
        return None;
    }
    let start = lower.find(ANSWERS[0])?;
    let at = (0..reading.text.len()).find(|at| reading.place(*at) + 3 >= start)?;
    let sentence = reading.sentences.iter().find(|sentence| sentence.range.end > at)?;
    let index = reading.sentences.iter().position(|other| other.range == sentence.range)?;
    let around = &reading.sentences[index.saturating_sub(1)..(index + 4).min(reading.sentences.len())];
    let chooses = around.iter().any(|near| CHOOSES.is_match(reading.sentence_text(near)));
    chooses.then(|| finds.push(Find::new("detectable_format:constrained_response", json!({}), sentence.range.clone())))
}

pattern!(CHOOSES, [r"\b(?:choose|pick|select|answer|respond|reply|say|use|one of|contain|write|either|response)\b"]);
