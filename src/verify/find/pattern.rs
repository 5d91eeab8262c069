//! How this folder writes its regular expressions: pieces that are joined and compiled once.

/// A static expression of joined pieces. They are matched against lower-case text in which one space stands between words.
macro_rules! pattern {
    ($name:ident, [$($piece:expr),+ $(,)?]) => {
        static $name: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
            regex::Regex::new(&[$($piece),+].concat()).expect("a constant expression is valid")
        });
    };
}

pub(super) use pattern;

/// The ways to say that something must not be, up to the thing: `do not`, `without`, `avoid`.
pub(super) const NOT: &str = concat!(
    r"(?:\b(?:not|never|cannot|without|avoid(?:ing)?|refrain(?:ing)? from|abstain(?:ing)? from|stay away from|",
    r"steer clear of|keep away from|exclud(?:e|ing)|omit(?:ting)?|leav(?:e|ing) out|skip(?:ping)?|no|zero|nor|free (?:of|from)|devoid of|",
    r"ban(?:ned)?|lay off|drop|eschew|forgo|minus)|n't)"
);
