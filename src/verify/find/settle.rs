//! Removes finds that are withdrawn, replaced or contradictory, over all turns.

use serde_json::Value;

use super::pattern::pattern;
use super::reading::Reading;
use super::{Find, Turn};

const WORDS: &str = "length_constraints:number_words";
const SENTENCES: &str = "length_constraints:number_sentences";
const LANGUAGE: &str = "language:response_language";
const CAPITAL: &str = "change_case:english_capital";
const LOWERCASE: &str = "change_case:english_lowercase";
const CAPITAL_WORDS: &str = "change_case:capital_word_frequency";
const EXISTENCE: &str = "keywords:existence";
const FORBIDDEN: &str = "keywords:forbidden_words";
const FREQUENCY: &str = "keywords:frequency";
const LETTERS: &str = "keywords:letter_frequency";

/// Ids that an answer can follow only once.
const SINGLE: [&str; 6] = [
    LANGUAGE,
    "startend:end_checker",
    "detectable_format:number_bullet_lists",
    "length_constraints:number_paragraphs",
    "combination:repeat_prompt",
    "length_constraints:nth_paragraph_first_word",
];

pattern!(
    WITHDRAWS,
    [concat!(
        r"\b(?:forget|ignore|drop|disregard|lift|remove|never ?mind|no longer|skip|scratch|cancel|relax|undo|revoke|worry about|bother|doesn't matter|don't matter|feel free|no need|have to|don't need|need to|needn't|",
        r"you (?:can|may|could)(?: now| also)?|(?:is|are)(?: now| totally| perfectly)? (?:ok|okay|fine|allowed|back|welcome|not necessary|not needed|not required|unnecessary|optional)|isn't (?:needed|necessary|required)|aren't (?:needed|necessary|required)|back to|instead|again|any length|",
        r"as (?:long|short) as you|no (?:length |word )?limit|normal|don't care)\b"
    )]
);
pattern!(
    NOT_ANY_MORE,
    [
        r"\b(?:do(?:es)?n't (?:really |actually )?(?:need|have) to|do(?:es)? not (?:need|have) to|not (?:need|have) to|no longer (?:need|have) to)\b"
    ]
);
pattern!(HAVE_TO, [r"\b(?:have to|need to)\b"]);
pattern!(
    ALL,
    [
        r"\b(?:all|everything|any|those|these|every)(?: of)?(?: the| my| your)? ?(?:previous|earlier|prior|above|other|old|that|said|instructions|rules|constraints|requirements|i said|formatting)|previous (?:instructions|rules|constraints|requirements)|(?:instructions|rules|constraints|requirements|formatting rules) (?:above|from before|i gave|from earlier)|the (?:rules|constraints|restrictions|formatting rules)\b"
    ]
);

/// What a withdrawal may refer to, and the ids it withdraws.
const TOPICS: [(&str, &[&str]); 14] = [
    (
        r"word (?:limit|count|minimum|maximum|cap|requirement)|length|limit|\d+ words|words? limit|as (?:long|short) as|any length",
        &[WORDS, SENTENCES],
    ),
    (r"sentences?", &[SENTENCES]),
    (r"commas?", &["punctuation:no_comma"]),
    (
        r"lower ?-?case|upper ?-?case|caps|capitals?|capitali[sz]\w+|casing|letter case|normal case",
        &[CAPITAL, LOWERCASE, CAPITAL_WORDS],
    ),
    (r"bullets?(?: points?)?|list", &["detectable_format:number_bullet_lists"]),
    (r"json", &["detectable_format:json_format"]),
    (
        r"language|english|french|german|spanish|italian|portuguese|dutch|russian|japanese|korean|hindi|arabic|turkish|polish|swedish",
        &[LANGUAGE],
    ),
    (r"p\.?s\.?|post ?-?script|p\.?p\.?s\.?", &["detectable_content:postscript"]),
    (r"titles?|angular|angle", &["detectable_format:title"]),
    (r"placeholders?|brackets?", &["detectable_content:number_placeholders"]),
    (r"quotes?|quotation\w*", &["startend:quotation"]),
    (r"highlight\w*|bold\w*|italic\w*", &["detectable_format:number_highlighted_sections"]),
    (r"letters? \w|the letter", &[LETTERS]),
    (r"key ?words?|forbidden|the words?", &[EXISTENCE, FORBIDDEN, FREQUENCY]),
];

static TOPIC_PATTERNS: std::sync::LazyLock<Vec<(regex::Regex, &'static [&'static str])>> =
    std::sync::LazyLock::new(|| {
        let compile = |pattern: &str| super::pattern::compile(&format!(r"\b(?:{pattern})\b"));
        TOPICS.iter().map(|(pattern, ids)| (compile(pattern), *ids)).collect()
    });

/// A place after which earlier finds of some ids no longer count. An empty list means all ids.
struct Withdrawal {
    at: usize,
    ids: Vec<&'static str>,
}

fn withdrawals(reading: &Reading<'_>, finds: &[Find]) -> Vec<Withdrawal> {
    let mut withdrawals = Vec::new();
    for sentence in &reading.sentences {
        let text = reading.sentence_text(sentence);
        // `you have to use` is an instruction, `you don't have to use` withdraws one.
        let text =
            if NOT_ANY_MORE.is_match(text) { text.to_string() } else { HAVE_TO.replace_all(text, "").to_string() };
        if !WITHDRAWS.is_match(&text)
            || text.contains("don't forget")
            || text.contains("never forget")
            || text.contains("not forget")
        {
            continue;
        }
        if ALL.is_match(&text) {
            withdrawals.push(Withdrawal { at: sentence.range.start, ids: Vec::new() });
            continue;
        }
        let stated: Vec<&str> =
            finds.iter().filter(|find| sentence.range.contains(&find.range.start)).map(|find| find.id).collect();
        let ids: Vec<&str> = TOPIC_PATTERNS
            .iter()
            .filter(|(pattern, _)| pattern.is_match(&text))
            .flat_map(|(_, ids)| ids.iter().copied())
            .filter(|id| !stated.contains(id))
            .collect();
        if !ids.is_empty() {
            withdrawals.push(Withdrawal { at: sentence.range.start, ids });
        }
    }
    withdrawals
}

/// Removes finds that a later sentence withdraws, that a later turn replaces, or that contradict each other.
///
/// A contradiction between turns is decided in favour of the later one, since people change their minds. Within one turn it is unknown
/// which of the two is meant, or whether both are about different parts of the answer, so both are left to the judge.
pub(super) fn settle(turns: &[Turn<'_>], finds: &mut Vec<(usize, Find)>) {
    for (index, turn) in turns.iter().enumerate() {
        let own: Vec<Find> = finds.iter().filter(|(turn, _)| *turn == index).map(|(_, find)| find.clone()).collect();
        for withdrawal in withdrawals(&turn.reading, &own) {
            finds.retain(|(of, find)| {
                let earlier = *of < index || *of == index && find.range.start < withdrawal.at;
                !(earlier && (withdrawal.ids.is_empty() || withdrawal.ids.contains(&find.id)))
            });
        }
    }
    let mut dropped = vec![false; finds.len()];
    for (i, (turn, find)) in finds.iter().enumerate() {
        for (j, (other_turn, other)) in finds.iter().enumerate().skip(i + 1) {
            if find.id == other.id && find.kwargs == other.kwargs {
                dropped[j] = true;
            } else if contradicts(find, other) || contradicts(other, find) || competes(find, other) {
                dropped[i] = true;
                dropped[j] |= turn == other_turn;
            }
        }
    }
    let speaks = |id: &str| finds.iter().any(|(_, find)| find.id == id);
    let cased = speaks(CAPITAL) || speaks(LOWERCASE);
    let foreign = finds.iter().any(|(_, find)| find.id == LANGUAGE && text(find, "language") != "en");
    for (at, (_, find)) in finds.iter().enumerate() {
        // The rules of case already require English, and they cannot be followed in another language.
        dropped[at] |= find.id == LANGUAGE && cased && !foreign;
        dropped[at] |= (find.id == CAPITAL || find.id == LOWERCASE) && foreign;
    }
    let mut dropped = dropped.into_iter();
    finds.retain(|_| !dropped.next().unwrap_or(false));
}

fn text<'a>(find: &'a Find, key: &str) -> &'a str {
    find.kwargs.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn number(find: &Find, key: &str) -> u64 {
    find.kwargs.get(key).and_then(Value::as_u64).unwrap_or_default()
}

fn words(find: &Find, key: &str) -> Vec<String> {
    let list = find.kwargs.get(key).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase).collect()
}

/// What a bound counts, its relation, and its number.
fn bound(find: &Find) -> Option<(String, &str, u64)> {
    let (count, relation, of) = match find.id {
        WORDS => ("num_words", "relation", String::new()),
        SENTENCES => ("num_sentences", "relation", String::new()),
        CAPITAL_WORDS => ("capital_frequency", "capital_relation", String::new()),
        FREQUENCY => ("frequency", "relation", text(find, "keyword").to_lowercase()),
        LETTERS => ("let_frequency", "let_relation", text(find, "letter").to_string()),
        _ => return None,
    };
    Some((of, text(find, relation), number(find, count)))
}

/// Whether both finds bound the same count in the same direction with different numbers.
fn competes(a: &Find, b: &Find) -> bool {
    if a.id != b.id {
        return false;
    }
    match (bound(a), bound(b)) {
        (Some((of, relation, n)), Some((other, other_relation, m))) => {
            of == other && relation == other_relation && n != m
        }
        _ => SINGLE.contains(&a.id),
    }
}

/// Whether no answer can follow both finds.
fn contradicts(a: &Find, b: &Find) -> bool {
    match (a.id, b.id) {
        (CAPITAL, LOWERCASE) => true,
        (LOWERCASE, CAPITAL_WORDS) => text(b, "capital_relation") == "at least" && number(b, "capital_frequency") > 0,
        (CAPITAL, CAPITAL_WORDS) => text(b, "capital_relation") == "less than",
        (EXISTENCE, FORBIDDEN) => {
            let forbidden = words(b, "forbidden_words");
            words(a, "keywords").iter().any(|word| forbidden.contains(word))
        }
        (FREQUENCY, FORBIDDEN) => {
            text(a, "relation") == "at least"
                && words(b, "forbidden_words").contains(&text(a, "keyword").to_lowercase())
        }
        (a_id, b_id) if a_id == b_id => match (bound(a), bound(b)) {
            (Some((of, "at least", least)), Some((other, "less than", limit))) => of == other && least >= limit,
            _ => false,
        },
        _ => false,
    }
}
