//! Splits sentences like IFBench's reference, which applies a fixed order of rewrites with two marks and no data. Some results are
//! surprising: `Hi!!!` is three sentences and `1. First` is two.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

use crate::verify::text::trim;

/// The mark for a dot that ends no sentence.
const DOT: &str = "<prd>";
/// The mark for the end of a sentence. The reference writes its marks into the text in this form, so a response may contain them as well.
const STOP: &str = "<stop>";

/// Words that begin a sentence after an acronym or a company's name.
const STARTER: &str =
    r"(?:Mr|Mrs|Ms|Dr|Prof|Capt|Cpt|Lt|(?:He|She|It|They|Their|Our|We|But|However|That|This)[\s\x1c-\x1f]|Wherever)";

/// Splits `text` into sentences without surrounding spaces. Only the last one is omitted if it is empty.
pub(super) fn sentences(text: &str) -> Vec<String> {
    let marked = marked(&format!(" {}  ", text.replace('\n', " ")));
    let mut sentences: Vec<String> = marked.split(STOP).map(|piece| trim(piece).replace(DOT, ".")).collect();
    if sentences.last().is_some_and(String::is_empty) {
        sentences.pop();
    }
    sentences
}

/// The text with both marks inserted.
fn marked(text: &str) -> String {
    let mut text = Cow::Borrowed(text);
    apply(&BEFORE_DOTS, &mut text);
    text = Cow::Owned(mark_ellipses(&text));
    text = Cow::Owned(text.replace("Ph.D.", "Ph<prd>D<prd>"));
    apply(&ABBREVIATIONS, &mut text);
    let mut text = text.into_owned();
    // A mark and the closing quote after it are swapped.
    for (from, to) in [(".”", "”."), (".\"", "\"."), ("!\"", "\"!"), ("?\"", "\"?")] {
        text = text.replace(from, to);
    }
    for mark in [".", "?", "!"] {
        text = text.replace(mark, &format!("{mark}{STOP}"));
    }
    text
}

/// Treats two or more dots as one end of a sentence.
fn mark_ellipses(text: &str) -> String {
    static ELLIPSIS: LazyLock<Regex> = LazyLock::new(|| compiled(r"\.{2,}"));
    let mark = |found: &Captures<'_>| DOT.repeat(found.get_match().len()) + STOP;
    ELLIPSIS.replace_all(text, mark).into_owned()
}

type Rewrites = LazyLock<Vec<(Regex, &'static str)>>;

fn apply(rewrites: &Rewrites, text: &mut Cow<'_, str>) {
    for (pattern, replacement) in rewrites.iter() {
        if let Cow::Owned(changed) = pattern.replace_all(text, *replacement) {
            *text = Cow::Owned(changed);
        }
    }
}

fn compiled(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are constants that a test compiles")
}

static BEFORE_DOTS: Rewrites = LazyLock::new(|| {
    vec![
        (compiled(r"(Mr|St|Mrs|Ms|Dr)\."), "$1<prd>"),
        (compiled(r"\.(com|net|org|io|gov|edu|me)"), "<prd>$1"),
        (compiled(r"([0-9])\.([0-9])"), "$1<prd>$2"),
    ]
});

static ABBREVIATIONS: Rewrites = LazyLock::new(|| {
    vec![
        (compiled(r"[\s\x1c-\x1f]([A-Za-z])\. "), " $1<prd> "),
        (compiled(&format!(r"([A-Z]\.[A-Z]\.(?:[A-Z]\.)?) ({STARTER})")), "$1<stop> $2"),
        (compiled(r"([A-Za-z])\.([A-Za-z])\.([A-Za-z])\."), "$1<prd>$2<prd>$3<prd>"),
        (compiled(r"([A-Za-z])\.([A-Za-z])\."), "$1<prd>$2<prd>"),
        (compiled(&format!(r" (Inc|Ltd|Jr|Sr|Co)\. ({STARTER})")), " $1<stop> $2"),
        (compiled(r" (Inc|Ltd|Jr|Sr|Co)\."), " $1<prd>"),
        (compiled(r" ([A-Za-z])\."), " $1<prd>"),
    ]
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_are_cut_as_the_reference_cuts_them() {
        for (text, expected) in [
            ("What?!", &["What?", "!"][..]),
            ("Hi!!!", &["Hi!", "!", "!"]),
            ("Wait... no", &["Wait...", "no"]),
            ("1. First", &["1.", "First"]),
            ("\"Stop.\" He", &["\"Stop\".", "He"]),
            ("(Yes.) No", &["(Yes.", ") No"]),
            ("Plan B. Next", &["Plan B. Next"]),
            ("See you at 5 p.m. there. e.g. so", &["See you at 5 p.m. there.", "e.g. so"]),
            ("The U.S. They left. Stone Inc. He came.", &["The U.S.", "They left.", "Stone Inc", "He came."]),
            ("Version 1.2.3 of x.io", &["Version 1.2.", "3 of x.io"]),
            ("", &[]),
            ("no end", &["no end"]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }
}
