//! Estimates how many tokens a response needs to follow an instruction, for callers that must leave room for it.

use serde_json::Value;

use super::Check;

/// Tokens per counted unit, by the name of the keyword argument.
const TOKENS: [(&str, usize); 8] = [
    ("num_words", 2),
    ("min_words", 2),
    ("num_sentences", 40),
    ("num_paragraphs", 128),
    ("num_sections", 96),
    ("num_bullets", 32),
    ("num_highlights", 16),
    ("num_placeholders", 16),
];

impl Check {
    /// The number of tokens that a response needs at most for the words, sentences or parts the instruction asks for. Returns 0 if the
    /// instruction names no such number, or only an upper bound.
    pub fn room(&self) -> usize {
        if self.kwargs.get("relation").and_then(Value::as_str) == Some("less than") {
            return 0;
        }
        let tokens = |(key, each): &(&str, usize)| {
            let count = self.kwargs.get(*key).and_then(Value::as_f64).unwrap_or(0.0);
            (count.clamp(0.0, 1e6) as usize).saturating_mul(*each)
        };
        TOKENS.iter().map(tokens).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_follows_from_the_number_that_is_asked_for() {
        for (id, kwargs, expected) in [
            ("length_constraints:number_words", r#"{"num_words": 300, "relation": "at least"}"#, 600),
            ("length_constraints:number_words", r#"{"num_words": 300, "relation": "less than"}"#, 0),
            ("length_constraints:number_sentences", r#"{"num_sentences": 5, "relation": "at least"}"#, 200),
            ("detectable_format:number_bullet_lists", r#"{"num_bullets": 4}"#, 128),
            ("punctuation:no_comma", "{}", 0),
        ] {
            let check = Check::new(id, serde_json::from_str(kwargs).unwrap()).unwrap();
            assert_eq!(check.room(), expected, "{id} {kwargs}");
        }
    }
}
