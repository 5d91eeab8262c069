//! The checkers against the reference's verdicts, and what they say about arguments.

use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use serde_json::json;

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ifeval_cases.jsonl");

fn check(id: &str, kwargs: Value) -> Result<Check, CheckError> {
    Check::new(id, kwargs.as_object().unwrap().clone())
}

#[test]
fn every_id_is_registered() {
    for id in IDS {
        let error = check(id, json!({"bogus": 1})).unwrap_err().0;
        assert!(error.starts_with(&format!("{id}: ")), "{error}");
    }
}

#[test]
fn bad_arguments_are_named() {
    let cases = [
        ("keywords:nothing", json!({}), "unknown instruction id `keywords:nothing`, known: keywords:existence, "),
        ("punctuation:no_comma", json!({"n": 1}), "punctuation:no_comma: unknown argument `n`, allowed: none"),
        (
            "startend:end_checker",
            json!({"end_phrase": "x", "n": 1}),
            "startend:end_checker: unknown argument `n`, allowed: end_phrase",
        ),
        (
            "keywords:existence",
            json!({}),
            "keywords:existence: `keywords` must be a list of at least one string, none of them empty, but it is missing",
        ),
        (
            "keywords:existence",
            json!({"keywords": []}),
            "keywords:existence: `keywords` must be a list of at least one string",
        ),
        (
            "keywords:forbidden_words",
            json!({"forbidden_words": ["a", 1]}),
            "keywords:forbidden_words: `forbidden_words` must be a list",
        ),
        (
            "keywords:letter_frequency",
            json!({"letter": "ab", "let_frequency": 1, "let_relation": "at least"}),
            "keywords:letter_frequency: `letter` must be one character, got \"ab\"",
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": -1, "relation": "at least"}),
            "length_constraints:number_words: `num_words` must be an integer from 0 up, got -1",
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 2.5, "relation": "at least"}),
            "length_constraints:number_words: `num_words` must be an integer from 0 up, got 2.5",
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 2, "relation": "more than"}),
            "length_constraints:number_words: `relation` must be \"less than\" or \"at least\", got \"more than\"",
        ),
        (
            "length_constraints:number_words",
            json!({"num_words": 2, "relation": null}),
            "length_constraints:number_words: `relation` must be \"less than\" or \"at least\", but it is missing",
        ),
        (
            "length_constraints:nth_paragraph_first_word",
            json!({"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"}),
            "length_constraints:nth_paragraph_first_word: `nth_paragraph` must be between 1 and 2, got 3",
        ),
        (
            "language:response_language",
            json!({"language": "xx"}),
            "language:response_language: `language` must be one of af, ar, ",
        ),
    ];
    for (id, kwargs, expected) in cases {
        let error = check(id, kwargs).unwrap_err().0;
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn nulls_are_absent() {
    let made = check("punctuation:no_comma", json!({"num_words": null})).unwrap();
    assert_eq!(made, check("punctuation:no_comma", json!({})).unwrap());
}

#[test]
fn descriptions_state_the_requirement() {
    for (id, kwargs, expected) in [
        ("length_constraints:number_words", json!({"num_words": 12, "relation": "at least"}), "use at least 12 words"),
        (
            "length_constraints:number_sentences",
            json!({"num_sentences": 1, "relation": "less than"}),
            "write fewer than 1 sentence",
        ),
        ("keywords:existence", json!({"keywords": ["a", "b", "c"]}), "include the keywords \"a\", \"b\" and \"c\""),
        (
            "keywords:frequency",
            json!({"keyword": "sea", "frequency": 2, "relation": "at least"}),
            "use the keyword \"sea\" at least 2 times",
        ),
        ("punctuation:no_comma", json!({}), "use no commas"),
    ] {
        assert_eq!(check(id, kwargs).unwrap().describe(), expected);
    }
}

#[test]
fn loose_looks_past_the_first_and_last_line_and_asterisks() {
    let quotation = check("startend:quotation", json!({})).unwrap();
    for (response, strict, loose) in [
        ("\"yes\"", true, true),
        ("Sure:\n\"yes\"", false, true),
        ("\"yes\"\nBye.", false, true),
        ("Sure:\n\n*\"yes\"*\nBye.", false, true),
        ("Sure: \"yes\"", false, false),
        (" \n\t", false, false),
    ] {
        assert_eq!((quotation.strict(response), quotation.loose(response)), (strict, loose), "{response:?}");
    }
}

fn read_jsonl(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn verdicts(case: &Value) -> (bool, bool) {
    (case["strict"].as_bool().unwrap(), case["loose"].as_bool().unwrap())
}

#[test]
fn verdicts_agree_with_the_reference() {
    // By tier: 1 must agree; 2 depends on the versions of the reference's libraries; 3 on its detector's luck.
    let mut tiers: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in read_jsonl(Path::new(CASES)) {
        let made = check(case["instruction_id"].as_str().unwrap(), case["kwargs"].clone()).unwrap();
        let response = case["response"].as_str().unwrap();
        let got = (made.strict(response), made.loose(response));
        let agrees = got == verdicts(&case) || case.get("nltk310").is_some_and(|newer| got == verdicts(newer));
        let tier = case["tier"].as_u64().unwrap();
        let (right, all) = tiers.entry(tier).or_default();
        *right += usize::from(agrees);
        *all += 1;
        if !agrees {
            println!("tier {tier} {}: got {got:?}, expected {:?}", case["id"], verdicts(&case));
            wrong.push((tier, case["id"].to_string()));
        }
    }
    for (tier, (right, all)) in &tiers {
        println!("tier {tier}: {right} of {all} agree");
    }
    assert_eq!(tiers[&1].1, 2218);
    assert!(wrong.iter().all(|(tier, _)| *tier > 1), "{wrong:?}");
}

/// Material that is not part of this repository: IFEval's prompts and published responses, beside the checkout.
#[test]
fn published_responses_score_as_published() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ifeval");
    if !folder.join("gpt4_responses.jsonl").exists() {
        println!("skipped: {} has no published responses", folder.display());
        return;
    }
    let prompts = data::read_prompts(&folder.join("prompts.jsonl")).unwrap();
    let responses = data::read_responses(&folder.join("gpt4_responses.jsonl")).unwrap();
    let joined = data::join(&prompts, &responses).unwrap();
    let verdicts = prompts.items.iter().zip(joined.responses).map(|(prompt, text)| score::Verdicts::of(prompt, text));
    let report = score::Report::new(verdicts.collect());
    for (result, reference) in report.results.iter().zip(read_jsonl(&folder.join("gpt4_verdicts.jsonl"))) {
        if json!(result.strict) != reference["strict"] || json!(result.loose) != reference["loose"] {
            println!(
                "key {}: {:?} {:?} {:?}, reference {reference}",
                result.key, result.ids, result.strict, result.loose
            );
        }
    }
    let share = |right, all| score::Share { right, all };
    assert_eq!((report.prompt_strict, report.prompt_loose), (share(417, 541), share(431, 541)));
    assert_eq!((report.instruction_strict, report.instruction_loose), (share(698, 834), share(714, 834)));
}

/// One check of every kind, most of them easily met.
fn one_of_each() -> Vec<Check> {
    let count = |key: &str, relation: &str| json!({key: 2, relation: "at least"});
    let kwargs = |id: &str| match id {
        "keywords:existence" => json!({"keywords": ["İs", "a.?b"]}),
        "keywords:frequency" => json!({"keyword": "ß", "frequency": 1, "relation": "less than"}),
        "keywords:forbidden_words" => json!({"forbidden_words": ["é", "(x|y)"]}),
        "keywords:letter_frequency" => json!({"letter": "σ", "let_frequency": 1, "let_relation": "at least"}),
        "language:response_language" => json!({"language": "en"}),
        "length_constraints:number_sentences" => count("num_sentences", "relation"),
        "length_constraints:number_paragraphs" => json!({"num_paragraphs": 2}),
        "length_constraints:number_words" => count("num_words", "relation"),
        "length_constraints:nth_paragraph_first_word" => {
            json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "a"})
        }
        "detectable_content:number_placeholders" => json!({"num_placeholders": 1}),
        "detectable_content:postscript" => json!({"postscript_marker": "P.P.S"}),
        "detectable_format:number_bullet_lists" => json!({"num_bullets": 1}),
        "detectable_format:number_highlighted_sections" => json!({"num_highlights": 1}),
        "detectable_format:multiple_sections" => json!({"section_spliter": "x*", "num_sections": 1}),
        "combination:repeat_prompt" => json!({"prompt_to_repeat": "a"}),
        "startend:end_checker" => json!({"end_phrase": "."}),
        "change_case:capital_word_frequency" => count("capital_frequency", "capital_relation"),
        _ => json!({}),
    };
    IDS.iter().map(|id| check(id, kwargs(id)).unwrap()).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    /// Any text, and text dense in what the checkers look for.
    #[test]
    fn any_response_gets_a_verdict(
        response in proptest::prop_oneof![
            proptest::prelude::any::<String>(),
            "([-*.?!\"'()\\[\\]{}<>:,`\\\\ ]|\n|\u{1c}|\u{2028}|[aAéßıİςΣ½ि]|p\\. ?s|'ll|n't |can|not|x[0-9]|Mr\\.){0,40}",
        ]
    ) {
        for check in one_of_each() {
            let strict = check.strict(&response);
            proptest::prop_assert!(check.loose(&response) || !strict, "{}", check.id);
        }
        proptest::prop_assert!(sentences(&response) <= response.len());
    }
}
