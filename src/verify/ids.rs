//! The instruction ids of both benchmarks.

use super::CheckError;

/// Every instruction id that can be checked: IFEval's 25 and then 57 of IFBench's 58, each in its group.
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

/// How many of [`IDS`] are IFEval's.
const IFEVAL: usize = 25;

/// The one instruction of the two benchmarks that is known and cannot be checked. Files of prompts may hold it; it is reported as not
/// checked there.
pub const UNCHECKED: &str = "words:start_verb";

/// The error of an id that no rule has: what there is in its group, or else everything.
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
