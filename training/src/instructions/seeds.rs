//! The tasks that prompts are made of, by domain, with words that responses to them may contain.

use std::sync::LazyLock;

use crate::world::Split;

/// A task without constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The name of the domain.
    pub domain: &'static str,
    /// The task as a sentence.
    pub text: &'static str,
    /// Words of the domain, for constraints on words.
    pub words: &'static [&'static str],
}

/// The domain whose tasks are questions that can be answered by yes or no.
pub const QUESTIONS: &str = "questions";

/// Each domain's file: its words in the first line, then one task per line.
const DOMAINS: [(&str, &str); 15] = [
    ("letters", include_str!("seeds/letters.txt")),
    ("recipes", include_str!("seeds/recipes.txt")),
    ("explanations", include_str!("seeds/explanations.txt")),
    ("lists", include_str!("seeds/lists.txt")),
    ("code", include_str!("seeds/code.txt")),
    ("products", include_str!("seeds/products.txt")),
    ("stories", include_str!("seeds/stories.txt")),
    ("poems", include_str!("seeds/poems.txt")),
    ("advice", include_str!("seeds/advice.txt")),
    ("travel", include_str!("seeds/travel.txt")),
    ("speeches", include_str!("seeds/speeches.txt")),
    ("work", include_str!("seeds/work.txt")),
    ("opinions", include_str!("seeds/opinions.txt")),
    ("lessons", include_str!("seeds/lessons.txt")),
    (QUESTIONS, include_str!("seeds/questions.txt")),
];

/// All seeds, in the order of the files.
pub static SEEDS: LazyLock<Vec<Seed>> = LazyLock::new(|| {
    let domain = |(domain, file): (&'static str, &'static str)| {
        let (first, tasks) = file.split_once('\n').expect("a file begins with its words");
        let words = first.strip_prefix("words: ").expect("a file begins with its words");
        // The seeds live as long as the program.
        let words: &'static [&'static str] = words.split(", ").collect::<Vec<_>>().leak();
        tasks.lines().map(move |text| Seed { domain, text, words })
    };
    DOMAINS.into_iter().flat_map(domain).collect()
});

/// The seeds of a split. Splits share no seed.
pub fn of(split: Split) -> Vec<&'static Seed> {
    SEEDS.iter().filter(|seed| Split::of(seed.text) == split).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::*;

    #[test]
    fn seeds_are_many_and_distinct_and_every_split_has_some_of_every_domain() {
        assert!(SEEDS.len() >= 600, "{}", SEEDS.len());
        assert_eq!(SEEDS.iter().map(|seed| seed.text).collect::<HashSet<_>>().len(), SEEDS.len());
        let mut counts = BTreeMap::new();
        for split in [Split::Train, Split::Validation, Split::HeldOut] {
            for seed in of(split) {
                assert!(seed.text.ends_with(['.', '?']), "{}", seed.text);
                *counts.entry((seed.domain, format!("{split:?}"))).or_insert(0) += 1;
            }
        }
        assert_eq!(counts.len(), 3 * DOMAINS.len(), "{counts:?}");
    }

    #[test]
    fn words_of_a_domain_are_whole_words_that_do_not_contain_each_other() {
        for (domain, file) in DOMAINS {
            let words: Vec<&str> = file.lines().next().unwrap()["words: ".len()..].split(", ").collect();
            assert_eq!(words.len(), 20, "{domain}");
            for word in &words {
                assert!(word.chars().all(|c| c.is_ascii_lowercase()), "{domain}: {word}");
                let inside = words.iter().filter(|other| other.contains(word)).count();
                assert_eq!(inside, 1, "{domain}: {word} is part of another word");
            }
        }
    }
}
