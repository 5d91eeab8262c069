//! Turns rules into patterns of the texts that follow them, for decoding under these patterns.
//!
//! A pattern is a terminal of llguidance's Lark dialect, in which `&` and `~` are intersection and complement. It may be narrower than its
//! rule, since there are many ways to follow a rule, and it may miss a detail, since the rule itself checks the text afterwards. Rules
//! whose counts no short pattern can express have none.

use serde_json::Value;

use super::Check;

/// The largest number of parts that gets a pattern. The compiled pattern of a larger one would be too large.
const MOST: u64 = 60;
/// The largest number of words that gets a pattern. It is higher because each word is a small part.
const MOST_WORDS: u64 = 400;

/// The characters of a word, and those between words. Characters outside of ASCII count as word characters, since Unicode's classes make
/// patterns many times larger.
const WORD: &str = r"[0-9A-Za-z_\x{80}-\x{10FFFF}]";
const GAP: &str = r"[^0-9A-Za-z_\x{80}-\x{10FFFF}]";

/// A Lark grammar of the texts that follow `checks`; `None` if no check has a pattern.
///
/// If `words` is given, required content must appear early enough for the text to have about `words` words. Otherwise a model that does not
/// produce it on its own would write until its room is used up. Such patterns are more expensive.
pub fn guide(checks: &[Check], words: Option<usize>) -> Option<String> {
    let patterns: Vec<String> =
        checks.iter().filter_map(|check| check.pattern(words)).map(|pattern| format!("({pattern})")).collect();
    (!patterns.is_empty()).then(|| format!("start: RESPONSE\nRESPONSE: {}\n", patterns.join(" & ")))
}

/// Any text before one of `parts` things that together have to fit in `words`. The limit is in words and not in characters, because the
/// pattern of a counted character changes with every step.
fn before(words: Option<usize>, parts: u64) -> String {
    let Some(words) = words else { return "(?s:.*)".into() };
    let parts = usize::try_from(parts).unwrap_or(usize::MAX).max(1);
    format!(r"([^ \n]*[ \n]+){{0,{}}}[^ \n]*", (words / parts).max(8))
}

/// Puts a regular expression between slashes.
fn terminal(regex: &str) -> String {
    format!("/{}/", regex.replace('/', "\\/"))
}

/// Turns `text` into a regular expression that ignores case.
fn any_case(text: &str) -> String {
    if !text.is_ascii() {
        return format!("(?i:{})", regex::escape(text));
    }
    let letter = |c: char| match c.is_ascii_alphabetic() {
        true => format!("[{}{}]", c.to_ascii_lowercase(), c.to_ascii_uppercase()),
        false => regex::escape(&c.to_string()),
    };
    text.chars().map(letter).collect()
}

/// Matches texts that contain `part` at least `count` times.
fn at_least(part: &str, count: u64, words: Option<usize>) -> String {
    terminal(&format!("({}{part}){{{count}}}(?s:.*)", before(words, count)))
}

/// Matches texts that contain `part` fewer than `count` times.
fn less_than(part: &str, count: u64) -> String {
    format!("~{}", terminal(&format!("((?s:.*){part}){{{count}}}(?s:.*)")))
}

fn relation(part: &str, count: u64, relation: Option<&str>, words: Option<usize>) -> Option<String> {
    match relation? {
        "at least" if count == 0 => None,
        "at least" => Some(at_least(part, count, words)),
        "less than" => Some(less_than(part, count)),
        _ => None,
    }
}

impl Check {
    /// The pattern of the texts that follow this rule.
    fn pattern(&self, words: Option<usize>) -> Option<String> {
        let text =
            |key: &str| self.kwargs.get(key).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
        let count = |key: &str| self.kwargs.get(key).and_then(Value::as_u64).filter(|count| *count <= MOST);
        let texts =
            |key: &str| -> Option<Vec<&str>> { self.kwargs.get(key)?.as_array()?.iter().map(Value::as_str).collect() };
        Some(match self.id.as_str() {
            "punctuation:no_comma" => terminal("[^,]*"),
            "change_case:english_lowercase" => terminal(r"[^\p{Lu}\p{Lt}]*"),
            "change_case:english_capital" => terminal(r"[^\p{Ll}\p{Lt}]*"),
            "change_case:capital_word_frequency" => {
                let word = r"([^A-Za-z]|^)[A-Z]{2,}([^A-Za-z]|$)";
                let word = word.replace("|^", "").replace("|$", "");
                match text("capital_relation")? {
                    "at least" => at_least(&word, count("capital_frequency")?, words),
                    _ => return None,
                }
            }
            "startend:quotation" => terminal(r#""[^"]+""#),
            "startend:end_checker" => terminal(&format!("{}{}", before(words, 1), regex::escape(text("end_phrase")?))),
            "keywords:existence" => {
                let keywords = texts("keywords")?;
                keywords.iter().map(|word| at_least(&any_case(word), 1, words)).collect::<Vec<_>>().join(" & ")
            }
            "keywords:forbidden_words" => {
                let forbidden = texts("forbidden_words")?;
                let outside = |word: &&str| {
                    let word = any_case(word);
                    format!("~{}", terminal(&format!("((?s:.*){GAP})?{word}({GAP}(?s:.*))?")))
                };
                forbidden.iter().map(outside).collect::<Vec<_>>().join(" & ")
            }
            "keywords:frequency" => {
                relation(&any_case(text("keyword")?), count("frequency")?, text("relation"), words)?
            }
            "keywords:letter_frequency" => {
                relation(&any_case(text("letter")?), count("let_frequency")?, text("let_relation"), words)?
            }
            "length_constraints:number_words" => {
                let count =
                    self.kwargs.get("num_words").and_then(Value::as_u64).filter(|n| (1..=MOST_WORDS).contains(n))?;
                match text("relation")? {
                    "at least" => terminal(&format!("({GAP}*{WORD}+{GAP}+){{{count}}}(?s:.*)")),
                    // The last word must end a sentence, so that the text is not cut in the middle of one.
                    _ if count > 1 => terminal(&format!("({GAP}*{WORD}+){{1,{}}}[.!?]{GAP}{{0,4}}", count - 1)),
                    _ => return None,
                }
            }
            "length_constraints:number_sentences" => {
                let count = count("num_sentences")?;
                let sentence = format!(r#"[^.!?]*{WORD}[^.!?]*[.!?]+["')*]*"#);
                match text("relation")? {
                    "at least" if count > 0 => {
                        terminal(&format!(r"({sentence}[ \n]+){{{}}}(?s:.+)[.!?]{GAP}*", count - 1))
                    }
                    "less than" if count > 1 => terminal(&format!(r"({sentence}[ \n]*){{1,{}}}", count - 1)),
                    _ => return None,
                }
            }
            "length_constraints:number_paragraphs" => {
                let more = count("num_paragraphs")?.checked_sub(1)?;
                let part = format!("[^*]*{WORD}[^*]*");
                terminal(&format!(r"{part}(\*\*\*\n{part}){{{more}}}"))
            }
            "length_constraints:nth_paragraph_first_word" => {
                let (all, nth) = (count("num_paragraphs")?, count("nth_paragraph")?);
                let paragraph = r"[^\n]*\w[^\n]*(\n[^\n]*\w[^\n]*)*";
                let begun = format!(r"{}([ ,.!?:;][^\n]*)?(\n[^\n]*\w[^\n]*)*", any_case(text("first_word")?));
                let all: Vec<&str> =
                    (1..=all).map(|index| if index == nth { begun.as_str() } else { paragraph }).collect();
                terminal(&all.join(r"\n\n"))
            }
            "detectable_content:number_placeholders" => at_least(r"\[[^\[\]\n]+\]", count("num_placeholders")?, words),
            "detectable_content:postscript" => {
                let marker = regex::escape(text("postscript_marker")?);
                terminal(&format!(r"[^ \n]{}\n\n{marker}[^\n]+\n?", before(words, 1)))
            }
            "detectable_format:number_bullet_lists" => {
                let plain = r"([^\s*\-][^\n]*)?\n";
                let bullet = r"\* [^\n]*\w[^\n]*";
                let more = count("num_bullets")?.checked_sub(1)?;
                terminal(&format!(r"({plain})*{bullet}(\n({plain})*{bullet}){{{more}}}(\n([^\s*\-][^\n]*)?)*"))
            }
            "detectable_format:constrained_response" => terminal(r"My answer is (yes|no|maybe)\."),
            "detectable_format:number_highlighted_sections" => {
                at_least(&format!(r"[^*]\*[^*\n]*{WORD}[^*\n]*\*[^*]"), count("num_highlights")?, words)
            }
            "detectable_format:multiple_sections" => {
                let (splitter, count) = (regex::escape(text("section_spliter")?), count("num_sections")?);
                let part = |n| format!("{}{splitter} {n}[^0-9]", before(words, count));
                let sections: Vec<String> = (1..=count).map(part).collect();
                terminal(&format!("{}(?s:.*)", sections.concat()))
            }
            "detectable_format:title" => {
                terminal(&format!(r"(?s:.{{0,40}})<<[^<>\n]{{0,80}}{WORD}[^<>\n]{{0,80}}>>(?s:.*)"))
            }
            "combination:two_responses" => {
                let part = format!("[^*]*{WORD}[^*]*");
                terminal(&format!(r"{part}\n\*\*\*\*\*\*\n{part}"))
            }
            "combination:repeat_prompt" => {
                terminal(&format!(r"{}\n\n(?s:.+)", regex::escape(text("prompt_to_repeat")?)))
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::engine::Constraint;

    fn matches(grammar: &Constraint, text: &str) -> bool {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(crate::engine::grammar::matches(grammar, crate::engine::Namespace::SHARED, text)).unwrap()
    }

    fn check(id: &str, kwargs: Value) -> Check {
        let Value::Object(kwargs) = kwargs else { panic!("{kwargs}") };
        Check::new(id, kwargs).unwrap()
    }

    /// Texts that match a rule's pattern follow the rule, and texts that break the rule do not match.
    #[test]
    fn texts_that_match_follow_the_rule() {
        let cases = [
            ("punctuation:no_comma", json!({}), "A river; calm.", "A river, calm."),
            ("change_case:english_lowercase", json!({}), "the river is calm today.", "The river is calm today."),
            ("change_case:english_capital", json!({}), "THE RIVER IS CALM TODAY.", "THE RIVER is CALM."),
            ("startend:quotation", json!({}), "\"The river.\"", "The river."),
            (
                "startend:end_checker",
                json!({"end_phrase": "Any questions?"}),
                "So. Any questions?",
                "Any questions? Yes.",
            ),
            (
                "keywords:existence",
                json!({"keywords": ["sea", "old or new"]}),
                "Old or new is the Sea.",
                "Old is the sea.",
            ),
            ("keywords:forbidden_words", json!({"forbidden_words": ["sea", "lake"]}), "Seaside.", "The sea."),
            (
                "keywords:frequency",
                json!({"keyword": "sea", "frequency": 2, "relation": "at least"}),
                "sea, Sea",
                "sea",
            ),
            (
                "keywords:frequency",
                json!({"keyword": "sea", "frequency": 2, "relation": "less than"}),
                "sea",
                "sea, sea",
            ),
            (
                "keywords:letter_frequency",
                json!({"letter": "o", "let_frequency": 3, "let_relation": "at least"}),
                "Oh no, so",
                "Oh no",
            ),
            (
                "length_constraints:number_words",
                json!({"num_words": 3, "relation": "at least"}),
                "One two three.",
                "One two.",
            ),
            (
                "length_constraints:number_words",
                json!({"num_words": 3, "relation": "less than"}),
                "One two.",
                "One two three.",
            ),
            (
                "length_constraints:number_sentences",
                json!({"num_sentences": 2, "relation": "at least"}),
                "One. Two.",
                "One.",
            ),
            (
                "length_constraints:number_sentences",
                json!({"num_sentences": 2, "relation": "less than"}),
                "One.",
                "One. Two.",
            ),
            ("length_constraints:number_paragraphs", json!({"num_paragraphs": 2}), "One.\n***\nTwo.", "One. Two."),
            (
                "length_constraints:nth_paragraph_first_word",
                json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "But"}),
                "One.\n\nBut two.",
                "One.\n\nTwo.",
            ),
            ("detectable_content:number_placeholders", json!({"num_placeholders": 2}), "[name] of [town]", "[name]"),
            ("detectable_content:postscript", json!({"postscript_marker": "P.S."}), "Hi.\n\nP.S. Bye.", "Hi."),
            ("detectable_format:number_bullet_lists", json!({"num_bullets": 2}), "So:\n* one\n* two\n", "* one"),
            ("detectable_format:constrained_response", json!({}), "My answer is maybe.", "Maybe."),
            (
                "detectable_format:number_highlighted_sections",
                json!({"num_highlights": 1}),
                "A *calm* river.",
                "A river.",
            ),
            (
                "detectable_format:multiple_sections",
                json!({"section_spliter": "Day", "num_sections": 2}),
                "Day 1\nWalk.\nDay 2\nRest.",
                "Day 1\nWalk.",
            ),
            ("detectable_format:title", json!({}), "<<Calm>>\nA river.", "Calm\nA river."),
            ("combination:two_responses", json!({}), "One.\n******\nTwo.", "One. Two."),
            ("combination:repeat_prompt", json!({"prompt_to_repeat": "Go (now)."}), "Go (now).\n\nI go.", "I go."),
            (
                "change_case:capital_word_frequency",
                json!({"capital_frequency": 2, "capital_relation": "at least"}),
                "The BIG and OLD river.",
                "The BIG river.",
            ),
        ];
        let both = |(id, kwargs, follows, breaks)| {
            [None, Some(100)].map(|words| (id, Value::clone(&kwargs), follows, breaks, words))
        };
        for (id, kwargs, follows, breaks, words) in cases.into_iter().flat_map(both) {
            let check = check(id, kwargs);
            let grammar = Constraint::Lark(guide(std::slice::from_ref(&check), words).unwrap());
            assert!(check.strict(follows), "{id}: {follows:?} follows the rule");
            assert!(matches(&grammar, follows), "{id}: {follows:?} matches {grammar:?}");
            assert!(!check.strict(breaks), "{id}: {breaks:?} breaks the rule");
            assert!(!matches(&grammar, breaks), "{id}: {breaks:?} does not match {grammar:?}");
        }
    }

    #[test]
    fn several_rules_are_one_pattern_and_none_is_none() {
        let checks = [check("punctuation:no_comma", json!({})), check("startend:quotation", json!({}))];
        let grammar = Constraint::Lark(guide(&checks, Some(100)).unwrap());
        for (text, expected) in [("\"A river.\"", true), ("\"A, river.\"", false), ("A river.", false)] {
            assert_eq!(matches(&grammar, text), expected, "{text}");
        }
        let language = check("language:response_language", json!({"language": "fr"}));
        assert_eq!(guide(&[language], None), None);
    }
}
