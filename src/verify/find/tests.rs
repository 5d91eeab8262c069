//! Tests phrasings with the checks they ask for, and traps that ask for none.

use serde_json::json;

use super::*;

const PHRASINGS: &str = include_str!("phrasings.tsv");
const TRAPS: &str = include_str!("traps.tsv");

/// A line of a table: the conversation, and its checks in short form.
struct Case {
    line: usize,
    turns: Vec<Message>,
    expected: Vec<String>,
}

fn cases(table: &str) -> Vec<Case> {
    let lines = table.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(index, line)| {
            let (said, checks) = line.split_once('\t').unwrap_or_else(|| panic!("line {} has no tab", index + 1));
            let mut expected: Vec<String> =
                checks.split(';').map(|check| check.trim().to_string()).filter(|check| !check.is_empty()).collect();
            expected.sort();
            Case { line: index + 1, turns: said.replace("\\n", "\n").split(" || ").map(turn).collect(), expected }
        })
        .collect()
}

fn turn(text: &str) -> Message {
    let (role, content) = match text.split_once(": ") {
        Some(("S", content)) => (Role::System, content),
        Some(("U", content)) => (Role::User, content),
        Some(("A", content)) => (Role::Assistant, content),
        _ => (Role::User, text),
    };
    Message::new(role, content)
}

/// The short form of a check in the tables. A check of several words has several.
fn brief(check: &Check) -> Vec<String> {
    let text = |key: &str| check.kwargs[key].as_str().unwrap_or_default();
    let number = |key: &str| check.kwargs[key].as_u64().unwrap_or_default();
    let bound = |what: &str, relation: &str, count: &str| {
        let sign = if text(relation) == "at least" { ">=" } else { "<" };
        vec![format!("{what} {sign} {}", number(count))]
    };
    let words = |what: &str, key: &str| {
        check.kwargs[key].as_array().unwrap().iter().map(|word| format!("{what} {}", word.as_str().unwrap())).collect()
    };
    match check.id.as_str() {
        "length_constraints:number_words" => bound("words", "relation", "num_words"),
        "length_constraints:number_sentences" => bound("sentences", "relation", "num_sentences"),
        "length_constraints:number_paragraphs" => vec![format!("paragraphs = {}", number("num_paragraphs"))],
        "length_constraints:nth_paragraph_first_word" => {
            vec![format!("nth {}/{} {}", number("nth_paragraph"), number("num_paragraphs"), text("first_word"))]
        }
        "detectable_format:number_bullet_lists" => vec![format!("bullets = {}", number("num_bullets"))],
        "detectable_format:multiple_sections" => {
            vec![format!("sections {} >= {}", text("section_spliter"), number("num_sections"))]
        }
        "keywords:existence" => words("use", "keywords"),
        "keywords:forbidden_words" => words("avoid", "forbidden_words"),
        "keywords:frequency" => bound(&format!("count {}", text("keyword")), "relation", "frequency"),
        "keywords:letter_frequency" => bound(&format!("letter {}", text("letter")), "let_relation", "let_frequency"),
        "change_case:english_capital" => vec!["caps".to_string()],
        "change_case:english_lowercase" => vec!["lower".to_string()],
        "change_case:capital_word_frequency" => bound("capwords", "capital_relation", "capital_frequency"),
        "punctuation:no_comma" => vec!["no_comma".to_string()],
        "startend:quotation" => vec!["quoted".to_string()],
        "startend:end_checker" => vec![format!("end {}", text("end_phrase"))],
        "detectable_format:json_format" => vec!["json".to_string()],
        "detectable_format:title" => vec!["title".to_string()],
        "detectable_content:postscript" => vec![format!("ps {}", text("postscript_marker"))],
        "detectable_content:number_placeholders" => vec![format!("placeholders >= {}", number("num_placeholders"))],
        "detectable_format:number_highlighted_sections" => vec![format!("highlights >= {}", number("num_highlights"))],
        "combination:two_responses" => vec!["two".to_string()],
        "combination:repeat_prompt" => vec![format!("repeat {}", text("prompt_to_repeat"))],
        "detectable_format:constrained_response" => vec!["choice".to_string()],
        "language:response_language" => vec![format!("lang {}", text("language"))],
        other => vec![format!("{other} {}", json!(check.kwargs))],
    }
}

fn agrees(table: &str, least: usize) {
    let cases = cases(table);
    assert!(cases.len() >= least, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let found = find_checks(&case.turns);
        let mut briefs: Vec<String> = found.iter().flat_map(|found| brief(&found.check)).collect();
        briefs.sort();
        if briefs != case.expected {
            wrong.push(format!("line {}: found {briefs:?}, expected {:?}", case.line, case.expected));
        }
        for found in found {
            let said = case.turns.iter().any(|turn| turn.content.contains(&found.words));
            assert!(said && !found.words.is_empty(), "line {}: {:?} is no span", case.line, found.words);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn phrasings_become_their_checks() {
    agrees(PHRASINGS, 150);
}

#[test]
fn traps_become_no_checks() {
    agrees(TRAPS, 60);
}

#[test]
fn every_kind_is_found_in_the_table() {
    // IFEval's ids are listed first.
    for id in super::super::IDS.iter().take(25).copied() {
        let found =
            cases(PHRASINGS).iter().any(|case| find_checks(&case.turns).iter().any(|found| found.check.id == id));
        assert!(found, "{id}");
    }
}

#[test]
fn a_conversation_without_a_user_turn_has_no_checks() {
    assert!(find_checks(&[]).is_empty());
    assert!(find_checks(&[Message::new(Role::System, "Use no commas.")]).is_empty());
}

#[test]
fn long_turns_are_read_up_to_their_limit() {
    let filler = "é ".repeat(TURN_BYTES / 4);
    let far = format!("{filler}\n\nUse no commas.");
    assert_eq!(find_checks(&[Message::user(&far)]).len(), 1);
    let beyond = format!("{}\n\nUse no commas.", "é ".repeat(TURN_BYTES / 2));
    assert!(find_checks(&[Message::user(beyond)]).is_empty());
    let many: String = (0..200).map(|n| format!("Use the word w{n}x. ")).collect();
    assert_eq!(find_checks(&[Message::user(many)]).len(), MOST_CHECKS);
}

#[test]
fn any_text_is_read_without_panic() {
    for text in [
        "",
        "\"",
        "'",
        "\u{e000}",
        "```",
        "[",
        "<<",
        "***",
        "P.S.",
        "İ at least 3 words",
        "\n\n- \n",
        "“”",
        "the word",
        "no",
        ">",
        "\"\"\"",
        "<a>",
    ] {
        find_checks(&[Message::user(text)]);
        let mixed = format!("Use the word {text}: {text}\n{text} end with {text}");
        find_checks(&[Message::user(mixed)]);
    }
}

/// The kinds of IFBench: an instruction, the id and its arguments.
fn wordings() -> Vec<(&'static str, &'static str, serde_json::Value)> {
    vec![
        ("Include exactly 7 numbers in the response.", "count:numbers", json!({"N": 7})),
        ("Use at least five pronouns.", "count:pronouns", json!({"N": 5})),
        ("Use at least 3 different conjunctions.", "count:conjunctions", json!({"small_n": 3})),
        ("Use at least 40 distinct words please.", "count:unique_word_count", json!({"N": 40})),
        ("Explain tides Use at least 40 unique words in the response.", "count:unique_word_count", json!({"N": 40})),
        ("Every 5th word of your response must be in Japanese.", "count:words_japanese", json!({"N": 5})),
        ("Use every standard punctuation mark at least once.", "count:punctuation", json!({})),
        ("Don't repeat any word more than 3 times.", "words:repeats", json!({"small_n": 3})),
        ("No word may appear more than twice.", "", json!({})),
        ("No word may appear more than 2 times.", "words:repeats", json!({"small_n": 2})),
        ("No two consecutive words may start with the same letter.", "words:no_consecutive", json!({})),
        ("The last word of every sentence should be the first word of the next.", "words:last_first", json!({})),
        ("Use only words whose lengths are prime numbers.", "words:prime_lengths", json!({})),
        ("Put an emoji at the end of each sentence.", "format:emoji", json!({})),
        ("Finish every sentence with an emoji.", "format:emoji", json!({})),
        ("Write every word on its own line.", "format:newline", json!({})),
        ("Your output must not contain any whitespace.", "format:no_whitespace", json!({})),
        ("Write the entire response in title case.", "format:title_case", json!({})),
        ("Nest parentheses at least 5 levels deep.", "format:parentheses", json!({})),
        (
            "Answer with one of the following options: red/green/blue.",
            "format:options",
            json!({"options": "red/green/blue"}),
        ),
        (
            "Answer with one of these options: red, green, blue",
            "format:options",
            json!({"options": "red, green, blue"}),
        ),
        ("Answer with one of these options: more, less, or none.", "", json!({})),
        ("Answer with a list of items, instead of bullet points use -->.", "format:list", json!({"sep": "-->"})),
        ("Include the word moss in the third sentence.", "sentence:keyword", json!({"word": "moss", "N": 3})),
        ("Include keyword fern in the 4-th sentence.", "sentence:keyword", json!({"word": "fern", "N": 4})),
        (
            "Include keyword fern in the 4-th sentence, as the 6-th word of that sentence.",
            "words:keywords_specific_position",
            json!({"keyword": "fern", "n": 4, "m": 6}),
        ),
        (
            "Each sentence must contain exactly 2 more words than the previous one.",
            "sentence:increment",
            json!({"small_n": 2}),
        ),
        ("Stop words should make up no more than 30% of the text.", "", json!({})),
        (
            "Make sure that stop words make up no more than 30% of the text.",
            "ratio:stop_words",
            json!({"percentage": 30}),
        ),
        ("Use twice as many declarative as interrogative sentences.", "ratio:sentence_type", json!({})),
        ("What does 'no two consecutive words may start with the same letter' mean?", "", json!({})),
        ("Why would one put an emoji at the end of each sentence?", "", json!({})),
    ]
}

#[test]
fn whole_wordings_become_checks_where_their_ids_are_known() {
    for (said, id, kwargs) in wordings() {
        let unknown = Check::new(id, Map::new()).is_err_and(|error| error.message.contains("unknown instruction id"));
        if !id.is_empty() && unknown {
            eprintln!("skipped, because this build does not know {id}: {said}");
            continue;
        }
        let found: Vec<Value> = find_checks(&[Message::user(said)])
            .iter()
            .map(|found| json!([found.check.id, found.check.kwargs]))
            .collect();
        let expected = if id.is_empty() { vec![] } else { vec![json!([id, kwargs])] };
        assert_eq!(found, expected, "{said}");
    }
}
