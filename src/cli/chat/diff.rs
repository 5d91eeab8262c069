//! The difference between two texts, word by word.

use similar::{ChangeTag, TextDiff};

use super::paint::{Paint, Tone};

/// `new` with what was added to and removed from `old`: in colours, or else in brackets as wdiff writes them.
pub(super) fn words(old: &str, new: &str, paint: Paint) -> String {
    let difference = TextDiff::from_words(old, new);
    let mut runs: Vec<(ChangeTag, String)> = Vec::new();
    for change in difference.iter_all_changes() {
        match runs.last_mut() {
            Some((tag, text)) if *tag == change.tag() => text.push_str(change.value()),
            _ => runs.push((change.tag(), change.value().to_owned())),
        }
    }
    let show = |(tag, text): (ChangeTag, String)| match (tag, paint) {
        (ChangeTag::Equal, _) => text,
        (ChangeTag::Delete, Paint::Colours) => paint.tone(Tone::Bad, &text),
        (ChangeTag::Insert, Paint::Colours) => paint.tone(Tone::Good, &text),
        (ChangeTag::Delete, Paint::Plain) => format!("[-{text}-]"),
        (ChangeTag::Insert, Paint::Plain) => format!("{{+{text}+}}"),
    };
    runs.into_iter().map(show).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changed_words_are_marked_and_the_rest_is_the_text() {
        for (old, new, expected) in [
            ("the forest waits", "the forest waits", "the forest waits"),
            ("The famous forest waits", "The famous lantern waits", "The famous [-forest-]{+lantern+} waits"),
            ("a b", "a b c", "a b{+ c+}"),
            ("", "all new", "{+all new+}"),
            ("all old", "", "[-all old-]"),
            ("naïve café", "naïve cafés", "naïve [-café-]{+cafés+}"),
        ] {
            assert_eq!(words(old, new, Paint::Plain), expected, "{old} {new}");
        }
        let coloured = words("a b", "a c", Paint::Colours);
        assert_eq!(coloured, "a \x1b[31mb\x1b[0m\x1b[32mc\x1b[0m");
    }
}
