//! Edits that break a constraint and change as little else as possible.

use rand::Rng;
use rand::seq::IteratorRandom;

use super::constraint::Constraint;
use super::edit::{flatten, grow, insert, shrink};
use super::guard::Guard;
use super::lexicon::{self, Class, ENDINGS};
use super::response::{Mark, Response, Word};

/// Edits `response` so that it breaks `constraint`.
pub fn break_constraint(response: &mut Response, constraint: &Constraint, guard: &Guard, rng: &mut impl Rng) {
    match constraint {
        Constraint::Include(w) | Constraint::Repeat(w, _) => {
            let others: Vec<String> = guard.keep.iter().filter(|k| *k != w).cloned().collect();
            let single = matches!(constraint, Constraint::Repeat(..));
            let mut left = if single { 1 } else { usize::MAX };
            for word in response.words_mut().filter(|x| &x.text == w && !others.contains(&x.text)) {
                if left > 0 {
                    left -= 1;
                    word.text = another(word, w, rng);
                }
            }
            if response.title.as_ref().is_some_and(|t| t.contains(w)) {
                response.title = None;
            }
        }
        Constraint::Avoid(w) => {
            let class = lexicon::class_of(w);
            let target = response.words_mut().filter(|x| x.class() == class && guard.free(x)).choose(rng);
            if let Some(word) = target {
                word.text.clone_from(w);
            } else if let Some(sentence) = response.sentences_mut().next() {
                insert(sentence, w, class.unwrap_or(Class::Adverb), rng);
            }
        }
        Constraint::WordsAtLeast(n) => shrink(response, n.saturating_sub(1 + rng.random_range(0..3)), guard, rng),
        Constraint::WordsLess(n) => grow(response, n + rng.random_range(0..3), guard, true, rng),
        Constraint::SentencesAtLeast(_) => {
            if let Some(unit) = response.units.last_mut().filter(|u| u.len() > 1) {
                unit.pop();
            }
        }
        Constraint::SentencesLess(_) => {
            if let Some(unit) = response.units.last_mut() {
                unit.push(guard.sentence(rng));
            }
        }
        Constraint::Bullets(_) | Constraint::Paragraphs(_) => {
            if rng.random_bool(0.25) {
                flatten(response);
            } else if rng.random_bool(0.5) && response.units.len() > 2 {
                response.units.pop();
            } else {
                response.units.push(vec![guard.sentence(rng)]);
            }
        }
        Constraint::Two | Constraint::Json => flatten(response),
        Constraint::Title => response.title = None,
        Constraint::Postscript => response.postscript = None,
        Constraint::Quote => response.quoted = false,
        Constraint::Lowercase => response.lowercase = false,
        Constraint::NoComma => {
            let word = response
                .sentences_mut()
                .filter(|s| s.len() > 2)
                .filter_map(|s| s.split_last_mut())
                .flat_map(|(_, r)| r)
                .choose(rng);
            if let Some(word) = word {
                word.comma = true;
            }
        }
        Constraint::First(w) => {
            if let Some(sentence) = response.units.first_mut().and_then(|u| u.first_mut()) {
                match lexicon::class_of(w) {
                    Some(Class::Lead) if rng.random_bool(0.5) => drop(sentence.remove(0)),
                    Some(class) => sentence[0].text = other_than(class, w, rng),
                    None => {}
                }
            }
        }
        Constraint::End(phrase) => {
            response.ending = rng
                .random_bool(0.4)
                .then(|| ENDINGS.iter().filter(|e| *e != phrase).choose(rng).map(|e| (*e).to_owned()))
                .flatten();
        }
        Constraint::Highlights(n) | Constraint::Placeholders(n) => {
            let keep = n.saturating_sub(1 + rng.random_range(0..*n));
            let marked = response.words_mut().filter(|w| w.mark != Mark::Plain);
            marked.skip(keep).for_each(|w| w.mark = Mark::Plain);
        }
    }
}

fn another(word: &Word, not: &str, rng: &mut impl Rng) -> String {
    other_than(word.class().unwrap_or(Class::Noun), not, rng)
}

fn other_than(class: Class, not: &str, rng: &mut impl Rng) -> String {
    loop {
        let word = lexicon::draw(class, rng);
        if word != not {
            return word.to_owned();
        }
    }
}
