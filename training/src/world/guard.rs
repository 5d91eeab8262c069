//! The words that an edit must keep or must not add, and random words that respect this.

use rand::Rng;

use super::constraint::Constraint;
use super::lexicon::{self, Class};
use super::response::{Sentence, Word, draw_sentence};

/// Words that an edit must keep, and words that it must not add.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    pub(super) keep: Vec<String>,
    pub(super) avoid: Vec<String>,
    pub(super) commas: bool,
}

impl Guard {
    /// The words that `constraints` protect and forbid.
    pub fn new(constraints: &[Constraint]) -> Self {
        let mut guard = Self { commas: true, ..Self::default() };
        for constraint in constraints {
            match constraint {
                Constraint::Include(w) | Constraint::Repeat(w, _) | Constraint::First(w) => guard.keep.push(w.clone()),
                Constraint::Avoid(w) => guard.avoid.push(w.clone()),
                Constraint::NoComma => guard.commas = false,
                _ => {}
            }
        }
        guard
    }

    pub(super) fn draw(&self, class: Class, rng: &mut impl Rng) -> String {
        loop {
            let word = lexicon::draw(class, rng);
            if !self.avoid.iter().any(|a| a == word) {
                return word.to_owned();
            }
        }
    }

    pub(super) fn sentence(&self, rng: &mut impl Rng) -> Sentence {
        let mut sentence = draw_sentence(rng, None, false);
        for word in &mut sentence {
            if let Some(class) = word.class().filter(|_| self.avoid.contains(&word.text)) {
                word.text = self.draw(class, rng);
            }
        }
        sentence
    }

    /// Returns `n` words that may follow a sentence: adverbs, or a phrase from a preposition to its noun.
    pub(super) fn tail(&self, n: usize, rng: &mut impl Rng) -> Sentence {
        let classes: &[Class] = match n {
            1 => &[Class::Adverb],
            2 => &[Class::Adverb, Class::Adverb],
            3 => &[Class::Preposition, Class::Determiner, Class::Noun],
            4 => &[Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
            5 => &[Class::Adverb, Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
            _ => &[Class::Adverb, Class::Adverb, Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
        };
        classes.iter().map(|&class| Word::new(&self.draw(class, rng))).collect()
    }

    pub(super) fn free(&self, word: &Word) -> bool {
        !self.keep.contains(&word.text)
    }
}
