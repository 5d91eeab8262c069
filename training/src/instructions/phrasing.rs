//! The sentences that ask for constraints.

use std::collections::HashMap;
use std::sync::LazyLock;

use rand::Rng;
use rand::seq::IndexedRandom;

/// The sentences by their section: an instruction id, and where needed the form of its arguments.
static PHRASINGS: LazyLock<HashMap<&'static str, Vec<&'static str>>> = LazyLock::new(|| {
    let mut sections: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut current = "";
    for line in include_str!("phrasings.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        match line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            Some(section) => current = section,
            None => sections.entry(current).or_default().push(line),
        }
    }
    sections
});

/// The phrases that responses may have to end with.
pub static ENDINGS: LazyLock<Vec<&'static str>> = LazyLock::new(|| include_str!("endings.txt").lines().collect());

/// Draws a sentence of a section and replaces each name in braces by its value.
pub fn draw(section: &str, values: &[(&str, String)], rng: &mut impl Rng) -> String {
    let forms = PHRASINGS.get(section).expect("every constraint has a section");
    let form = forms.choose(rng).expect("a section has sentences");
    // Values are inserted in one pass, so that a value that contains braces stays as it is.
    let mut sentence = String::new();
    let mut rest = *form;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("braces are closed");
        let value = values.iter().find(|(known, _)| *known == name);
        sentence.push_str(before);
        sentence.push_str(&value.unwrap_or_else(|| panic!("{section}: no value for {{{name}}}")).1);
        rest = after;
    }
    sentence + rest
}

/// Writes a number of things in digits or, if it is small, sometimes as a word.
pub fn number(n: usize, rng: &mut impl Rng) -> String {
    const WORDS: [&str; 13] =
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    match WORDS.get(n) {
        Some(word) if rng.random_bool(0.3) => (*word).into(),
        _ => n.to_string(),
    }
}

/// Joins words as in running text, with one of the usual marks around each.
pub fn quoted(words: &[String], rng: &mut impl Rng) -> String {
    let mark = *["\"", "\"", "\"", "'", ""].choose(rng).expect("there are marks");
    let words: Vec<String> = words.iter().map(|word| format!("{mark}{word}{mark}")).collect();
    match words.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

/// The ordinal of a small number.
pub fn ordinal(n: usize) -> &'static str {
    ["first", "second", "third", "fourth", "fifth"][n - 1]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::instructions::kind::KINDS;

    #[test]
    fn every_kind_has_ten_sentences_or_more_in_each_of_its_forms() {
        for (_, id) in KINDS {
            let sections: Vec<_> =
                PHRASINGS.iter().filter(|(section, _)| section.split(' ').next() == Some(id)).collect();
            assert!(!sections.is_empty(), "{id}");
            for (section, forms) in sections {
                assert!(forms.len() >= 10, "{section} has {}", forms.len());
                assert_eq!(forms.iter().collect::<HashSet<_>>().len(), forms.len(), "{section}");
            }
        }
        let known: HashSet<&str> = KINDS.iter().map(|(_, id)| *id).collect();
        assert!(PHRASINGS.keys().all(|section| known.contains(section.split(' ').next().unwrap())));
    }
}
