//! Helpers for the regular expressions of this folder, which are joined from pieces and compiled once.

use regex::Regex;

/// Declares a static expression from joined pieces. It is matched against lower-case text with single spaces between words.
macro_rules! pattern {
    ($name:ident, [$($piece:expr),+ $(,)?]) => {
        static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
            super::pattern::compile(&[$($piece),+].concat())
        });
    };
}

pub(super) use pattern;

/// Compiles a constant expression. Word boundaries are ASCII, like the instructions, which lets the fast automaton run even if the text
/// contains other letters.
pub(super) fn compile(expression: &str) -> Regex {
    Regex::new(&expression.replace(r"\b", r"(?-u:\b)")).expect("a constant expression is valid")
}

/// Matches the words for a prohibition, up to the thing that is prohibited: `do not`, `without`, `avoid`.
pub(super) const NOT: &str = concat!(
    r"(?:\b(?:(?:under|in) no (?:circumstances?|case|event)|at no (?:point|time)|not|never|cannot|without|avoid(?:ing)?|refrain(?:ing)? from|abstain(?:ing)? from|stay away from|",
    r"steer clear of|keep away from|exclud(?:e|ing)|omit(?:ting)?|leav(?:e|ing) out|skip(?:ping)?|no|nothing|zero|nor|free (?:of|from)|devoid of|",
    r"ban(?:ned)?|lay off|drop|eschew|forgo|minus)\b|n't\b)"
);
