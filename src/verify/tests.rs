//! Compares the checkers with the reference's verdicts, and tests the errors about arguments.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use serde_json::json;

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");

fn check(id: &str, kwargs: Value) -> Result<Check, CheckError> {
    Check::new(id, kwargs.as_object().unwrap().clone())
}

#[test]
fn every_id_is_registered_once() {
    assert_eq!(BTreeSet::from(IDS).len(), IDS.len());
    for id in IDS {
        match check(id, json!({"bogus": 1})) {
            // The reference ignores the arguments of these rules.
            Ok(_) => assert!(id.starts_with("custom:"), "{id}"),
            Err(error) => assert!(error.message.starts_with(&format!("{id}: ")), "{error}"),
        }
    }
}

#[test]
fn bad_arguments_are_named() {
    let cases = [
        ("keywords:nothing", json!({}), "unknown instruction id `keywords:nothing`, known: keywords:existence, "),
        (
            "words:nothing",
            json!({}),
            "unknown instruction id `words:nothing`, known: words:alphabet, words:consonants, ",
        ),
        ("nothing", json!({}), "unknown instruction id `nothing`, known: IFEval's keywords:existence, "),
        (
            "words:start_verb",
            json!({}),
            "words:start_verb: cannot be checked, since it needs the data of a part-of-speech tagger ",
        ),
        ("count:numbers", json!({}), "count:numbers: `N` must be an integer from 0 up, but it is missing"),
        ("count:numbers", json!({"N": 2.5}), "count:numbers: `N` must be an integer from 0 up, got 2.5"),
        ("count:numbers", json!({"N": -1.0}), "count:numbers: `N` must be an integer from 0 up, got -1.0"),
        ("count:numbers", json!({"N": 1e300}), "count:numbers: `N` must be an integer from 0 up, got 1e+300"),
        (
            "ratio:stop_words",
            json!({"percentage": -1}),
            "ratio:stop_words: `percentage` must be a number from 0 up, got -1",
        ),
        (
            "words:keywords_specific_position",
            json!({"keyword": "a", "n": 0, "m": 1}),
            "words:keywords_specific_position: `n` must be an integer from 1 up, got 0",
        ),
        (
            "repeat:repeat_span",
            json!({"prompt_to_repeat": "a", "n_start": "1", "n_end": 2}),
            "repeat:repeat_span: `n_start` must be an integer, got \"1\"",
        ),
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
        let error = check(id, kwargs).unwrap_err().message;
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn nulls_are_absent() {
    let made = check("punctuation:no_comma", json!({"num_words": null})).unwrap();
    assert_eq!(made, check("punctuation:no_comma", json!({})).unwrap());
}

#[test]
fn integers_may_be_written_as_floats() {
    let made = |words: Value| {
        check("length_constraints:number_words", json!({"num_words": words, "relation": "at least"})).unwrap()
    };
    for response in ["one two three", "one two"] {
        assert_eq!(made(json!(3.0)).strict(response), made(json!(3)).strict(response));
    }
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
        ("sentence:keyword", json!({"word": "sea", "N": 3.0}), "include the keyword \"sea\" in sentence 3"),
        ("count:numbers", json!({"N": 1}), "include exactly 1 number, written in digits"),
        (
            "count:word_count_range",
            json!({"min_words": 71.0, "max_words": 73.0}),
            "use at least 71 and at most 73 words",
        ),
        ("format:options", json!({"options": "yes/no"}), "answer with one of \"yes\", \"no\" and nothing else"),
        (
            "ratio:stop_words",
            json!({"percentage": 27.0}),
            "use stop words such as \"the\", \"of\" and \"is\" for at most 27 % of all words",
        ),
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

/// Compares every case of a file. All cases of tier 1 must agree. Tier 2 depends on the versions and the data of the reference's libraries,
/// so at least as many must agree as when the test was written. Tier 3 depends on random choices of the language detector.
fn compare(file: &str, plain: usize, of_versions: usize) {
    let mut tiers: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut unchecked = 0;
    for case in read_jsonl(&Path::new(DATA).join(file)) {
        let id = case["instruction_id"].as_str().unwrap();
        let made = check(id, case["kwargs"].clone());
        if id == UNCHECKED {
            assert!(made.is_err());
            unchecked += 1;
            continue;
        }
        let made = made.unwrap();
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
    println!("{unchecked} not checked");
    assert_eq!(tiers[&1].1, plain);
    assert!(wrong.iter().all(|(tier, _)| *tier > 1), "{wrong:?}");
    assert!(tiers[&2].0 >= of_versions, "{wrong:?}");
}

#[test]
fn verdicts_agree_with_the_reference_of_ifeval() {
    compare("ifeval_cases.jsonl", 2218, 184);
}

#[test]
fn verdicts_agree_with_the_reference_of_ifbench() {
    // Two more cases of tier 1 and 97 of tier 2 use `UNCHECKED`.
    compare("ifbench_cases.jsonl", 3734, 86);
}

/// Uses material that is not part of this repository: IFEval's prompts and published responses, next to the checkout.
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
    let answered = prompts.items.iter().zip(joined.responses).filter_map(|(prompt, text)| Some((prompt, text?)));
    let verdicts = answered.map(|(prompt, text)| score::Verdicts::check(prompt, text));
    let report = score::Report::new(verdicts.collect(), Vec::new());
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

/// Uses IFBench's prompts, which are not part of this repository either.
#[test]
fn every_prompt_of_ifbench_is_read() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/ifbench/prompts.jsonl");
    if !file.exists() {
        println!("skipped: {} does not exist", file.display());
        return;
    }
    let prompts = data::read_prompts(&file).unwrap().items;
    let count = |of: fn(&data::Prompt) -> usize| prompts.iter().map(of).sum::<usize>();
    assert_eq!((prompts.len(), count(|p| p.checks.len()), count(|p| p.unchecked.len())), (300, 338, 6));
}

/// One check of every kind, most of which are easy to pass.
fn check_of_every_kind() -> Vec<Check> {
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
        "count:conjunctions" | "sentence:increment" | "words:repeats" => json!({"small_n": 1}),
        "count:keywords_multiple" => {
            json!({"keyword1": "a", "keyword2": "İ", "keyword3": "ß", "keyword4": "x", "keyword5": "can"})
        }
        "count:numbers"
        | "count:person_names"
        | "count:pronouns"
        | "count:unique_word_count"
        | "count:words_japanese" => {
            json!({"N": 1})
        }
        "count:word_count_range" => json!({"min_words": 1, "max_words": 9}),
        "format:list" => json!({"sep": "-"}),
        "format:options" => json!({"options": "a), b), c)"}),
        "ratio:overlap" => json!({"reference_text": "aAéßıİ", "percentage": 50}),
        "ratio:stop_words" => json!({"percentage": 50}),
        "repeat:repeat_change" => json!({"prompt_to_repeat": "a can"}),
        "repeat:repeat_span" => json!({"prompt_to_repeat": "a can", "n_start": -2, "n_end": 2}),
        "sentence:keyword" => json!({"word": "ß", "N": 1}),
        "words:keywords_specific_position" => json!({"keyword": "can", "n": 1, "m": 1}),
        "words:words_position" => json!({"keyword": "can"}),
        _ => json!({}),
    };
    IDS.iter().map(|id| check(id, kwargs(id)).unwrap()).collect()
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { failure_persistence: None, ..Default::default() })]

    /// Tests any text, and text with many of the characters that the checkers look for.
    #[test]
    fn any_response_gets_a_verdict(
        response in proptest::prop_oneof![
            proptest::prelude::any::<String>(),
            "([-*.?!\"'()\\[\\]{}<>:,`\\\\ ]|\n|\u{1c}|\u{2028}|[aAéßıİςΣ½ि]|p\\. ?s|'ll|n't |can|not|x[0-9]|Mr\\.){0,40}",
        ]
    ) {
        for check in check_of_every_kind() {
            let strict = check.strict(&response);
            proptest::prop_assert!(check.loose(&response) || !strict, "{}", check.id);
        }
        proptest::prop_assert!(sentences(&response) <= response.len());
    }
}
