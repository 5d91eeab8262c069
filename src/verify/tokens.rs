//! Tokens of the Penn Treebank convention in NLTK's form: `DON'T` is two tokens, `A,B` two and `TOP-SECRET` one.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use super::sentences::for_each_sentence;
use super::text::{fold, is_all_upper, is_space, is_word_char};

/// The tokens of every sentence of `text`. An opening `"` becomes two backticks, a closing one two apostrophes.
pub(super) fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    for_each_sentence(text, |range| {
        let parted = separated(&text[range]);
        tokens.extend(parted.split(is_space).filter(|token| !token.is_empty()).map(str::to_string));
    });
    tokens
}

/// The number of tokens of `text` that are all upper-case, as `change_case:capital_word_frequency` counts them.
pub(super) fn capital_words(text: &str) -> usize {
    // A response without capitals needs no tokens.
    if !text.contains(char::is_uppercase) {
        return 0;
    }
    tokens(text).iter().filter(|token| is_all_upper(token)).count()
}

/// The sentence with spaces between its tokens.
fn separated(sentence: &str) -> String {
    let mut text = Cow::Borrowed(sentence);
    apply(&OPENING, &mut text);
    text = Cow::Owned(part_single_letters(&text));
    apply(&PUNCTUATION, &mut text);
    text = Cow::Owned(format!(" {text} "));
    apply(&CLOSING, &mut text);
    for (contraction, open_before) in CONTRACTIONS.iter() {
        text = Cow::Owned(part_contraction(&text, contraction, *open_before));
    }
    text.into_owned()
}

type Rewrites = LazyLock<Vec<(Regex, &'static str)>>;

/// Applies the rewrites in order, each from left to right.
fn apply(rewrites: &Rewrites, text: &mut Cow<'_, str>) {
    for (pattern, replacement) in rewrites.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(text, *replacement) {
            *text = Cow::Owned(changed);
        }
    }
}

fn compiled(rewrites: &[(&str, &'static str)]) -> Vec<(Regex, &'static str)> {
    let compile = |pattern: &str| Regex::new(pattern).expect("the patterns are constants that a test compiles");
    rewrites.iter().map(|(pattern, replacement)| (compile(pattern), *replacement)).collect()
}

static OPENING: Rewrites = LazyLock::new(|| {
    compiled(&[("[«“‘„]|`+", " $0 "), ("^\"", "``"), ("``", " $0 "), (r#"([ (\[{<])(?:"|'')"#, "$1 `` ")])
});

static PUNCTUATION: Rewrites = LazyLock::new(|| {
    compiled(&[
        // The dot at the end of the sentence.
        (r#"([^.])\.([\])}>"'»”’ ]*)[\s\x1c-\x1f]*$"#, "$1 . $2 "),
        (r"([:,])(\D)", " $1 $2"),
        ("[:,]$", " $0 "),
        (r"\.{2,}", " $0 "),
        ("[;@#$%&]", " $0 "),
        (r#"([^.])\.([\])}>"']*)[\s\x1c-\x1f]*$"#, "$1 .$2 "),
        ("[?!]", " $0 "),
        ("([^'])' ", "$1 ' "),
        (r"\*", " $0 "),
        (r"[\]\[(){}<>]", " $0 "),
        ("--", " $0 "),
    ])
});

static CLOSING: Rewrites = LazyLock::new(|| {
    compiled(&[
        ("[»”’]", " $0 "),
        ("''", " $0 "),
        ("\"", " '' "),
        (r"[\s\x1c-\x1f]+", " "),
        ("([^' ])('[sSmMdD]|') ", "$1 $2 "),
        ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "$1 $2 "),
    ])
});

/// What must precede a contraction for it to be split.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// A word boundary.
    Boundary,
    /// A space, which is part of the pattern.
    Space,
}

static CONTRACTIONS: LazyLock<Vec<(Regex, Before)>> = LazyLock::new(|| {
    let patterns = [
        ("(can)(not)", Before::Boundary),
        ("(d)('ye)", Before::Boundary),
        ("(gim)(me)", Before::Boundary),
        ("(gon)(na)", Before::Boundary),
        ("(got)(ta)", Before::Boundary),
        ("(lem)(me)", Before::Boundary),
        ("(more)('n)", Before::Boundary),
        ("(wan)(na)", Before::Boundary),
        (" ('t)(is)", Before::Space),
        (" ('t)(was)", Before::Space),
    ];
    let compile =
        |pattern: &str| Regex::new(&format!("(?i){pattern}")).expect("the patterns are constants that a test compiles");
    patterns.into_iter().map(|(pattern, before)| (compile(pattern), before)).collect()
});

/// Splits a contraction if it is a whole word; `wanna` only before a space.
fn part_contraction(text: &str, pattern: &Regex, before: Before) -> String {
    let is_word = |c: Option<char>| c.is_some_and(is_word_char);
    let part = |found: &Captures<'_>| {
        let whole = found.get_match();
        let next = text[whole.end()..].chars().next();
        let starts = before == Before::Space || !is_word(text[..whole.start()].chars().next_back());
        let ends = if pattern.as_str().contains("wan") { next.is_some_and(is_space) } else { !is_word(next) };
        if starts && ends { format!(" {} {} ", &found[1], &found[2]) } else { whole.as_str().to_string() }
    };
    pattern.replace_all(text, part).into_owned()
}

/// Puts a space between an apostrophe and the single letter after it, except in English contractions.
fn part_single_letters(text: &str) -> String {
    let mut parted = String::with_capacity(text.len() + 8);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        parted.push(c);
        if c != '\'' {
            continue;
        }
        let Some(letter) = chars.next_if(|c| is_word_char(*c)) else { continue };
        let is_single = !chars.peek().is_some_and(|c| is_word_char(*c));
        if is_single && !matches!(fold(letter.encode_utf8(&mut [0; 4])).as_str(), "m" | "t" | "s" | "d" | "n") {
            parted.push(' ');
        }
        parted.push(letter);
    }
    parted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_capitals_are_counted() {
        for (text, expected) in [
            ("I am A 3D U.S. fan.", 4),
            ("DON'T I'M CANNOT", 6),
            ("TOP-SECRET A/B A,B 10:30PM", 5),
            ("DON’T stop", 2),
            ("'TIS GONNA (BE) \"OK\".", 6),
            ("nothing here", 0),
        ] {
            assert_eq!(capital_words(text), expected, "{text}");
        }
    }
}
