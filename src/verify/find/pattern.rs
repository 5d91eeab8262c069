//! How this folder writes its regular expressions: pieces that are joined and compiled once.

use regex::Regex;

/// A static expression of joined pieces. They are matched against lower-case text in which one space stands between words.
macro_rules! pattern {
    ($name:ident, [$($piece:expr),+ $(,)?]) => {
        static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
            super::pattern::compile(&[$($piece),+].concat())
        });
    };
}

pub(super) use pattern;

/// Compiles a constant expression. Word boundaries are those of ASCII, which is what the instructions are written in: they
/// let the fast automaton run where the text holds other letters.
pub(super) fn compile(expression: &str) -> Regex {
    Regex::new(&expression.replace(r"\b", r"(?-u:\b)")).expect("a constant expression is valid")
}

/// The ways to say that something must not be, up to the thing: `do not`, `without`, `avoid`.
pub(super) const NOT: &str = concat!(
    r"(?:\b(?:(?:under|in) no (?:circumstances?|case|event)|at no (?:point|time)|not|never|cannot|without|avoid(?:ing)?|refrain(?:ing)? from|abstain(?:ing)? from|stay away from|",
    r"steer clear of|keep away from|exclud(?:e|ing)|omit(?:ting)?|leav(?:e|ing) out|skip(?:ping)?|no|nothing|zero|nor|free (?:of|from)|devoid of|",
    r"ban(?:ned)?|lay off|drop|eschew|forgo|minus)\b|n't\b)"
);
