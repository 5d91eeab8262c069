//! What models say is untrusted: verdicts, refinements and rule checks take any text without a panic.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use spar::chat::Message;
use spar::prompts::Templates;
use spar::verify::Check;

static TEMPLATES: LazyLock<Templates> = LazyLock::new(Templates::general);

/// A check of every instruction id.
static CHECKS: LazyLock<Vec<Check>> = LazyLock::new(|| {
    let kwargs = |id: &str| match id {
        "keywords:existence" => json!({"keywords": ["a", "é"]}),
        "keywords:frequency" => json!({"keyword": "a", "frequency": 2, "relation": "at least"}),
        "keywords:forbidden_words" => json!({"forbidden_words": ["b"]}),
        "keywords:letter_frequency" => json!({"letter": "a", "let_frequency": 2, "let_relation": "less than"}),
        "language:response_language" => json!({"language": "de"}),
        "length_constraints:number_sentences" => json!({"num_sentences": 2, "relation": "at least"}),
        "length_constraints:number_paragraphs" => json!({"num_paragraphs": 2}),
        "length_constraints:number_words" => json!({"num_words": 3, "relation": "at least"}),
        "length_constraints:nth_paragraph_first_word" => {
            json!({"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "a"})
        }
        "detectable_content:number_placeholders" => json!({"num_placeholders": 1}),
        "detectable_content:postscript" => json!({"postscript_marker": "P.S."}),
        "detectable_format:number_bullet_lists" => json!({"num_bullets": 2}),
        "detectable_format:number_highlighted_sections" => json!({"num_highlights": 1}),
        "detectable_format:multiple_sections" => json!({"section_spliter": "Section", "num_sections": 2}),
        "combination:repeat_prompt" => json!({"prompt_to_repeat": "a"}),
        "startend:end_checker" => json!({"end_phrase": "a"}),
        "change_case:capital_word_frequency" => json!({"capital_frequency": 1, "capital_relation": "at least"}),
        "count:conjunctions" | "sentence:increment" | "words:repeats" => json!({"small_n": 1}),
        "count:keywords_multiple" => {
            json!({"keyword1": "a", "keyword2": "b", "keyword3": "c", "keyword4": "é", "keyword5": "İ"})
        }
        "count:numbers" | "count:person_names" | "count:pronouns" | "count:unique_word_count" | "count:words_japanese" => {
            json!({"N": 1})
        }
        "count:word_count_range" => json!({"min_words": 1, "max_words": 9}),
        "format:list" => json!({"sep": "-"}),
        "format:options" => json!({"options": "a), b), c)"}),
        "ratio:overlap" => json!({"reference_text": "abc", "percentage": 50}),
        "ratio:stop_words" => json!({"percentage": 50}),
        "repeat:repeat_change" => json!({"prompt_to_repeat": "a b"}),
        "repeat:repeat_span" => json!({"prompt_to_repeat": "a b", "n_start": -2, "n_end": 2}),
        "sentence:keyword" => json!({"word": "a", "N": 1}),
        "words:keywords_specific_position" => json!({"keyword": "a", "n": 1, "m": 1}),
        "words:words_position" => json!({"keyword": "a"}),
        _ => json!({}),
    };
    let check = |id: &&str| Check::new(id, kwargs(id).as_object().cloned().unwrap_or_default()).expect(id);
    spar::verify::IDS.iter().map(check).collect()
});

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let markers = text.replace('\u{1}', "[[start]]").replace('\u{2}', "[[end]]").replace('\u{3}', "Final Judgement");
    for text in [text.as_ref(), markers.as_str()] {
        let verdict = TEMPLATES.parse_verdict(text);
        assert_eq!(verdict, TEMPLATES.parse_verdict(text));
        if let Some(found) = TEMPLATES.parse_refinement(text) {
            assert!(!found.response.is_empty());
            assert!(text[found.offset..].starts_with(&found.response));
        }
        // A conversation may hold any text, and what is rendered from it is read again.
        for turn in TEMPLATES.refine(&[Message::user(text)], text, text) {
            TEMPLATES.parse_verdict(&turn.content);
            TEMPLATES.parse_refinement(&turn.content);
        }
    }
    for check in CHECKS.iter() {
        let strict = check.strict(&text);
        assert!(!strict || check.loose(&text), "{}: loose is never stricter", check.id);
    }
});
