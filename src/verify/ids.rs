//! The instruction ids of both benchmarks.

use super::CheckError;

/// Every instruction id that can be checked: first the 25 of IFEval, then 57 of the 58 of IFBench, each by group.
pub const IDS: [&str; 82] = [
    "keywords:existence",
    "keywords:frequency",
    "keywords:forbidden_words",
    "keywords:letter_frequency",
    "language:response_language",
    "length_constraints:number_sentences",
    "length_constraints:number_paragraphs",
    "length_constraints:number_words",
    "length_constraints:nth_paragraph_first_word",
    "detectable_content:number_placeholders",
    "detectable_content:postscript",
    "detectable_format:number_bullet_lists",
    "detectable_format:constrained_response",
    "detectable_format:number_highlighted_sections",
    "detectable_format:multiple_sections",
    "detectable_format:json_format",
    "detectable_format:title",
    "combination:two_responses",
    "combination:repeat_prompt",
    "startend:end_checker",
    "change_case:capital_word_frequency",
    "change_case:english_capital",
    "change_case:english_lowercase",
    "punctuation:no_comma",
    "startend:quotation",
    "count:conjunctions",
    "count:keywords_multiple",
    "count:numbers",
    "count:person_names",
    "count:pronouns",
    "count:punctuation",
    "count:unique_word_count",
    "count:word_count_range",
    "count:words_japanese",
    "custom:character_reverse",
    "custom:csv_city",
    "custom:csv_quotes",
    "custom:csv_special_character",
    "custom:date_format_list",
    "custom:european_capitals_sort",
    "custom:mcq_count_length",
    "custom:multiples",
    "custom:reverse_newline",
    "custom:sentence_alphabet",
    "custom:word_reverse",
    "format:emoji",
    "format:line_indent",
    "format:list",
    "format:newline",
    "format:no_bullets_bullets",
    "format:no_whitespace",
    "format:options",
    "format:output_template",
    "format:parentheses",
    "format:quote_unquote",
    "format:quotes",
    "format:sub-bullets",
    "format:thesis",
    "format:title_case",
    "ratio:overlap",
    "ratio:sentence_balance",
    "ratio:sentence_type",
    "ratio:sentence_words",
    "ratio:stop_words",
    "repeat:repeat_change",
    "repeat:repeat_simple",
    "repeat:repeat_span",
    "sentence:alliteration_increment",
    "sentence:increment",
    "sentence:keyword",
    "words:alphabet",
    "words:consonants",
    "words:keywords_specific_position",
    "words:last_first",
    "words:no_consecutive",
    "words:odd_even_syllables",
    "words:palindrome",
    "words:paragraph_last_first",
    "words:prime_lengths",
    "words:repeats",
    "words:vowel",
    "words:words_position",
];

/// The number of [`IDS`] that belong to IFEval.
const IFEVAL: usize = 25;

/// The only known instruction of the two benchmarks that cannot be checked. Prompt files may contain it; it is then reported as not
/// checked.
pub const UNCHECKED: &str = "words:start_verb";

/// The error for an unknown id. It lists the known ids of its group, or all ids.
pub(super) fn unknown(id: &str) -> CheckError {
    if id == UNCHECKED {
        return CheckError::from(format!(
            "{id}: cannot be checked, since it needs the data of a part-of-speech tagger that is not part of this program; leave it out"
        ));
    }
    let group = id.split(':').next();
    let siblings: Vec<&str> = IDS.into_iter().filter(|known| known.split(':').next() == group).collect();
    let known = if siblings.is_empty() {
        let (ifeval, ifbench) = IDS.split_at(IFEVAL);
        format!("IFEval's {} and IFBench's {}", ifeval.join(", "), ifbench.join(", "))
    } else {
        siblings.join(", ")
    };
    CheckError::from(format!("unknown instruction id `{id}`, known: {known}"))
}
